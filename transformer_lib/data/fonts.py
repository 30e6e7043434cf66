"""Fonts for labels in any script: matplotlib's own has no Chinese, Japanese, Korean, …"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["add_fonts", "quiet_glyphs"]

ALWAYS_THERE = 0x250  # every font of a figure has the characters below: Latin letters
TOLD: set[str] = set()  # characters that no font has, for which there was a warning


def add_fonts(figure: Figure) -> None:
    """Let each text of a figure fall back on installed fonts that have its characters.

    Prints one warning for characters that no installed font has.
    """
    from matplotlib.text import Text

    missing: set[str] = set()
    for text in figure.findobj(Text):
        letters = {c for c in text.get_text() if ord(c) >= ALWAYS_THERE and c.isprintable()}
        if letters:
            family = tuple(text.get_fontfamily())
            letters -= frozenset().union(*map(_letters_of_family, family))
            others, without = _fallback(frozenset(letters))
            if others:
                text.set_fontfamily([*family, *(name for name in others if name not in family)])
            missing |= without
    if new := sorted(missing - TOLD):
        TOLD.update(new)
        some = " ".join(new[:8]) + " …" * (len(new) > 8)
        print(f"warning: no installed font has {some}: install one of Noto Sans", file=sys.stderr)


@contextmanager
def quiet_glyphs() -> Iterator[None]:
    """Silence matplotlib's warning for each missing character while a figure is drawn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from", UserWarning)
        yield


@cache
def _letters(path: str) -> frozenset[str]:
    from matplotlib.font_manager import get_font

    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # a font that was removed, or is damaged
        return frozenset()


def _letters_of_family(name: str) -> frozenset[str]:
    from matplotlib.font_manager import FontProperties, findfont

    try:
        return _letters(findfont(FontProperties(family=[name]), fallback_to_default=False))
    except ValueError:  # there is no such font, which matplotlib reports when it draws
        return frozenset()


@cache
def _fallback(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Return installed families that have these characters, and the characters that none has."""
    from matplotlib.font_manager import fontManager

    chosen: list[str] = []
    fonts = {font.name: font.fname for font in _upright(fontManager.ttflist)} if letters else {}
    while letters and fonts:
        # the one with the most characters; of equals, one without serifs, then the first by name
        n_letters = {name: len(letters & _letters(path)) for name, path in fonts.items()}
        best = min(fonts, key=lambda name: (-n_letters[name], "Sans" not in name, name))
        if not n_letters[best]:
            break
        chosen.append(best)
        letters -= _letters(fonts.pop(best))
    return chosen, letters


def _upright(fonts: list) -> list:
    """Leave out slanted fonts, and the font whose pictures stand for missing characters."""
    return [f for f in fonts if f.style == "normal" and not f.name.startswith("Last Resort")]

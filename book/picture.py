"""The pictures of the first page, for light and dark pages.

The large one shows where the shipped model looks while it translates a sentence. It is computed
when the book is built. The seven small ones are those of the README, without their background.
"""

from html import escape
from pathlib import Path

import thumbnails

from transformer_lib import Translator

MODEL, SENTENCE = "multi30k-de-en", "Im Garten spielen zwei Kinder mit einem roten Ball."
LAYER = 2  # of 0 to 3: the layer whose heads agree most on the words
CELL, LEFT, TOP = 30, 96, 92


def attention_picture() -> tuple[str, str]:
    """Return the translation, and the SVG of its cross-attention, the mean over the heads."""
    translator = Translator.open(MODEL)
    (translation,) = translator.translate([SENTENCE])
    maps, source, inputs = translator.attention_maps(SENTENCE, translation)
    weights = maps.cross[LAYER][0].mean(0).tolist()
    source = [token.strip("▁") for token in source]
    target = [token.strip("▁") for token in [*inputs[1:], "<eos>"]]
    parts = [
        f'<text x="{LEFT - 8}" y="{TOP + CELL * row + 20}" text-anchor="end">{escape(token)}</text>'
        for row, token in enumerate(target)
    ]
    for column, token in enumerate(source):
        x = LEFT + CELL * column + 19
        parts.append(
            f'<text transform="translate({x} {TOP - 8}) rotate(-55)">{escape(token)}</text>'
        )
    for row, of_query in enumerate(weights):
        for column, weight in enumerate(of_query):
            at = f'x="{LEFT + CELL * column}" y="{TOP + CELL * row}"'
            parts.append(
                f'<rect {at} width="{CELL - 2}" height="{CELL - 2}" fill-opacity="{weight:.2f}"/>'
            )
    width, height = LEFT + CELL * len(source) + 24, TOP + CELL * len(target)
    best = [source[row.index(max(row))] for row in weights]
    looks = ", ".join(f"{word} at {seen}" for word, seen in zip(target, best, strict=True))
    alt = f"Heat map of cross-attention. Darkest cell of each row: {looks}."
    shape = f'viewBox="0 0 {width} {height}" preserveAspectRatio="xMinYMid"'
    svg = f'<svg {shape} role="img" aria-label="{escape(alt)}">'
    return translation, "\n".join([svg, *parts, "</svg>"])


def small_pictures(folder: Path) -> None:
    """Draw the pictures of the notebooks, 01.png and so on."""
    background, thumbnails.PAPER = thumbnails.PAPER, "none"
    try:
        thumbnails.main([str(folder)])
    finally:
        thumbnails.PAPER = background

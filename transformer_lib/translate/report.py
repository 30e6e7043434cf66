"""Scores as a picture or as one page with translations, and attention as a picture.

matplotlib is imported when something is drawn. Nothing here touches pyplot or a global setting.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from transformer_lib.data.extras import needs
from transformer_lib.data.files import write_bytes, write_text
from transformer_lib.data.fonts import add_fonts, quiet_glyphs
from transformer_lib.data.text import ParallelText
from transformer_lib.translate.evaluation import Report, by_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_ending", "draw_attention", "save_picture", "write_report"]

PICTURES = (".png", ".svg", ".pdf")
BLUE = "#0173b2"
EXAMPLES = 50  # translations on a page

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }}</style>
<h1>{title}</h1>
<p>{how}</p>
<table>{scores}</table>
<img alt="{alt}" src="data:image/png;base64,{image}">
<h2>Translations: {examples}</h2>
<table><tr><th>source</th><th>model</th><th>person</th></tr>{rows}</table>
"""


def write_report(path: Path, report: Report, text: ParallelText, how: str = "") -> None:
    """Write chrF by sentence length to a picture (`.png`, `.svg`, `.pdf`) or a page (`.html`).

    The page also has the model and search (`how`), the scores and the first translations.

    Raises:
        ValueError: another file name extension.
    """
    check_ending(path)
    groups = by_length(report, text)
    figure = _draw_groups(groups, f"chrF by length, {report.name}")
    add_fonts(figure)
    if path.suffix.lower() in PICTURES:
        save_picture(figure, path)
    else:
        write_text(path, _page(report, text, how, _picture(figure, "png"), groups))


def save_picture(figure: Figure, path: Path) -> None:
    """Write a picture in the format that its name ends in, whole or not at all."""
    write_bytes(path, _picture(figure, path.suffix.lower().removeprefix(".")))


def _picture(figure: Figure, format: str) -> bytes:
    with quiet_glyphs():
        image = io.BytesIO()
        figure.savefig(image, format=format, bbox_inches="tight")
    return image.getvalue()


def check_ending(path: Path, kind: str = "a report") -> None:
    """Raise ValueError unless the file name is that of a picture; a report may also be a page.

    Raises:
        ImportError: matplotlib, which draws it, is not installed.
    """
    with needs("lessons"):
        import matplotlib.figure  # noqa: F401
    endings = PICTURES if kind == "a picture" else (".html", *PICTURES)
    if path.suffix.lower() not in endings:
        *others, last = endings
        raise ValueError(f"{kind} is {', '.join(others)} or {last}, not {path.name!r}")


def draw_attention(
    weights: Tensor,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    *,
    row_title: str = "queries",
    column_title: str = "keys",
) -> Figure:
    """Draw one attention map of shape (rows, columns), with a token beside each row and column."""
    if weights.shape != (len(row_labels), len(column_labels)):
        raise ValueError(
            f"a map of shape {tuple(weights.shape)} with {len(row_labels)} row labels "
            f"and {len(column_labels)} column labels"
        )
    cell = min(0.52, 6.4 / max(weights.shape))
    width = cell * len(column_labels) + 1.9 + 0.085 * max(map(len, row_labels))
    figure, ax = _figure(max(5.0, width), max(2.5, cell * len(row_labels) + 1.6), title)
    mesh = ax.pcolormesh(
        weights.float().cpu(), cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=0.8
    )
    figure.colorbar(mesh, label="attention weight", shrink=0.85).outline.set_visible(False)
    centres = [[i + 0.5 for i in range(n)] for n in weights.shape]
    ax.set_yticks(centres[0], row_labels, parse_math=False)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(centres[1], column_labels, parse_math=False, **turned)
    ax.set(ylim=(len(row_labels), 0), aspect="equal", xlabel=column_title, ylabel=row_title)
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    add_fonts(figure)
    return figure


def _draw_groups(groups: dict[str, tuple[float, int]], title: str) -> Figure:
    """Draw a bar for the chrF of each length group, with the number of sentences in it."""
    figure, ax = _figure(8.0, 3.9, title)
    bars = ax.bar(list(groups), [score for score, _ in groups.values()], color=BLUE, width=0.66)
    ax.bar_label(bars, fmt="{:.1f}", padding=2, fontweight="bold")
    ax.set_xticks(range(len(groups)), [f"{name}\n{n} sentences" for name, (_, n) in groups.items()])
    ax.set(xlabel="words in the source sentence", ylabel="chrF")
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(y=0.14)
    return figure


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    with needs("lessons"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
    return figure, figure.subplots()


def _page(
    report: Report,
    text: ParallelText,
    how: str,
    image: bytes,
    groups: dict[str, tuple[float, int]],
) -> str:
    scores = ((name, f"{s['value']:.2f}", s["how"]) for name, s in report.scores.items())
    examples = zip(text.source, report.hypotheses, text.target, strict=True)
    alt = "; ".join(f"{name} words: {score:.1f}" for name, (score, _) in groups.items())
    return PAGE.format(
        title=html.escape(report.name),
        how=html.escape(how),
        examples=f"the first {EXAMPLES} of {len(text)}" if len(text) > EXAMPLES else "all",
        scores=_rows(scores),
        alt=f"chrF by sentence length. {alt}",
        image=base64.b64encode(image).decode(),
        rows=_rows(islice(examples, EXAMPLES)),
    )


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    cells = (map("<td>{}</td>".format, map(html.escape, row)) for row in rows)
    return "".join(f"<tr>{''.join(row)}</tr>" for row in cells)

"""A score as a picture, or as one page with translations to read."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from transformer_lib.data.corpora import ParallelText
from transformer_lib.lessons import figures
from transformer_lib.translate.evaluation import Report, by_length

__all__ = ["check_ending", "write_report"]

PICTURES = (".png", ".svg", ".pdf")

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


def write_report(
    path: Path, report: Report, text: ParallelText, how: str = "", n_examples: int = 50
) -> None:
    """BLEU by sentence length: a picture (`.png`, `.svg`, `.pdf`), or a page (`.html`) with the
    scores and the first translations beside it.

    Args:
        how: which model and search, for the page.

    Raises:
        ValueError: another ending.
    """
    check_ending(path)
    groups = by_length(report, text)
    figure = figures.scores_by_group(
        {name: score for name, (score, _) in groups.items()},
        {name: n for name, (_, n) in groups.items()},
        title=f"BLEU by length, {report.name}",
        x_label="words in the source sentence",
        y_label="BLEU",
    )
    if path.suffix.lower() in PICTURES:
        figure.savefig(path, bbox_inches="tight")
    else:
        image = io.BytesIO()
        figure.savefig(image, format="png", bbox_inches="tight")
        path.write_text(_page(report, text, how, image.getvalue(), groups, n_examples), "utf-8")


def check_ending(path: Path, kind: str = "a report") -> None:
    """Raises ValueError for a file that could not be a picture; a report may be a page, too."""
    endings = PICTURES if kind == "a picture" else (".html", *PICTURES)
    if path.suffix.lower() not in endings:
        *others, last = endings
        raise ValueError(f"{kind} is {', '.join(others)} or {last}, not {path.name!r}")


def _page(
    report: Report,
    text: ParallelText,
    how: str,
    image: bytes,
    groups: dict[str, tuple[float, int]],
    n_examples: int,
) -> str:
    scores = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{score['value']:.2f}</td>"
        f"<td>{html.escape(score['how'])}</td></tr>"
        for name, score in report.scores.items()
    )
    triples = zip(text.source, report.hypotheses, text.target, strict=True)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in triple) + "</tr>"
        for _, triple in zip(range(n_examples), triples, strict=False)
    )
    alt = "; ".join(f"{name} words: {score:.1f}" for name, (score, _) in groups.items())
    return PAGE.format(
        title=html.escape(report.name),
        how=html.escape(how),
        examples=f"the first {n_examples} of {len(text)}" if len(text) > n_examples else "all",
        scores=scores,
        alt=f"BLEU by sentence length. {alt}",
        image=base64.b64encode(image).decode(),
        rows=rows,
    )

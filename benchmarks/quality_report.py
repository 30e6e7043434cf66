"""Draw the picture and the table of `benchmarks.quality` from its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import README, RESULTS, table, with_section
from transformer_lib.lessons.figures import PALETTE, figure, headline, name_axes, name_lines, style

__all__ = ["END", "START", "at", "draw", "picture", "section"]

PARTS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
START, END = "<!-- quality: written by benchmarks.quality -->", "<!-- quality: end -->"


@style()
def picture(curves: Mapping[str, list[dict[str, float]]]) -> Figure:
    """Draw BLEU over minutes of training, one line per side."""
    fig, ax = figure(8, 4.2)
    lines = {}
    for (name, points), colour in zip(curves.items(), ("#8a96a0", PALETTE[0]), strict=True):
        x, y = [p["seconds"] / 60 for p in points], [p["bleu"] for p in points]
        (lines[name],) = ax.plot(x, y, color=colour, marker="o", markersize=3.5)
    ax.grid(True)
    ax.set_ylim(0)
    name_axes(ax, x="minutes of training, one core", y="BLEU, validation split, greedy")
    name_lines(ax, lines)
    ends = ", ".join(f"{points[-1]['bleu']:.1f} ({name})" for name, points in curves.items())
    headline(fig, f"BLEU after {points[-1]['seconds'] / 60:.0f} minutes: {ends}")
    return fig


def section(result: Mapping[str, Any]) -> str:
    """Return the conditions and a table of BLEU after some minutes, interpolated linearly."""
    box, load = result["machine"], result["load average at the start"]
    told = (
        f"Measured {result['when']} at commit `{result['commit']}`, {box['processor']} "
        f"({', '.join(box['instructions'])}), torch {result['torch']}, allocator "
        f"{Path(result['allocator']).name}, load average before it "
        f"{'unknown' if load is None else f'{load:.1f}'}; ours in {result['precision']}."
    )
    minutes = [result["minutes"] * part for part in PARTS]
    rows = []
    for name, points in result["curves"].items():
        last = points[-1]
        values = [f"{at(points, 60 * minute):.1f}" for minute in minutes]
        end = f"{last['bleu']:.1f} ({last['seconds'] / 60:.1f} minutes, {last['step']:,} steps)"
        rows.append((name, *values, end))
    head = ("BLEU after", *(f"{minute:g} minutes" for minute in minutes), "all of them")
    alt = "Two lines over minutes of training: the BLEU of the plain loop and of ours"
    return f"{told}\n\n{table(head, rows)}\n\n![{alt}](../results/benchmarks/quality.png)"


def at(points: list[dict[str, float]], seconds: float) -> float:
    """Return BLEU at a time, interpolated linearly from 0 at the start."""
    x, y = [0.0], [0.0]
    for point in points:
        x.append(point["seconds"])
        y.append(point["bleu"])
    return float(np.interp(seconds, x, y))


def draw(folder: Path) -> None:
    """Write the picture next to the file; the README only from the project's own results."""
    result = json.loads((folder / "quality.json").read_text("utf-8"))
    drawn = picture(result["curves"])
    drawn.savefig(folder / "quality.png", dpi=110, metadata={"Software": None})
    if folder.resolve() == RESULTS:
        text = with_section(README.read_text("utf-8"), section(result), START, END)
        README.write_text(text, "utf-8")

"""The figures of notebook 02: sinusoids as waves, counters, clocks and rotations."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import DIVERGING, GRID, INK, MUTED, PALETTE, SEQUENTIAL
from transformer_lib.lessons.figures.heatmaps import colour_bar, draw_values
from transformer_lib.lessons.figures.marks import (
    beside,
    hide_frame,
    label,
    line_plot,
    note,
    rectangle,
)
from transformer_lib.lessons.figures.types import Series

__all__ = [
    "copy_task",
    "position_clocks",
    "position_counter",
    "position_curves",
    "position_similarity",
    "position_table",
    "position_wavelengths",
    "shift_by_rotation",
]

BLUE, ORANGE = PALETTE[:2]


def _wavelength(pair: int, width: int) -> float:
    return 2 * math.pi * 10_000.0 ** (2 * pair / width)


@style()
def position_curves(table: Any, pairs: Sequence[int]) -> Figure:
    """Draw pairs of dimensions over the positions: dots are the table (P, D), lines the formula."""
    array = as_array(table, 2)
    length, width = array.shape
    title = "Every pair of dimensions is a wave, slower than the one before"
    height = 1.15 * len(pairs) + 1.1
    fig, axes = figure(8.2, height, len(pairs), title=title, sharex=True, squeeze=False)
    smooth = np.linspace(0, length - 1, 40 * length)
    for ax, pair in zip(axes[:, 0], pairs, strict=True):
        every = _wavelength(pair, width)
        for column, wave, colour in ((0, np.sin, BLUE), (1, np.cos, ORANGE)):
            ax.plot(smooth, wave(2 * math.pi * smooth / every), color=colour, linewidth=1.2)
            dots = array[:, 2 * pair + column]
            ax.plot(dots, "o", color=colour, markersize=3.5, label=("sine", "cosine")[column])
        ax.set(ylim=(-1.25, 1.25), yticks=(-1, 0, 1), xlim=(-0.5, length - 0.5))
        ax.grid(True, axis="y")
        text = f"dimensions {2 * pair}, {2 * pair + 1}\nrepeats every\n{every:,.1f} positions"
        beside(ax, 0, text, INK, data=True)
    axes[0, 0].legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98), markerscale=1.6)
    fig.supxlabel("position", fontsize=10, color=MUTED)
    fig.supylabel("value in the table", fontsize=10, color=MUTED)
    return fig


@style()
def position_table(table: Any, marked: int) -> Figure:
    """Draw the table as a heatmap: rows are positions, columns dimensions; one is outlined."""
    array = as_array(table, 2)
    right = array.shape[1] - 0.5
    fig, ax = figure(8.2, 4.6, title="One row per position: fast waves left, almost still right")
    image = ax.imshow(array, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="none")
    rectangle(ax, -0.5, marked - 0.5, right + 0.5, 1, fill=False, edgecolor=INK)
    look = {"ha": "right", "fontsize": 9.5, "arrowprops": {"arrowstyle": "-", "color": INK}}
    look["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 2.5}
    note(ax, f"added to the word\nat position {marked}", (right, marked), (-12, 26), **look)
    name_axes(ax, x="dimension", y="position")
    colour_bar(ax, image, "value")
    return fig


@style()
def position_counter(table: Any) -> Figure:
    """Draw the bits of each position, and below them the sines of the table's first pairs."""
    array, n_rows = as_array(table, 2), 6
    positions = np.arange(len(array))
    bits = np.stack([positions >> bit & 1 for bit in range(n_rows)])
    sines = array[:, 0 : 2 * n_rows : 2].T
    title = "A binary counter, and the same counter with soft edges"
    fig, (upper, lower) = figure(9.0, 4.9, 2, 1, title=title, sharex=True)
    upper.set_title("The bits of the position: white 0, blue 1", fontsize=10.5)
    lower.set_title("The sines of the position: brown +1, blue −1", fontsize=10.5)
    draw_values(upper, bits, vmin=0, vmax=1.35, cbar_label=None)
    draw_values(lower, sines, vmin=-1, vmax=1, cbar_label=None)
    for ax, name in ((upper, "bit"), (lower, "sine")):
        ax.set_yticks(np.arange(n_rows) + 0.5, [f"{name} {row}" for row in range(n_rows)])
        ax.set_xticks(positions[::8] + 0.5, positions[::8])
        ax.set(ylim=(n_rows, 0), xlim=(0, len(array)))
        hide_frame(ax)
    for row in range(n_rows):
        beside(upper, row + 0.5, f"every {2 ** (row + 1)}", data=True)
        beside(lower, row + 0.5, f"every {_wavelength(row, array.shape[1]):.1f}", data=True)
    fig.supxlabel("position", fontsize=10, color=MUTED)
    fig.supylabel("fast  →  slow", fontsize=10, color=MUTED, rotation=270)
    return fig


@style()
def position_wavelengths(wavelengths: Any, sentence: int) -> Figure:
    """Draw the wavelength of every pair, with the paper's bounds and a sentence's length."""
    array = as_array(wavelengths, 1)
    longer = int((array > sentence).sum())
    first, last = len(array) - longer, len(array) - 1
    fig, ax = figure(8.2, 4.2, title="Wavelengths grow by the same factor from pair to pair")
    ax.plot(array, color=BLUE, linewidth=2.6)
    ax.set(yscale="log", ylim=(3, 200_000), xlim=(0, last))
    ax.grid(True)
    for height, text in ((2 * math.pi, "2π"), (20_000 * math.pi, "10000 · 2π")):
        ax.axhline(height, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        beside(ax, height, text, data=True, fontweight="bold")
    ax.axhline(sentence, color=ORANGE, linewidth=1.4)
    beside(ax, sentence, f"{sentence} words", ORANGE, data=True, fontweight="bold")
    ax.axvspan(first, last, color=ORANGE, alpha=0.09, linewidth=0)
    text = f"{longer} of {len(array)} pairs do not finish\none turn within {sentence} words"
    label(ax, first + 8, 9_000, text, ha="left")
    name_axes(ax, x="pair i (dimensions 2i and 2i + 1)", y="wavelength in positions (log)")
    return fig


@style()
def position_similarity(dots: Any, by_distance: Any) -> Figure:
    """Draw dot products of all pairs of positions (P, P), and by distance 0, 1, 2, … (Q,)."""
    matrix, line = as_array(dots, 2), as_array(by_distance, 1)
    title = "How alike two positions are depends on their distance alone"
    fig, (left, right) = figure(9.2, 4.0, 1, 2, title=title, width_ratios=(1, 1.15))
    colour_bar(left, left.imshow(matrix, cmap=SEQUENTIAL, vmin=0), "dot product")
    name_axes(left, title="Every pair of positions …", x="position", y="position")
    distance = np.arange(1 - len(line), len(line))
    right.plot(distance, line[abs(distance)], color=BLUE)
    right.grid(True)
    right.set(xlim=(-len(line), len(line)), ylim=(min(0.0, 1.1 * line.min()), 1.08 * line.max()))
    name_axes(right, title="… lies on one curve", x="distance in positions", y="dot product")
    return fig


@style()
def position_clocks(table: Any, starts: Sequence[int], step: int) -> Figure:
    """Draw pairs as clocks, with a hand at each start and `step` later; position 0 is noon."""
    array, n_pairs = as_array(table, 2), 4
    title = f"{step} positions on, each hand has turned by the same angle, wherever it began"
    size = 1.95 * n_pairs + 0.9, 2.05 * len(starts) + 0.9
    fig, axes = figure(*size, len(starts), n_pairs, title=title, squeeze=False)
    for row, start in zip(axes, starts, strict=True):
        for pair, ax in enumerate(row):
            _clock(ax, array, pair, start, start + step)
        label(row[0], -1.35, 0, f"from {start}\nto {start + step}", ha="right", fontsize=11)
    for pair, ax in enumerate(axes[0]):
        ax.set_title(f"dimensions {2 * pair}, {2 * pair + 1}", fontsize=10, loc="center", pad=5)
    return fig


def _clock(ax: Axes, table: np.ndarray, pair: int, start: int, end: int) -> None:
    """Draw one clock with the hands of two positions and the angle between them."""
    ax.add_patch(Circle((0, 0), 1, facecolor="#f6f8f9", edgecolor=GRID, linewidth=1.5))
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), math.cos(hour * math.pi / 6)
        ax.plot((0.93 * x, x), (0.93 * y, y), color=MUTED, linewidth=0.9)
    for position, colour in ((start, "#9fb0bd"), (end, BLUE)):
        sine, cosine = 0.84 * table[position, 2 * pair : 2 * pair + 2]
        ax.plot((0, sine), (0, cosine), color=colour, linewidth=2.8)
    turn = 360 * (end - start) / _wavelength(pair, table.shape[1])
    begin = math.degrees(math.atan2(table[start, 2 * pair + 1], table[start, 2 * pair]))
    arc = Arc((0, 0), 0.9, 0.9, theta1=begin - turn, theta2=begin, color=ORANGE, linewidth=2.6)
    ax.add_patch(arc)
    ax.plot(0, 0, "o", color=INK, markersize=4)
    label(ax, 0, -1.22, f"{turn:.1f}°", color=ORANGE, fontsize=10.5)
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.35, 1.1), aspect="equal")
    ax.axis("off")


@style()
def shift_by_rotation(matrix: Any, scores: Any, shift: int) -> Figure:
    """Draw the matrix (D, D) of a shift, and scores (P, P): row p of the table, moved, by row q."""
    array, moved = as_array(matrix, 2), as_array(scores, 2)
    title = f"One fixed matrix moves every position by {shift}"
    fig, (left, right) = figure(9.2, 4.2, 1, 2, title=title)
    colour_bar(left, left.imshow(array, cmap=DIVERGING, vmin=-1, vmax=1), "entry")
    colour_bar(right, right.imshow(moved, cmap=SEQUENTIAL), "dot product")
    rows = np.arange(len(moved) - shift)
    right.plot(rows + shift, rows, color=ORANGE, linewidth=1.8, label=f"q = p + {shift}")
    ends = (0, len(moved) - 1)
    right.plot(ends, ends, color=INK, linestyle=":", linewidth=1.4, label="q = p")
    right.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")
    name_axes(left, title="Small rotations, nothing else", x="dimension in", y="dimension out")
    panel = f"Row p, moved, is most like row p + {shift}"
    name_axes(right, title=panel, x="position q", y="position p")
    return fig


@style()
def copy_task(steps: Any, accuracy: Series, by_place: Any, ceiling: Any, without: str) -> Figure:
    """Draw accuracy over training and, for the model `without`, by place (T,) with its ceiling."""
    measured, best = as_array(by_place, 1), as_array(ceiling, 1)
    title = "Without positions, copying cannot be learned"
    fig, (left, right) = figure(9.6, 4.0, 1, 2, title=title, width_ratios=(1.35, 1))
    left.set(ylim=(0, 1.04))  # set before the lines are named: it decides the heights of the names
    names = {"x_label": "training step", "y_label": "letters right"}
    line_plot(steps, accuracy, title="Three models learn to copy", **names, ax=left)
    colour = left.lines[list(accuracy).index(without)].get_color()
    left.axhline(best.mean(), color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    text = f"all that a bag allows: {best.mean():.0%}"
    left.text(as_array(steps, 1)[-1], best.mean() + 0.03, text, ha="right", fontsize=9)
    places = np.arange(1, len(measured) + 1)
    right.bar(places, measured, color=colour, alpha=0.85, label="measured")
    mark = {"markersize": 17, "markeredgewidth": 2, "label": "best guess from a bag"}
    right.plot(places, best, "_", color=INK, **mark)
    right.set(xticks=places, ylim=(0, 1.04))
    right.legend(loc="upper left")
    name_axes(right, title="Without positions it guesses", x="place in the copy", y="letters right")
    left.yaxis.set_major_formatter("{x:.0%}")
    right.yaxis.set_major_formatter("{x:.0%}")
    return fig

"""The figures of the notebook that builds `positional`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, Rectangle

from transformer_lib.lessons.figures.base import line_plot
from transformer_lib.lessons.figures.look import (
    DIVERGING,
    GRID,
    INK,
    MUTED,
    PALETTE,
    SEQUENTIAL,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)

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


def _beside(ax: Axes, height: float, words: str, colour: str = MUTED, **look: Any) -> None:
    """Words to the right of a panel, at a height in data units."""
    ax.annotate(
        words, (1.0, height), xycoords=("axes fraction", "data"), xytext=(8, 0), va="center",
        textcoords="offset points", fontsize=9, color=colour, annotation_clip=False, **look,
    )  # fmt: skip


def _colour_bar(ax: Axes, image: Any, label: str) -> None:
    bar = ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8, aspect=22, pad=0.03)
    bar.outline.set_visible(False)


@style()
def position_curves(table: Any, pairs: Sequence[int]) -> Figure:
    """Sine and cosine of a few pairs of dimensions over the positions, one panel per pair.

    Dots are what the table (positions, d_model) holds; the lines between them are the formula.
    """
    array = as_array(table, 2)
    length, width = array.shape
    fig, axes = figure(8.2, 1.15 * len(pairs) + 1.1, len(pairs), sharex=True, squeeze=False)
    smooth = np.linspace(0, length - 1, 40 * length)
    for ax, pair in zip(axes[:, 0], pairs, strict=True):
        every = _wavelength(pair, width)
        for column, wave, colour in ((0, np.sin, BLUE), (1, np.cos, ORANGE)):
            ax.plot(smooth, wave(2 * math.pi * smooth / every), color=colour, linewidth=1.2)
            dots = array[:, 2 * pair + column]
            ax.plot(dots, "o", color=colour, markersize=3.5, label=("sine", "cosine")[column])
        ax.set(ylim=(-1.25, 1.25), yticks=(-1, 0, 1), xlim=(-0.5, length - 0.5))
        ax.grid(True, axis="y")
        words = f"dimensions {2 * pair}, {2 * pair + 1}\nrepeats every\n{every:,.1f} positions"
        _beside(ax, 0, words, INK)
    axes[0, 0].legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98), markerscale=1.6)
    headline(fig, "Every pair of dimensions is a wave, slower than the one before")
    fig.supxlabel("position", fontsize=10, color=MUTED)
    fig.supylabel("value in the table", fontsize=10, color=MUTED)
    return fig


@style()
def position_table(table: Any, marked: int) -> Figure:
    """The table as a heatmap: rows are positions, columns dimensions; one row is outlined."""
    array = as_array(table, 2)
    right = array.shape[1] - 0.5
    fig, ax = figure(8.2, 4.6)
    image = ax.imshow(array, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="none")
    ax.add_patch(Rectangle((-0.5, marked - 0.5), right + 0.5, 1, fill=False, edgecolor=INK))
    ax.annotate(
        f"added to the word\nat position {marked}", (right, marked), xytext=(-12, 26), ha="right",
        textcoords="offset points", fontsize=9.5, arrowprops={"arrowstyle": "-", "color": INK},
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 2.5},
    )  # fmt: skip
    headline(fig, "One row per position: fast waves left, almost still right")
    name_axes(ax, x="dimension", y="position")
    _colour_bar(ax, image, "value")
    return fig


@style()
def position_counter(table: Any, n_rows: int = 6) -> Figure:
    """Above the bits of each position, below the sines of the first pairs of the table."""
    array = as_array(table, 2)
    positions = np.arange(len(array))
    bits = np.stack([positions >> bit & 1 for bit in range(n_rows)])
    sines = array[:, 0 : 2 * n_rows : 2].T
    fig, (upper, lower) = figure(9.0, 4.9, 2, 1, sharex=True)
    _counter_panel(upper, bits, SEQUENTIAL, (0, 1.35), "bit")
    _counter_panel(lower, sines, DIVERGING, (-1, 1), "sine")
    upper.set_title("The bits of the position: white 0, blue 1", fontsize=10.5)
    lower.set_title("The sines of the position: brown +1, blue −1", fontsize=10.5)
    for row in range(n_rows):
        _beside(upper, row + 0.5, f"every {2 ** (row + 1)}")
        _beside(lower, row + 0.5, f"every {_wavelength(row, array.shape[1]):.1f}")
    headline(fig, "A binary counter, and the same counter with soft edges")
    fig.supxlabel("position", fontsize=10, color=MUTED)
    fig.supylabel("fast  →  slow", fontsize=10, color=MUTED, rotation=270)
    return fig


def _counter_panel(
    ax: Axes, values: np.ndarray, colours: Any, bounds: tuple[float, float], name: str
) -> None:
    """Values (rows, positions) as cells, row 0 on top."""
    (rows, length), (low, high) = values.shape, bounds
    ax.pcolormesh(values, cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=0.5)
    ax.set_yticks(np.arange(rows) + 0.5, [f"{name} {row}" for row in range(rows)])
    ax.set_xticks(np.arange(0, length, 8) + 0.5, range(0, length, 8))
    ax.set(ylim=(rows, 0), xlim=(0, length))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


@style()
def position_wavelengths(wavelengths: Any, sentence: int) -> Figure:
    """Wavelength of every pair on a log axis, with the paper's bounds and a sentence's length."""
    array = as_array(wavelengths, 1)
    longer = int((array > sentence).sum())
    first, last = len(array) - longer, len(array) - 1
    fig, ax = figure(8.2, 4.2)
    ax.plot(array, color=BLUE, linewidth=2.6)
    ax.set(yscale="log", ylim=(3, 200_000), xlim=(0, last))
    ax.grid(True)
    for height, words in ((2 * math.pi, "2π"), (20_000 * math.pi, "10000 · 2π")):
        ax.axhline(height, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        _beside(ax, height, words, fontweight="bold")
    ax.axhline(sentence, color=ORANGE, linewidth=1.4)
    _beside(ax, sentence, f"{sentence} words", ORANGE, fontweight="bold")
    ax.axvspan(first, last, color=ORANGE, alpha=0.09, linewidth=0)
    words = f"{longer} of {len(array)} pairs do not finish\none turn within {sentence} words"
    ax.text(first + 8, 9_000, words, va="center")
    headline(fig, "Wavelengths grow by the same factor from pair to pair")
    name_axes(ax, x="pair i (dimensions 2i and 2i + 1)", y="wavelength in positions (log)")
    return fig


@style()
def position_similarity(dots: Any, by_distance: Any) -> Figure:
    """Dot products of all pairs of positions (P, P), and those at distance 0, 1, 2, … (Q,)."""
    matrix, line = as_array(dots, 2), as_array(by_distance, 1)
    fig, (left, right) = figure(9.2, 4.0, 1, 2, width_ratios=(1, 1.15))
    _colour_bar(left, left.imshow(matrix, cmap=SEQUENTIAL, vmin=0), "dot product")
    name_axes(left, title="Every pair of positions …", x="position", y="position")
    distance = np.arange(1 - len(line), len(line))
    right.plot(distance, line[abs(distance)], color=BLUE)
    right.grid(True)
    right.set(xlim=(-len(line), len(line)), ylim=(min(0.0, 1.1 * line.min()), 1.08 * line.max()))
    name_axes(right, title="… lies on one curve", x="distance in positions", y="dot product")
    headline(fig, "How alike two positions are depends on their distance alone")
    return fig


@style()
def position_clocks(table: Any, starts: Sequence[int], step: int, n_pairs: int = 4) -> Figure:
    """Pairs of dimensions as clocks: the hand at each start, and `step` positions later. The sine
    is the way to the right, the cosine the way up: position 0 is twelve o'clock."""
    array = as_array(table, 2)
    size = 1.95 * n_pairs + 0.9, 2.05 * len(starts) + 0.9
    fig, axes = figure(*size, len(starts), n_pairs, squeeze=False)
    for row, start in zip(axes, starts, strict=True):
        for pair, ax in enumerate(row):
            _clock(ax, array, pair, start, start + step)
        words = f"from {start}\nto {start + step}"
        row[0].text(-1.35, 0, words, ha="right", va="center", fontsize=11)
    for pair, ax in enumerate(axes[0]):
        ax.set_title(f"dimensions {2 * pair}, {2 * pair + 1}", fontsize=10, loc="center", pad=5)
    headline(fig, f"{step} positions on, each hand has turned by the same angle, wherever it began")
    return fig


def _clock(ax: Axes, table: np.ndarray, pair: int, start: int, end: int) -> None:
    """One clock with the hands of two positions and the angle between them."""
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
    ax.text(0, -1.22, f"{turn:.1f}°", ha="center", va="center", color=ORANGE, fontsize=10.5)
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.35, 1.1), aspect="equal")
    ax.axis("off")


@style()
def shift_by_rotation(matrix: Any, scores: Any, shift: int) -> Figure:
    """The matrix (D, D) that moves every position by `shift`, and the scores (P, P) that it
    gives: row p of a table, moved, times every row q."""
    array, moved = as_array(matrix, 2), as_array(scores, 2)
    fig, (left, right) = figure(9.2, 4.2, 1, 2)
    _colour_bar(left, left.imshow(array, cmap=DIVERGING, vmin=-1, vmax=1), "entry")
    _colour_bar(right, right.imshow(moved, cmap=SEQUENTIAL), "dot product")
    rows = np.arange(len(moved) - shift)
    right.plot(rows + shift, rows, color=ORANGE, linewidth=1.8, label=f"q = p + {shift}")
    ends = (0, len(moved) - 1)
    right.plot(ends, ends, color=INK, linestyle=":", linewidth=1.4, label="q = p")
    right.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")
    name_axes(left, title="Small rotations, nothing else", x="dimension in", y="dimension out")
    title = f"Row p, moved, is most like row p + {shift}"
    name_axes(right, title=title, x="position q", y="position p")
    headline(fig, f"One fixed matrix moves every position by {shift}")
    return fig


@style()
def copy_task(
    steps: Any, accuracy: Mapping[str, Any], by_place: Any, ceiling: Any, without: str
) -> Figure:
    """Accuracy over training, a curve per model; and at each place of the copy for the model
    `without` positions, beside the best that can be had from a bag of letters (both (T,))."""
    measured, best = as_array(by_place, 1), as_array(ceiling, 1)
    fig, (left, right) = figure(9.6, 4.0, 1, 2, width_ratios=(1.35, 1))
    left.set(ylim=(0, 1.04))  # before the lines are named: their names stand at these heights
    names = {"x_label": "training step", "y_label": "letters right"}
    line_plot(steps, accuracy, title="Three models learn to copy", **names, ax=left)
    colour = left.lines[list(accuracy).index(without)].get_color()
    left.axhline(best.mean(), color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    words = f"all that a bag allows: {best.mean():.0%}"
    left.text(as_array(steps, 1)[-1], best.mean() + 0.03, words, ha="right", fontsize=9)
    places = np.arange(1, len(measured) + 1)
    right.bar(places, measured, color=colour, alpha=0.85, label="measured")
    mark = {"markersize": 17, "markeredgewidth": 2, "label": "best guess from a bag"}
    right.plot(places, best, "_", color=INK, **mark)
    right.set(xticks=places, ylim=(0, 1.04))
    right.legend(loc="upper left")
    title = "Without positions it guesses"
    name_axes(right, title=title, x="place in the copy", y="letters right")
    for ax in (left, right):
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    headline(fig, "Without positions, copying cannot be learned")
    return fig

"""The figures of notebook 02: sinusoids as waves, counters, clocks and rotations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle
from matplotlib.ticker import PercentFormatter

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import (
    DIVERGING,
    INK,
    MUTED,
    PALETTE,
    SEQUENTIAL,
)
from transformer_lib.lessons.figures.heatmaps import (
    GOLD,
    check_tokens,
    colour_bar,
    draw_values,
    token_axes,
)
from transformer_lib.lessons.figures.marks import beside, hide_frame, label, rectangle
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "copy_task",
    "position_clocks",
    "position_counter",
    "position_similarity",
    "position_table",
    "position_wavelengths",
    "shift_by_rotation",
]

BLUE, ORANGE = PALETTE[:2]


def _wavelength(pair: int, width: int) -> float:
    return 2 * math.pi * 10_000.0 ** (2 * pair / width)


@style()
def position_table(first: Any, words: Words, table: Any) -> Figure:
    """Draw the first rows of a table (T, D) beside their words, and the sines of a larger one."""
    few, many = as_array(first, 2), as_array(table, 2)
    check_tokens(few, words, range(few.shape[1]))
    title = "Columns on the left change fast, columns on the right slowly"
    fig, (left, right) = figure(8.4, 4.3, 1, 2, title=title)
    draw_values(left, few, vmin=-1, vmax=1, cbar_label=None)
    left.set_yticks(np.arange(len(few)) + 0.5, [f"{word}  {t}" for t, word in enumerate(words)])
    left.set(xticks=(), ylim=(len(few), 0))
    left.set_xticks(np.arange(0, few.shape[1], 2) + 0.5, range(0, few.shape[1], 2))
    hide_frame(left)
    name_axes(left, title="Ten words, width 16", x="column", y="word and position")
    look = {"cmap": DIVERGING, "vmin": -1, "vmax": 1, "aspect": "auto", "interpolation": "none"}
    length, width = many.shape
    ends = {"extent": (-1, width - 1, length - 0.5, -0.5)}  # even columns, each two wide
    image = right.imshow(many[:, ::2], **look, **ends)
    title = f"{length} positions, width {width}: the sines"
    name_axes(right, title=title, x="even column", y="position")
    colour_bar(right, image, "value")
    return fig


@style()
def position_counter(table: Any) -> Figure:
    """Draw the bits of each position, and below them the sines of the table's first pairs."""
    array, n_rows = as_array(table, 2), 6
    positions = np.arange(len(array))
    bits = np.stack([positions >> bit & 1 for bit in range(n_rows)])
    sines = array[:, 0 : 2 * n_rows : 2].T
    title = "Sines are like the bits of a counter, with smooth transitions"
    fig, (upper, lower) = figure(8.4, 4.6, 2, 1, title=title, sharex=True)
    upper.set_title("Bits of the position: empty is 0, blue is 1", fontsize=10.5)
    lower.set_title("Sines of the position: brown is +1, blue is −1", fontsize=10.5)
    upper.pcolormesh(np.ma.masked_equal(bits, 0), cmap=SEQUENTIAL, vmin=0, vmax=1.35)
    upper.set_xticks(positions, minor=True)
    upper.set_yticks(np.arange(n_rows + 1), minor=True)
    upper.grid(True, which="minor")
    upper.tick_params(which="minor", length=0)
    lower.tick_params(which="minor", length=0)
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
    text = f"{longer} of {len(array)} pairs do not complete\na turn in {sentence} words"
    label(ax, first + 8, 9_000, text, ha="left")
    name_axes(ax, x="pair m (columns 2m and 2m + 1)", y="wavelength in positions")
    return fig


@style()
def position_similarity(dots: Any, by_distance: Any) -> Figure:
    """Draw dot products of all pairs of positions (P, P), and by distance 0, 1, 2, … (P,)."""
    matrix, line = as_array(dots, 2), as_array(by_distance, 1)
    title = "The dot product of two positions depends on their distance alone"
    fig, (left, right) = figure(9.2, 4.0, 1, 2, title=title, width_ratios=(1, 1.15))
    colour_bar(left, left.imshow(matrix, cmap=SEQUENTIAL, vmin=0), "dot product")
    name_axes(left, title="All pairs of positions", x="position", y="position")
    distance = np.arange(1 - len(line), len(line))
    right.plot(distance, line[abs(distance)], color=BLUE)
    right.grid(True)
    right.set(xlim=(-len(line), len(line)), ylim=(min(0.0, 1.1 * line.min()), 1.08 * line.max()))
    name_axes(right, title="The same, by distance", x="distance in positions", y="dot product")
    return fig


@style()
def position_clocks(table: Any, starts: Sequence[int], step: int) -> Figure:
    """Draw pairs as clocks, with a hand at each start and `step` later; position 0 is noon."""
    array, n_pairs = as_array(table, 2), 4
    title = f"A shift by {step} turns each hand by the same angle from any start"
    size = 1.95 * n_pairs + 0.9, 2.05 * len(starts) + 0.9
    fig, axes = figure(*size, len(starts), n_pairs, title=title, squeeze=False)
    for row, start in zip(axes, starts, strict=True):
        for pair, ax in enumerate(row):
            _clock(ax, array, pair, start, start + step)
        label(row[0], -1.35, 0, f"from {start}\nto {start + step}", ha="right", fontsize=11)
    for pair, ax in enumerate(axes[0]):
        ax.set_title(f"columns {2 * pair}, {2 * pair + 1}", fontsize=10, loc="center", pad=5)
    return fig


def _clock(ax: Axes, table: np.ndarray, pair: int, start: int, end: int) -> None:
    """Draw one clock with the hands of two positions and the angle between them."""
    ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=MUTED, linewidth=1.2))
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), math.cos(hour * math.pi / 6)
        ax.plot((0.93 * x, x), (0.93 * y, y), color=MUTED, linewidth=0.9)
    for position, colour in ((start, MUTED), (end, BLUE)):
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
def shift_by_rotation(scores: Mapping[str, Any], words: Words, shift: int = 3) -> Figure:
    """Draw scores (T, T) of shifted queries with all keys; the largest of each row is framed."""
    title = f"A shift by {shift} finds the word {shift} ahead only without the word vectors"
    fig, axes = figure(8.6, 3.7, 1, len(scores), title=title)
    for ax, (name, matrix) in zip(axes, scores.items(), strict=True):
        array = as_array(matrix, 2)
        check_tokens(array, words, words)
        draw_values(ax, array, vmin=0, vmax=array.max(), cbar_label=None)
        for row in range(len(array) - shift):
            rectangle(ax, array[row].argmax(), row, 1, 1, **GOLD)
        token_axes(ax, words, words)
        name_axes(ax, title=name, x="keys", y="queries, shifted" if ax is axes[0] else "")
        ax.yaxis.set_visible(ax is axes[0])
    return fig


@style()
def copy_task(steps: Any, curves: Series, ceiling: Any, without: str) -> Figure:
    """Draw accuracy (steps, T) over training and, for `without`, at each position."""
    accuracy = {name: as_array(curve, 2) for name, curve in curves.items()}
    best = as_array(ceiling, 1)
    title = "Without positions, the copy is no better than the best guess"
    fig, (left, right) = figure(8.4, 3.8, 1, 2, title=title)
    x = as_array(steps, 1)
    for name, curve in accuracy.items():
        (line,) = left.plot(x, curve.mean(axis=1))
        side = {"va": "bottom" if name == without else "top"}
        height = curve[-1].mean() + (0.015 if name == without else -0.03)
        left.text(x[-1], height, name, ha="right", color=line.get_color(), **side)
        if name == without:
            colour = line.get_color()
    left.axhline(best.mean(), color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    left.text(x[-1], best.mean() - 0.02, f"best guess: {best.mean():.0%}", ha="right", va="top")
    positions = np.arange(len(best))
    right.bar(positions, accuracy[without][-1], color=colour, alpha=0.75, label=without)
    mark = {"markersize": 20, "markeredgewidth": 2.4, "label": "best guess"}
    right.plot(positions, best, "_", color=INK, **mark)
    right.set(xticks=positions)
    right.legend(loc="upper left", markerscale=0.6)
    name_axes(left, title="All letters, over training", x="training step", y="letters right")
    name_axes(right, title="Each letter, after training", x="position", y="letters right")
    for ax in (left, right):
        ax.set_ylim(0, 1.05)
        ax.grid(True, axis="y")
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    return fig

"""The way through the heads as a diagram: cut, attend, put side by side again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from transformer_lib.lessons.figures.look import (
    MUTED,
    PALETTE,
    SEQUENTIAL,
    as_array,
    headline,
    style,
)

__all__ = ["head_split"]

HEADS = [PALETTE[i] for i in (0, 1, 2, 4, 9, 5, 6, 7)]  # a colour per head


@style()
def head_split(
    vectors: Any, maps: Any, merged: Any, tokens: Sequence[str], *, title: str
) -> Figure:
    """From left to right: vectors cut into heads, one attention map per head, heads side by side.

    `vectors` and `merged` are (T, D), `maps` (H, T, T).
    """
    before, weights, after = as_array(vectors, 2), as_array(maps, 3), as_array(merged, 2)
    n_heads, length, width = len(weights), len(tokens), before.shape[1]
    d_k, gap = width // n_heads, 2.0
    x_piece = width + 5.5
    x_map = x_piece + d_k + 2.6
    x_after = x_map + length + 5.5
    height = n_heads * length + (n_heads - 1) * gap
    top = (height - length) / 2  # of the two wide matrices
    ax = _canvas((-4.2, x_after + width + 0.5), (height + 1.8, -2.0), title)
    for x, matrix in ((0, before), (x_after, after)):
        _cells(ax, matrix, x, top, n_heads)
    for row, token in enumerate(tokens):
        ax.text(-0.5, top + row + 0.5, token, ha="right", va="center", fontsize=9)
    for head, colour in enumerate(HEADS[:n_heads]):
        y = head * (length + gap)
        centre, outer = y + length / 2, height / 2
        _cells(ax, before[:, head * d_k : (head + 1) * d_k], x_piece, y, 1, colour)
        _small_map(ax, weights[head], x_map, y, colour)
        ax.text(
            x_map + length / 2, y - 0.25, f"head {head}", color=colour, ha="center",
            va="bottom", fontsize=9, fontweight="bold",
        )  # fmt: skip
        _arrow(ax, (width + 0.5, outer), (x_piece - 0.4, centre), colour)
        _arrow(ax, (x_piece + d_k + 0.4, centre), (x_map - 0.4, centre), colour)
        _arrow(ax, (x_map + length + 0.4, centre), (x_after - 0.4, outer), colour)
    notes = (
        (width / 2, top - 0.5, f"d_model = {width}"),
        (x_piece + d_k / 2, -0.5, f"d_k = {d_k}"),
        (x_after + width / 2, top - 0.5, f"d_model = {width}"),
        (x_map + length / 2, height + 1.3, "queries × keys"),
    )
    for x, y, words in notes:
        ax.text(x, y, words, ha="center", va="bottom", fontsize=9, color=MUTED)
    for x, words in ((width / 2, "split_heads →"), (x_after + width / 2, "→ merge_heads")):
        ax.text(x, top + length + 1.2, words, ha="center", family="monospace", fontsize=9.5)
    return ax.get_figure(root=True)


def _canvas(x: tuple[float, float], y: tuple[float, float], title: str) -> Axes:
    """An empty drawing board in units that are as high as wide; its figure is 8.6 inches wide."""
    board = 8.6 * abs(y[1] - y[0]) / (x[1] - x[0])
    fig = Figure(figsize=(8.6, board + 0.4))
    ax = fig.add_axes((0, 0, 1, board / (board + 0.4)))
    ax.set(xlim=x, ylim=y, aspect="equal")
    ax.axis("off")
    headline(fig, title)
    return ax


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "color": colour, "linewidth": 1.3}
    ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **look))


def _small_map(ax: Axes, weights: np.ndarray, x: float, y: float, colour: str) -> None:
    rows, columns = weights.shape
    ax.pcolormesh(
        x + np.arange(columns + 1), y + np.arange(rows + 1), weights,
        cmap=SEQUENTIAL, vmin=0, vmax=1, edgecolors="white", linewidth=0.6,
    )  # fmt: skip
    ax.add_patch(Rectangle((x, y), columns, rows, fill=False, edgecolor=colour))


def _cells(
    ax: Axes, matrix: np.ndarray, x: float, y: float, n_heads: int, colour: str | None = None
) -> None:
    """A matrix as tiles in the colour of its head, the stronger the larger the number is."""
    strength = np.abs(matrix) / np.abs(matrix).max()
    d_k = matrix.shape[1] // n_heads
    for (row, column), value in np.ndenumerate(strength):
        tint = colour or HEADS[column // d_k]
        tile = Rectangle((x + column, y + row), 1, 1, facecolor=tint, alpha=0.15 + 0.8 * value)
        tile.set(edgecolor="white", linewidth=0.6)
        ax.add_patch(tile)

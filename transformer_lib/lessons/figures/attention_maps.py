"""Attention maps, one or a head beside the other: refused where rows do not add up to 1."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from transformer_lib.lessons.figures.heatmaps import (
    check_tokens,
    colour_bar,
    draw_values,
    token_axes,
    token_heatmap,
)
from transformer_lib.lessons.figures.look import (
    MUTED,
    PALETTE,
    Number,
    as_array,
    figure,
    headline,
    style,
)

__all__ = ["attention_grid", "attention_map"]

GOLD = PALETTE[1]


def _check_weights(array: np.ndarray) -> None:
    if not ((array >= -1e-6) & (array <= 1 + 1e-6)).all():
        raise ValueError(
            f"attention weights lie in [0, 1]: found {np.min(array):.4g} to {np.max(array):.4g}; "
            "are these scores from before the softmax?"
        )
    sums = array.sum(-1)
    wrong = np.abs(sums - 1) > 1e-3
    wrong &= np.abs(sums) > 1e-3  # a row with nothing to attend to adds up to 0
    if wrong.any():
        raise ValueError(
            f"rows must add up to 1: found {sums[wrong][0]:.4g}; "
            "is the softmax over the wrong axis, or the map transposed?"
        )


def _draw_gold(ax: Axes, gold: Collection[tuple[int, int]], shape: tuple[int, ...]) -> None:
    """Outline the cells of the gold links (source, target): the target is the row."""
    for source, target in gold:
        if not (0 <= target < shape[0] and 0 <= source < shape[1]):
            raise ValueError(
                f"gold link (source {source}, target {target}) lies outside a map of "
                f"{shape[0]} targets and {shape[1]} sources: are its two numbers swapped?"
            )
        cell = Rectangle((source + 0.06, target + 0.06), 0.88, 0.88)
        cell.set(fill=False, edgecolor=GOLD, linewidth=2.0)
        ax.add_patch(cell)


def _gold_legend(fig: Figure) -> None:
    patch = Patch(fill=False, edgecolor=GOLD, linewidth=2.0, label="gold alignment")
    fig.legend(handles=[patch], loc="outside lower right")


@style()
def attention_map(
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    title: str,
    check_rows: bool = True,
    gold: Collection[tuple[int, int]] | None = None,
    vmax: Number = 1.0,
    annotate: bool = False,
    row_label: str = "queries",
    column_label: str = "keys",
    ax: Axes | None = None,
) -> Figure:
    """One attention map (queries, keys). Rows add up to 1, or to 0 where all is masked: checked.

    `gold` outlines links (source index, target index): targets are rows, sources columns.
    """
    array = as_array(weights, 2)
    check_tokens(array, queries, keys)
    if check_rows:
        _check_weights(array)
    fig = token_heatmap(
        array, queries, keys, title=title, row_label=row_label, column_label=column_label,
        vmin=0.0, vmax=vmax, annotate=annotate, ax=ax, cbar_label="attention weight",
    )  # fmt: skip
    if gold is not None:
        _draw_gold(ax or fig.axes[0], gold, array.shape)
        _gold_legend(fig)
    return fig


@style()
def attention_grid(
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    title: str,
    panels: Sequence[str] | None = None,
    check_rows: bool = True,
    gold: Collection[tuple[int, int]] | None = None,
    vmax: Number = 1.0,
    row_label: str = "queries",
    column_label: str = "keys",
) -> Figure:
    """All heads (H, queries, keys) side by side, up to four in a row, on one colour scale.

    `panels` names the panels ("head 0", "head 1", … without it). Checks as `attention_map`.
    """
    array = as_array(weights, 3)
    check_tokens(array, queries, keys)
    if check_rows:
        _check_weights(array)
    names = panels or [f"head {number}" for number in range(len(array))]
    ncols = min(4, len(array))
    nrows = -(-len(array) // ncols)
    side = min(3.2, 8.4 / ncols)
    fig, axes = figure(
        side * ncols + 1.8, side * array.shape[1] / array.shape[2] * nrows + 1.7, nrows, ncols,
        squeeze=False, layout="compressed", sharex=True, sharey=True,
    )  # fmt: skip
    for ax, one, name in zip(axes.flat, array, names, strict=False):
        draw_values(ax, one, None, 0.0, vmax, None)
        token_axes(ax, queries, keys, narrow=side / array.shape[2] < 0.4)
        ax.set_title(name, fontsize=10, pad=5)
        if gold is not None:
            _draw_gold(ax, gold, one.shape)
    for ax in axes.flat[len(array) :]:
        ax.axis("off")
    headline(fig, title)
    fig.supxlabel(column_label, fontsize=10, color=MUTED)
    fig.supylabel(row_label, fontsize=10, color=MUTED)
    colour_bar(fig, axes[0, 0].collections[0], axes, "attention weight")
    if gold is not None:
        _gold_legend(fig)
    return fig

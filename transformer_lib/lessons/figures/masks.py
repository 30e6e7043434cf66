"""The figures of notebook 03: masked scores, padding, the shift by one, masks and their effects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import DARK, INK, MUTED, PALETTE
from transformer_lib.lessons.figures.heatmaps import (
    BLOCKED,
    draw_values,
    heatmap_row,
    legend_below,
    mask_legend,
    token_axes,
    token_heatmap,
)
from transformer_lib.lessons.figures.marks import arrow, box, hide_frame, label, rectangle
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "causal_reading",
    "influence_bars",
    "mask_panels",
    "masked_scores",
    "padded_batch",
    "rows_without_keys",
    "shift_by_one",
]

TINT, ORANGE = "#d6e7f1", "#b8650a"
WORD: dict[str, Any] = {"facecolor": TINT, "linewidth": 0}


@style()
def padded_batch(sentences: Sequence[Words], mask: Any, *, title: str) -> Figure:
    """Draw a batch as a table of words: sentences are rows, padding (mask False) is hatched."""
    array = as_array(mask, 2)
    if array.shape != (len(sentences), len(sentences[0])):
        raise ValueError(f"a mask of shape {array.shape} for {len(sentences)} padded sentences")
    fig, ax = figure(9.4, 0.55 * len(sentences) + 1.5, title=title)
    behind = {"facecolor": BLOCKED["facecolor"], "edgecolor": "none", "pad": 1.0}
    for (row, column), real in np.ndenumerate(array):
        rectangle(ax, column, row, 1, 1, **(WORD if real else BLOCKED))
        rectangle(ax, column, row, 1, 1, fill=False, edgecolor="white", linewidth=2)
        look = {"color": DARK} | ({} if real else {"bbox": behind})
        label(ax, column + 0.5, row + 0.5, sentences[row][column], fontsize=9, **look)
    ax.set_xticks(np.arange(array.shape[1]) + 0.5, range(array.shape[1]))
    ax.set_yticks(np.arange(array.shape[0]) + 0.5, range(array.shape[0]))
    ax.set(xlim=(0, array.shape[1]), ylim=(array.shape[0], 0))
    hide_frame(ax)
    name_axes(ax, x="position", y="sentence")
    legend_below(fig, {"True: a word": WORD, "False: <pad>": BLOCKED})
    return fig


@style()
def shift_by_one(reads: Words, predicts: Words, *, title: str) -> Figure:
    """Draw what the decoder reads and predicts; dashed lines lead to where each word is read."""
    if len(reads) != len(predicts):
        raise ValueError(f"{len(reads)} words to read, but {len(predicts)} to predict")
    fig, ax = figure(9.4, 2.9, title=title)
    for x, (word, prediction) in enumerate(zip(reads, predicts, strict=True)):
        for y, text, colour in ((0.3, word, TINT), (1.8, prediction, "#f8dcb4")):
            box(
                ax,
                x + 0.5,
                y,
                (0.84, 0.6),
                text,
                0.08,
                words={"color": DARK},
                facecolor=colour,
                linewidth=0,
            )
        arrow(ax, (x + 0.5, 0.62), (x + 0.5, 1.48), INK, linewidth=1.2)
        if x + 1 < len(reads):
            look = {"color": ORANGE, "linestyle": (0, (2, 2)), "linewidth": 1.0}
            ax.plot((x + 0.75, x + 1.25), (1.48, 0.62), **look)
    ax.set_xticks(np.arange(len(reads)) + 0.5, range(len(reads)))
    ax.set_yticks([0.3, 1.8], ["reads", "predicts"], fontweight="bold")
    ax.set(xlim=(0, len(reads)), ylim=(-0.12, 2.2))
    ax.tick_params(labelsize=9.5)
    hide_frame(ax)
    name_axes(ax, x="position", y="the decoder")
    return fig


def _as_mask(mask: Any) -> np.ndarray:
    array = as_array(mask, 2)
    if array.dtype != bool:
        raise ValueError(f"a mask is boolean, True = may attend; got {array.dtype}")
    return array


@style()
def causal_reading(mask: Any, reads: Words, predicts: Words, *, title: str) -> Figure:
    """Draw a square mask, with the token of each position and the token it must predict."""
    names = {"row_label": "queries: the decoder is at …", "column_label": "keys: it attends to …"}
    fig = token_heatmap(_as_mask(mask), reads, reads, title=title, **names)
    x, look = len(reads) + 0.25, {"ha": "left", "fontsize": 9, "fontweight": "bold"}
    for row, word in enumerate(predicts):
        label(fig.axes[0], x, row + 0.5, f"→  {word}", color=ORANGE, **look)
    label(fig.axes[0], x, -0.35, "… and predicts", ha="left", fontsize=9.5, color=MUTED)
    return fig


@style()
def mask_panels(
    panels: Sequence[tuple[str, Any, Words, Words]], *, title: str, signs: Words = ()
) -> Figure:
    """Draw masks side by side; each panel is a name, a mask, its row tokens and column tokens.

    Panels may differ in size; their cells are equally large. `signs` are written between the
    panels, such as ("and", "="); the row tokens then appear once, at the left.
    """
    arrays = [_as_mask(mask) for _, mask, _, _ in panels]
    columns = [array.shape[1] for array in arrays]
    rows = max(array.shape[0] for array in arrays)
    labels = 0.5 if signs else 1.2
    cell = min(0.46, (9.6 - labels * len(panels)) / sum(columns))
    size = cell * sum(columns) + labels * len(panels) + 0.6, cell * rows + 1.55
    look = {"layout": "compressed", "squeeze": False, "width_ratios": columns}
    fig, axes = figure(*size, 1, len(panels), title=title, **look)
    for number, (ax, (name, mask, row_tokens, column_tokens)) in enumerate(
        zip(axes[0], panels, strict=True)
    ):
        token_heatmap(mask, row_tokens, column_tokens, title=name, ax=ax)
        ax.set_anchor("NW")
        ax.title.set_fontsize(10)
        if number and signs:
            ax.set_yticks([])
            ax.set_ylabel(signs[number - 1], rotation=0, fontsize=13, color=INK, labelpad=16)
    mask_legend(fig)
    return fig


@style()
def masked_scores(panels: Series, tokens: Words, *, title: str) -> Figure:
    """Draw scores, masked scores and weights with their numbers; what is masked is hatched."""
    arrays = {name: as_array(matrix, 2) for name, matrix in panels.items()}
    blocked = np.any([np.isinf(array) for array in arrays.values()], axis=0)
    size = 2.7 * len(arrays) + 0.7, 3.9
    fig, axes = figure(*size, 1, len(arrays), title=title, layout="compressed")
    fig.get_layout_engine().set(h_pad=0.12)
    for ax, (name, array) in zip(axes, arrays.items(), strict=True):
        scores = np.isfinite(array[blocked]).all() and array[blocked].any()
        hidden = blocked & (not scores)
        draw_values(ax, array, annotate=True, cbar_label=None, masked=hidden)
        for text in ax.texts:
            x, y = text.get_position()
            if hidden[int(y), int(x)]:
                text.set(color=DARK, bbox={"facecolor": BLOCKED["facecolor"], "pad": 1, "lw": 0})
        token_axes(ax, tokens, tokens)
        name_axes(ax, title=name, x="keys", y="queries" if ax is axes[0] else "")
        ax.yaxis.set_visible(ax is axes[0])
    legend_below(fig, {"masked": BLOCKED})
    return fig


@style()
def influence_bars(panels: Series, tokens: Words, *, title: str) -> Figure:
    """Draw the size of ∂ output / ∂ input for one output; exact zeros are written as 0."""
    fig, axes = figure(8.4, 4.2, len(panels), 1, title=title, sharex=True, sharey=True)
    for ax, (name, sizes), colour in zip(axes, panels.items(), PALETTE, strict=False):
        heights = as_array(sizes, 1)
        ax.bar(range(len(heights)), heights, 0.7, color=colour)
        for x in np.flatnonzero(heights == 0):
            label(ax, x, 0.12 * heights.max(), "0", fontweight="bold", color=INK)
        ax.grid(True, axis="y")
        name_axes(ax, title=name, y="size of ∂ out / ∂ in")
        ax.title.set_fontsize(10)
    axes[-1].set_xticks(range(len(tokens)), tokens, parse_math=False)
    name_axes(axes[-1], x="input: the word that the decoder reads")
    return fig


@style()
def rows_without_keys(panels: Series, queries: Words, keys: Words, *, title: str) -> Figure:
    """Draw the attention weights of several ways to mask, with their numbers; NaN stands out."""
    size = 2.25 * len(panels) + 0.9, 3.6
    look = {"vmin": 0.0, "vmax": 1.0, "annotate": True}
    fig, axes = heatmap_row(size, panels, queries, keys, title=title, **look)
    for ax, weights in zip(axes, panels.values(), strict=True):
        array = as_array(weights, 2)
        for text, ((i, j), weight) in zip(ax.texts, np.ndenumerate(array), strict=True):
            if np.isnan(weight):
                text.set(text="NaN", color="white", fontweight="bold")
                rectangle(ax, j, i, 1, 1, facecolor=ORANGE, edgecolor="white", zorder=2)
    return fig

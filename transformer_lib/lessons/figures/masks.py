"""The figures of notebook 03: padding, the shift by one, masks, and what wrong masks do."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import INK, MUTED, PALETTE
from transformer_lib.lessons.figures.heatmaps import (
    BLOCKED,
    colour_bar,
    heatmap_row,
    legend_below,
    mask_legend,
    token_heatmap,
)
from transformer_lib.lessons.figures.marks import arrow, box, hide_frame, label, rectangle
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "causal_reading",
    "gradient_panels",
    "mask_panels",
    "padded_batch",
    "rows_without_keys",
    "shift_by_one",
    "three_trainings",
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
        look = {"color": INK} if real else {"color": MUTED, "bbox": behind}
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
            box(ax, x + 0.5, y, (0.84, 0.6), text, 0.08, words={}, facecolor=colour, linewidth=0)
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
    size = cell * sum(columns) + labels * len(panels) + 0.6, cell * rows + 1.9
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
def gradient_panels(panels: Series, outputs: Words, inputs: Words, *, title: str) -> Figure:
    """Draw the size of ∂ output (row) / ∂ input (column), log scale; exact zeros are hatched."""
    arrays = {name: as_array(matrix, 2) for name, matrix in panels.items()}
    top = max(float(array.max()) for array in arrays.values())
    size = 4.6 * len(arrays) + 0.9, 5.4
    look = {"row_label": "output of position i", "column_label": "input of position j"}
    fig, axes = heatmap_row(size, arrays, outputs, inputs, title=title, **look)
    for ax, array in zip(axes, arrays.values(), strict=True):
        ax.collections[0].set_norm(LogNorm(top / 300, top, clip=True))
        for i, j in np.argwhere(array == 0):
            rectangle(ax, j, i, 1, 1, **BLOCKED)
            rectangle(ax, j, i, 1, 1, fill=False, edgecolor="white", linewidth=1.0)
    text = "size of ∂ output i / ∂ input j"
    bar = colour_bar(axes, axes[0].collections[0], text, shrink=0.8, pad=0.02, extend="min")
    bar.ax.yaxis.set_major_formatter("{x:g}")
    legend_below(fig, {"exactly 0": BLOCKED})
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


@style()
def three_trainings(steps: Any, accuracy: Series, exact: Series, *, title: str) -> Figure:
    """Draw teacher-forced accuracy while training, and the share of exact sentences, in percent."""
    fig, (left, right) = figure(9.4, 3.8, 1, 2, title=title, width_ratios=[1.25, 1])
    for name, values in accuracy.items():
        left.plot(as_array(steps, 1), 100 * as_array(values, 1), label=name)
    left.set_ylim(0, 104)
    left.grid(True)
    left.legend(loc="lower right")
    name_axes(left, title="with teacher forcing", x="training step", y="correct targets (%)")
    for y, (colour, (name, share)) in enumerate(zip(PALETTE, exact.items(), strict=False)):
        right.barh(y, 100 * share, height=0.42, color=colour)
        right.text(0, y - 0.3, name, va="bottom", fontsize=9.5, color=INK)
        look = {"ha": "left", "fontsize": 11, "color": colour, "fontweight": "bold"}
        label(right, 100 * share + 1.5, y, f"{100 * share:.0f}", **look)
    right.set(xlim=(0, 108), ylim=(len(exact) - 0.6, -0.75))
    right.grid(True, axis="x")
    right.spines["left"].set_visible(False)
    right.yaxis.set_visible(False)
    name_axes(right, title="decoding alone", x="held-out sentences exactly right (%)")
    return fig

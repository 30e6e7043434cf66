"""The figures of notebook 03: padding, the shift by one, masks, and what wrong masks do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import INK, MUTED, PALETTE, SEQUENTIAL
from transformer_lib.lessons.figures.heatmaps import ATTEND, BLOCKED, colour_bar, token_heatmap
from transformer_lib.lessons.figures.marks import hide_frame, label, rectangle

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
def padded_batch(sentences: Sequence[Sequence[str]], mask: Any, *, title: str) -> Figure:
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
    words = Patch(facecolor=TINT, label="True: a word")
    _legend_below(fig, [words, Patch(**BLOCKED, label="False: <pad>")])
    return fig


@style()
def shift_by_one(reads: Sequence[str], predicts: Sequence[str], *, title: str) -> Figure:
    """Draw what the decoder reads (below) and must predict (above), position by position.

    Dashed lines lead from each prediction to where it is read: one position later.
    """
    if len(reads) != len(predicts):
        raise ValueError(f"{len(reads)} words to read, but {len(predicts)} to predict")
    fig, ax = figure(9.4, 2.9, title=title)
    for x, (word, prediction) in enumerate(zip(reads, predicts, strict=True)):
        _word_box(ax, x, 0.0, word, TINT)
        _word_box(ax, x, 1.5, prediction, "#f8dcb4")
        arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 1, "shrinkB": 1}
        ax.annotate("", (x + 0.5, 1.5), (x + 0.5, 0.6), arrowprops=arrow)
        if x + 1 < len(reads):
            line = {"arrowstyle": "-", "color": ORANGE, "linestyle": (0, (2, 2))}
            ax.annotate("", (x + 1.25, 0.6), (x + 0.75, 1.5), arrowprops=line)
    ax.set_xticks(np.arange(len(reads)) + 0.5, range(len(reads)))
    ax.set_yticks([0.3, 1.8], ["reads", "predicts"], fontweight="bold")
    ax.set(xlim=(0, len(reads)), ylim=(-0.12, 2.2))
    ax.tick_params(labelsize=9.5)
    hide_frame(ax)
    name_axes(ax, x="position", y="the decoder")
    return fig


def _word_box(ax: Axes, x: float, y: float, word: str, colour: str) -> None:
    shape = "round,pad=0,rounding_size=0.08"
    look = {"boxstyle": shape, "facecolor": colour, "linewidth": 0}
    ax.add_patch(FancyBboxPatch((x + 0.08, y), 0.84, 0.6, **look))
    label(ax, x + 0.5, y + 0.3, word, fontsize=9)


def _as_mask(mask: Any) -> np.ndarray:
    array = as_array(mask, 2)
    if array.dtype != bool:
        raise ValueError(f"a mask is boolean, True = may attend; got {array.dtype}")
    return array


@style()
def causal_reading(
    mask: Any, reads: Sequence[str], predicts: Sequence[str], *, title: str
) -> Figure:
    """Draw a square mask, with the token of each position and the token it must predict."""
    names = {"row_label": "queries: the decoder is at …", "column_label": "keys: it attends to …"}
    fig = token_heatmap(_as_mask(mask), reads, reads, title=title, **names)
    ax = fig.axes[0]
    ax.get_legend().remove()
    x = len(reads) + 0.25
    for row, word in enumerate(predicts):
        look = {"ha": "left", "fontsize": 9, "color": ORANGE, "fontweight": "bold"}
        label(ax, x, row + 0.5, f"→  {word}", **look)
    label(ax, x, -0.35, "… and predicts", ha="left", fontsize=9.5, color=MUTED)
    _mask_legend(fig)
    return fig


@style()
def mask_panels(
    panels: Sequence[tuple[str, Any, Sequence[str], Sequence[str]]],
    *,
    title: str,
    signs: Sequence[str] = (),
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
        ax.get_legend().remove()
        ax.set_anchor("NW")
        ax.title.set_fontsize(10)
        if number and signs:
            ax.set_yticks([])
            ax.set_ylabel(signs[number - 1], rotation=0, fontsize=13, color=INK, labelpad=16)
    _mask_legend(fig)
    return fig


def _mask_legend(fig: Figure) -> None:
    attend = Patch(facecolor=ATTEND, linewidth=0, label="True: may attend")
    _legend_below(fig, [attend, Patch(**BLOCKED, label="False: may not")])


def _legend_below(fig: Figure, handles: list[Patch]) -> None:
    """Put a legend under the figure; `figures.show` saves what is outside of it."""
    fig.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, 0.01), ncols=len(handles))


@style()
def gradient_panels(
    panels: Mapping[str, Any], outputs: Sequence[str], inputs: Sequence[str], *, title: str
) -> Figure:
    """Draw the size of the derivative of each output (row) by each input (column), per case.

    Exact zeros are hatched; all panels share one logarithmic colour scale.
    """
    arrays = {name: as_array(matrix, 2) for name, matrix in panels.items()}
    top = max(float(array.max()) for array in arrays.values())
    size = 4.6 * len(arrays) + 0.9, 5.4
    fig, axes = figure(*size, 1, len(arrays), title=title, layout="compressed")
    fig.get_layout_engine().set(h_pad=0.12)
    look = {"row_label": "output of position i", "column_label": "input of position j"}
    for ax, (name, array) in zip(axes, arrays.items(), strict=True):
        token_heatmap(array, outputs, inputs, title=name, ax=ax, cbar_label=None, **look)
        ax.collections[0].set_norm(LogNorm(top / 300, top, clip=True))
        ax.title.set_fontsize(10)
        for i, j in np.argwhere(array == 0):
            rectangle(ax, j, i, 1, 1, **BLOCKED)
            rectangle(ax, j, i, 1, 1, fill=False, edgecolor="white", linewidth=1.0)
        if ax is not axes[0]:
            ax.yaxis.set_visible(False)
    text = "size of ∂ output i / ∂ input j"
    bar = colour_bar(axes, axes[0].collections[0], text, shrink=0.8, pad=0.02, extend="min")
    bar.ax.yaxis.set_major_formatter("{x:g}")
    _legend_below(fig, [Patch(**BLOCKED, label="exactly 0")])
    return fig


@style()
def rows_without_keys(
    panels: Mapping[str, Any], queries: Sequence[str], keys: Sequence[str], *, title: str
) -> Figure:
    """Draw the attention weights of several ways to mask, with the numbers and NaN in the cells."""
    size = 2.25 * len(panels) + 0.9, 3.6
    fig, axes = figure(*size, 1, len(panels), title=title, layout="compressed")
    fig.get_layout_engine().set(h_pad=0.12)
    for ax, (name, weights) in zip(axes, panels.items(), strict=True):
        array = as_array(weights, 2)
        known = np.where(np.isnan(array), 0.0, array)
        look = {"vmin": 0.0, "vmax": 1.0, "cmap": SEQUENTIAL, "annotate": True}
        token_heatmap(known, queries, keys, title=name, ax=ax, cbar_label=None, **look)
        ax.title.set_fontsize(10)
        for text, value in zip(ax.texts, array.flat, strict=True):
            if np.isnan(value):
                text.set(text="NaN", color="white", fontweight="bold")
        for i, j in np.argwhere(np.isnan(array)):
            rectangle(ax, j, i, 1, 1, facecolor=ORANGE, edgecolor="white", zorder=2)
        if ax is not axes[0]:
            ax.yaxis.set_visible(False)
    return fig


@style()
def three_trainings(
    steps: Any, accuracy: Mapping[str, Any], exact: Mapping[str, float], *, title: str
) -> Figure:
    """Draw teacher-forced accuracy while training, and the sentences that are exactly right.

    Both are in percent, with a colour per case.
    """
    fig, (left, right) = figure(9.4, 3.8, 1, 2, title=title, width_ratios=[1.25, 1])
    points = as_array(steps, 1)
    for colour, (name, values) in zip(PALETTE, accuracy.items(), strict=False):
        left.plot(points, 100 * as_array(values, 1), color=colour, label=name)
    left.set_ylim(0, 104)
    left.grid(True)
    name_axes(left, title="with teacher forcing", x="training step", y="correct targets (%)")
    left.legend(loc="lower right")
    _bars(right, exact)
    name_axes(right, title="decoding alone", x="held-out sentences exactly right (%)")
    right.yaxis.set_visible(False)
    return fig


def _bars(ax: Axes, exact: Mapping[str, float]) -> None:
    for y, (colour, (name, share)) in enumerate(zip(PALETTE, exact.items(), strict=False)):
        ax.barh(y, 100 * share, height=0.42, color=colour)
        ax.text(0, y - 0.3, name, va="bottom", fontsize=9.5, color=INK)
        look = {"ha": "left", "fontsize": 11, "color": colour, "fontweight": "bold"}
        label(ax, 100 * share + 1.5, y, f"{100 * share:.0f}", **look)
    ax.set(xlim=(0, 108), ylim=(len(exact) - 0.6, -0.75))
    ax.grid(True, axis="x")
    ax.spines["left"].set_visible(False)

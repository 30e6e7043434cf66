"""The figures of the notebook that builds `masks`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from transformer_lib.lessons.figures.broken_masks import rows_without_keys, three_trainings
from transformer_lib.lessons.figures.heatmaps import ATTEND, BLOCKED, HATCH, token_heatmap
from transformer_lib.lessons.figures.look import (
    INK,
    MUTED,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)

__all__ = [
    "causal_reading",
    "gradient_panels",
    "mask_panels",
    "padded_batch",
    "rows_without_keys",
    "shift_by_one",
    "three_trainings",
]

TINT, LATER = "#d6e7f1", "#b8650a"  # light blue behind dark words; orange: what comes next
NO: dict[str, Any] = {"facecolor": BLOCKED, "edgecolor": HATCH, "hatch": "////", "linewidth": 0}


@style()
def padded_batch(sentences: Sequence[Sequence[str]], mask: Any, *, title: str) -> Figure:
    """A batch as a table of words: sentences are rows, what is padding (mask False) is hatched."""
    array = as_array(mask, 2)
    if array.shape != (len(sentences), len(sentences[0])):
        raise ValueError(f"a mask of shape {array.shape} for {len(sentences)} padded sentences")
    fig, ax = figure(9.4, 0.55 * len(sentences) + 1.5, layout="constrained")
    headline(fig, title)
    for (row, column), real in np.ndenumerate(array):
        look = {"facecolor": TINT, "linewidth": 0} if real else NO
        ax.add_patch(Rectangle((column, row), 1, 1, **look))
        ax.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="white", linewidth=2))
        ax.text(
            column + 0.5, row + 0.5, sentences[row][column], ha="center", va="center", fontsize=9,
            color=INK if real else MUTED, parse_math=False,
            bbox={"facecolor": BLOCKED, "edgecolor": "none", "pad": 1.0} if not real else None,
        )  # fmt: skip
    ax.set_xticks(np.arange(array.shape[1]) + 0.5, range(array.shape[1]))
    ax.set_yticks(np.arange(array.shape[0]) + 0.5, range(array.shape[0]))
    ax.set(xlim=(0, array.shape[1]), ylim=(array.shape[0], 0))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    name_axes(ax, x="position", y="sentence")
    legend = [
        Patch(facecolor=TINT, label="True: a word"),
        Patch(**NO, label="False: <pad>"),
    ]
    _legend_below(fig, legend)
    return fig


@style()
def shift_by_one(reads: Sequence[str], says: Sequence[str], *, title: str) -> Figure:
    """What the decoder reads (below) and what it has to say (above), position by position.

    Orange lines lead from each answer to the place where it is read: one position further on.
    """
    if len(reads) != len(says):
        raise ValueError(f"{len(reads)} words to read, {len(says)} to say: one of each per place")
    fig, ax = figure(9.4, 2.9, layout="constrained")
    headline(fig, title)
    for place, pair in enumerate(zip(reads, says, strict=True)):
        for height, word, face in zip((0.0, 1.5), pair, (TINT, "#f8dcb4"), strict=True):
            box = FancyBboxPatch(
                (place + 0.08, height), 0.84, 0.6, boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=face, linewidth=0,
            )  # fmt: skip
            ax.add_patch(box)
            ax.text(
                place + 0.5, height + 0.3, word, ha="center", va="center", fontsize=9,
                parse_math=False,
            )  # fmt: skip
        arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 1, "shrinkB": 1}
        ax.annotate("", (place + 0.5, 1.5), (place + 0.5, 0.6), arrowprops=arrow)
        if place + 1 < len(reads):
            line = {"arrowstyle": "-", "color": LATER, "linestyle": (0, (2, 2))}
            ax.annotate("", (place + 1.25, 0.6), (place + 0.75, 1.5), arrowprops=line)
    ax.set_xticks(np.arange(len(reads)) + 0.5, range(len(reads)))
    ax.set_yticks([0.3, 1.8], ["reads", "has to say"], fontweight="bold")
    ax.set(xlim=(0, len(reads)), ylim=(-0.12, 2.2))
    ax.tick_params(length=0, labelsize=9.5)
    ax.spines[:].set_visible(False)
    name_axes(ax, x="position", y="the decoder")
    return fig


@style()
def causal_reading(mask: Any, reads: Sequence[str], says: Sequence[str], *, title: str) -> Figure:
    """A square mask: each row is a position with its own token, and at the right the token it has
    to predict from what it sees."""
    fig = token_heatmap(
        mask, reads, reads, title=title, mask_style=True,
        row_label="queries: the decoder stands at …", column_label="keys: it may look at …",
    )  # fmt: skip
    ax = fig.axes[0]
    ax.get_legend().remove()
    for row, word in enumerate(says):
        ax.text(
            len(reads) + 0.25, row + 0.5, f"→  {word}", va="center", fontsize=9,
            color=LATER, fontweight="bold", parse_math=False,
        )  # fmt: skip
    ax.text(len(reads) + 0.25, -0.35, "… and has to say", va="center", fontsize=9.5, color=MUTED)
    _legend_below(fig, _mask_patches())
    return fig


@style()
def mask_panels(
    panels: Sequence[tuple[str, Any, Sequence[str], Sequence[str]]],
    *,
    title: str,
    signs: Sequence[str] = (),
    row_label: str = "queries",
    column_label: str = "keys",
) -> Figure:
    """Masks side by side: each panel is its name, the mask, its row tokens and column tokens.

    Panels may differ in size; a cell is as large in each. `signs` stand between the panels, such
    as ("and", "="): the row tokens are then written once, at the left.
    """
    arrays = [as_array(mask, 2) for _, mask, _, _ in panels]
    columns = [array.shape[1] for array in arrays]
    rows = max(array.shape[0] for array in arrays)
    labels = 0.5 if signs else 1.2
    cell = min(0.46, (9.6 - labels * len(panels)) / sum(columns))
    fig, axes = figure(
        cell * sum(columns) + labels * len(panels) + 0.6, cell * rows + 1.9, 1, len(panels),
        squeeze=False, layout="compressed", width_ratios=columns,
    )  # fmt: skip
    headline(fig, title)
    for number, (ax, (name, mask, row_tokens, column_tokens)) in enumerate(
        zip(axes[0], panels, strict=True)
    ):
        token_heatmap(
            mask, row_tokens, column_tokens, title=name, mask_style=True, ax=ax,
            row_label=row_label, column_label=column_label,
        )  # fmt: skip
        ax.get_legend().remove()
        ax.set_anchor("NW")
        ax.title.set_fontsize(10)
        if number and signs:
            ax.set_yticks([])
            ax.set_ylabel(signs[number - 1], rotation=0, fontsize=13, color=INK, labelpad=16)
    _legend_below(fig, _mask_patches())
    return fig


def _mask_patches() -> list[Patch]:
    """The two colours of a mask."""
    return [
        Patch(facecolor=ATTEND, linewidth=0, label="True: may attend"),
        Patch(**NO, label="False: may not"),
    ]


def _legend_below(fig: Figure, handles: list[Patch]) -> None:
    """Under the figure, where it meets nothing; `figures.show` saves what stands out."""
    fig.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, 0.01), ncols=len(handles))


@style()
def gradient_panels(
    panels: Mapping[str, Any], outputs: Sequence[str], inputs: Sequence[str], *, title: str
) -> Figure:
    """Size of the derivative of each output (row) by each input (column), one panel per case.

    What is exactly zero is hatched; the colour scale is logarithmic and common to all panels.
    """
    arrays = {name: as_array(matrix, 2) for name, matrix in panels.items()}
    top = max(float(array.max()) for array in arrays.values())
    fig, axes = figure(4.6 * len(arrays) + 0.9, 5.4, 1, len(arrays), layout="compressed")
    headline(fig, title)
    fig.get_layout_engine().set(h_pad=0.12)
    for ax, (name, array) in zip(axes, arrays.items(), strict=True):
        token_heatmap(
            array, outputs, inputs, title=name, row_label="output of position i",
            column_label="input of position j", ax=ax, cbar_label=None,
        )  # fmt: skip
        ax.collections[0].set_norm(LogNorm(top / 300, top, clip=True))
        ax.title.set_fontsize(10)
        for i, j in np.argwhere(array == 0):
            ax.add_patch(Rectangle((j, i), 1, 1, **NO))
            ax.add_patch(Rectangle((j, i), 1, 1, fill=False, edgecolor="white", linewidth=1.0))
        if ax is not axes[0]:
            ax.yaxis.set_visible(False)
    _size_bar(fig, axes)
    _legend_below(fig, [Patch(**NO, label="exactly 0")])
    return fig


def _size_bar(fig: Figure, axes: np.ndarray) -> None:
    bar = fig.colorbar(
        axes[0].collections[0], ax=axes, label="size of ∂ output i / ∂ input j", shrink=0.8,
        aspect=22, pad=0.02, extend="min",
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.tick_params(labelsize=9, length=2)

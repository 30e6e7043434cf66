"""The figures of the notebook that builds `vocab` and `embeddings`.

Those about vectors are here, those about words in `vocabulary`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import NullLocator

from transformer_lib.lessons.figures import vocabulary
from transformer_lib.lessons.figures.heatmaps import token_heatmap
from transformer_lib.lessons.figures.look import (
    DIVERGING,
    INK,
    MUTED,
    PALETTE,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)
from transformer_lib.lessons.figures.vocabulary import *  # noqa: F403

__all__ = [
    *vocabulary.__all__,
    "embedding_matrix",
    "embedding_norms",
    "similarity_before_after",
    "softmax_temperatures",
    "token_strip",
]

BOX, EDGE = "#eaf2f7", "#8db7d2"
GREY = {"color": MUTED}
NOTE = {"fontsize": 9, "color": MUTED}


@style()
def token_strip(tokens: Sequence[str], ids: Sequence[int], vectors: Any, *, title: str) -> Figure:
    """Token, id and vector of every position below each other; `vectors` is (tokens, entries).

    Only the first entries of wide vectors fit: pass `x[:, :12]`.
    """
    array = as_array(vectors, 2)
    if not len(tokens) == len(ids) == len(array):
        raise ValueError(f"{len(tokens)} tokens, {len(ids)} ids, {len(array)} vectors")
    count, entries = array.shape
    side = 0.42  # height of one entry
    fig, ax = figure(9.2, 4.9)
    bound = float(np.abs(array).max())
    for column, (token, number) in enumerate(zip(tokens, ids, strict=True)):
        for y, text, bold in ((1.5, token, "bold"), (0.0, str(number), "normal")):
            box = FancyBboxPatch(
                (column - 0.36, y - 0.26), 0.72, 0.52, boxstyle="round,pad=0.06",
                facecolor=BOX, edgecolor=EDGE, linewidth=1.1,
            )  # fmt: skip
            ax.add_patch(box)
            ax.text(
                column, y, text, ha="center", va="center", fontsize=10, fontweight=bold,
                parse_math=False,
            )  # fmt: skip
        for start, end in ((1.17, 0.37), (-0.33, -0.92)):
            arrow = FancyArrowPatch(
                (column, start), (column, end), arrowstyle="-|>", mutation_scale=9, shrinkA=0,
                shrinkB=0, color=MUTED,
            )  # fmt: skip
            ax.add_patch(arrow)
        for entry, value in enumerate(array[column]):
            cell = Rectangle((column - 0.3, -1 - (entry + 1) * side), 0.6, side)
            cell.set(facecolor=DIVERGING(0.5 + value / (2 * bound)), edgecolor="white")
            ax.add_patch(cell)
        ax.text(column, -1.1 - entries * side, "⋮", ha="center", va="top", fontsize=12, **GREY)
    bottom = -1 - entries * side
    names = {1.5: "token", 0.0: "id", (bottom - 1) / 2: f"vector\n({entries} of its\nentries)"}
    for y, text in names.items():
        ax.text(-0.75, y, text, ha="right", va="center", fontsize=10, **GREY)
    ax.set(xlim=(-1.9, count - 0.4), ylim=(bottom - 0.7, 1.9))
    ax.axis("off")
    headline(fig, title)
    scale = fig.colorbar(
        _colours(bound), ax=ax, label="value of the entry", shrink=0.62, aspect=18, pad=0.02
    )
    scale.outline.set_visible(False)
    scale.ax.tick_params(labelsize=9, length=2)
    return fig


def _colours(bound: float) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(-bound, bound), DIVERGING)


@style()
def embedding_matrix(
    weight: Any, tokens: Sequence[str], *, title: str, marked: Sequence[int] = ()
) -> Figure:
    """Rows of the embedding matrix, one per token; the rows in `marked` are outlined."""
    array = as_array(weight, 2)
    columns = [str(i) if i % 4 == 0 else "" for i in range(array.shape[1])]
    fig = token_heatmap(
        array, tokens, columns, title=title, row_label="id and token",
        column_label="entry of the vector", cbar_label="weight",
    )  # fmt: skip
    ax = fig.axes[0]
    for row in marked:
        box = Rectangle((0, row), array.shape[1], 1, fill=False, clip_on=False)
        box.set(edgecolor=PALETTE[1], linewidth=2.2, zorder=4)
        ax.add_patch(box)
    return fig


@style()
def embedding_norms(widths: Sequence[int], plain: Any, scaled: Any, positions: Any) -> Figure:
    """Mean norm of the vectors against d_model: rows as they are, rows × √d_model, positions."""
    fig, ax = figure(8.4, 4.2)
    headline(fig, "Without the factor √d_model the positions would drown the words")
    ax.set_xscale("log")
    ax.grid(True)
    for number, (name, values) in enumerate(
        {"embedding × √d_model": scaled, "position": positions, "embedding alone": plain}.items()
    ):
        values, colour = as_array(values, 1), PALETTE[number]
        ax.plot(widths, values, "o-", color=colour, markersize=5, clip_on=False)
        ax.annotate(
            name, (widths[-1], values[-1]), xytext=(10, 0), textcoords="offset points",
            va="center", color=colour, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
        paper = list(widths).index(512)
        ax.annotate(
            f"{values[paper]:.1f}", (512, values[paper]), xytext=(0, 8), ha="right",
            textcoords="offset points", color=colour,
        )  # fmt: skip
    ax.set_xticks(widths, [f"{width:,}" for width in widths])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(0, None)
    name_axes(ax, x="width of the vectors, d_model", y="norm (length) of the vector")
    return fig


@style()
def softmax_temperatures(
    words: Sequence[str], logits: Any, probabilities: Mapping[str, Any]
) -> Figure:
    """Logits on the left, then the probabilities for each temperature, on one scale."""
    scores = as_array(logits, 1)
    fig, axes = figure(9.6, 3.5, 1, 1 + len(probabilities), sharey=True)
    headline(fig, "Softmax turns any scores into probabilities; temperature sharpens or flattens")
    rows = np.arange(len(words))
    axes[0].barh(rows, scores, color=[PALETTE[0] if s >= 0 else PALETTE[1] for s in scores])
    axes[0].axvline(0, color=INK, linewidth=0.8)
    name_axes(axes[0], title="logits", x="score")
    for row, score in zip(rows, scores, strict=True):
        _number(axes[0], row, score, f"{score:.1f}")
    axes[0].margins(x=0.32)
    for ax, (name, values) in zip(axes[1:], probabilities.items(), strict=True):
        values = as_array(values, 1)
        ax.barh(rows, values, color=PALETTE[2])
        for row, value in zip(rows, values, strict=True):
            _number(ax, row, value, f"{value:.2f}")
        ax.set_xlim(0, 1.22)
        ax.set_xticks([0, 0.5, 1])
        name_axes(ax, title=name, x="probability")
    axes[0].set_yticks(rows, words, parse_math=False)
    axes[0].invert_yaxis()
    name_axes(axes[0], y="next word")
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return fig


def _number(ax: Any, row: int, value: float, text: str) -> None:
    """The value beside the end of its bar."""
    ax.annotate(
        text.replace("-", "−"), (value, row), xytext=(4 if value >= 0 else -4, 0),
        textcoords="offset points", va="center", ha="left" if value >= 0 else "right", fontsize=9,
    )  # fmt: skip


@style()
def similarity_before_after(
    before: Any, after: Any, groups: Mapping[str, Sequence[str]], *, title: str
) -> Figure:
    """Cosine similarities (words, words) before and after training, the words by group.

    `groups` names the groups; its words, one group after the other, are the rows and columns.
    """
    words = [word for group in groups.values() for word in group]
    edges = np.cumsum([0, *map(len, groups.values())])
    fig, axes = figure(11.0, 5.9, 1, 2, layout="compressed")
    headline(fig, title)
    for ax, matrix, name in zip(axes, (before, after), ("before training", "after"), strict=True):
        token_heatmap(
            matrix, words, words, title=name, row_label="word", column_label="word", vmin=-1.0,
            vmax=1.0, cmap=DIVERGING, ax=ax, cbar_label=None,
        )  # fmt: skip
        for start, end in pairwise(edges):
            box = Rectangle((start, start), end - start, end - start, fill=False, zorder=4)
            box.set(edgecolor=INK, linewidth=1.6, clip_on=False)
            ax.add_patch(box)
        ax.tick_params(axis="x", rotation=90)
        for label in ax.get_xticklabels():
            label.set(ha="center", va="top", rotation_mode="default")
    axes[1].yaxis.set_visible(False)
    for name, start, end in zip(groups, edges, edges[1:], strict=False):
        axes[1].text(len(words) + 0.3, (start + end) / 2, name, va="center", **NOTE)
    bar = fig.colorbar(
        axes[0].collections[0], ax=axes, label="cosine similarity", shrink=0.7, aspect=24, pad=0.02
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, length=2)
    return fig

"""The figures of notebook 01: words and their numbers, vocabularies, embeddings, the softmax."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import DIVERGING, INK, MUTED, PALETTE
from transformer_lib.lessons.figures.heatmaps import colour_bar, token_heatmap
from transformer_lib.lessons.figures.marks import label, note, rectangle

__all__ = [
    "embedding_matrix",
    "embedding_norms",
    "leaked_vocabulary",
    "rank_frequency",
    "similarity_before_after",
    "softmax_temperatures",
    "token_strip",
    "words_and_subwords",
]


@style()
def rank_frequency(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw how often the n-th most frequent word occurs; both axes are logarithmic.

    `counts[text][word]`, from the most frequent word down, as `Counter.most_common` returns them.
    """
    title = "A few words are everywhere; most words of a real text are rare"
    fig, ax = figure(8.4, 4.6, title=title)
    ax.set(xscale="log", yscale="log")
    ax.grid(True)
    longest = max(map(len, counts.values()))
    for number, (name, table) in enumerate(counts.items()):
        words, share = list(table), np.array(list(table.values()))
        share = 1000 * share / share.sum()
        colour = PALETTE[number]
        ax.plot(np.arange(1, len(words) + 1), share, color=colour)
        side = {} if number else {"ha": "right", "va": "top"}
        for rank in (10, 100, 1000):
            if rank <= len(words):
                point = (rank, share[rank - 1])
                ax.plot(*point, "o", color=colour, markersize=5)
                look = {"color": colour, "parse_math": False, **side}
                note(ax, words[rank - 1], point, (6, 4) if number else (-4, -5), **look)
        end = (len(words), share[-1])
        note(ax, name, end, (9, 0), va="center", color=colour, fontweight="bold")
    ax.plot([1, longest], [100, 100 / longest], color=MUTED, linewidth=1.2, linestyle="--")
    note(ax, "Zipf: 1 / rank", (1.3, 77), (6, 4), color=MUTED, fontsize=9)
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    ax.xaxis.set_major_formatter(plain)
    ax.yaxis.set_major_formatter(plain)
    ax.set_xlim(0.9, longest * 5)
    name_axes(ax, x="rank of the word (1 = most frequent)", y="times in 1,000 words")
    return fig


@style()
def words_and_subwords(
    sizes: Sequence[int], word_unknown: Any, subword_unknown: Any, subword_lengths: Any
) -> Figure:
    """Draw the unknown tokens of a held-out text, and its length, against the vocabulary size.

    Shares are fractions of all held-out tokens; lengths are subwords per word.
    """
    title = "Subwords know almost everything; the price is a longer sentence"
    fig, (left, right) = figure(9.4, 4.0, 1, 2, title=title)
    both = ("words", PALETTE[1]), ("subwords", PALETTE[0])
    lengths = np.ones(len(sizes)), subword_lengths
    for ax, lines in ((left, (word_unknown, subword_unknown)), (right, lengths)):
        for (name, colour), values in zip(both, lines, strict=True):
            values = as_array(values, 1)
            ax.plot(sizes, values, "o-", color=colour, markersize=5, clip_on=False, zorder=3)
            note(ax, name, (sizes[1], values[1]), (6, 8), color=colour, fontweight="bold")
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylim(0, None)
        ax.grid(True)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    name_axes(left, x="size of the vocabulary", y="unknown share of held-out tokens")
    name_axes(right, x="size of the vocabulary", y="tokens for each word")
    return fig


@style()
def leaked_vocabulary(rates: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the unknown share by vocabulary and text: `rates[vocabulary][text]`, as fractions."""
    title = "Zero unknown words on the test set say nothing about new text"
    fig, ax = figure(7.6, 3.6, title=title)
    names = list(rates)
    texts = list(rates[names[0]])
    width = 0.36
    for number, text in enumerate(texts):
        x = np.arange(len(names)) + (number - (len(texts) - 1) / 2) * width
        values = [rates[name][text] for name in names]
        bars = ax.bar(x, values, width * 0.94, color=PALETTE[number], label=text)
        ax.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=9.5)
    ax.set_xticks(np.arange(len(names)), names)
    ax.tick_params(axis="x", length=0, labelsize=10)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.margins(y=0.22)
    ax.legend(loc="upper right")
    name_axes(ax, x="vocabulary built from", y="unknown share of words")
    return fig


@style()
def token_strip(tokens: Sequence[str], ids: Sequence[int], vectors: Any, *, title: str) -> Figure:
    """Draw token, id and vector of every position below each other; `vectors` is (tokens, entries).

    Only the first entries of wide vectors fit: pass `x[:, :12]`.
    """
    array = as_array(vectors, 2)
    if not len(tokens) == len(ids) == len(array):
        raise ValueError(f"{len(tokens)} tokens, {len(ids)} ids, {len(array)} vectors")
    count, entries = array.shape
    side = 0.42  # height of one entry
    fig, ax = figure(9.2, 4.9, title=title)
    scale = ScalarMappable(Normalize(-np.abs(array).max(), np.abs(array).max()), DIVERGING)
    scale.set_array(array)
    for column, (token, number) in enumerate(zip(tokens, ids, strict=True)):
        _token_box(ax, column, 1.5, token, "bold")
        _token_box(ax, column, 0.0, str(number), "normal")
        for start, end in ((1.17, 0.37), (-0.33, -0.92)):
            look = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
            ax.add_patch(FancyArrowPatch((column, start), (column, end), color=MUTED, **look))
        for entry, colour in enumerate(scale.to_rgba(array[column])):
            y = -1 - (entry + 1) * side
            rectangle(ax, column - 0.3, y, 0.6, side, facecolor=colour, edgecolor="white")
        label(ax, column, -1.1 - entries * side, "⋮", va="top", fontsize=12, color=MUTED)
    bottom = -1 - entries * side
    names = {1.5: "token", 0.0: "id", (bottom - 1) / 2: f"vector\n({entries} of its\nentries)"}
    for y, text in names.items():
        label(ax, -0.75, y, text, ha="right", fontsize=10, color=MUTED)
    ax.set(xlim=(-1.9, count - 0.4), ylim=(bottom - 0.7, 1.9))
    ax.axis("off")
    colour_bar(ax, scale, "value of the entry", shrink=0.62, aspect=18, pad=0.02)
    return fig


def _token_box(ax: Axes, x: float, y: float, text: str, weight: str) -> None:
    box = FancyBboxPatch((x - 0.36, y - 0.26), 0.72, 0.52, boxstyle="round,pad=0.06")
    box.set(facecolor="#eaf2f7", edgecolor="#8db7d2", linewidth=1.1)
    ax.add_patch(box)
    label(ax, x, y, text, fontsize=10, fontweight=weight)


@style()
def embedding_matrix(
    weight: Any, tokens: Sequence[str], *, title: str, marked: Sequence[int] = ()
) -> Figure:
    """Draw rows of the embedding matrix, one per token; the rows in `marked` are outlined."""
    array = as_array(weight, 2)
    columns = [str(i) if i % 4 == 0 else "" for i in range(array.shape[1])]
    names = {"row_label": "id and token", "column_label": "entry of the vector"}
    fig = token_heatmap(array, tokens, columns, title=title, cbar_label="weight", **names)
    for row in marked:
        look = {"fill": False, "clip_on": False, "edgecolor": PALETTE[1], "linewidth": 2.2}
        rectangle(fig.axes[0], 0, row, array.shape[1], 1, zorder=4, **look)
    return fig


@style()
def embedding_norms(widths: Sequence[int], plain: Any, scaled: Any, positions: Any) -> Figure:
    """Draw the mean norm of embeddings, plain and × √d_model, and of positions over d_model."""
    title = "Without the factor √d_model the positions would drown the words"
    fig, ax = figure(8.4, 4.2, title=title)
    ax.set_xscale("log")
    ax.grid(True)
    lines = {"embedding × √d_model": scaled, "position": positions, "embedding alone": plain}
    paper = list(widths).index(512)
    for colour, (name, values) in zip(PALETTE, lines.items(), strict=False):
        values = as_array(values, 1)
        ax.plot(widths, values, "o-", color=colour, markersize=5, clip_on=False)
        look = {"va": "center", "fontweight": "bold", "annotation_clip": False}
        note(ax, name, (widths[-1], values[-1]), (10, 0), color=colour, **look)
        note(ax, f"{values[paper]:.1f}", (512, values[paper]), (0, 8), ha="right", color=colour)
    ax.set_xticks(widths, [f"{width:,}" for width in widths])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(0, None)
    name_axes(ax, x="width of the vectors, d_model", y="norm (length) of the vector")
    return fig


@style()
def softmax_temperatures(
    words: Sequence[str], logits: Any, probabilities: Mapping[str, Any]
) -> Figure:
    """Draw logits on the left, then the probabilities for each temperature, on one scale."""
    title = "Softmax turns any scores into probabilities; temperature sharpens or flattens"
    scores = as_array(logits, 1)
    fig, axes = figure(9.6, 3.5, 1, 1 + len(probabilities), title=title, sharey=True)
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


def _number(ax: Axes, row: int, value: float, text: str) -> None:
    """Write the value beside the end of its bar."""
    offset, ha = ((4, 0), "left") if value >= 0 else ((-4, 0), "right")
    note(ax, text.replace("-", "−"), (value, row), offset, va="center", ha=ha, fontsize=9)


@style()
def similarity_before_after(
    before: Any, after: Any, groups: Mapping[str, Sequence[str]], *, title: str
) -> Figure:
    """Draw cosine similarities (words, words) before and after training, the words by group.

    `groups` names the groups; its words, one group after the other, are the rows and columns.
    """
    words = [word for group in groups.values() for word in group]
    edges = np.cumsum([0, *map(len, groups.values())])
    fig, axes = figure(11.0, 5.9, 1, 2, title=title, layout="compressed")
    look = {"vmin": -1.0, "vmax": 1.0, "cmap": DIVERGING, "cbar_label": None}
    look |= {"row_label": "word", "column_label": "word"}
    for ax, matrix, name in zip(axes, (before, after), ("before training", "after"), strict=True):
        token_heatmap(matrix, words, words, title=name, ax=ax, **look)
        for start, end in pairwise(edges):
            outline = {"fill": False, "edgecolor": INK, "linewidth": 1.6, "clip_on": False}
            rectangle(ax, start, start, end - start, end - start, zorder=4, **outline)
        for tick in ax.get_xticklabels():
            tick.set(rotation=90, ha="center", va="top", rotation_mode="default")
    axes[1].yaxis.set_visible(False)
    for name, start, end in zip(groups, edges, edges[1:], strict=False):
        x, look = len(words) + 0.3, {"ha": "left", "fontsize": 9, "color": MUTED}
        label(axes[1], x, (start + end) / 2, name, **look)
    colour_bar(axes, axes[0].collections[0], "cosine similarity", shrink=0.7, aspect=24, pad=0.02)
    return fig

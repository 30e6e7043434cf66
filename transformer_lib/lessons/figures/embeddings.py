"""The figures of notebook 01: words and their numbers, vocabularies, embeddings, the softmax."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import DIVERGING, INK, MUTED, PALETTE
from transformer_lib.lessons.figures.heatmaps import colour_bar, heatmap_row, token_heatmap
from transformer_lib.lessons.figures.marks import arrow, box, label, log_sizes, note, rectangle
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "embedding_matrix",
    "embedding_norms",
    "rank_frequency",
    "similarity_before_after",
    "softmax_temperatures",
    "token_strip",
    "words_and_subwords",
]

TOKEN = {"facecolor": "#eaf2f7", "edgecolor": "#8db7d2", "linewidth": 1.1}


@style()
def rank_frequency(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw `counts[text][word]`, sorted by frequency as `Counter.most_common` does; log axes."""
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
    """Draw the unknown share of held-out tokens, and tokens per word, by vocabulary size."""
    title = "Subwords know almost everything; the price is a longer sentence"
    fig, (left, right) = figure(9.4, 4.0, 1, 2, title=title)
    both = ("words", PALETTE[1]), ("subwords", PALETTE[0])
    lengths = np.ones(len(sizes)), subword_lengths
    for ax, lines in ((left, (word_unknown, subword_unknown)), (right, lengths)):
        for (name, colour), values in zip(both, lines, strict=True):
            values = as_array(values, 1)
            ax.plot(sizes, values, "o-", color=colour, markersize=5, clip_on=False, zorder=3)
            note(ax, name, (sizes[1], values[1]), (6, 8), color=colour, fontweight="bold")
        log_sizes(ax, sizes)
        ax.set_ylim(0, None)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    name_axes(left, x="size of the vocabulary", y="unknown share of held-out tokens")
    name_axes(right, x="size of the vocabulary", y="tokens for each word")
    return fig


@style()
def token_strip(tokens: Words, ids: Sequence[int], vectors: Any, *, title: str) -> Figure:
    """Draw token, id and vector (tokens, entries) of each position; wide ones: pass `x[:, :12]`."""
    array = as_array(vectors, 2)
    if not len(tokens) == len(ids) == len(array):
        raise ValueError(f"{len(tokens)} tokens, {len(ids)} ids, {len(array)} vectors")
    count, entries = array.shape
    side = 0.42  # height of one entry
    fig, ax = figure(9.2, 4.9, title=title)
    scale = ScalarMappable(Normalize(-np.abs(array).max(), np.abs(array).max()), DIVERGING)
    scale.set_array(array)
    for column, (token, number) in enumerate(zip(tokens, ids, strict=True)):
        for y, text, weight in ((1.5, token, "bold"), (0.0, str(number), "normal")):
            words = {"fontsize": 10, "fontweight": weight}
            box(ax, column, y, (0.84, 0.64), text, 0.06, words=words, **TOKEN)
        arrow(ax, (column, 1.17), (column, 0.37), MUTED)
        arrow(ax, (column, -0.33), (column, -0.92), MUTED)
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


@style()
def embedding_matrix(
    weight: Any, tokens: Words, *, title: str, marked: Sequence[int] = ()
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
    log_sizes(ax, widths)
    lines = {"embedding × √d_model": scaled, "position": positions, "embedding alone": plain}
    paper = list(widths).index(512)
    for colour, (name, values) in zip(PALETTE, lines.items(), strict=False):
        values = as_array(values, 1)
        ax.plot(widths, values, "o-", color=colour, markersize=5, clip_on=False)
        look = {"va": "center", "fontweight": "bold", "annotation_clip": False}
        note(ax, name, (widths[-1], values[-1]), (10, 0), color=colour, **look)
        note(ax, f"{values[paper]:.1f}", (512, values[paper]), (0, 8), ha="right", color=colour)
    ax.set_ylim(0, None)
    name_axes(ax, x="width of the vectors, d_model", y="norm (length) of the vector")
    return fig


@style()
def softmax_temperatures(words: Words, logits: Any, probabilities: Series) -> Figure:
    """Draw logits on the left, then the probabilities for each temperature, on one scale."""
    title = "Softmax turns any scores into probabilities; temperature sharpens or flattens"
    scores = as_array(logits, 1)
    fig, axes = figure(9.6, 3.5, 1, 1 + len(probabilities), title=title, sharey=True)
    rows = np.arange(len(words))
    axes[0].barh(rows, scores, color=[PALETTE[0] if s >= 0 else PALETTE[1] for s in scores])
    axes[0].axvline(0, color=INK, linewidth=0.8)
    axes[0].margins(x=0.32)
    name_axes(axes[0], title="logits", x="score")
    _numbers(axes[0], "{:.1f}")
    for ax, (name, values) in zip(axes[1:], probabilities.items(), strict=True):
        ax.barh(rows, as_array(values, 1), color=PALETTE[2])
        _numbers(ax, "{:.2f}")
        ax.set_xlim(0, 1.22)
        ax.set_xticks([0, 0.5, 1])
        name_axes(ax, title=name, x="probability")
    axes[0].set_yticks(rows, words, parse_math=False)
    axes[0].invert_yaxis()
    name_axes(axes[0], y="next word")
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return fig


def _numbers(ax: Axes, form: str) -> None:
    """Write the value of each bar beside its end."""
    bars = ax.containers[0]
    texts = [form.format(value).replace("-", "−") for value in bars.datavalues]
    ax.bar_label(bars, texts, padding=4, fontsize=9)


@style()
def similarity_before_after(
    before: Any, after: Any, groups: Mapping[str, Words], *, title: str
) -> Figure:
    """Draw cosine similarities (words, words) before and after training, words by group."""
    words = [word for group in groups.values() for word in group]
    edges = np.cumsum([0, *map(len, groups.values())])
    look = {"vmin": -1.0, "vmax": 1.0, "row_label": "word", "column_label": "word"}
    panels = {"before training": before, "after": after}
    fig, axes = heatmap_row((11.0, 5.9), panels, words, words, title=title, **look)
    for ax in axes:
        for start, end in pairwise(edges):
            outline = {"fill": False, "edgecolor": INK, "linewidth": 1.6, "clip_on": False}
            rectangle(ax, start, start, end - start, end - start, zorder=4, **outline)
        for tick in ax.get_xticklabels():
            tick.set(rotation=90, ha="center", va="top", rotation_mode="default")
    for name, start, end in zip(groups, edges, edges[1:], strict=False):
        x, look = len(words) + 0.3, {"ha": "left", "fontsize": 9, "color": MUTED}
        label(axes[1], x, (start + end) / 2, name, **look)
    colour_bar(axes, axes[0].collections[0], "cosine similarity", shrink=0.7, aspect=24, pad=0.02)
    return fig

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
from transformer_lib.lessons.figures.heatmaps import colour_bar, heatmap_row
from transformer_lib.lessons.figures.marks import arrow, box, label, log_sizes, note, rectangle
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "rank_frequency",
    "similarity_before_after",
    "softmax_temperatures",
    "token_strip",
    "words_and_subwords",
]

TOKEN = {"facecolor": "#eaf2f7", "edgecolor": "#8db7d2", "linewidth": 1.1}
DARK = "#1f2d3a"  # on light boxes and cells, whatever the theme of the page


@style()
def rank_frequency(counts: Mapping[str, int]) -> Figure:
    """Draw how often each word occurs by its rank; `counts` as of `Counter.most_common`."""
    words, values = list(counts), np.array(list(counts.values()))
    once = int((values == 1).sum())
    first = len(words) - once
    title = f"Most words are rare: {once / len(words):.0%} of all different words occur only once"
    fig, ax = figure(7.6, 4.3, title=title)
    ax.set(xscale="log", yscale="log")
    ax.grid(True)
    ranks = np.arange(1, len(words) + 1)
    ax.axvspan(first, len(words), color=PALETTE[3], alpha=0.18, linewidth=0)
    ax.plot(ranks, values[0] / ranks, color=MUTED, linewidth=1.2, linestyle="--")
    note(ax, "Zipf's law: 1 / rank", (30, values[0] / 30), (-10, -6), ha="right", va="top")
    ax.plot(ranks, values, "o", color=PALETTE[0], markersize=4, markeredgewidth=0)
    for rank in (1, 10, 100):
        point, text = (rank, values[rank - 1]), f"{words[rank - 1]}: {values[rank - 1]:,} times"
        ax.plot(*point, "o", color=PALETTE[0], markersize=8)
        note(ax, text, point, (8, 5), color=PALETTE[0], fontweight="bold", parse_math=False)
    text = f"{once:,} words\noccur once"
    note(ax, text, (first, values[0] / 8), (-6, 0), ha="right", color=PALETTE[3], fontweight="bold")
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    ax.xaxis.set_major_formatter(plain)
    ax.yaxis.set_major_formatter(plain)
    ax.set(xlim=(0.8, len(words) * 1.05), ylim=(0.7, values[0] * 2))
    name_axes(ax, x="rank of the word (1 = most frequent)", y="how often the word occurs")
    return fig


@style()
def words_and_subwords(
    sizes: Sequence[int], word_unknown: Any, subword_unknown: Any, subword_lengths: Any
) -> Figure:
    """Draw the unknown share of held-out tokens, and tokens per word, by vocabulary size."""
    title = "Subwords leave almost nothing unknown; the price is longer sentences"
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
    name_axes(right, x="size of the vocabulary", y="tokens per word")
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
            words = {"fontsize": 10, "fontweight": weight, "color": DARK}
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
def softmax_temperatures(words: Words, logits: Any, probabilities: Series) -> Figure:
    """Draw logits on the left, then the probabilities for each temperature, on one scale."""
    title = "Softmax turns logits into probabilities; the temperature sharpens or flattens them"
    scores = as_array(logits, 1)
    fig, axes = figure(9.6, 3.5, 1, 1 + len(probabilities), title=title, sharey=True)
    rows = np.arange(len(words))
    axes[0].barh(rows, scores, color=[PALETTE[0] if s >= 0 else PALETTE[1] for s in scores])
    axes[0].axvline(0, color=INK, linewidth=0.8)
    axes[0].margins(x=0.32)
    name_axes(axes[0], title="logits", x="logit")
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
            outline = {"fill": False, "edgecolor": DARK, "linewidth": 1.6, "clip_on": False}
            rectangle(ax, start, start, end - start, end - start, zorder=4, **outline)
        for tick in ax.get_xticklabels():
            tick.set(rotation=90, ha="center", va="top", rotation_mode="default")
    for name, start, end in zip(groups, edges, edges[1:], strict=False):
        x, look = len(words) + 0.3, {"ha": "left", "fontsize": 9, "color": MUTED}
        label(axes[1], x, (start + end) / 2, name, **look)
    colour_bar(axes, axes[0].collections[0], "cosine similarity", shrink=0.7, aspect=24, pad=0.02)
    return fig

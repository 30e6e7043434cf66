"""The figures of notebook 01: words and their numbers, vocabularies, embeddings, the softmax."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import INK, MUTED, PALETTE
from transformer_lib.lessons.figures.heatmaps import colour_bar, draw_values, heatmap_row
from transformer_lib.lessons.figures.marks import hide_frame, label, log_sizes, note, rectangle
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "rank_frequency",
    "row_lookup",
    "similarity_before_after",
    "softmax_temperatures",
    "words_and_subwords",
]

DARK = "#1f2d3a"  # on light boxes and cells, whatever the theme of the page


@style()
def rank_frequency(counts: Mapping[str, int]) -> Figure:
    """Draw how often each word occurs by its rank; `counts` as of `Counter.most_common`."""
    words, values = list(counts), np.array(list(counts.values()))
    once = int((values == 1).sum())
    first = len(words) - once
    title = f"Many words are rare: {once / len(words):.0%} of all different words occur only once"
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
def row_lookup(vocabulary: Words, ids: Sequence[int], matrix: Any, follow: Words) -> Figure:
    """Draw a matrix (V, entries) beside its rows `ids`; lines follow some words from row to row."""
    array = as_array(matrix, 2)
    title = "Each word becomes a number, and each number selects a row"
    fig, (left, right) = figure(9.2, 4.6, 1, 2, title=title)
    fig.get_layout_engine().set(wspace=0.18)
    panels = (left, array, range(len(array)), "The matrix, by number")
    panels = panels, (right, array[list(ids)], ids, "The sentence, word by word")
    for ax, rows, numbers, name in panels:
        draw_values(ax, rows, vmin=-np.abs(array).max(), vmax=np.abs(array).max(), cbar_label=None)
        names = [f"{vocabulary[number]}  {number}" for number in numbers]
        ax.set_yticks(np.arange(len(rows)) + 0.5, names, parse_math=False)
        ax.set(xticks=(), ylim=(len(array), 0))
        hide_frame(ax)
        name_axes(ax, title=name, x=f"first {array.shape[1]} entries", y="word and number")
    right.yaxis.tick_right()  # the lines need the space between the panels
    right.yaxis.set_label_position("right")
    for word, colour in zip(follow, (PALETTE[3], PALETTE[2]), strict=False):
        number = vocabulary.index(word)
        position = list(ids).index(number)
        for ax, row in ((left, number), (right, position)):
            look = {"fill": False, "edgecolor": colour, "linewidth": 2.4, "clip_on": False}
            rectangle(ax, 0, row, array.shape[1], 1, zorder=4, **look)
        ends = {"xyA": (array.shape[1], number + 0.5), "coordsA": left.transData}
        ends |= {"xyB": (-0.02, 1 - (position + 0.5) / len(array)), "coordsB": right.transAxes}
        fig.add_artist(ConnectionPatch(**ends, arrowstyle="-|>", color=colour, linewidth=1.6))
    colour_bar([left, right], left.collections[0], "value of the entry", pad=0.02)
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

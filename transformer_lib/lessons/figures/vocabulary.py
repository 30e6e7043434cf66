"""The figures of the notebook that builds `vocab` and `embeddings`: those about words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from transformer_lib.lessons.figures.look import (
    MUTED,
    PALETTE,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)

__all__ = ["leaked_vocabulary", "rank_frequency", "words_and_subwords"]


@style()
def rank_frequency(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """How often the n-th most frequent word occurs; both axes logarithmic.

    `counts[text][word]`, from the most frequent word down, as `Counter.most_common` has them.
    """
    fig, ax = figure(8.4, 4.6)
    headline(fig, "A few words are everywhere; most words of a real text are rare")
    ax.set(xscale="log", yscale="log")
    ax.grid(True)
    longest = max(map(len, counts.values()))
    for number, (name, table) in enumerate(counts.items()):
        words, share = list(table), np.array(list(table.values()))
        share = 1000 * share / share.sum()
        colour = PALETTE[number]
        place = {"xytext": (6, 4)} if number else {"xytext": (-4, -5), "ha": "right", "va": "top"}
        ax.plot(np.arange(1, len(words) + 1), share, color=colour)
        for rank in (10, 100, 1000):
            if rank <= len(words):
                ax.plot(rank, share[rank - 1], "o", color=colour, markersize=5)
                ax.annotate(
                    words[rank - 1], (rank, share[rank - 1]), **place, color=colour,
                    textcoords="offset points", parse_math=False,
                )  # fmt: skip
        ax.annotate(
            name, (len(words), share[-1]), xytext=(9, 0), textcoords="offset points", va="center",
            color=colour, fontweight="bold",
        )  # fmt: skip
    ax.plot([1, longest], [100, 100 / longest], color=MUTED, linewidth=1.2, linestyle="--")
    ax.annotate(
        "Zipf: 1 / rank",
        (1.3, 77),
        xytext=(6, 4),
        textcoords="offset points",
        color=MUTED,
        fontsize=9,
    )
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
    """Unknown tokens of a held-out text, and how long it gets, against the vocabulary's size.

    Shares are fractions of all held-out tokens; lengths are subwords for each word.
    """
    fig, (left, right) = figure(9.4, 4.0, 1, 2)
    headline(fig, "Subwords know almost everything; the price is a longer sentence")
    words, pieces = PALETTE[1], PALETTE[0]
    for ax, lines in (
        (left, ((word_unknown, words, "words"), (subword_unknown, pieces, "subwords"))),
        (right, ((np.ones(len(sizes)), words, "words"), (subword_lengths, pieces, "subwords"))),
    ):
        for values, colour, name in lines:
            values = as_array(values, 1)
            ax.plot(sizes, values, "o-", color=colour, markersize=5, clip_on=False, zorder=3)
            ax.annotate(
                name, (sizes[1], values[1]), xytext=(6, 8), textcoords="offset points",
                color=colour, fontweight="bold",
            )  # fmt: skip
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
    """Unknown share by vocabulary and text: `rates[vocabulary][text]`, as fractions."""
    fig, ax = figure(7.6, 3.6)
    headline(fig, "Zero unknown words on the test set say nothing about new text")
    names = list(rates)
    texts = list(rates[names[0]])
    width = 0.36
    for number, text in enumerate(texts):
        places = np.arange(len(names)) + (number - (len(texts) - 1) / 2) * width
        values = [rates[name][text] for name in names]
        bars = ax.bar(places, values, width * 0.94, color=PALETTE[number], label=text)
        ax.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=9.5)
    ax.set_xticks(np.arange(len(names)), names)
    ax.tick_params(axis="x", length=0, labelsize=10)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.margins(y=0.22)
    ax.legend(loc="upper right")
    name_axes(ax, x="vocabulary built from", y="unknown share of words")
    return fig

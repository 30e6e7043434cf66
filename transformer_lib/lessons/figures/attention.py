"""The figures of the notebook that builds `attention`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import FuncFormatter, NullLocator

from transformer_lib.lessons.figures.heads import HEADS, head_split
from transformer_lib.lessons.figures.look import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)

__all__ = [
    "cost_against_length",
    "head_split",
    "loss_with_and_without_scaling",
    "saturation",
    "score_distributions",
    "weighted_sum",
]

WITH, WITHOUT = PALETTE[0], PALETTE[3]  # the same two colours for √d_k in every figure


@style()
def weighted_sum(
    values: Any, weights: Any, names: Sequence[str], *, title: str, axes: Sequence[str]
) -> Figure:
    """Three or more values in the plane and their weighted sum, drawn toward each by its weight.

    `values` (K, 2), `weights` (K,); `axes` names the two coordinates.
    """
    points, shares = as_array(values, 2), as_array(weights, 1)
    fig, ax = figure(6.6, 4.6)
    headline(fig, title)
    ax.add_patch(Polygon(points, closed=True, facecolor="#eef3f7", edgecolor="#b9c7d2"))
    output = shares @ points
    middle = points.mean(0)
    for number, (point, share, name) in enumerate(zip(points, shares, names, strict=True)):
        colour = HEADS[number % len(HEADS)]
        ax.plot(*zip(output, point, strict=True), color=colour, linewidth=1 + 11 * share, zorder=2)
        ax.plot(*point, "o", color=colour, markersize=11, zorder=3)
        side = np.sign(point - middle) * (4, 15)
        ax.annotate(
            f"value of “{name}”", point, xytext=side, textcoords="offset points", color=colour,
            ha="center", va="center", fontweight="bold",
        )  # fmt: skip
        ax.annotate(
            f"{share:.2f}", output + 0.5 * (point - output), ha="center", va="center", zorder=5,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour},
        )  # fmt: skip
    ax.plot(*output, "*", color=INK, markersize=20, zorder=6)
    ax.annotate(
        "output", output, xytext=(12, 12), textcoords="offset points", fontweight="bold",
        va="center", zorder=6,
    )  # fmt: skip
    ax.margins(0.2)
    ax.grid(True)
    name_axes(ax, x=axes[0], y=axes[1])
    return fig


@style()
def score_distributions(scores: Mapping[int, Any], *, title: str) -> Figure:
    """For every d_k one ridge of raw scores (left) and one of the same scores over √d_k (right).

    `scores[d_k]` holds raw dot products, in any shape.
    """
    fig, (left, right) = figure(8.6, 4.6, 1, 2, sharey=True)
    headline(fig, title)
    panels = (
        (left, "q · k", WITHOUT, lambda d: 1.0),
        (right, "q · k / √d_k", WITH, lambda d: d**-0.5),
    )
    edges = np.linspace(-60, 60, 241)
    middles = (edges[1:] + edges[:-1]) / 2
    for ax, name, colour, factor in panels:
        for row, (d_k, raw) in enumerate(scores.items()):
            sample = np.asarray(raw.flatten()) * factor(d_k)
            density, _ = np.histogram(sample, edges, density=True)
            height = 0.82 * density / density.max()
            ax.fill_between(middles, row, row + height, color=colour, alpha=0.35, linewidth=0)
            ax.plot(middles, row + height, color=colour, linewidth=1.3)
            words = f"std {sample.std():.1f}"
            ax.text(59, row + 0.3, words, ha="right", color=INK, fontsize=9)
        name_axes(ax, title=name, x="score")
        ax.set(xlim=(-60, 60), xticks=range(-40, 41, 20))
        ax.grid(True, axis="x")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    left.set_yticks(range(len(scores)), [str(d_k) for d_k in scores])
    name_axes(left, y="d_k, with the density of its scores")
    return fig


@style()
def saturation(
    d_k: Sequence[int],
    entropy: Mapping[str, Any],
    gradient: Mapping[str, Any],
    *,
    uniform: float,
    title: str,
) -> Figure:
    """Entropy of the weights (left) and the gradient that passes the softmax (right), over d_k.

    The keys of both mappings are "with √d_k" and "without"; `gradient` holds rows
    (low, middle, high): quantiles over many queries. `uniform` is the highest possible entropy.
    """
    fig, (left, right) = figure(8.6, 4.0, 1, 2)
    headline(fig, title)
    colours = dict(zip(entropy, (WITH, WITHOUT), strict=True))
    for name, colour in colours.items():
        left.plot(d_k, entropy[name], "o-", color=colour, markersize=4)
        low, middle, high = as_array(gradient[name], 2)
        right.fill_between(d_k, low, high, color=colour, alpha=0.16, linewidth=0)
        right.plot(d_k, middle, "o-", color=colour, markersize=4, label=name)
    left.axhline(uniform, color=MUTED, linestyle=":", linewidth=1.3)
    left.text(d_k[0], uniform - 0.04, "all keys alike", color=MUTED, va="top", fontsize=9)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(d_k, [str(size) for size in d_k])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.grid(True)
    left.set_ylim(0, uniform * 1.08)
    right.set(yscale="log", ylim=(1e-7, 3))
    name_axes(left, title="how evenly it looks", x="d_k", y="entropy of the weights (nats)")
    name_axes(right, title="what it can learn from", x="d_k", y="‖∂ weights / ∂ scores‖")
    right.legend(loc="lower left", title="median and the middle 80 % of queries", title_fontsize=9)
    return fig


@style()
def cost_against_length(
    lengths: Sequence[int],
    seconds: Mapping[str, Any],
    memory: Mapping[str, Any],
    *,
    title: str,
    x_label: str,
    time_label: str,
    slopes: Mapping[str, float] | None = None,
) -> Figure:
    """Time (left, milliseconds) and memory (right, MB) over the length, both axes logarithmic.

    The two mappings share their names and colours; `slopes` are written behind the names.
    """
    fig, (left, right) = figure(8.6, 4.3, 1, 2)
    headline(fig, title)
    names = list(dict.fromkeys([*seconds, *memory]))
    marks = dict(zip(names, ("o", "s", "^", "D", "v"), strict=False))
    for number, name in enumerate(names):
        look = {"color": HEADS[number], "marker": marks[name], "markersize": 4.5}
        slope = "" if not slopes or name not in slopes else f": slope {slopes[name]:.1f}"
        if name in seconds:
            left.plot(lengths, as_array(seconds[name], 1) * 1e3, **look, label=name + slope)
        if name in memory:
            right.plot(lengths, as_array(memory[name], 1) / 1e6, **look, label=name)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(lengths, [str(length) for length in lengths])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.grid(True, color=GRID)
        ax.legend(loc="upper left")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** 0.32)  # room for the legend
    name_axes(left, title="time", x=x_label, y=time_label)
    name_axes(right, title="memory", x=x_label, y="MB")
    return fig


@style()
def loss_with_and_without_scaling(
    losses: Mapping[float, tuple[Any, Any]], *, title: str, chance: float
) -> Figure:
    """One panel per learning rate: the loss with √d_k and without it, over the steps."""
    fig, axes = figure(8.6, 3.6, 1, len(losses), sharey=True)
    headline(fig, title)
    for ax, (rate, (scaled, raw)) in zip(axes, losses.items(), strict=True):
        ax.axhline(chance, color=MUTED, linestyle=":", linewidth=1.3)
        ax.plot(as_array(scaled, 1), color=WITH, label="with √d_k", linewidth=1.6)
        ax.plot(as_array(raw, 1), color=WITHOUT, label="without", linewidth=1.6)
        ax.grid(True)
        ax.set_ylim(0, None)
        name_axes(ax, title=f"learning rate {rate:g}", x="step")
    end = axes[-1].get_xlim()[1]
    axes[-1].text(end, chance - 0.08, "guessing", color=MUTED, ha="right", va="top", fontsize=9)
    name_axes(axes[0], y="loss (nats)")
    axes[-1].legend(loc="upper right")
    return fig

"""The figures of notebook 05: the network as bends, LayerNorm, the way around a sub-layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from transformer_lib.plots.look import (
    INK,
    MUTED,
    PALETTE,
    SEQUENTIAL,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)

__all__ = ["bends", "norm_orders", "norm_spread", "parameter_shares", "relu_activity"]


@style()
def bends(x: Any, wanted: Any, fits: Mapping[str, Any], *, title: str) -> Figure:
    """One curve and its approximations by few and by many hidden units."""
    fig, axes = figure(9, 3.4, ncols=len(fits), sharey=True)
    for ax, (name, values) in zip(axes, fits.items(), strict=True):
        ax.plot(as_array(x, 1), as_array(wanted, 1), color=MUTED, linewidth=5, alpha=0.35)
        ax.plot(as_array(x, 1), as_array(values, 1), color=PALETTE[1])
        name_axes(ax, title=name, x="x")
    name_axes(axes[0], y="output")
    headline(fig, title)
    return fig


@style()
def relu_activity(before: Any, tokens: Sequence[str], *, title: str) -> Figure:
    """Left: what enters the ReLU, cut at zero. Right: which hidden units each token wakes."""
    values = as_array(before, 2)
    fig, (left, right) = figure(10, 3.9, ncols=2, width_ratios=[1, 1.7])
    edges = np.linspace(values.min(), values.max(), 50)
    left.hist(values[values <= 0], edges, color="#c3cbd2", label="cut to 0")
    left.hist(values[values > 0], edges, color=PALETTE[0], label="passes")
    left.legend(loc="upper right")
    active = (values > 0).mean()
    name_axes(left, title=f"{active:.0%} of the values pass", x="value before the ReLU", y="count")
    right.pcolormesh(np.maximum(values, 0), cmap=SEQUENTIAL)
    right.set_yticks(np.arange(len(tokens)) + 0.5, tokens)
    right.invert_yaxis()
    right.grid(False)
    name_axes(right, title="each token wakes other units", x="hidden unit", y="token")
    headline(fig, title)
    return fig


@style()
def norm_spread(panels: Mapping[str, Any], tokens: Sequence[str], *, title: str) -> Figure:
    """The entries of each token's vector as a box, before and after."""
    fig, axes = figure(10, 3.9, ncols=len(panels))
    for ax, (name, values), colour in zip(axes, panels.items(), PALETTE, strict=False):
        ax.boxplot(
            list(as_array(values, 2)),
            tick_labels=list(tokens),
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.55, "edgecolor": INK},
            medianprops={"color": INK, "linewidth": 1.6},
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": MUTED},
        )
        ax.tick_params(axis="x", rotation=60)
        name_axes(ax, title=name, x="token", y="entries of the vector")
    headline(fig, title)
    return fig


@style()
def parameter_shares(counts: Mapping[str, int], *, title: str) -> Figure:
    """Horizontal bars of the number of parameters of each part, with its share."""
    fig, ax = figure(8.5, 0.6 + 0.55 * len(counts))
    names, values = list(counts), list(counts.values())
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    bars = ax.barh(names, values, color=colours, height=0.62)
    total = sum(values)
    ax.bar_label(bars, [f"{v:,}  ({v / total:.0%})" for v in values], padding=5)
    ax.invert_yaxis()
    ax.set_xlim(0, max(values) * 1.35)
    ax.xaxis.set_major_formatter(lambda value, position: f"{value / 1e6:g} M")
    name_axes(ax, x="parameters", y="part")
    headline(fig, title)
    return fig


@style()
def norm_orders(*, title: str = "Where the LayerNorm stands") -> Figure:
    """Post-norm and pre-norm as two small diagrams, drawn from left to right."""
    fig, axes = figure(9.5, 3.6, nrows=2)
    for ax, name, before in zip(
        axes, ("post-norm, the paper's", "pre-norm"), (False, True), strict=True
    ):
        ax.set(xlim=(0, 10), ylim=(0.1, 2.0))
        ax.axis("off")
        ax.set_title(name)
        boxes = [(3.7, "sub-layer", PALETTE[0]), (5.6, "dropout", "#8a96a1")]
        if before:
            boxes.insert(0, (1.9, "LayerNorm", PALETTE[1]))
        _wire(ax, 0.3, 9.7, 0.75)
        for x, text, colour in boxes:
            _box(ax, x, 0.75, text, colour)
        _around(ax, 0.85, 7.0)
        if not before:
            _box(ax, 8.4, 0.75, "LayerNorm", PALETTE[1])
        ax.text(0.15, 0.75, "x", ha="right", va="center", fontsize=12, color=INK)
    headline(fig, title)
    return fig


def _wire(ax: Any, start: float, end: float, y: float) -> None:
    ax.annotate(
        "", (end, y), (start, y), arrowprops={"arrowstyle": "-|>", "color": MUTED, "lw": 1.6}
    )


def _box(ax: Any, x: float, y: float, text: str, colour: str) -> None:
    patch = FancyBboxPatch((x - 0.7, y - 0.27), 1.4, 0.54, boxstyle="round,pad=0.04")
    patch.set(facecolor=colour, edgecolor="none", zorder=3)
    ax.add_patch(patch)
    ax.text(x, y, text, ha="center", va="center", color="white", fontweight="bold", zorder=4)


def _around(ax: Any, start: float, plus: float) -> None:
    """The residual: up, over everything, and down into the plus."""
    ax.plot([start, start, plus], [0.75, 1.6, 1.6], color=PALETTE[2], linewidth=2.4)
    arrow = {"arrowstyle": "-|>", "color": PALETTE[2], "lw": 2.4}
    ax.annotate("", (plus, 0.92), (plus, 1.6), arrowprops=arrow)
    ax.text((start + plus) / 2, 1.68, "residual: x as it is", ha="center", va="bottom", color=INK)
    ax.plot(plus, 0.75, "o", markersize=19, color="white", markeredgecolor=INK, zorder=3)
    ax.text(plus, 0.74, "+", ha="center", va="center", fontsize=15, color=INK, zorder=4)

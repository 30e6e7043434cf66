"""The figures of notebooks 05 and 06: bends, ReLU, LayerNorm, residuals, parameter counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import DARK, INK, MUTED, PALETTE, SEQUENTIAL
from transformer_lib.lessons.figures.heatmaps import colour_bar
from transformer_lib.lessons.figures.marks import arrow, box, hide_frame, label
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "bends",
    "gradients_by_depth",
    "normalized_groups",
    "norm_orders",
    "norm_spread",
    "parameter_shares",
    "relu_activity",
]

GROUPS = ("#b9d6ea", "#f3d3b0", "#c5e3c4", "#e6cbe0", "#dfe3e7")  # light, under dark numbers
PATH, DETOUR = 1.3, 0.25  # heights of the residual path and of the sub-layers beside it


@style()
def bends(x: Any, curve: Any, fits: Series, *, title: str) -> Figure:
    """Draw a curve and its approximations by few and by many hidden units."""
    fig, axes = figure(9, 3.4, ncols=len(fits), title=title, sharey=True)
    for ax, (name, values) in zip(axes, fits.items(), strict=True):
        ax.plot(as_array(x, 1), as_array(curve, 1), color=MUTED, linewidth=5, alpha=0.5)
        ax.plot(as_array(x, 1), as_array(values, 1), color=PALETTE[1])
        name_axes(ax, title=name, x="x")
    name_axes(axes[0], y="output")
    return fig


@style()
def relu_activity(before: Any, tokens: Words, *, title: str) -> Figure:
    """Draw the inputs of the ReLU, and the hidden units that each token activates."""
    values = as_array(before, 2)
    fig, (left, right) = figure(10, 3.9, ncols=2, title=title, width_ratios=[1, 1.7])
    width = np.ptp(values) / 50
    edges = np.arange(np.floor(values.min() / width), np.ceil(values.max() / width) + 1) * width
    left.hist(values[values <= 0], edges, color="#c3cbd2", label="set to 0")
    left.hist(values[values > 0], edges, color=PALETTE[0], label="passes")
    left.legend(loc="upper right")
    active = (values > 0).mean()
    name_axes(left, title=f"{active:.0%} of the values pass", x="value before the ReLU", y="count")
    mesh = right.pcolormesh(np.maximum(values, 0), cmap=SEQUENTIAL, vmin=0)
    colour_bar(right, mesh, "value after the ReLU")
    right.set_yticks(np.arange(len(tokens)) + 0.5, tokens)
    right.invert_yaxis()
    right.grid(False)
    name_axes(right, title="what each token passes on", x="hidden unit", y="token")
    return fig


@style()
def norm_spread(panels: Series, tokens: Words, *, title: str) -> Figure:
    """Draw mean and standard deviation of each token's vector as a bar, before and after."""
    fig, axes = figure(10, 3.9, ncols=len(panels), title=title, sharey=True)
    positions = np.arange(len(tokens))
    for ax, (name, values), colour in zip(axes, panels.items(), PALETTE, strict=False):
        entries = as_array(values, 2)
        mean, spread = entries.mean(axis=1), entries.std(axis=1)
        ax.bar(positions, 2 * spread, bottom=mean - spread, width=0.55, color=colour, alpha=0.3)
        ax.plot(positions, mean, "_", markersize=13, markeredgewidth=2.5, color=colour)
        ax.set_xticks(positions, tokens, rotation=60)
        ax.margins(y=0.08)
        ax.use_sticky_edges = False
        name_axes(ax, title=name, x="token", y="mean ± standard deviation")
    return fig


@style()
def normalized_groups(by_layer: Any, by_batch: Any, *, title: str) -> Figure:
    """Draw two normalized matrices (positions, entries): cells of one color share their mean."""
    fig, axes = figure(9, 3.5, ncols=2, title=title)
    rows, columns = np.indices(as_array(by_layer, 2).shape)
    for ax, values, groups, name in (
        (axes[0], by_layer, rows, "LayerNorm: each position has mean 0"),
        (axes[1], by_batch, columns, "BatchNorm: each entry has mean 0"),
    ):
        colors = ListedColormap(GROUPS[: groups.max() + 1])
        ax.pcolormesh(groups, cmap=colors, edgecolors="white", linewidth=1.5)
        for (i, j), value in np.ndenumerate(as_array(values, 2)):
            text = f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")
            label(ax, j + 0.5, i + 0.5, text, color=DARK, fontsize=10)
        ax.set_xticks(np.arange(groups.shape[1]) + 0.5, range(1, groups.shape[1] + 1))
        ax.set_yticks(np.arange(groups.shape[0]) + 0.5, range(groups.shape[0]))
        ax.invert_yaxis()
        hide_frame(ax)
        name_axes(ax, title=name, x="entry of the vector", y="position")
    return fig


@style()
def parameter_shares(counts: Mapping[str, int], *, title: str) -> Figure:
    """Draw the number of parameters of each part as a bar, with its share."""
    fig, ax = figure(8.5, 0.6 + 0.55 * len(counts), title=title)
    names, values = list(counts), list(counts.values())
    bars = ax.barh(names, values, color=PALETTE, height=0.62)
    total = sum(values)
    ax.bar_label(bars, [f"{v:,}  ({v / total:.1%})" for v in values], padding=5)
    ax.invert_yaxis()
    ax.set_xlim(0, max(values) * 1.35)
    ax.xaxis.set_major_formatter(lambda value, position: f"{value / 1e6:g} M")
    name_axes(ax, x="parameters", y="part")
    return fig


@style()
def gradients_by_depth(gradients: Mapping[int, Series], *, title: str) -> Figure:
    """Draw the gradient of every layer in stacks of several depths, one panel for each."""
    fig, axes = figure(10, 3.6, ncols=len(gradients), title=title, sharey=True)
    for ax, (depth, lines) in zip(axes, gradients.items(), strict=True):
        for (name, values), mark in zip(lines.items(), "os", strict=False):
            ax.plot(range(1, depth + 1), values, mark + "-", markersize=4, label=name)
        ax.grid(True)
        name_axes(ax, title=f"{depth} layers", x="layer (loss on the right)")
    axes[0].set_ylim(bottom=0)  # shared, so after everything is drawn
    name_axes(axes[0], y="gradient norm of the last matrix")
    axes[0].legend()
    return fig


@style()
def norm_orders(*, title: str) -> Figure:
    """Draw two sub-layers in post-norm and in pre-norm; the residual path is one green line."""
    fig, axes = figure(9.5, 4.6, nrows=2, title=title)
    names = ("post-norm: LayerNorm on the path", "pre-norm: LayerNorm beside the path")
    for ax, name, norm_first in zip(axes, names, (False, True), strict=True):
        ax.set(xlim=(0, 10.2), ylim=(-0.15, 1.75))
        ax.axis("off")
        ax.set_title(name)
        arrow(ax, (0.35, PATH), (10.1, PATH), PALETTE[2], linewidth=3, mutation_scale=10)
        label(ax, 0.2, PATH, "x", ha="right", fontsize=12, color=INK)
        for start in (0.7, 5.4):
            _detour(ax, start, norm_first)
    return fig


def _detour(ax: Axes, start: float, norm_first: bool) -> None:
    """Draw one sub-layer: off the path, through the boxes, and back into the sum."""
    inside = [("sub-layer", PALETTE[0]), ("dropout", "#8a96a1")]
    inside = [("LayerNorm", PALETTE[1]), *inside] if norm_first else inside
    plus = start + (3.9 if norm_first else 2.8)
    ax.plot([start, start, plus], [PATH, DETOUR, DETOUR], color=MUTED, linewidth=1.6)
    arrow(ax, (plus, DETOUR), (plus, PATH - 0.14), MUTED, linewidth=1.6, mutation_scale=10)
    for number, (text, colour) in enumerate(inside):
        _box(ax, start + 0.75 + 1.2 * number, DETOUR, text, colour)
    ax.plot(plus, PATH, "o", markersize=17, color=PALETTE[2], markeredgecolor=PALETTE[2], zorder=3)
    label(ax, plus, PATH - 0.01, "+", fontsize=14, color="white", fontweight="bold", zorder=4)
    if not norm_first:
        _box(ax, plus + 1.0, PATH, "LayerNorm", PALETTE[1])


def _box(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    words = {"color": "white", "fontweight": "bold", "zorder": 4}
    look = {"facecolor": colour, "edgecolor": "none", "zorder": 3}
    box(ax, x, y, (1.08, 0.48), text, 0.04, words=words, **look)

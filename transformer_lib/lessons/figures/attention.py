"""The figures of notebook 04: weighted sums, the factor 1 / √d_k, heads, costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from transformer_lib.lessons.figures.base import as_array, figure, headline, name_axes, style
from transformer_lib.lessons.figures.colours import INK, MUTED, PALETTE, SEQUENTIAL
from transformer_lib.lessons.figures.marks import arrow, label, log_sizes, note, rectangle
from transformer_lib.lessons.figures.types import Series, Words

__all__ = [
    "cost_against_length",
    "head_split",
    "loss_with_and_without_scaling",
    "saturation",
    "score_distributions",
    "weighted_sum",
]

WITH, WITHOUT = PALETTE[0], PALETTE[3]  # the same two colours for √d_k in every figure
HEADS = [PALETTE[i] for i in (0, 1, 2, 4, 9, 5, 6, 7)]  # a colour per head
ABOVE = {"va": "bottom", "fontsize": 9, "color": MUTED}


@style()
def weighted_sum(values: Any, weights: Any, names: Words, *, title: str, axes: Words) -> Figure:
    """Draw values (K, 2) and their weighted sum; `axes` names the two coordinates."""
    points, shares = as_array(values, 2), as_array(weights, 1)
    fig, ax = figure(6.6, 4.6, title=title)
    ax.add_patch(Polygon(points, closed=True, facecolor="#eef3f7", edgecolor="#b9c7d2"))
    output = shares @ points
    middle = points.mean(0)
    for number, (point, share, name) in enumerate(zip(points, shares, names, strict=True)):
        colour = HEADS[number % len(HEADS)]
        ax.plot(*zip(output, point, strict=True), color=colour, linewidth=1 + 11 * share, zorder=2)
        ax.plot(*point, "o", color=colour, markersize=11, zorder=3)
        bold = {"ha": "center", "va": "center", "color": colour, "fontweight": "bold"}
        note(ax, f"value of “{name}”", point, np.sign(point - middle) * (4, 15), **bold)
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour}
        label(ax, *(output + 0.5 * (point - output)), f"{share:.2f}", zorder=5, bbox=box)
    ax.plot(*output, "*", color=INK, markersize=20, zorder=6)
    note(ax, "output", output, (12, 12), fontweight="bold", va="center", zorder=6)
    ax.margins(0.2)
    ax.grid(True)
    name_axes(ax, x=axes[0], y=axes[1])
    return fig


@style()
def score_distributions(scores: Mapping[int, Any], *, title: str) -> Figure:
    """Draw ridges of raw dot products `scores[d_k]`, and of the same scores over √d_k."""
    fig, (left, right) = figure(8.6, 4.6, 1, 2, title=title, sharey=True)
    edges = np.linspace(-60, 60, 241)
    middles = (edges[1:] + edges[:-1]) / 2
    panels = (left, "q · k", WITHOUT, 0.0), (right, "q · k / √d_k", WITH, -0.5)
    for ax, name, colour, power in panels:
        for row, (d_k, raw) in enumerate(scores.items()):
            sample = np.asarray(raw.flatten()) * d_k**power
            density, _ = np.histogram(sample, edges, density=True)
            height = 0.82 * density / density.max()
            ax.fill_between(middles, row, row + height, color=colour, alpha=0.35, linewidth=0)
            ax.plot(middles, row + height, color=colour, linewidth=1.3)
            ax.text(59, row + 0.3, f"std {sample.std():.1f}", ha="right", color=INK, fontsize=9)
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
    d_k: Sequence[int], entropy: Series, gradient: Series, *, uniform: float, title: str
) -> Figure:
    """Draw the entropy of the weights (left) and the softmax gradient (right) over d_k.

    The keys of both mappings are "with √d_k" and "without"; `gradient` holds rows
    (low, middle, high): quantiles over many queries. `uniform` is the highest possible entropy.
    """
    fig, (left, right) = figure(8.6, 4.0, 1, 2, title=title)
    colours = dict(zip(entropy, (WITH, WITHOUT), strict=True))
    for name, colour in colours.items():
        left.plot(d_k, entropy[name], "o-", color=colour, markersize=4)
        low, middle, high = as_array(gradient[name], 2)
        right.fill_between(d_k, low, high, color=colour, alpha=0.16, linewidth=0)
        right.plot(d_k, middle, "o-", color=colour, markersize=4, label=name)
    left.axhline(uniform, color=MUTED, linestyle=":", linewidth=1.3)
    left.text(d_k[0], uniform - 0.04, "all keys alike", color=MUTED, va="top", fontsize=9)
    log_sizes(left, d_k, base=2)
    log_sizes(right, d_k, base=2)
    left.set_ylim(0, uniform * 1.08)
    right.set(yscale="log", ylim=(1e-7, 3))
    name_axes(left, title="how evenly it looks", x="d_k", y="entropy of the weights (nats)")
    name_axes(right, title="what it can learn from", x="d_k", y="‖∂ weights / ∂ scores‖")
    right.legend(loc="lower left", title="median and the middle 80 % of queries", title_fontsize=9)
    return fig


@style()
def cost_against_length(
    lengths: Sequence[int],
    seconds: Series,
    memory: Series,
    *,
    title: str,
    x_label: str,
    time_label: str,
    slopes: Series | None = None,
) -> Figure:
    """Draw time (left, milliseconds) and memory (right, MB) over the length, axes logarithmic.

    The two mappings share their names and colours; `slopes` are written after the names.
    """
    fig, (left, right) = figure(8.6, 4.3, 1, 2, title=title)
    names = list(dict.fromkeys([*seconds, *memory]))
    styles = zip(names, HEADS, "os^Dv", strict=False)
    looks = {name: {"color": c, "marker": mark, "markersize": 4.5} for name, c, mark in styles}
    for name, values in seconds.items():
        slope = f": slope {slopes[name]:.1f}" if name in (slopes or {}) else ""
        left.plot(lengths, as_array(values, 1) * 1e3, label=name + slope, **looks[name])
    for name, values in memory.items():
        right.plot(lengths, as_array(values, 1) / 1e6, label=name, **looks[name])
    for ax in (left, right):
        log_sizes(ax, lengths, base=2)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
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
    """Draw one panel per learning rate: the loss with √d_k and without it, over the steps."""
    fig, axes = figure(8.6, 3.6, 1, len(losses), title=title, sharey=True)
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


@style()
def head_split(vectors: Any, maps: Any, merged: Any, tokens: Words, *, title: str) -> Figure:
    """Draw vectors (T, D) split into heads, a map (T, T) per head, and the merged heads (T, D)."""
    before, weights, after = as_array(vectors, 2), as_array(maps, 3), as_array(merged, 2)
    n_heads, length, width = len(weights), len(tokens), before.shape[1]
    d_k, gap = width // n_heads, 2.0
    x_head = width + 5.5
    x_map = x_head + d_k + 2.6
    x_after = x_map + length + 5.5
    height = n_heads * length + (n_heads - 1) * gap
    top = (height - length) / 2  # of the two wide matrices
    ax = _canvas((-4.2, x_after + width + 0.5), (height + 1.8, -2.0), title)
    by_head = np.repeat(HEADS[:n_heads], d_k)
    wide = (0, before, "split_heads →"), (x_after, after, "→ merge_heads")
    for x, matrix, text in wide:
        _cells(ax, matrix, x, top, by_head)
        label(ax, x + width / 2, top - 0.5, f"d_model = {width}", **ABOVE)
        look = {"va": "baseline", "family": "monospace", "fontsize": 9.5}
        label(ax, x + width / 2, top + length + 1.2, text, **look)
    label(ax, x_head + d_k / 2, -0.5, f"d_k = {d_k}", **ABOVE)
    label(ax, x_map + length / 2, height + 1.3, "queries × keys", **ABOVE)
    for row, token in enumerate(tokens):
        label(ax, -0.5, top + row + 0.5, token, ha="right", fontsize=9)
    for head, colour in enumerate(HEADS[:n_heads]):
        y = head * (length + gap)
        centre, outer = y + length / 2, height / 2
        _cells(ax, before[:, head * d_k : (head + 1) * d_k], x_head, y, [colour] * d_k)
        _small_map(ax, weights[head], x_map, y, colour)
        look = ABOVE | {"color": colour, "fontweight": "bold"}
        label(ax, x_map + length / 2, y - 0.25, f"head {head}", **look)
        for start, end in (
            ((width + 0.5, outer), (x_head - 0.4, centre)),
            ((x_head + d_k + 0.4, centre), (x_map - 0.4, centre)),
            ((x_map + length + 0.4, centre), (x_after - 0.4, outer)),
        ):
            arrow(ax, start, end, colour, linewidth=1.3)
    return ax.get_figure(root=True)


def _canvas(x: tuple[float, float], y: tuple[float, float], title: str) -> Axes:
    """Return empty axes with equal units, in a figure 8.6 inches wide."""
    board = 8.6 * abs(y[1] - y[0]) / (x[1] - x[0])
    fig = Figure(figsize=(8.6, board + 0.4))
    ax = fig.add_axes((0, 0, 1, board / (board + 0.4)))
    ax.set(xlim=x, ylim=y, aspect="equal")
    ax.axis("off")
    headline(fig, title)
    return ax


def _small_map(ax: Axes, weights: np.ndarray, x: float, y: float, colour: str) -> None:
    rows, columns = weights.shape
    edges = x + np.arange(columns + 1), y + np.arange(rows + 1)
    look = {"cmap": SEQUENTIAL, "vmin": 0, "vmax": 1, "edgecolors": "white", "linewidth": 0.6}
    ax.pcolormesh(*edges, weights, **look)
    rectangle(ax, x, y, columns, rows, fill=False, edgecolor=colour)


def _cells(ax: Axes, matrix: np.ndarray, x: float, y: float, colours: Words) -> None:
    """Draw a matrix as tiles with a colour per column; larger numbers are stronger."""
    strength = np.abs(matrix) / np.abs(matrix).max()
    for (row, column), value in np.ndenumerate(strength):
        look = {"facecolor": colours[column], "alpha": 0.15 + 0.8 * value}
        rectangle(ax, x + column, y + row, 1, 1, edgecolor="white", linewidth=0.6, **look)

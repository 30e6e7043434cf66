"""The figures of notebook 04: one head step by step, the factor 1 / √d_k, heads, costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from transformer_lib.lessons.figures.base import as_array, figure, headline, name_axes, style
from transformer_lib.lessons.figures.colours import DARK, INK, MUTED, PALETTE
from transformer_lib.lessons.figures.marks import (
    arrow,
    label,
    log_sizes,
    name_lines,
    rectangle,
)
from transformer_lib.lessons.figures.types import Number, Series, Words

__all__ = [
    "cost_against_length",
    "head_split",
    "loss_by_rate",
    "saturation",
    "single_head",
]

WITH, WITHOUT = PALETTE[0], PALETTE[3]  # the same two colours for √d_k in every figure
HEADS = [PALETTE[i] for i in (0, 1, 2, 4, 9, 5, 6, 7)]  # a colour per head
QUERY, KEY, VALUE, GREY = PALETTE[0], PALETTE[1], PALETTE[2], "#7d8a96"
WIDE = 1.35  # a cell whose numbers have decimals
GAP = "#ffffff66"  # between the cells of a matrix, on any page


@style()
def single_head(x: Any, projections: Mapping[str, Any], words: Words, *, row: int = 0) -> Figure:
    """Draw one head from the words' vectors x (T, D) to its output, with every number.

    `projections` holds the matrices "Q", "K" and "V"; `row` is the query drawn in full colour.
    """
    vectors = as_array(x, 2)
    weights = {name: as_array(matrix, 2) for name, matrix in projections.items()}
    q, k, v = (vectors @ weights[name] for name in "QKV")
    scores = q @ k.T / np.sqrt(k.shape[1])
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    (n, width), d_k = vectors.shape, k.shape[1]
    x_w, x_q = width + 1.6, width + d_k + 3.4
    x_s = x_q + d_k + 2.9
    pitch = max(width, n) + 1.9
    title = "One head: project each word three times, compare, mix the values"
    ax = _canvas((-2.6, x_s + n * WIDE + 0.5), (3 * pitch - 1.6, -1.3), title)
    y_x = pitch + (width - n) / 2
    _table(ax, vectors, 0, y_x, GREY, "$x$", rows=words, row=row)
    for number, (name, colour) in enumerate(zip("QKV", (QUERY, KEY, VALUE), strict=True)):
        y = number * pitch
        middle = y + (width - n) / 2
        _table(ax, weights[name], x_w, y, colour, f"$W^{name}$")
        one = row if name == "Q" else None
        _table(ax, vectors @ weights[name], x_q, middle, colour, f"${name} = xW^{name}$", row=one)
        _link(ax, (width + 0.2, y_x + n / 2), (x_w - 0.3, y + width / 2))
        end = x_w + weights[name].shape[1]
        _link(ax, (end + 0.2, y + width / 2), (x_q - 0.3, y + width / 2))
    tops = [number * pitch + (width - n) / 2 for number in range(3)]
    names = "$QK^T / \\sqrt{d_k}$", "weights", "output"
    for y, matrix, name, form in zip(
        tops, (scores, shares, shares @ v), names, ("{:.1f}", "{:.2f}", "{:.1f}"), strict=True
    ):
        _table(ax, matrix, x_s, y, GREY, name, row=row, form=form, cell=WIDE)
    right, centre = x_q + d_k + 0.2, n / 2
    _link(ax, (right, tops[0] + centre), (x_s - 0.3, tops[0] + centre))
    _link(ax, (right, tops[1] + centre), (x_s - 0.3, tops[0] + centre + 0.6))
    _link(ax, (x_q + v.shape[1] + 0.2, tops[2] + centre), (x_s - 0.3, tops[2] + centre))
    for upper, lower, text in ((tops[0], tops[1], "softmax"), (tops[1], tops[2], "× V")):
        x_mid = x_s + n * WIDE / 2
        _link(ax, (x_mid, upper + n + 0.2), (x_mid, lower - 1.15))
        label(ax, x_mid + 0.25, (upper + n + lower - 1) / 2, text, ha="left", fontsize=11)
    return ax.get_figure(root=True)


def _link(ax: Axes, start: Any, end: Any, colour: str = GREY) -> None:
    arrow(ax, start, end, colour, linewidth=1.2)


def _table(
    ax: Axes,
    matrix: np.ndarray,
    x: Number,
    y: Number,
    colour: str,
    name: str,
    *,
    rows: Words = (),
    row: int | None = None,
    form: str = "{:g}",
    cell: Number = 1,
) -> None:
    """Draw a matrix of numbers with its name above; only `row` has its full colour, if given."""
    look = {"fontsize": 12, "color": INK, "parse_math": True}
    label(ax, x + cell * matrix.shape[1] / 2, y - 0.55, name, **look)
    for (i, j), value in np.ndenumerate(matrix):
        face = _tint(colour, 0.42 if i == row else 0.16)
        rectangle(ax, x + cell * j, y + i, cell, 1, facecolor=face, edgecolor=GAP, linewidth=1)
        bold = {"fontweight": "bold"} if i == row else {}
        at = x + cell * (j + 0.5), y + i + 0.5
        label(ax, *at, form.format(value), fontsize=11.5, color=DARK, **bold)
    for i, word in enumerate(rows):
        bold = {"fontweight": "bold"} if i == row else {}
        label(ax, x - 0.3, y + i + 0.5, word, ha="right", fontsize=11.5, **bold)


def _tint(colour: str, strength: Number) -> str:
    """Mix a colour with white; opaque, so that it is the same on a dark page."""
    return to_hex([1 - strength * (1 - part) for part in to_rgb(colour)])


@style()
def saturation(d_k: Sequence[int], largest: Series, stuck: Series, *, title: str) -> Figure:
    """Draw the largest weight (left) and the queries without a gradient (right, %) over d_k.

    The keys of both mappings are "with √d_k" and "without".
    """
    fig, (left, right) = figure(8.6, 3.7, 1, 2, title=title)
    colours = dict(zip(largest, (WITH, WITHOUT), strict=True))
    for ax, series, low, high in ((left, largest, 0, 1), (right, stuck, -3, 100)):
        lines = {
            name: ax.plot(d_k, as_array(series[name], 1), "o-", color=colour, markersize=4)[0]
            for name, colour in colours.items()
        }
        log_sizes(ax, d_k, base=2)
        ax.set_ylim(low, high)
        name_lines(ax, lines)
    name_axes(left, title="largest weight", x="d_k", y="largest of ten weights (mean)")
    name_axes(right, title="queries with almost no gradient", x="d_k", y="gradient < 0.01 (%)")
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
) -> Figure:
    """Draw time (left, milliseconds) and memory (right, MB) over the length, axes logarithmic.

    The two mappings share their names and colours.
    """
    fig, (left, right) = figure(9.4, 3.9, 1, 2, title=title)
    names = list(dict.fromkeys([*seconds, *memory]))
    colours = dict(zip(names, HEADS, strict=False))
    for ax, series, unit in ((left, seconds, 1e3), (right, memory, 1e-6)):
        ax.set_yscale("log")
        log_sizes(ax, lengths, base=2)
        lines = {
            name: ax.plot(
                lengths, as_array(values, 1) * unit, "o-", color=colours[name], markersize=4
            )[0]
            for name, values in series.items()
        }
        ax.yaxis.set_major_formatter("{x:g}")
        name_lines(ax, lines)
    name_axes(left, title="time", x=x_label, y=time_label)
    name_axes(right, title="memory", x=x_label, y="MB")
    return fig


@style()
def loss_by_rate(losses: Mapping[float, Series], *, title: str, chance: float) -> Figure:
    """Draw one panel per learning rate with a loss curve per name; `chance` is a dotted line."""
    fig, axes = figure(8.6, 3.6, 1, len(losses), title=title, sharey=True)
    for ax, (rate, curves) in zip(axes, losses.items(), strict=True):
        ax.axhline(chance, color=MUTED, linestyle=":", linewidth=1.3)
        for (name, curve), colour in zip(curves.items(), (WITH, WITHOUT, HEADS[1]), strict=False):
            ax.plot(as_array(curve, 1), color=colour, label=name, linewidth=1.6)
        ax.grid(True)
        ax.set_ylim(0, None)
        name_axes(ax, title=f"learning rate {rate:g}", x="step")
    name_axes(axes[0], y="loss (nats)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return fig


@style()
def head_split(
    x: Any,
    projected: Sequence[Any],
    maps: Any,
    heads: Any,
    output: Any,
    tokens: Words,
) -> Figure:
    """Draw multi-head attention as tiles, from x (T, D) to the output (T, D).

    `projected` holds Q, K and V (T, D); `maps` (H, T, T) and `heads` (H, T, d_k) are what each
    head computes.
    """
    vectors, after = as_array(x, 2), as_array(output, 2)
    q, k, v = (as_array(matrix, 2) for matrix in projected)
    weights, mixed = as_array(maps, 3), as_array(heads, 3)
    (n, width), n_heads = vectors.shape, len(weights)
    d_k = width // n_heads
    by_head = [HEADS[i // d_k] for i in range(width)]
    rows, pitch = 3 * n + 2 * 2.0, (3 * n + 4.0) / n_heads
    centre = rows / 2
    x_p = width + 3.0
    x_map = x_p + width + 3.2
    x_v = x_map + n + 1.3
    x_h = x_v + d_k + 1.3
    x_cat = x_h + d_k + 3.0
    x_out = x_cat + width + 3.0
    title = "Each head works with its own columns of Q, K and V"
    ax = _canvas((-4.0, x_out + width + 0.3), (rows + 0.8, -1.7), title)
    _tiles(ax, vectors, 0, centre - n / 2, [GREY] * width, "$x$", tokens)
    for number, (matrix, name) in enumerate(zip((q, k, v), "QKV", strict=True)):
        y = number * (n + 2.0)
        _tiles(ax, matrix, x_p, y, by_head, f"${name}$")
        _link(ax, (width + 0.4, centre), (x_p - 0.4, y + n / 2))
        label(ax, x_p - 1.55, y + n / 2 + (-0.7, -0.8, 0.7)[number], f"$W^{name}$", parse_math=True)
    for head, colour in enumerate(HEADS[:n_heads]):
        y = head * pitch + (pitch - n) / 2
        middle = y + n / 2
        _tiles(ax, weights[head], x_map, y, [colour] * n, "weights")
        columns = slice(head * d_k, (head + 1) * d_k)
        _tiles(ax, v[:, columns], x_v, y, [colour] * d_k, "values")
        _tiles(ax, mixed[head], x_h, y, [colour] * d_k, f"head {head}")
        label(ax, x_v - 0.65, middle, "×")
        label(ax, x_h - 0.65, middle, "=")
        _link(ax, (x_p + width + 0.4, centre), (x_map - 0.4, middle), colour)
        _link(ax, (x_h + d_k + 0.4, middle), (x_cat - 0.4, centre), colour)
    _tiles(ax, np.concatenate(list(mixed), axis=1), x_cat, centre - n / 2, by_head, "concatenated")
    _link(ax, (x_cat + width + 0.4, centre), (x_out - 0.4, centre))
    label(ax, x_out - 1.5, centre - 0.9, "$W^O$", parse_math=True)
    _tiles(ax, after, x_out, centre - n / 2, [GREY] * width, "output")
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


def _tiles(
    ax: Axes, matrix: np.ndarray, x: Number, y: Number, colours: Words, name: str, rows: Words = ()
) -> None:
    """Draw a matrix as tiles with a colour per column; larger numbers are stronger."""
    label(ax, x + matrix.shape[1] / 2, y - 0.65, name, fontsize=9, parse_math=True)
    strength = np.abs(matrix) / np.abs(matrix).max()
    for (row, column), value in np.ndenumerate(strength):
        face = _tint(colours[column], 0.15 + 0.8 * value)
        rectangle(ax, x + column, y + row, 1, 1, edgecolor=GAP, linewidth=0.6, facecolor=face)
    for row, token in enumerate(rows):
        label(ax, x - 0.4, y + row + 0.5, token, ha="right", fontsize=9)

"""Texts, rectangles and named lines: what most figures draw into their axes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import NullLocator

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import DARK, MUTED, PALETTE
from transformer_lib.lessons.figures.types import Number, Point, Series

__all__ = ["bars", "line_plot", "name_lines"]


def label(ax: Axes, x: Number, y: Number, text: str, **look: Any) -> None:
    """Write a text centred on (x, y); a dollar sign in a token is not mathematics."""
    ax.text(x, y, text, **{"ha": "center", "va": "center", "parse_math": False} | look)


def note(ax: Axes, text: str, xy: Any, offset: Point, **look: Any) -> None:
    """Write a text beside a point, `offset` points away from it."""
    ax.annotate(text, xy, xytext=offset, textcoords="offset points", **look)


def rectangle(ax: Axes, x: Number, y: Number, width: Number, height: Number, **look: Any) -> None:
    """Add a rectangle with its corner at (x, y)."""
    ax.add_patch(Rectangle((x, y), width, height, **look))


def box(
    ax: Axes,
    x: Number,
    y: Number,
    size: Point,
    text: str,
    radius: Number,
    *,
    words: Any,
    **look: Any,
) -> None:
    """Draw a rounded rectangle centred on (x, y) with a text in it; `words` is the look of that."""
    width, height = size
    shape = f"round,pad=0,rounding_size={radius}"
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=shape, **look))
    label(ax, x, y, text, **{"fontsize": 9, "color": DARK} | words)


def arrow(ax: Axes, start: Any, end: Any, colour: str, **look: Any) -> None:
    """Draw an arrow between two points."""
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0} | look
    ax.add_patch(FancyArrowPatch(start, end, color=colour, **look))


def hide_frame(ax: Axes) -> None:
    """Remove the spines and the tick marks; the tick labels stay."""
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


@style()
def line_plot(
    x: Any,
    series: Series,
    *,
    title: str,
    x_label: str,
    y_label: str,
    levels: Series | None = None,
    ax: Axes | None = None,
    log_y: bool = False,
) -> Figure:
    """Draw lines over the same `x`, each named at its right end in its own colour.

    Where the ends are close together, their names are moved apart. `levels` are drawn as dashed
    lines across the figure, with their names.
    """
    if ax is None:
        _, ax = figure(8, 4.2, title=title)
    else:
        ax.set_title(title)
    ax.set(yscale="log" if log_y else "linear")
    ax.grid(True)
    points = as_array(x, 1)
    lines = {name: ax.plot(points, as_array(y, 1))[0] for name, y in series.items()}
    for name, height in (levels or {}).items():
        level(ax, height, name)
    ax.margins(x=0.01)
    name_axes(ax, x=x_label, y=y_label)
    name_lines(ax, lines)
    return ax.get_figure(root=True)


def level(ax: Axes, height: Number, name: str) -> None:
    """Draw a dashed line at that height, with its name below it."""
    ax.axhline(height, color=MUTED, linestyle="--", linewidth=1.2)
    look = {"xycoords": ("axes fraction", "data"), "va": "top", "ha": "center"}
    note(ax, name, (0.5, height), (0, -3), color=MUTED, fontsize=9, **look)


@style()
def bars(
    values: Mapping[str, Series], *, title: str, x_label: str, y_label: str, form: str = "{:.1f}"
) -> Figure:
    """Draw `values[group][name]` as bars, a colour per name; `form` formats their numbers."""
    fig, ax = figure(8, 3.9, title=title)
    groups, names = list(values), list(next(iter(values.values())))
    width = 0.72 / len(names)
    for number, name in enumerate(names):
        x = np.arange(len(groups)) + (number - (len(names) - 1) / 2) * width
        heights = [values[group][name] for group in groups]
        drawn = ax.bar(x, heights, width * 0.94, color=PALETTE[number], label=name)
        ax.bar_label(drawn, [form.format(height) for height in heights], padding=3)
    ax.set_xticks(range(len(groups)), groups)
    ax.tick_params(axis="x", length=0, labelsize=10)
    if len(names) > 1:
        ax.legend(loc="upper right")
    ax.margins(y=0.2)
    ax.yaxis.set_major_formatter(lambda value, _: form.format(value))
    name_axes(ax, x=x_label, y=y_label)
    return fig


def log_sizes(ax: Axes, sizes: Sequence[int], base: int = 10) -> None:
    """Make the x-axis logarithmic, with ticks at these sizes alone."""
    ax.set_xscale("log", base=base)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(True)


def name_lines(ax: Axes, lines: Mapping[str, Line2D]) -> None:
    """Write the name of each line at its end, at least `gap` of the height apart."""
    gap = 0.068
    ax.autoscale_view()  # the limits are final only after the first draw: compute them now
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = {
        name: to_axes.transform((line.get_xdata()[-1], line.get_ydata()[-1]))[1]
        for name, line in lines.items()
    }
    order = sorted(heights, key=heights.__getitem__)
    for below, above in pairwise(order):
        heights[above] = max(heights[above], heights[below] + gap)
    ceiling = 1.0 + gap
    for name in reversed(order):  # push down what was pushed out at the top
        heights[name] = ceiling = min(heights[name], ceiling - gap)
        beside(ax, heights[name], name, lines[name].get_color(), fontweight="bold")


def beside(
    ax: Axes, height: Number, text: str, colour: str = MUTED, *, data: bool = False, **look: Any
) -> None:
    """Write a text to the right of `ax`, at a height in axes fractions or, small, in data units."""
    look = {"va": "center", "color": colour, "annotation_clip": False} | look
    look |= {"fontsize": 9, "xycoords": ("axes fraction", "data")} if data else {}
    note(ax, text, (1.0, height), (8 if data else 7, 0), **{"xycoords": "axes fraction"} | look)

"""Texts, rectangles and named lines: what most figures draw into their axes."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from transformer_lib.lessons.figures.base import Number, as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import MUTED

__all__ = ["line_plot", "name_lines"]


def label(ax: Axes, x: Number, y: Number, text: str, **look: Any) -> None:
    """Write a text centred on (x, y); a dollar sign in a token is not mathematics."""
    ax.text(x, y, text, **{"ha": "center", "va": "center", "parse_math": False} | look)


def note(ax: Axes, text: str, xy: Any, offset: tuple[Number, Number], **look: Any) -> None:
    """Write a text beside a point, `offset` points away from it."""
    ax.annotate(text, xy, xytext=offset, textcoords="offset points", **look)


def rectangle(ax: Axes, x: Number, y: Number, width: Number, height: Number, **look: Any) -> None:
    """Add a rectangle with its corner at (x, y)."""
    ax.add_patch(Rectangle((x, y), width, height, **look))


def hide_frame(ax: Axes) -> None:
    """Remove the spines and the tick marks; the tick labels stay."""
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


@style()
def line_plot(
    x: Any,
    series: Mapping[str, Any],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ax: Axes | None = None,
    log_y: bool = False,
) -> Figure:
    """Draw lines over the same `x`, each named at its right end in its own colour.

    Where the ends are close together, their names are moved apart.
    """
    if ax is None:
        _, ax = figure(8, 4.2, title=title)
    else:
        ax.set_title(title)
    ax.set(yscale="log" if log_y else "linear")
    ax.grid(True)
    points = as_array(x, 1)
    lines = {name: ax.plot(points, as_array(y, 1))[0] for name, y in series.items()}
    ax.margins(x=0.01)
    name_axes(ax, x=x_label, y=y_label)
    name_lines(ax, lines)
    return ax.get_figure(root=True)


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

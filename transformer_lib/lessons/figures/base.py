"""What every figure shares, in one place: the look, heatmaps with tokens, and lines.

A figure function is written as `@style()` over a body that begins with `fig, ax = figure(8, 4)`,
names its axes with `name_axes` (or `headline` for the whole figure), and returns the figure.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from transformer_lib.lessons.figures import attention_maps, heatmaps, look
from transformer_lib.lessons.figures.attention_maps import *  # noqa: F403
from transformer_lib.lessons.figures.heatmaps import *  # noqa: F403
from transformer_lib.lessons.figures.look import *  # noqa: F403
from transformer_lib.lessons.figures.look import as_array, figure, headline, name_axes, style

__all__ = [*attention_maps.__all__, *heatmaps.__all__, *look.__all__, "line_plot"]


@style()
def line_plot(
    x: Any,
    series: Mapping[str, Any],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ax: Axes | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Lines over the same `x`, each named at its right end in its own colour: no legend to look up.

    Where ends lie close together, their names are moved apart.
    """
    if ax is None:
        fig, ax = figure(8, 4.2)
        headline(fig, title)
    else:
        ax.set_title(title)
    ax.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    ax.grid(True)
    points = as_array(x, 1)
    lines = {name: ax.plot(points, as_array(y, 1))[0] for name, y in series.items()}
    ax.margins(x=0.01)
    name_axes(ax, x=x_label, y=y_label)
    name_lines(ax, lines)
    return ax.get_figure(root=True)


def name_lines(ax: Axes, lines: Mapping[str, Line2D]) -> None:
    """Write each line's name at its end, at least `gap` of the height apart."""
    gap = 0.068
    ax.autoscale_view()  # the limits are settled at the first draw: settle them now
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = {
        name: to_axes.transform((line.get_xdata()[-1], line.get_ydata()[-1]))[1]
        for name, line in lines.items()
    }
    order = sorted(heights, key=heights.__getitem__)
    for below, above in pairwise(order):
        heights[above] = max(heights[above], heights[below] + gap)
    ceiling = 1.0 + gap
    for name in reversed(order):  # push down again what was pushed out at the top
        heights[name] = ceiling = min(heights[name], ceiling - gap)
        ax.annotate(
            name, (1.0, heights[name]), xycoords="axes fraction", xytext=(7, 0), va="center",
            textcoords="offset points", color=lines[name].get_color(), fontweight="bold",
            annotation_clip=False,
        )  # fmt: skip

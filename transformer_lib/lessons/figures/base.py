"""The look of all figures, what they share, and `show`, which displays one in a notebook.

A figure function is written as `@style()` over a body that begins with
`fig, ax = figure(8, 4, title=title)`, names its axes with `name_axes` and returns the figure.
Nothing here touches pyplot's list of open figures, and nothing happens at import.
"""

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import seaborn
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

__all__ = [
    "DIVERGING",
    "GRID",
    "INK",
    "MUTED",
    "PALETTE",
    "SEQUENTIAL",
    "figure",
    "headline",
    "line_plot",
    "name_axes",
    "name_lines",
    "show",
    "style",
]

Number = int | float

INK, MUTED, GRID = "#1f2d3a", "#5d6b78", "#e4e9ed"
PALETTE: list[str] = [str(colour) for colour in seaborn.color_palette("colorblind").as_hex()]

# One hue in each direction, ever darker away from white: readable in grey and for any eye.
SEQUENTIAL: Colormap = LinearSegmentedColormap.from_list(
    "lib_sequential", ["#fbfcfd", "#d3e6f0", "#93c3dd", "#4a97c2", "#1d6399", "#10335f"]
)
DIVERGING: Colormap = LinearSegmentedColormap.from_list(
    "lib_diverging",
    [
        *("#10335f", "#1d6399", "#6aaccf", "#c9e0ec", "#fbfbfa"),
        *("#f8dcb4", "#e9a548", "#b8650a", "#6d3503"),
    ],
)
SHORTEST_ALT, SMALLEST_FONT = 20, 8.0

RC: dict[str, Any] = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#a9b4bd",
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.labelpad": 7,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlepad": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "figure.titlesize": 12.5,
    "figure.titleweight": "bold",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": "#a9b4bd",
    "ytick.color": "#a9b4bd",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "hatch.linewidth": 0.9,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the look of the series, as `with style():` or as the decorator `@style()`."""
    with matplotlib.rc_context(RC):
        yield


@style()
def figure(
    width: Number = 8.0,
    height: Number = 4.5,
    nrows: int = 1,
    ncols: int = 1,
    *,
    title: str | None = None,
    layout: str = "constrained",
    **subplots: Any,
) -> tuple[Figure, Any]:
    """Return a styled figure (size in inches) with a headline, and its axes, as `plt.subplots`.

    The figure is not registered in pyplot, so none is ever left open.
    """
    fig = Figure(figsize=(width, height), layout=layout)
    if title is not None:
        headline(fig, title)
    axes = fig.subplots(nrows, ncols, **subplots)
    for ax in fig.axes:  # ticks are created at the first draw: fix their look now
        ax.tick_params(labelsize=RC["xtick.labelsize"], labelcolor=INK, color="#a9b4bd")
    return fig, axes


@style()
def name_axes(
    ax: Axes, *, title: str | None = None, x: str | None = None, y: str | None = None
) -> None:
    """Set the title of `ax` (the finding) and the names of its axes, in the style of the series."""
    if title is not None:
        ax.set_title(title)
    if x is not None:
        ax.set_xlabel(x)
    if y is not None:
        ax.set_ylabel(y)


@style()
def headline(fig: Figure, title: str) -> None:
    """Set the title of a whole figure, at its left edge, wrapped to its width."""
    wrapped = textwrap.fill(title, max(20, int(fig.get_figwidth() * 8.6)))
    fig.suptitle(wrapped, x=0.012, ha="left", color=INK)


def show(figure: Figure, alt: str, *, display_id: str | None = None, update: bool = False) -> None:
    """Display `figure` once, with `alt` beside the picture and `Figure: {alt}` as its text.

    A `display_id` names the place of the picture; `update=True` replaces the picture there.

    Raises:
        ValueError: the alternative text has fewer than 20 characters, a title, an axis label or
            the name of a colour bar is missing, or a text is smaller than 8 points. Diagrams call
            `ax.axis("off")`, axes without a meaning `ax.yaxis.set_visible(False)`.
    """
    alt = " ".join(alt.split())
    if len(alt) < SHORTEST_ALT:
        raise ValueError(
            f"alt has {len(alt)} characters, needs {SHORTEST_ALT}: say what the figure shows"
        )
    with style():
        _check_house_rules(figure)
        picture = _png(figure)
    _close(figure)
    text = f"Figure: {alt}"
    shell = _shell()
    if shell is None:
        print(text)
        return
    data = {"image/png": base64.b64encode(picture).decode("ascii"), "text/plain": text}
    transient = {} if display_id is None else {"display_id": display_id}
    shell.display_pub.publish(
        data=data, metadata={"image/png": {"alt": alt}}, transient=transient, update=update
    )


def _shell() -> Any:
    """Return the running IPython, or None in a plain Python."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _png(figure: Figure) -> bytes:
    """Return the same bytes for the same figure: without date and version."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.12
    )
    return buffer.getvalue()


def _close(figure: Figure) -> None:
    """Remove a figure that was made with pyplot from its list, so that it is not shown again."""
    import matplotlib.pyplot as plt

    plt.close(figure)


def _check_house_rules(figure: Figure) -> None:
    titles = [figure.get_suptitle()]
    titles += [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center", "right")]
    if not any(title.strip() for title in titles):
        raise ValueError("the figure has no title: add one that states the finding")
    for number, ax in enumerate(figure.axes):
        if ax.axison and ax.get_visible():
            _check_labels(ax, f"axes {number} ({ax.get_title('left') or 'untitled'})")
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text.get_fontsize() < SMALLEST_FONT:
            raise ValueError(
                f"{text.get_text()!r} is set in {text.get_fontsize():g} points: "
                f"use {SMALLEST_FONT:g} or more"
            )


def _check_labels(ax: Axes, name: str) -> None:
    if ax.get_label() == "<colorbar>":
        if not (ax.get_xlabel() or ax.get_ylabel()):
            raise ValueError(f"{name} is a colour bar without a label: name the quantity")
        return
    parent = ax.get_figure(root=False)
    shared_x, shared_y = ax.get_shared_x_axes(), ax.get_shared_y_axes()
    labels = {
        "x": parent.get_supxlabel() or any(a.get_xlabel() for a in shared_x.get_siblings(ax)),
        "y": parent.get_supylabel() or any(a.get_ylabel() for a in shared_y.get_siblings(ax)),
    }
    for letter, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        if axis.get_visible() and not labels[letter]:
            raise ValueError(f"{name} has no {letter} label: name the quantity and its unit")


def as_array(matrix: Any, dims: int) -> np.ndarray:
    """Return a tensor on any device, or anything array-like, as an array of `dims` dimensions."""
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu()
        matrix = matrix.float() if matrix.is_floating_point() else matrix
    array = np.asarray(matrix)
    if array.ndim != dims:
        hint = {2: ": pick the item and the head first, maps[0, 0]", 3: ": pick the item, maps[0]"}
        raise ValueError(f"expected {dims} dimensions, got shape {array.shape}{hint.get(dims, '')}")
    return array


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
    ax: Axes, height: Number, text: str, colour: str, *, data: bool = False, **look: Any
) -> None:
    """Write a text to the right of `ax`, at a height in axes fractions or in data units."""
    unit = ("axes fraction", "data") if data else "axes fraction"
    look = {"va": "center", "color": colour, "annotation_clip": False} | look
    note(ax, text, (1.0, height), (8 if data else 7, 0), xycoords=unit, **look)

"""The look of every figure, and the one way to show one: `style`, `figure`, `headline`, `show`.

Nothing here touches pyplot's list of open figures, and nothing happens at import.
"""

import base64
import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import seaborn
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
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
    "name_axes",
    "show",
    "style",
]

Number = int | float

INK, MUTED, GRID = "#1f2d3a", "#5d6b78", "#e4e9ed"
PALETTE: list[str] = [str(colour) for colour in seaborn.color_palette("colorblind").as_hex()]

# One hue each way, lightness always falling away from white: readable in grey and by any eye.
SEQUENTIAL: Colormap = LinearSegmentedColormap.from_list(
    "lib_sequential", ["#fbfcfd", "#d3e6f0", "#93c3dd", "#4a97c2", "#1d6399", "#10335f"]
)
DIVERGING: Colormap = LinearSegmentedColormap.from_list(
    "lib_diverging",
    [
        "#10335f",
        "#1d6399",
        "#6aaccf",
        "#c9e0ec",
        "#fbfbfa",
        "#f8dcb4",
        "#e9a548",
        "#b8650a",
        "#6d3503",
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
    """The look of the series, as `with style():` or as the decorator `@style()`."""
    with matplotlib.rc_context(RC):
        yield


@style()
def figure(
    width: Number = 8.0, height: Number = 4.5, nrows: int = 1, ncols: int = 1, **kw: Any
) -> tuple[Figure, Any]:
    """A styled figure (size in inches) and its axes, as `plt.subplots` gives them.

    `layout` ("constrained") goes to the figure, every other keyword to `Figure.subplots`.
    The figure is never registered in pyplot, so none is ever left open.
    """
    fig = Figure(figsize=(width, height), layout=kw.pop("layout", "constrained"))
    axes = fig.subplots(nrows, ncols, **kw)
    for ax in fig.axes:  # ticks are made at the first draw: pin their look now
        ax.tick_params(labelsize=RC["xtick.labelsize"], labelcolor=INK, color="#a9b4bd")
    return fig, axes


@style()
def name_axes(
    ax: Axes, *, title: str | None = None, x: str | None = None, y: str | None = None
) -> None:
    """Give `ax` its title (the finding) and the names of its axes, in the house style."""
    if title is not None:
        ax.set_title(title)
    if x is not None:
        ax.set_xlabel(x)
    if y is not None:
        ax.set_ylabel(y)


@style()
def headline(fig: Figure, title: str) -> None:
    """The title of a whole figure, at its left edge, wrapped to its width."""
    wrapped = textwrap.fill(title, max(20, int(fig.get_figwidth() * 8.6)))
    fig.suptitle(wrapped, x=0.012, ha="left", color=INK)


def show(figure: Figure, alt: str, *, display_id: str | None = None, update: bool = False) -> None:
    """Display `figure` once, with `alt` beside the picture and `Figure: {alt}` as its text.

    A `display_id` names the place of the picture, and `update=True` replaces what is there.

    Raises ValueError where a house rule is broken: an alternative text of at least 20 characters, a
    title, labels on every axis (a diagram says so with `ax.axis("off")`, a meaningless axis with
    `ax.yaxis.set_visible(False)`), a named colour bar, no text under 8 points.
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
    """The running IPython, or None in a plain Python."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _png(figure: Figure) -> bytes:
    """The same figure gives the same bytes: no date, no version inside."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.12
    )
    return buffer.getvalue()


def _close(figure: Figure) -> None:
    """Take a figure that somebody made with pyplot off its list, so that it is not shown again."""
    import matplotlib.pyplot as plt

    plt.close(figure)


def _check_house_rules(figure: Figure) -> None:
    titles = [figure.get_suptitle()]
    titles += [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center", "right")]
    if not any(title.strip() for title in titles):
        raise ValueError("the figure has no title: give it one that says the finding")
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
            raise ValueError(f"{name} is a colour bar without a label: say what the colour means")
        return
    parent = ax.get_figure(root=False)
    shared_x, shared_y = ax.get_shared_x_axes(), ax.get_shared_y_axes()
    found = {
        "x": parent.get_supxlabel() or any(a.get_xlabel() for a in shared_x.get_siblings(ax)),
        "y": parent.get_supylabel() or any(a.get_ylabel() for a in shared_y.get_siblings(ax)),
    }
    for letter, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        if axis.get_visible() and not found[letter]:
            raise ValueError(f"{name} has no {letter} label: name the quantity and its unit")


def as_array(matrix: Any, dims: int) -> np.ndarray:
    """A tensor on any device or anything array-like, as a numpy array of `dims` dimensions."""
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu()
        matrix = matrix.float() if matrix.is_floating_point() else matrix
    array = np.asarray(matrix)
    if array.ndim != dims:
        hint = {2: ": pick the item and the head first, maps[0, 0]", 3: ": pick the item, maps[0]"}
        raise ValueError(f"expected {dims} dimensions, got shape {array.shape}{hint.get(dims, '')}")
    return array

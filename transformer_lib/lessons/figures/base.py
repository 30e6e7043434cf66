"""The look of all figures, and `show`, which displays one in a notebook.

A figure function is written as `@style()` over a body that begins with
`fig, ax = figure(8, 4, title=title)`, names its axes with `name_axes` and returns the figure.
Nothing here touches pyplot's list of open figures, and nothing happens at import.
"""

import base64
import textwrap
import tomllib
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import cache, wraps
from importlib.resources import files
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from transformer_lib.data.fonts import add_fonts, quiet_glyphs
from transformer_lib.lessons.figures.colours import GRID, INK, PALETTE
from transformer_lib.lessons.figures.png import png
from transformer_lib.lessons.figures.types import Number

__all__ = ["figure", "headline", "name_axes", "show", "style"]

SHORTEST_ALT, SMALLEST_FONT = 20, 8.0
TICKS = {"labelsize": 9, "color": INK, "labelcolor": INK}

RC: dict[str, Any] = {
    "figure.dpi": 110,
    "figure.facecolor": "none",  # the page is seen through it, dark or light
    "axes.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
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
    **{f"{axis}tick.{key}": value for axis in "xy" for key, value in TICKS.items()},
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "hatch.linewidth": 0.9,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}


class style(ContextDecorator):  # noqa: N801
    """Apply the look of the series, as `with style():` or as the decorator `@style()`.

    What the user has set in matplotlib's rcParams stays. A figure that a decorated function
    returns gets fonts for all its letters.
    """

    def __enter__(self) -> None:
        now, default = matplotlib.rcParams, matplotlib.rcParamsDefault
        own = {key: value for key, value in RC.items() if now[key] == default[key]}
        self._context = matplotlib.rc_context(own)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def __call__(self, function: Callable) -> Callable:
        """Return the function, run in the look of the series."""

        @wraps(function)
        def styled(*args: Any, **kwargs: Any) -> Any:
            with style():
                result = function(*args, **kwargs)
            if isinstance(result, Figure):
                add_fonts(result)
            return result

        return styled


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
        ax.tick_params(**TICKS)
    return fig, axes


@style()
def name_axes(
    ax: Axes, *, title: str | None = None, x: str | None = None, y: str | None = None
) -> None:
    """Set the title of `ax` (the finding) and the names of its axes, in the style of the series."""
    names = {"title": title, "xlabel": x, "ylabel": y}
    ax.set(**{name: text for name, text in names.items() if text is not None})


@style()
def headline(fig: Figure, title: str) -> None:
    """Set the title of a whole figure, at its left edge, wrapped to its width."""
    wrapped = textwrap.fill(title, max(20, int(fig.get_figwidth() * 8.6)))
    fig.suptitle(wrapped, x=0.012, ha="left", color=INK)


def show(figure: Figure, alt: str, *, display_id: str | None = None, update: bool = False) -> None:
    """Display `figure` once, with `alt` beside the picture and `Figure: {alt}` as its text.

    `alt` is the alternative text, or the name of one in this folder's `alt/*.toml`, where the
    lessons keep theirs: read before the figure, it would give away what there is to see.

    A `display_id` names the place of the picture; `update=True` replaces the picture there.

    Raises:
        ValueError: the alternative text has fewer than 20 characters, a title, an axis label or
            the name of a colour bar is missing, or a text is smaller than 8 points. Diagrams call
            `ax.axis("off")`, axes without a meaning `ax.yaxis.set_visible(False)`.
    """
    alt = " ".join(alternative_texts().get(alt, alt).split())
    if len(alt) < SHORTEST_ALT:
        raise ValueError(
            f"alt {alt!r} is no name in alt/*.toml, and as a text it needs {SHORTEST_ALT} "
            "characters or more: say what the figure shows"
        )
    import matplotlib.pyplot as plt

    add_fonts(figure)
    with style(), quiet_glyphs():
        _check_house_rules(figure)
        picture, size = png(figure)
    plt.close(figure)  # one that was made with pyplot would be shown again
    text = f"Figure: {alt}"
    shell = _shell()
    if shell is None:
        print(text)
        return
    data = {"image/png": base64.b64encode(picture).decode("ascii"), "text/plain": text}
    transient = {} if display_id is None else {"display_id": display_id}
    metadata = {"image/png": {"alt": alt, **size}}
    shell.display_pub.publish(data=data, metadata=metadata, transient=transient, update=update)


@cache
def alternative_texts() -> dict[str, str]:
    """Return the alternative texts of the lessons' figures by name; names are unique."""
    folder = files("transformer_lib.lessons.figures") / "alt"
    texts: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        more = tomllib.loads(file.read_text("utf-8"))
        if twice := texts.keys() & more.keys():
            raise ValueError(f"{file.name}: there is another text named {min(twice)!r}")
        texts |= more
    return texts


def _shell() -> Any:
    """Return the running IPython, or None in a plain Python."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _check_house_rules(figure: Figure) -> None:
    titles = [figure.get_suptitle()]
    titles += [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center", "right")]
    if not any(title.strip() for title in titles):
        raise ValueError("the figure has no title: add one that states the finding")
    for number, ax in enumerate(figure.axes):
        if ax.axison and ax.get_visible():
            _check_labels(ax, f"axes {number} ({ax.get_title('left') or 'untitled'})")
    own_size = matplotlib.rcParams["font.size"]  # who wants smaller letters gets them
    smallest = min(SMALLEST_FONT, SMALLEST_FONT / RC["font.size"] * own_size)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text.get_fontsize() < smallest:
            raise ValueError(
                f"{text.get_text()!r} is set in {text.get_fontsize():g} points: "
                f"use {smallest:g} or more"
            )


def _check_labels(ax: Axes, name: str) -> None:
    if ax.get_label() == "<colorbar>":
        if not (ax.get_xlabel() or ax.get_ylabel()):
            raise ValueError(f"{name} is a colour bar without a label: name the quantity")
        return
    parent = ax.get_figure(root=False)
    shared_x, shared_y = ax.get_shared_x_axes(), ax.get_shared_y_axes()
    x = parent.get_supxlabel() or any(a.get_xlabel() for a in shared_x.get_siblings(ax))
    y = parent.get_supylabel() or any(a.get_ylabel() for a in shared_y.get_siblings(ax))
    for letter, axis, named in (("x", ax.xaxis, x), ("y", ax.yaxis, y)):
        if axis.get_visible() and not named:
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

"""Heatmaps with a token beside every row and below every column: values, masks, attention maps.

Rows are queries and columns are keys everywhere; labels that do not fit the shape are refused.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import DARK, DIVERGING, INK, PALETTE, SEQUENTIAL
from transformer_lib.lessons.figures.marks import hide_frame, label, rectangle
from transformer_lib.lessons.figures.types import Links, Number, Point, Series, Words

__all__ = ["attention_grid", "attention_map", "token_heatmap"]

GOLD: dict[str, Any] = {"fill": False, "edgecolor": PALETTE[1], "linewidth": 2.0}
ATTEND: dict[str, Any] = {"facecolor": "#4a97c2", "linewidth": 0}
BLOCKED = {"facecolor": "#eceff2", "edgecolor": "#7d8994", "hatch": "////", "linewidth": 0}


def check_tokens(array: np.ndarray, rows: Words, columns: Words) -> None:
    """Raise ValueError unless there is a label for every row and every column."""
    if array.shape[-2:] != (len(rows), len(columns)):
        raise ValueError(
            f"are the axes swapped? got a map of shape {array.shape[-2:]} (rows, columns), "
            f"but {len(rows)} row labels and {len(columns)} column labels"
        )


@style()
def token_heatmap(
    matrix: Any,
    rows: Words,
    columns: Words,
    *,
    title: str,
    row_label: str = "queries",
    column_label: str = "keys",
    ax: Axes | None = None,
    **values: Any,
) -> Figure:
    """Draw a matrix (rows, columns) with a token beside every row and below every column.

    Boolean matrices are drawn as masks (True = may attend), others by `draw_values` with the
    options in `values`. Draws into `ax` if given, then without the legend of a mask.

    Raises:
        ValueError: the labels do not match the shape.
    """
    array = as_array(matrix, 2)
    check_tokens(array, rows, columns)
    if ax is None:
        cell = min(0.52, 6.4 / max(array.shape))
        width = cell * array.shape[1] + 1.9 + 0.085 * max(map(len, rows), default=0)
        height = cell * array.shape[0] + 1.6
        fig, ax = figure(max(5.0, width), max(2.5, height), layout="compressed", title=title)
        if array.dtype == bool:
            mask_legend(fig)
    else:
        ax.set_title(title)
    if array.dtype == bool:
        draw_mask(ax, array)
    else:
        draw_values(ax, array, **values)
    token_axes(ax, rows, columns)
    name_axes(ax, x=column_label, y=row_label)
    return ax.get_figure(root=True)


def draw_values(
    ax: Axes,
    array: np.ndarray,
    *,
    vmin: Number | None = None,
    vmax: Number | None = None,
    annotate: bool = False,
    cbar_label: str | None = "value",
    masked: np.ndarray | None = None,
) -> None:
    """Draw a matrix as colored cells, with a color bar unless `cbar_label` is None.

    Values of both signs get `DIVERGING`, centered on zero; those that are not finite, and those
    in `masked`, are hatched.
    """
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    signed = low < 0 < high
    if signed:
        low, high = min(low, -high), max(-low, high)
    limits = {"vmin": low if vmin is None else vmin, "vmax": high if vmax is None else vmax}
    look = {"cmap": DIVERGING if signed else SEQUENTIAL, "edgecolors": "white", "linewidth": 0.8}
    mesh = ax.pcolormesh(np.ma.masked_invalid(array), **limits, **look)
    hatched = ~np.isfinite(array) if masked is None else masked
    _fill(ax, hatched, BLOCKED)
    if cbar_label is not None:
        colour_bar(ax, mesh, cbar_label)
    if annotate:
        _annotate(ax, array)


def colour_bar(axes: Any, mesh: Any, text: str, **look: Any) -> Any:
    """Add a color bar beside one or several axes; it ends in an arrow if values exceed it."""
    values = np.ma.compressed(mesh.get_array())
    clipped = values.size > 0 and values.max() > mesh.norm.vmax * 1.001
    extend = "max" if clipped else "neither"
    standard = {"shrink": 0.85, "aspect": 22, "pad": 0.03, "extend": extend}
    figure = np.ravel(axes)[0].get_figure(root=True)
    bar = figure.colorbar(mesh, ax=axes, label=text, **standard | look)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, length=2)
    return bar


def _annotate(ax: Axes, array: np.ndarray) -> None:
    """Write each value into its cell, white on dark colors and dark on light ones."""
    mesh = ax.collections[0]
    for (i, j), value in np.ndenumerate(array):
        red, green, blue, _ = mesh.cmap(mesh.norm(value))
        dark = np.isfinite(value) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
        text = f"{value:.2f}".replace("-", "−").replace("inf", "∞")
        label(ax, j + 0.5, i + 0.5, text, fontsize=8.5, color="white" if dark else DARK)


def draw_mask(ax: Axes, array: np.ndarray) -> None:
    """Draw a mask in two colors, and hatch what is blocked: color is never the only sign."""
    edges = {"facecolor": "none", "edgecolor": "white", "linewidth": 1.2}
    for chosen, look in ((array, ATTEND), (~array, BLOCKED), (array | ~array, edges)):
        _fill(ax, chosen, look)


def _fill(ax: Axes, chosen: np.ndarray, look: dict[str, Any]) -> None:
    """Draw the chosen cells in this look."""
    cells = [Rectangle((j, i), 1, 1) for i, j in np.argwhere(chosen)]
    if cells:
        ax.add_collection(PatchCollection(cells, **look))


def mask_legend(fig: Figure) -> None:
    """Explain the two colours of a mask below the figure."""
    legend_below(fig, {"True: may attend": ATTEND, "False: may not": BLOCKED})


def legend_below(fig: Figure, looks: Mapping[str, dict[str, Any]]) -> None:
    """Put a legend of patches under the figure; `figures.show` saves what is outside of it."""
    handles = [Patch(**look, label=name) for name, look in looks.items()]
    fig.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, 0.01), ncols=len(handles))


def token_axes(ax: Axes, rows: Words, columns: Words, *, narrow: bool = False) -> None:
    """Label the cells: row 0 at the top, long column tokens slanted, or upright in narrow cells."""
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    turn = {}
    if max(map(len, columns), default=0) > 2:
        turn = {"rotation": 90} if narrow else slanted
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, parse_math=False, **turn)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, parse_math=False)
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0), aspect="equal")
    ax.tick_params(labelsize=9)
    hide_frame(ax)


def _as_weights(weights: Any, dims: int, queries: Words, keys: Words) -> np.ndarray:
    """Return attention maps as an array, refusing wrong labels, raw scores and transposed maps."""
    array = as_array(weights, dims)
    check_tokens(array, queries, keys)
    if not ((array >= -1e-6) & (array <= 1 + 1e-6)).all():
        raise ValueError(
            f"attention weights are in [0, 1]: found {np.min(array):.4g} to {np.max(array):.4g}; "
            "are these scores from before the softmax?"
        )
    sums = array.sum(-1)
    wrong = np.abs(sums - 1) > 1e-3
    wrong &= np.abs(sums) > 1e-3  # a row with nothing to attend to sums to 0
    if wrong.any():
        raise ValueError(
            f"rows must sum to 1: found {sums[wrong][0]:.4g}; "
            "is the softmax over the wrong axis, or the map transposed?"
        )
    return array


def _draw_gold(fig: Figure, axes: Iterable[Axes], gold: Links | None) -> None:
    """Outline the gold links (source, target) in each map, if there are any: rows are targets."""
    for ax, (source, target) in itertools.product(axes, gold or ()):
        sources, targets = int(ax.get_xlim()[1]), int(ax.get_ylim()[0])
        if not (0 <= target < targets and 0 <= source < sources):
            raise ValueError(
                f"gold link (source {source}, target {target}) is outside a map of "
                f"{targets} targets and {sources} sources: are its two numbers swapped?"
            )
        rectangle(ax, source + 0.06, target + 0.06, 0.88, 0.88, **GOLD)


def _explain_cells(fig: Figure, weights: np.ndarray, gold: Links | None) -> None:
    """Name the looks of cells that the figure has, if any, below it."""
    looks = {} if gold is None else {"gold alignment": GOLD}
    if (weights == 0).any():
        looks["masked: the weight is exactly 0"] = BLOCKED
    if looks:
        legend_below(fig, looks)


@style()
def attention_map(
    weights: Any,
    queries: Words,
    keys: Words,
    *,
    title: str,
    gold: Links | None = None,
    **labels: str,
) -> Figure:
    """Draw one attention map (queries, keys); `labels` are `row_label` and `column_label`.

    `gold` outlines links (source index, target index): targets are rows, sources columns. Cells
    of weight 0, which a mask leaves, are hatched.

    Raises:
        ValueError: labels that do not match the shape, weights outside [0, 1], or a row that sums
            neither to 1 nor, fully masked, to 0.
    """
    array = _as_weights(weights, 2, queries, keys)
    look = {"vmin": 0.0, "vmax": 1.0, "cbar_label": "attention weight", "masked": array == 0}
    fig = token_heatmap(array, queries, keys, title=title, **look, **labels)
    _draw_gold(fig, fig.axes[:1], gold)
    _explain_cells(fig, array, gold)
    return fig


@style()
def attention_grid(
    weights: Any,
    queries: Words,
    keys: Words,
    *,
    title: str,
    names: Words | None = None,
    gold: Links | None = None,
    vmax: Number = 1.0,
    row_label: str = "queries",
    column_label: str = "keys",
) -> Figure:
    """Draw maps (H, queries, keys), by default heads, in rows of four; check as `attention_map`."""
    array = _as_weights(weights, 3, queries, keys)
    names = names or [f"head {head}" for head in range(len(array))]
    ncols = min(4, len(array))
    nrows = -(-len(array) // ncols)
    side = min(3.2, 8.4 / ncols)
    size = side * ncols + 1.8, side * array.shape[1] / array.shape[2] * nrows + 1.7
    look = {"layout": "compressed", "squeeze": False, "sharex": True, "sharey": True}
    fig, axes = figure(*size, nrows, ncols, title=title, **look)
    for ax, name, one in zip(axes.flat, names, array, strict=False):
        draw_values(ax, one, vmin=0.0, vmax=vmax, cbar_label=None, masked=one == 0)
        token_axes(ax, queries, keys, narrow=side / array.shape[2] < 0.4)
        ax.set_title(name, fontsize=10, pad=5)
    _draw_gold(fig, axes.flat[: len(array)], gold)
    for ax in axes.flat[len(array) :]:
        ax.axis("off")
    fig.supxlabel(column_label, fontsize=10, color=INK)
    fig.supylabel(row_label, fontsize=10, color=INK)
    colour_bar(axes, axes[0, 0].collections[0], "attention weight")
    _explain_cells(fig, array, gold)
    return fig


def heatmap_row(
    size: Point, panels: Series, rows: Words, columns: Words, *, title: str, **look: Any
) -> tuple[Figure, Any]:
    """Draw matrices over the same tokens side by side, without color bars."""
    fig, axes = figure(*size, 1, len(panels), title=title, layout="compressed")
    fig.get_layout_engine().set(h_pad=0.12)
    for ax, (name, matrix) in zip(axes, panels.items(), strict=True):
        token_heatmap(matrix, rows, columns, title=name, ax=ax, cbar_label=None, **look)
        ax.title.set_fontsize(10)
        ax.yaxis.set_visible(ax is axes[0])
    return fig, axes

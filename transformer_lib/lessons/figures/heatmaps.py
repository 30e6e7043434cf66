"""Heatmaps with a token beside every row and below every column, for values and for masks.

Rows are queries, columns are keys, everywhere; labels that do not fit the shape are refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from transformer_lib.lessons.figures.look import (
    DIVERGING,
    INK,
    SEQUENTIAL,
    Number,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)

__all__ = ["token_heatmap"]

ATTEND, BLOCKED, HATCH = "#4a97c2", "#f1f3f5", "#9aa6b0"


def check_tokens(array: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    if array.shape[-2:] != (len(rows), len(columns)):
        raise ValueError(
            f"are the axes swapped? got a map of shape {array.shape[-2:]} (rows, columns), "
            f"but {len(rows)} row labels and {len(columns)} column labels"
        )


@style()
def token_heatmap(
    matrix: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    row_label: str = "queries",
    column_label: str = "keys",
    cmap: Colormap | str | None = None,
    annotate: bool = False,
    fmt: str = ".2f",
    vmin: Number | None = None,
    vmax: Number | None = None,
    mask_style: bool = False,
    ax: Axes | None = None,
    cbar_label: str | None = "value",
) -> Figure:
    """A matrix (rows, columns) with a token beside every row and below every column.

    Boolean matrices are drawn as masks (True = may attend), with a legend; others with a colour
    bar, unless `cbar_label` is None. Without `cmap`, data of both signs get `DIVERGING`, centred on
    zero. Draws into `ax` where one is given. Raises ValueError where labels and shape disagree.
    """
    array = as_array(matrix, 2)
    check_tokens(array, rows, columns)
    if ax is None:
        cell = min(0.52, 6.4 / max(array.shape))
        width = cell * array.shape[1] + 1.9 + 0.085 * max(map(len, rows), default=0)
        height = cell * array.shape[0] + 1.6
        fig, ax = figure(max(5.0, width), max(2.5, height), layout="compressed")
        headline(fig, title)
    else:
        ax.set_title(title)
    if mask_style or array.dtype == bool:
        _draw_mask(ax, array)
    else:
        draw_values(ax, array, cmap, vmin, vmax, cbar_label)
        if annotate:
            _annotate(ax, array, fmt)
    token_axes(ax, rows, columns)
    name_axes(ax, x=column_label, y=row_label)
    return ax.get_figure(root=True)


def draw_values(
    ax: Axes,
    array: np.ndarray,
    cmap: Colormap | str | None,
    vmin: Number | None,
    vmax: Number | None,
    cbar_label: str | None,
) -> None:
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if cmap is None and low < 0 < high:
        cmap, bound = DIVERGING, max(-low, high)
        vmin, vmax = (-bound if vmin is None else vmin), (bound if vmax is None else vmax)
    ax.set_facecolor("#dfe3e7")  # what is not finite (a masked score) stays grey
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(array),
        cmap=SEQUENTIAL if cmap is None else cmap,
        vmin=low if vmin is None else vmin,
        vmax=high if vmax is None else vmax,
        edgecolors="white",
        linewidth=0.8,
    )
    if cbar_label is not None:
        colour_bar(ax.get_figure(root=True), mesh, ax, cbar_label)


def colour_bar(fig: Figure, mesh: Any, ax: Any, label: str) -> None:
    values = np.ma.compressed(mesh.get_array())
    cut = values.size > 0 and values.max() > mesh.norm.vmax * 1.001  # the bar ends in an arrow
    extend = "max" if cut else "neither"
    bar = fig.colorbar(mesh, ax=ax, label=label, shrink=0.85, aspect=22, pad=0.03, extend=extend)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, length=2)


def _annotate(ax: Axes, array: np.ndarray, fmt: str) -> None:
    """Write each value into its cell, white on dark colours and ink on light ones."""
    mesh = ax.collections[-1]
    for (i, j), value in np.ndenumerate(array):
        red, green, blue, _ = mesh.cmap(mesh.norm(value))
        dark = np.isfinite(value) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
        words = (
            f"{value:{fmt}}".replace("-", "−")
            if np.isfinite(value)
            else ("−∞" if value < 0 else "∞")
        )
        ax.text(
            j + 0.5, i + 0.5, words, ha="center", va="center", fontsize=8.5,
            color="white" if dark else INK,
        )  # fmt: skip


def _draw_mask(ax: Axes, array: np.ndarray) -> None:
    """Two colours, and a hatch on what is blocked, so that colour is never the only sign."""
    if not np.isin(array, (0, 1)).all():
        raise ValueError("a mask holds only True (may attend) and False: got other values")
    yes = {"facecolor": ATTEND, "linewidth": 0}
    no = {"facecolor": BLOCKED, "edgecolor": HATCH, "hatch": "////", "linewidth": 0}
    edges = {"facecolor": "none", "edgecolor": "white", "linewidth": 1.2}
    for where, look in ((array == 1, yes), (array == 0, no), (array >= 0, edges)):
        cells = [Rectangle((j, i), 1, 1) for i, j in np.argwhere(where)]
        ax.add_collection(PatchCollection(cells, **look))
    legend = [Patch(**yes, label="may attend"), Patch(**no, label="may not attend")]
    ax.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.01, 1.01), borderaxespad=0.2)


def token_axes(
    ax: Axes, rows: Sequence[str], columns: Sequence[str], *, narrow: bool = False
) -> None:
    """Row 0 at the top, square cells, column tokens below and turned only where they are long.

    In `narrow` cells slanted words would lie on one another: there they stand upright.
    """
    turned = max((len(token) for token in columns), default=0) > 2
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    turn = ({"rotation": 90} if narrow else slant) if turned else {}
    plain = {"parse_math": False}  # a token may hold a dollar sign
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, **turn, **plain)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, **plain)
    ax.tick_params(length=0, labelsize=9)
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0), aspect="equal")
    ax.spines[:].set_visible(False)

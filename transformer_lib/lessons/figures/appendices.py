"""The figures of the appendices: who catches which bug, and attention over a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.colours import GRID, MUTED, PALETTE, SEQUENTIAL
from transformer_lib.lessons.figures.heatmaps import colour_bar
from transformer_lib.lessons.figures.marks import hide_frame

__all__ = ["attention_over_images", "bug_table", "next_word_bars"]


@style()
def bug_table(caught: Mapping[int, Sequence[str]], *, title: str) -> Figure:
    """Draw a dot for every bug (column) and what catches it (row), the training loss first."""
    checks = ["training loss", *dict.fromkeys(name for names in caught.values() for name in names)]
    checks.sort(key=lambda name: (name != "training loss", name == "special check"))
    bugs = sorted(caught)
    fig, ax = figure(8.5, 3.2, title=title)
    for row, check in enumerate(checks):
        hits = [column for column, bug in enumerate(bugs) if check in caught[bug]]
        ax.axhline(row, color=GRID, linewidth=0.8, zorder=0)
        ax.plot(hits, [row] * len(hits), "o", color=PALETTE[0], markersize=9)
    ax.set_xticks(range(len(bugs)), bugs)
    ax.set_yticks(range(len(checks)), checks)
    ax.set(xlim=(-0.6, len(bugs) - 0.4), ylim=(len(checks) - 0.5, -0.5))
    hide_frame(ax)
    name_axes(ax, x="number of the bug", y="what fires")
    return fig


@style()
def attention_over_images(
    images: Any, weights: Any, names: Sequence[str], *, title: str, size: int = 2
) -> Figure:
    """Draw images (B, 8, 8), and below each one the attention (B, P) over its P square patches."""
    pictures, maps = as_array(images, 3), as_array(weights, 2)
    side = pictures.shape[1] // size
    fig, axes = figure(1.45 * len(pictures) + 0.8, 3.7, 2, len(pictures), title=title)
    for column, (picture, row, name) in enumerate(zip(pictures, maps, names, strict=True)):
        axes[0, column].imshow(picture, cmap="gray", vmin=0, vmax=1)
        mesh = axes[1, column].imshow(
            np.kron(row.reshape(side, side), np.ones((size, size))),
            cmap=SEQUENTIAL,
            vmin=0,
            vmax=maps.max(),
        )
        stroke = axes[1, column].contour(picture, levels=[0.45], colors=[PALETTE[1]])
        stroke.set_linewidth(1.4)
        axes[0, column].set_title(name, fontsize=10)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        hide_frame(ax)
        ax.xaxis.set_visible(False)
    for ax, text in zip(axes[:, 0], ("image", "attention"), strict=True):
        name_axes(ax, y=text)
    for ax in axes[:, 1:].flat:
        ax.yaxis.set_visible(False)
    colour_bar(axes, mesh, "attention weight")
    return fig


@style()
def next_word_bars(panels: Mapping[str, Mapping[str, float]], *, title: str) -> Figure:
    """Draw the probabilities of the likeliest next words, one panel for each setting."""
    fig, axes = figure(9, 3.1, 1, len(panels), title=title, sharex=True, sharey=True)
    top = max(max(chances.values()) for chances in panels.values())
    for ax, (name, chances) in zip(axes, panels.items(), strict=True):
        drawn = ax.barh(list(chances), list(chances.values()), color=PALETTE[0])
        ax.bar_label(drawn, [f"{p:.2f}" for p in chances.values()], padding=3, color=MUTED)
        ax.set_xlim(0, 1.2 * top)
        name_axes(ax, title=name, x="probability")
    axes[0].invert_yaxis()
    name_axes(axes[0], y="next word")
    return fig

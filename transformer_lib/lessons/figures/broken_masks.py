"""The figures of notebook 03 that show what a wrong mask does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from transformer_lib.lessons.figures.heatmaps import token_heatmap
from transformer_lib.lessons.figures.look import (
    INK,
    PALETTE,
    SEQUENTIAL,
    as_array,
    figure,
    headline,
    name_axes,
    style,
)

__all__ = ["rows_without_keys", "three_trainings"]

LATER = "#b8650a"  # orange: what is wrong


@style()
def rows_without_keys(
    panels: Mapping[str, Any], queries: Sequence[str], keys: Sequence[str], *, title: str
) -> Figure:
    """Attention weights of several ways to mask, written into the cells; NaN is said in words."""
    fig, axes = figure(2.25 * len(panels) + 0.9, 3.6, 1, len(panels), layout="compressed")
    headline(fig, title)
    fig.get_layout_engine().set(h_pad=0.12)
    for ax, (name, weights) in zip(axes, panels.items(), strict=True):
        array = as_array(weights, 2)
        known = np.where(np.isnan(array), 0.0, array)
        token_heatmap(
            known, queries, keys, title=name, vmin=0.0, vmax=1.0, cmap=SEQUENTIAL, annotate=True,
            cbar_label=None, ax=ax,
        )  # fmt: skip
        ax.title.set_fontsize(10)
        for text, value in zip(ax.texts, array.flat, strict=True):
            if np.isnan(value):
                text.set(text="NaN", color="white", fontweight="bold")
        for i, j in np.argwhere(np.isnan(array)):
            ax.add_patch(Rectangle((j, i), 1, 1, facecolor=LATER, edgecolor="white", zorder=2))
        if ax is not axes[0]:
            ax.yaxis.set_visible(False)
    return fig


@style()
def three_trainings(
    steps: Any, accuracy: Mapping[str, Any], exact: Mapping[str, float], *, title: str
) -> Figure:
    """Left: teacher-forced accuracy while training. Right: sentences translated exactly when the
    model has to write alone. Both in percent, a colour per case."""
    fig, (left, right) = figure(9.4, 3.8, 1, 2, layout="constrained", width_ratios=[1.25, 1])
    headline(fig, title)
    points = as_array(steps, 1)
    for colour, (name, values) in zip(PALETTE, accuracy.items(), strict=False):
        left.plot(points, 100 * as_array(values, 1), color=colour, label=name)
    left.set_ylim(0, 104)
    left.grid(True)
    name_axes(left, title="the teacher helps", x="training step", y="targets right (%)")
    left.legend(loc="lower right")
    _bars(right, exact)
    name_axes(right, title="the model writes alone", x="held-out sentences exactly right (%)")
    right.yaxis.set_visible(False)
    return fig


def _bars(ax: Axes, exact: Mapping[str, float]) -> None:
    for place, (colour, (name, share)) in enumerate(zip(PALETTE, exact.items(), strict=False)):
        ax.barh(place, 100 * share, height=0.42, color=colour)
        ax.text(0, place - 0.3, name, va="bottom", fontsize=9.5, color=INK)
        ax.text(100 * share + 1.5, place, f"{100 * share:.0f}", va="center", fontsize=11,
                color=colour, fontweight="bold")  # fmt: skip
    ax.set(xlim=(0, 108), ylim=(len(exact) - 0.6, -0.75))
    ax.grid(True, axis="x")
    ax.spines["left"].set_visible(False)

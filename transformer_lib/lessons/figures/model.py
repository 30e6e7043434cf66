"""The figure of notebook 06: the three attentions of a model and what each of them masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.heatmaps import (
    BLOCKED,
    check_tokens,
    colour_bar,
    draw_values,
    token_axes,
)
from transformer_lib.lessons.figures.types import Words

__all__ = ["three_attentions"]

NAMES = ("encoder self-attention", "decoder self-attention", "cross-attention")
SIDES = (("source", "source"), ("target", "target"), ("target", "source"))  # queries, keys


@style()
def three_attentions(
    encoder: Any,
    decoder: Any,
    cross: Any,
    *,
    masks: Sequence[Any],
    source: Words,
    target: Words,
    title: str,
) -> Figure:
    """Draw one map (queries, keys) of each attention side by side, and hatch what is masked.

    `masks` has one mask (True = may attend) for each map, which broadcasts to its shape.

    Raises:
        ValueError: the labels do not match the shape, or a masked cell has a weight.
    """
    tokens = {"source": source, "target": target}
    widths = {"width_ratios": [len(source), len(target), len(source)]}
    fig, axes = figure(9.6, 4.0, 1, 3, title=title, gridspec_kw=widths)
    for ax, name, (queries, keys), weights, mask in zip(
        axes, NAMES, SIDES, (encoder, decoder, cross), masks, strict=True
    ):
        array = as_array(weights, 2)
        check_tokens(array, tokens[queries], tokens[keys])
        blocked = np.broadcast_to(~as_array(mask, 2), array.shape)
        if array[blocked].any():
            raise ValueError(f"{name}: a masked cell has a weight; is the mask inverted?")
        draw_values(ax, array, vmin=0.0, vmax=0.5, cbar_label=None)
        cells = [Rectangle((j, i), 1, 1) for i, j in np.argwhere(blocked)]
        ax.add_collection(PatchCollection(cells, **BLOCKED))
        token_axes(ax, tokens[queries], tokens[keys], narrow=True)
        ax.tick_params(labelsize=8)
        name_axes(ax, title=name, x=f"keys: {keys}", y=f"queries: {queries}")
        ax.title.set_fontsize(10)
        ax.set_anchor("N")
    look = {"shrink": 0.6, "anchor": (0.0, 0.8), "panchor": False}  # the panels stay at the top
    colour_bar(axes, axes[0].collections[0], "attention weight", **look)
    fig.legend(handles=[Patch(**BLOCKED, label="masked")], loc="lower right")
    return fig

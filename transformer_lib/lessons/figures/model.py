"""The figure of notebook 06: the three attentions of a model and what each of them masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, style
from transformer_lib.lessons.figures.heatmaps import (
    ATTEND,
    BLOCKED,
    check_tokens,
    draw_mask,
    legend_below,
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
    """Draw which keys each query may attend to, in the cells of one map of each attention.

    `masks` has one mask (True = may attend) for each map, which broadcasts to its shape.

    Raises:
        ValueError: the labels do not match the shape, or a masked cell has a weight.
    """
    tokens = {"source": source, "target": target}
    widths = {"width_ratios": [len(source), len(target), len(source)]}
    fig, axes = figure(10, 4.4, 1, 3, title=title, layout="compressed", gridspec_kw=widths)
    fig.get_layout_engine().set(w_pad=0.12)
    for ax, name, (queries, keys), weights, mask in zip(
        axes, NAMES, SIDES, (encoder, decoder, cross), masks, strict=True
    ):
        array = as_array(weights, 2)
        check_tokens(array, tokens[queries], tokens[keys])
        allowed = np.broadcast_to(as_array(mask, 2), array.shape)
        if array[~allowed].any():
            raise ValueError(f"{name}: a masked cell has a weight; is the mask inverted?")
        draw_mask(ax, allowed)
        token_axes(ax, tokens[queries], tokens[keys], narrow=True)
        name_axes(ax, title=name, x=f"keys: {keys}", y=f"queries: {queries}")
        ax.title.set_fontsize(10)
        ax.set_anchor("N")
    legend_below(fig, {"has a weight": ATTEND, "masked: the weight is exactly 0": BLOCKED})
    return fig

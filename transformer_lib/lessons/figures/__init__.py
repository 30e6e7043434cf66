"""Every figure of the series, as a function that returns a matplotlib Figure.

One file per notebook, and one for the appendices; `base`, `colours`, `marks` and `heatmaps` hold
what they share, and `architecture` draws the paper's Figure 1.
"""

from transformer_lib.data.extras import needs

with needs("lessons"):
    from transformer_lib.lessons.figures import (
        appendices,
        architecture,
        attention,
        base,
        colours,
        embeddings,
        feed_forward,
        heatmaps,
        marks,
        masks,
        model,
        positional,
        training,
    )

_FILES = (
    *(architecture, base, colours, heatmaps, marks, embeddings, positional),
    *(masks, attention, feed_forward, model, training, appendices),
)
__all__ = [name for file in _FILES for name in file.__all__]
globals().update({name: getattr(file, name) for file in _FILES for name in file.__all__})

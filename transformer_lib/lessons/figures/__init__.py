"""Every figure of the series, as a function that returns a matplotlib Figure.

One file per notebook; `base` holds what they share, `architecture` the paper's Figure 1.
"""

from transformer_lib.data.extras import needs

with needs("lessons"):
    from transformer_lib.lessons.figures.architecture import *  # noqa: F403
    from transformer_lib.lessons.figures.attention import *  # noqa: F403
    from transformer_lib.lessons.figures.base import *  # noqa: F403
    from transformer_lib.lessons.figures.embeddings import *  # noqa: F403
    from transformer_lib.lessons.figures.feed_forward import *  # noqa: F403
    from transformer_lib.lessons.figures.masks import *  # noqa: F403
    from transformer_lib.lessons.figures.model import *  # noqa: F403
    from transformer_lib.lessons.figures.positional import *  # noqa: F403
    from transformer_lib.lessons.figures.training import *  # noqa: F403

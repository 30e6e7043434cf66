"""Every figure of the series, as a function that returns a matplotlib Figure.

One file per notebook; `base` holds what they share, `architecture` the paper's Figure 1.
"""

from transformer_lib.plots.architecture import *  # noqa: F403
from transformer_lib.plots.attention import *  # noqa: F403
from transformer_lib.plots.base import *  # noqa: F403
from transformer_lib.plots.embeddings import *  # noqa: F403
from transformer_lib.plots.feed_forward import *  # noqa: F403
from transformer_lib.plots.masks import *  # noqa: F403
from transformer_lib.plots.model import *  # noqa: F403
from transformer_lib.plots.positional import *  # noqa: F403
from transformer_lib.plots.training import *  # noqa: F403

"""Training for real: the loop that resumes to the bit, in one process or in many.

Builds on `translate`, `data` and the paper's code. A `Trainer` makes the updates of `train_step`
with the batches of all `Ranks`, and swaps in what is faster: dropout, loss, 16-bit products.
"""

from typing import TYPE_CHECKING

from transformer_lib.data.extras import import_on_use

if TYPE_CHECKING:
    from transformer_lib.train.ranks import Ranks, join
    from transformer_lib.train.run_config import RunConfig
    from transformer_lib.train.trainer import Trainer

__all__ = ["Ranks", "RunConfig", "Trainer", "join"]

# On first use: `train --help` needs no torch, whose import takes a second.
MODULES = {"Ranks": "ranks", "RunConfig": "run_config", "Trainer": "trainer", "join": "ranks"}
__getattr__ = import_on_use(__name__, MODULES)

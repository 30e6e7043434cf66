"""Training for real: the loop that resumes to the bit, in one process or in many.

Builds on `translate`, `data` and the paper's code. A `Trainer` makes the updates of `train_step`
with the batches of all `Ranks`, and swaps in what is faster: dropout, loss, 16-bit products.
"""

from transformer_lib.data.extras import needs

with needs("cli"):
    from transformer_lib.train.ranks import Ranks, join
    from transformer_lib.train.settings import RunConfig
    from transformer_lib.train.trainer import Trainer

__all__ = ["Ranks", "RunConfig", "Trainer", "join"]

"""R-Drop: two passes with different dropout should predict the same (not in the paper)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transformer_lib.batching import Batch
from transformer_lib.masks import teacher_forcing
from transformer_lib.train.chunked_loss import chunked_batch_loss
from transformer_lib.training import BatchLoss, TrainConfig, batch_loss, label_smoothed_loss

__all__ = ["choose_loss", "disagreement", "loss_rows"]


def disagreement(
    logits_a: Float[Tensor, "*B V"], logits_b: Float[Tensor, "*B V"]
) -> Float[Tensor, "*B"]:
    """KL(a||b) + KL(b||a) of the two distributions in every place, in nats; 0 where they agree.

    Both divergences have the same differences of logarithms, so that their sum is
    Σ (a - b) (log a - log b).
    """
    log_a, log_b = logits_a.log_softmax(-1), logits_b.log_softmax(-1)
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(-1)


def loss_rows(rows: int | None, device: torch.device, compiled: bool) -> int:
    """How many rows have logits at a time, 0 for all; None is 256 on a CPU, whose caches hold so
    many, and all on a GPU or for a compiled model."""
    if rows is None:
        return 256 if device.type == "cpu" and not compiled else 0
    return rows


def choose_loss(r_drop: float, rows: int = 0) -> BatchLoss:
    """The loss of a batch: label-smoothed as in the paper, or with R-Drop where its weight is > 0.

    `rows` of the logits at a time, see `chunked_batch_loss`; 0 for all at once.

    With R-Drop every sentence pair goes through the model twice, with other units dropped, and
    the loss per token is the mean of the two label-smoothed losses + r_drop / 4 · disagreement:
    half of what Wu et al. write (2021, "R-Drop", equation 4), as they add the two losses up.
    """
    if not r_drop:
        return chunked_batch_loss(rows) if rows else batch_loss

    def loss_of(model: nn.Module, batch: Batch, config: TrainConfig) -> Tensor:
        tgt_in, tgt_out = teacher_forcing(batch.tgt)
        twice = (ids.repeat(2, 1) for ids in (batch.src, tgt_in))  # one pass of 2B rows
        is_target = tgt_out != config.pad_id
        first, second = (half[is_target] for half in model(*twice).chunk(2))
        targets = torch.cat([tgt_out[is_target]] * 2)
        both = torch.cat([first, second])
        loss, _ = label_smoothed_loss(both, targets, config.smoothing, config.pad_id)
        return loss / 2 + r_drop / 4 * disagreement(first, second).sum()

    return loss_of

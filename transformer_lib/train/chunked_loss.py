"""The label-smoothed loss without ever holding all logits, and without those of padding.

With a large vocabulary, logits, their logarithms and their gradient are the largest tensors of a
training step. Here a few rows at a time become logits, loss and gradient, and are forgotten.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_lib.batching import Batch
from transformer_lib.masks import teacher_forcing
from transformer_lib.training import BatchLoss, TrainConfig

__all__ = ["ChunkedLoss", "chunked_batch_loss"]


class ChunkedLoss(torch.autograd.Function):
    """Σ of the label-smoothed loss over all rows of `hidden`, as a function with its gradient.

    As `label_smoothed_loss(hidden @ weight.T, targets)`, to rounding. The gradient is computed on
    the way forward, while the logits are there; backwards it is only multiplied by what comes in.

    Shapes: hidden (n, D), weight (V, D), targets (n).
    Source: section 5.4; computing the gradient early is due to Liger Kernel (Hsu et al., 2024).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "n D"],
        weight: Float[Tensor, "V D"],
        targets: Int[Tensor, " n"],
        smoothing: float,
        rows: int,
    ) -> Float[Tensor, ""]:
        """The loss in nats; `rows` of the logits exist at a time."""
        device, even = hidden.device.type, smoothing / len(weight)  # each id's share of the target
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        short, matrix = hidden.to(dtype), weight.to(dtype)  # of the products, as under autocast
        total, grad_hidden = hidden.new_zeros(()), torch.empty_like(short)
        grad_weight = torch.zeros_like(weight)
        with torch.autocast(device, enabled=False):
            pieces = (tensor.split(rows) for tensor in (short, targets, grad_hidden))
            for x, target, grad in zip(*pieces, strict=True):
                target = target[:, None]
                logits = (x @ matrix.T).to(hidden.dtype)
                top, probs = logits.max(-1, keepdim=True), logits.softmax(-1)
                # log Σ exp, without one more pass; the highest probability cannot be 0
                norm = top.values - probs.gather(1, top.indices).log()
                total -= ((1 - smoothing) * (logits.gather(1, target) - norm)).sum()
                total -= even * logits.sum() - smoothing * norm.sum()
                # softmax - smoothed target, in place; its even part is subtracted below
                to_logits = probs.scatter_add_(1, target, torch.full_like(norm, smoothing - 1))
                to_logits = to_logits.to(dtype)
                torch.mm(to_logits, matrix, out=grad)
                grad_weight += to_logits.T @ x
        grad_hidden = grad_hidden.to(hidden.dtype).sub_(even * weight.sum(0))
        ctx.save_for_backward(grad_hidden, grad_weight.sub_(even * hidden.sum(0)))
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        """The gradients of hidden and weight; the rest has none."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total, grad_weight * grad_total, None, None, None


def chunked_batch_loss(rows: int) -> BatchLoss:
    """`batch_loss` of the real targets of a batch, `rows` of them at a time."""

    def loss_of(model: nn.Module, batch: Batch, config: TrainConfig) -> Tensor:
        tgt_in, tgt_out = teacher_forcing(batch.tgt)
        # How many there are has to be known here, and a GPU is waited for. Before the (first) batch
        # of an update it has nothing to do; after the model it would have to do all of it first.
        real = (tgt_out != config.pad_id).flatten().nonzero().flatten()
        targets = tgt_out.flatten()[real]

        def readout(hidden: Tensor, weight: Tensor) -> Tensor:
            hidden = hidden.flatten(0, 1).index_select(0, real)
            return ChunkedLoss.apply(hidden, weight, targets, config.smoothing, rows)

        return model(batch.src, tgt_in, readout)

    return loss_of

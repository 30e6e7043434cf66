"""The loss that is trained: in 16 bits where asked for, with few logits in memory at a time.

With a large vocabulary, logits, their logarithms and their gradient are the largest tensors of a
training step. `ChunkedLoss` turns a few rows at a time into logits, loss and gradient, and frees
them before the next rows.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from transformer_lib.model import Transformer
from transformer_lib.training import TrainConfig, label_smoothed_loss
from transformer_lib.translate.stacked import ONEDNN_WORK, has_fast_onednn

__all__ = ["ChunkedLoss", "FastLinear", "FastProducts", "TrainingLoss", "choose_rows", "product"]


def suits_onednn(x: Tensor) -> bool:
    """True if oneDNN multiplies x by a matrix in about half the time of `F.linear`."""
    plain = x.dtype == torch.float32 and x.is_cpu and has_fast_onednn()
    return plain and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def product(
    x: Float[Tensor, "*R i"], matrix: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "*R o"]:
    """Return x · matrixᵀ + bias by the faster kernel, without a gradient."""
    if suits_onednn(x) and x.numel() * len(matrix) >= ONEDNN_WORK:
        return torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
    return F.linear(x, matrix, bias)


class FastLinear(torch.autograd.Function):
    """`F.linear` with its gradient, each by `product`. Shapes: x (..., i), weight (o, i)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x · weightᵀ + bias."""
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        to_weight = product(rows.T, x.flatten(0, -2).T)
        return product(grad, weight.T), to_weight, rows.sum(0) if ctx.has_bias else None


class ChunkedLoss(torch.autograd.Function):
    """Sum of the label-smoothed loss over all rows of `hidden`, as a function with its gradient.

    Equal to `label_smoothed_loss(hidden @ weight.T, targets)` up to rounding. The gradient is
    computed in the forward pass, while the logits exist; the backward pass only scales it.

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
        """Return the loss in nats, from `rows` rows of logits at a time."""
        device, even = hidden.device.type, smoothing / len(weight)  # each id's share of the target
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        short, matrix = hidden.to(dtype), weight.to(dtype)  # of the products, as under autocast
        total, grad_hidden = hidden.new_zeros(()), torch.empty_like(short)
        grad_weight = torch.zeros_like(weight)
        with torch.autocast(device, enabled=False):
            chunks = (tensor.split(rows) for tensor in (short, targets, grad_hidden))
            for x, target, grad in zip(*chunks, strict=True):
                target = target[:, None]
                logits = product(x, matrix).to(hidden.dtype)
                top, probs = logits.max(-1, keepdim=True), logits.softmax(-1)
                # log Σ exp, without one more pass; the highest probability cannot be 0
                norm = top.values - probs.gather(1, top.indices).log()
                total -= ((1 - smoothing) * (logits.gather(1, target) - norm)).sum()
                total -= even * logits.sum() - smoothing * norm.sum()
                # softmax - smoothed target, in place; its even part is subtracted below
                to_logits = probs.scatter_add_(1, target, torch.full_like(norm, smoothing - 1))
                to_logits = to_logits.to(dtype)
                grad.copy_(product(to_logits, matrix.T))
                grad_weight += product(to_logits.T, x.T)
        grad_hidden = grad_hidden.to(hidden.dtype).sub_(even * weight.sum(0))
        ctx.save_for_backward(grad_hidden, grad_weight.sub_(even * hidden.sum(0)))
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden and weight."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total, grad_weight * grad_total, None, None, None


class FastProducts(TorchFunctionMode):
    """Faster kernels on a CPU: oneDNN's linear maps in float32, and in bf16 attention in 32 bits.

    The 16-bit backward pass of attention is slower than that in 32 bits.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace linear maps; upcast queries, keys and values, and round the output back."""
        if func is F.linear and not kwargs and suits_onednn(args[0]):
            return FastLinear.apply(*args)
        is_narrow = func is F.scaled_dot_product_attention and args[0].dtype.itemsize == 2
        if not is_narrow or not args[0].is_cpu:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(x.float() for x in args), **(kwargs or {})).to(args[0].dtype)


class TrainingLoss(nn.Module):
    """A model with its loss as one module, so that DDP, FSDP and `compile` wrap both.

    Args:
        model: the model to train.
        config: smoothing and padding.
        dtype: of the matrix products; weights, logits and loss stay float32. None for float32.
        rows: target tokens whose logits are computed at a time; 0 for all.
    """

    def __init__(
        self,
        model: Transformer,
        config: TrainConfig,
        dtype: torch.dtype | None = None,
        rows: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.config, self.dtype, self.rows = model, config, dtype, rows

    def forward(
        self,
        src: Int[Tensor, "B S"],
        tgt_in: Int[Tensor, "B T"],
        tgt_out: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Return the loss summed over the targets, as `batch_loss`; without targets, the logits."""
        device, narrow, pad_id = src.device.type, self.dtype is not None, self.config.pad_id
        chunked = tgt_out is not None and self.rows > 0
        if chunked:
            # The number of real targets has to be known, and a GPU is waited for. Before the first
            # batch of an update it is idle anyway; after the model it would have to finish first.
            real = (tgt_out != pad_id).flatten().nonzero().flatten()
        faster = device == "cpu" and (narrow or has_fast_onednn())
        with torch.autocast(device, self.dtype, enabled=narrow):
            with FastProducts() if faster else contextlib.nullcontext():
                hidden = self.model.decode(tgt_in, self.model.encode(src), src)
            if chunked:
                hidden, targets = (
                    hidden.flatten(0, 1).index_select(0, real),
                    tgt_out.flatten()[real],
                )
                weight = self.model.output_projection.weight
                return ChunkedLoss.apply(hidden, weight, targets, self.config.smoothing, self.rows)
            logits = self.model.output_projection(hidden)
        logits = logits.float() if narrow else logits
        if tgt_out is None:
            return logits
        return label_smoothed_loss(logits, tgt_out, self.config.smoothing, pad_id)[0]


def choose_rows(rows: int | None, device: torch.device, compiled: bool) -> int:
    """Return how many rows have logits at a time, 0 for all.

    None becomes 256 on a CPU, whose caches hold so many, and 0 on a GPU or for a compiled model.
    """
    if rows is None:
        return 256 if device.type == "cpu" and not compiled else 0
    return rows

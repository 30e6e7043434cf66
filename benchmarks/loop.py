"""One clean training step, the same for every peer that has none of its own, and what it takes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.material import PAD_ID, rate_at

__all__ = [
    "Loop",
    "Step",
    "my_rows",
    "peak_memory",
    "precision_dtype",
    "smoothed_loss",
    "timed_steps",
]

SMOOTHING = 0.1
BETAS, EPS = (0.9, 0.98), 1e-9


class Step(Protocol):
    """Train on one batch of ids, (B, S) and (B, T), and return the loss per target token."""

    def __call__(self, src: Tensor, tgt: Tensor) -> float: ...


def precision_dtype(precision: str) -> torch.dtype | None:
    """Return the dtype of autocast, None for float32 throughout."""
    return {"fp32": None, "bf16": torch.bfloat16}[precision]


def smoothed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Label-smoothed cross-entropy, summed over the targets that are not padding."""
    return F.cross_entropy(
        logits.flatten(0, 1),
        targets.flatten(),
        ignore_index=PAD_ID,
        label_smoothing=SMOOTHING,
        reduction="sum",
    )


def my_rows(ids: Tensor) -> Tensor:
    """Return this process's rows of a batch (B, T) that all processes share, padded no further."""
    if not dist.is_initialized():
        return ids
    rows = ids[dist.get_rank() :: dist.get_world_size()]
    return rows[:, (rows != PAD_ID).any(0)]


def sum_over_processes(weights: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Sum all gradients and the loss, (), over the processes, in one message.

    DistributedDataParallel, which sends several, is as fast within 3 %.
    """
    if not dist.is_initialized():
        return loss
    grads = [weight.grad for weight in weights if weight.grad is not None]
    whole = torch.cat([loss.detach().view(1), *(grad.flatten() for grad in grads)])
    dist.all_reduce(whole)
    loss, *parts = whole.split([1, *(grad.numel() for grad in grads)])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))
    return loss


class Loop:
    """The reference: what a careful reader of torch's documentation writes.

    Fused Adam, `F.cross_entropy` with label smoothing, no padding mask on the target side (its
    padding comes last, so the causal mask hides it).

    Args:
        model: source ids and target ids (B, T) to logits (B, T, V).
        precision: "fp32", or "bf16" for autocast.
        loss_of: source, target input and target output to the summed loss, where the peer brings
            one of its own; the loss that is compared is always `smoothed_loss`.
        rate: the learning rate of a step; left out, that of the benchmark.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: str = "fp32",
        loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        rate: Callable[[int], float] = rate_at,
    ) -> None:
        self.model, self.dtype, self.n_steps = model.train(), precision_dtype(precision), 0
        self.loss_of, self.rate = loss_of or self._smoothed, rate
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.weights, betas=BETAS, eps=EPS, fused=True)

    def _smoothed(self, src: Tensor, tgt_in: Tensor, tgt_out: Tensor) -> Tensor:
        return smoothed_loss(self.model(src, tgt_in).float(), tgt_out)

    def __call__(self, src: Tensor, tgt: Tensor) -> float:
        self.n_steps += 1
        n_targets = (tgt[:, 1:] != PAD_ID).sum()  # of all processes
        src, tgt = my_rows(src), my_rows(tgt)
        tgt_in, tgt_out = tgt[:, :-1], tgt[:, 1:]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(src.device.type, self.dtype, enabled=self.dtype is not None):
            loss = self.loss_of(src, tgt_in, tgt_out)
        loss = loss / n_targets
        loss.backward()
        loss = sum_over_processes(self.weights, loss)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.n_steps)
        self.optimizer.step()
        return loss.item()


def timed_steps(step: Step, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Train on the batches; return the seconds and the number of target tokens, without padding.

    A step returns its loss as a number: a GPU has done it by then. There, the first batch is
    trained on once more before, without the clock: its memory has to be taken again.
    """
    batches = list(batches)
    if not batches[0][0].is_cpu:
        step(*batches[0])
    n_tokens = sum(int((tgt[:, 1:] != PAD_ID).sum()) for _, tgt in batches)
    started = time.perf_counter()
    for src, tgt in batches:
        step(src, tgt)
    return {"seconds": time.perf_counter() - started, "tokens": n_tokens}


def peak_memory(step: Step, batches: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Bytes by which the process grows at most while it trains on the batches; on a GPU, bytes of
    tensors there.

    Linux keeps the largest resident size of a process and lets it be set back. None elsewhere.
    """
    batches = list(batches)
    if batches[0][0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for src, tgt in batches:
            step(src, tgt)
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/status").exists():
        return None
    before = _status("VmRSS")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    for src, tgt in batches:
        step(src, tgt)
    return _status("VmHWM") - before


def _status(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return 1024.0 * int(found[1])

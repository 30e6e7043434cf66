# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""The loss, the learning rate, one training step, evaluation, and averaged weights (section 5)."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from transformer_lib.batching import Batch
from transformer_lib.config import wrong_kinds
from transformer_lib.masks import teacher_forcing

__all__ = [
    "label_smoothed_loss",
    "inverse_sqrt_rate",
    "noam_rate",
    "TrainConfig",
    "bad_settings",
    "cooldown",
    "make_optimizer",
    "rate_at",
    "update",
    "StepResult",
    "count_targets",
    "batch_loss",
    "Batches",
    "train_step",
    "evaluation_mode",
    "Evaluation",
    "evaluate",
    "average_weights",
]


def label_smoothed_loss(
    logits: Float[Tensor, "*B V"],
    targets: Int[Tensor, "*B"],
    smoothing: float = 0.1,
    pad_id: int = 0,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Return the cross-entropy against (1 - ε) on the right token plus ε spread evenly over all V.

    The result is a sum and a count, not a mean, so that batches of unequal size, gradient
    accumulation and several machines add up to the same loss.

    Args:
        logits: one score per id.
        targets: the right ids; those equal to pad_id are not counted.
        smoothing: ε; 0 gives the plain cross-entropy.

    Returns:
        The loss in nats, summed over all targets that are not padding, and their number.

    Raises:
        ValueError: ε is not in [0, 1).

    Source: section 5.4 (Szegedy et al., 2016). Built in notebook 07.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
    total = F.cross_entropy(
        logits.reshape(-1, logits.size(-1)),
        targets.reshape(-1),
        ignore_index=pad_id,
        label_smoothing=smoothing,
        reduction="sum",
    )
    return total, (targets != pad_id).sum()


def inverse_sqrt_rate(step: int, peak: float, warmup: int) -> float:
    """Return a rate that rises linearly to `peak` at step `warmup`, then falls with 1 / √step.

    Args:
        step: number of the update, from 1.
        peak: the highest rate.
        warmup: number of the update that has the highest rate.

    Raises:
        ValueError: step or warmup is below 1.

    Source: the shape of equation 3. Built in notebook 07.
    """
    if not (step >= 1 and warmup >= 1):  # NaN is neither
        raise ValueError(f"steps count from 1, got step={step}, warmup={warmup}")
    return peak * min(step / warmup, (warmup / step) ** 0.5)


def noam_rate(step: int, d_model: int = 512, warmup: int = 4000) -> float:
    """Return the paper's rate: d_model^-0.5 · min(step^-0.5, step · warmup^-1.5).

    Source: section 5.3, equation 3. Built in notebook 07.
    """
    return inverse_sqrt_rate(step, (d_model * warmup) ** -0.5, warmup)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of training; the defaults are those of the paper's base run.

    Args:
        peak_rate: highest learning rate; the paper's (512 · 4000)^-0.5.
        warmup: number of steps until the peak.
        cooldown: first and last step of a final straight line to a rate of 0; the paper has none.
        smoothing: ε of the label-smoothed loss.
        max_grad_norm: longer gradients are clipped to this length; the paper does not clip.
        betas, eps: Adam's.
        pad_id: targets with this id are not counted.

    Source: sections 5.3 and 5.4. Built in notebook 07.
    """

    peak_rate: float = (512 * 4000) ** -0.5
    warmup: int = 4000
    cooldown: tuple[int, int] | None = None
    smoothing: float = 0.1
    max_grad_norm: float = math.inf
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    pad_id: int = 0

    def __post_init__(self) -> None:
        if problems := bad_settings(self):
            raise ValueError("invalid TrainConfig: " + "; ".join(problems))


def bad_settings(config: TrainConfig) -> list[str]:
    """List what is wrong with the settings, one message each."""
    if problems := wrong_kinds(config):
        return problems
    problems = [
        f"{name} must be above 0, got {getattr(config, name)}"
        for name in ("peak_rate", "max_grad_norm", "eps")
        if not getattr(config, name) > 0
    ]
    if math.inf in (config.peak_rate, config.eps):
        problems.append("peak_rate and eps must be finite")
    if not config.warmup >= 1:
        problems.append(f"warmup must be at least 1, got {config.warmup}")
    if not 0 <= config.smoothing < 1:
        problems.append(f"smoothing must be at least 0 and below 1, got {config.smoothing}")
    if not all(0 <= beta < 1 for beta in config.betas):
        problems.append(f"betas must be at least 0 and below 1, got {config.betas}")
    if config.cooldown and not 0 <= config.cooldown[0] < config.cooldown[1]:
        problems.append(
            f"cooldown must be (start, end) with 0 <= start < end, got {config.cooldown}"
        )
    return problems


def cooldown(step: int, start: int, end: int) -> float:
    """Return a factor for the rate: 1 up to step `start`, then linearly to 0 at step `end`.

    The paper averages its last checkpoints instead (section 6.1). A cooldown needs to know the
    number of steps beforehand, and lets a short run settle.

    Raises:
        ValueError: the cooldown would end before it starts.

    Built in notebook 07.
    """
    if not 0 <= start < end:
        raise ValueError(f"a cooldown needs 0 <= start < end, got start={start}, end={end}")
    return min(1.0, max(0.0, (end - step) / (end - start)))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Return Adam with the paper's settings (section 5.3); `update` sets its rate."""
    return torch.optim.Adam(
        model.parameters(), lr=config.peak_rate, betas=config.betas, eps=config.eps, fused=True
    )


def rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of an update; updates count from 1."""
    rate = inverse_sqrt_rate(step, config.peak_rate, config.warmup)
    return rate * cooldown(step, *config.cooldown) if config.cooldown else rate


def update(
    model: nn.Module, optimizer: Optimizer, loss: float, step: int, config: TrainConfig
) -> tuple[float, float]:
    """Clip the gradients, set this step's learning rate, and run the optimizer.

    Args:
        loss: the mean loss whose gradients the parameters hold.

    Returns:
        The norm of the gradients before clipping, and the rate.

    Raises:
        FloatingPointError: loss or norm is not finite; no weight is changed.

    Built in notebook 07.
    """
    rate = rate_at(step, config)
    grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        numbers = f"loss {loss:.4g}, gradient norm {grad_norm:.4g} at step {step}, rate {rate:.3g}"
        raise FloatingPointError(f"{numbers}: nothing was updated")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return grad_norm, rate


class StepResult(NamedTuple):
    """The result of one update."""

    loss: float  # smoothed, nats per target token
    n_tokens: int  # target tokens, padding not counted
    grad_norm: float  # before clipping
    rate: float


def count_targets(batch: Batch, pad_id: int = 0) -> int:
    """Count the target tokens of a batch, without `<bos>` and padding. Built in notebook 07."""
    return int((batch.tgt[:, 1:] != pad_id).sum())


def batch_loss(model: nn.Module, batch: Batch, config: TrainConfig) -> Float[Tensor, ""]:
    """Return the label-smoothed loss of a batch, summed over its target tokens.

    Built in notebook 07.
    """
    tgt_in, tgt_out = teacher_forcing(batch.tgt)
    logits = model(batch.src, tgt_in)
    return label_smoothed_loss(logits, tgt_out, config.smoothing, config.pad_id)[0]


Batches = Batch | Sequence[Batch]


def train_step(
    model: nn.Module, optimizer: Optimizer, batches: Batches, step: int, config: TrainConfig
) -> StepResult:
    """Make one update: zero the gradients, forward, loss, backward, clip, step.

    Dropout is applied where the model is in training mode: call `model.train()` once before.

    Args:
        batches: one, or several whose gradients are added; the split does not matter
            (except to dropout).
        step: number of the update, from 1; it alone decides the rate.

    Raises:
        ValueError: the batches hold no target token.
        FloatingPointError: loss or gradient is not finite; no weight is changed.

    Source: section 5. Built in notebook 07.
    """
    batches = [batches] if isinstance(batches, Batch) else batches
    n_tokens = sum(count_targets(batch, config.pad_id) for batch in batches)
    if n_tokens == 0:
        raise ValueError("nothing to learn from: no target token")
    optimizer.zero_grad()
    total = 0.0
    for batch in batches:
        loss = batch_loss(model, batch, config)
        (loss / n_tokens).backward()
        total += loss.detach()
    mean = float(total) / n_tokens
    return StepResult(mean, n_tokens, *update(model, optimizer, mean, step, config))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into evaluation mode inside; what was in training mode returns to it.

    Several threads may do so at once, if none of them trains the model.
    """
    trained = [module for module in model.modules() if module.training]
    try:
        yield model.eval()
    finally:
        for module in trained:
            module.training = True


class Evaluation(NamedTuple):
    """Scores of the model on given texts, predicting each next token."""

    loss: float  # not smoothed, nats per target token
    accuracy: float  # share of target tokens predicted right, given the true prefix
    n_tokens: int

    @property
    def perplexity(self) -> float:
        """Return exp(loss): the model is as uncertain as a choice among this many tokens.

        Above 709 nats, where a float overflows, it is infinity.
        """
        return math.inf if self.loss > 709 else math.exp(self.loss)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], pad_id: int = 0) -> Evaluation:
    """Return loss and accuracy over all tokens of all batches, without dropout.

    Raises:
        ValueError: there is no token to evaluate on.

    Built in notebook 07.
    """
    total, right, n_tokens = 0.0, 0, 0
    with evaluation_mode(model):
        for batch in batches:
            tgt_in, tgt_out = teacher_forcing(batch.tgt)
            logits = model(batch.src, tgt_in)
            loss, count = label_smoothed_loss(logits, tgt_out, 0.0, pad_id)
            total += float(loss)
            right += int(((logits.argmax(-1) == tgt_out) & (tgt_out != pad_id)).sum())
            n_tokens += int(count)
    if n_tokens == 0:
        raise ValueError("nothing to evaluate: no batch holds a target token")
    return Evaluation(total / n_tokens, right / n_tokens, n_tokens)


def average_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several state dicts, entry by entry, in float64 and rounded once.

    It is computed on the CPU, because not every device has float64.

    Raises:
        ValueError: there is no state, or their entries differ.

    Source: section 6.1, "averaging the last 5 checkpoints". Built in notebook 07.
    """
    if not states or any(state.keys() != states[0].keys() for state in states):
        raise ValueError("average_weights needs one or more state dicts with the same entries")
    return {
        name: torch.stack([state[name].cpu().double() for state in states]).mean(0).to(first)
        for name, first in states[0].items()
    }

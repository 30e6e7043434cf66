# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""The loss, the learning rate, one training step, evaluation, and averaged weights (section 5)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib.batching import Batch
from transformer_lib.masks import teacher_forcing

__all__ = [
    "label_smoothed_loss",
    "inverse_sqrt_rate",
    "noam_rate",
    "cooldown",
    "TrainConfig",
    "make_optimizer",
    "rate_at",
    "StepResult",
    "BatchLoss",
    "batch_loss",
    "update",
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
    """Cross-entropy against (1 - ε) on the right token and ε spread evenly over all V.

    A sum and a count, not a mean: only so do batches of unequal size, gradient accumulation and
    several machines add up to the same loss.

    Args:
        logits: one score per id.
        targets: the right ids; where they are pad_id, nothing is counted.
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
    """Rises in a straight line to `peak` at step `warmup`, then falls with 1 / √step.

    Args:
        step: number of the update, from 1.
        peak: the highest rate.
        warmup: number of the update that has it.

    Raises:
        ValueError: step or warmup is below 1.

    Source: the shape of equation 3. Built in notebook 07.
    """
    if step < 1 or warmup < 1:
        raise ValueError(f"steps count from 1, got step={step}, warmup={warmup}")
    return peak * min(step / warmup, (warmup / step) ** 0.5)


def noam_rate(step: int, d_model: int = 512, warmup: int = 4000) -> float:
    """The paper's rate: d_model^-0.5 · min(step^-0.5, step · warmup^-1.5).

    Source: section 5.3, equation 3. Built in notebook 07.
    """
    return inverse_sqrt_rate(step, (d_model * warmup) ** -0.5, warmup)


def cooldown(step: int, start: int, end: int) -> float:
    """A factor for the rate: 1 up to step `start`, then in a straight line to 0 at step `end`.

    Not in the paper, which takes the mean of the last checkpoints instead (section 6.1). Where
    the number of steps is known beforehand, it lets a short training settle.

    Raises:
        ValueError: it would end before it starts.

    Built in notebook 07.
    """
    if not 0 <= start < end:
        raise ValueError(f"a cooldown needs 0 <= start < end, got start={start}, end={end}")
    return min(1.0, max(0.0, (end - step) / (end - start)))


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained. The defaults are the paper's base run.

    Args:
        peak_rate: highest learning rate; the paper's (512 · 4000)^-0.5.
        warmup: steps until it is reached.
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
        problems = [
            f"{name} must be above 0, got {getattr(self, name)}"
            for name in ("peak_rate", "warmup", "max_grad_norm", "eps")
            if not getattr(self, name) > 0
        ]
        if not 0 <= self.smoothing < 1:
            problems.append(f"smoothing must be at least 0 and below 1, got {self.smoothing}")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas must be at least 0 and below 1, got {self.betas}")
        if self.cooldown and not 0 <= self.cooldown[0] < self.cooldown[1]:
            problems.append(f"cooldown must be two rising steps, got {self.cooldown}")
        if problems:
            raise ValueError("invalid TrainConfig: " + "; ".join(problems))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Adam with the paper's settings (section 5.3); `train_step` sets its rate."""
    return torch.optim.Adam(
        model.parameters(), lr=config.peak_rate, betas=config.betas, eps=config.eps, fused=True
    )


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of an update, counted from 1."""
    rate = inverse_sqrt_rate(step, config.peak_rate, config.warmup)
    return rate * cooldown(step, *config.cooldown) if config.cooldown else rate


class StepResult(NamedTuple):
    """What one update did."""

    loss: float  # smoothed, nats per target token
    n_tokens: int  # target tokens, padding not counted
    grad_norm: float  # before clipping
    rate: float


BatchLoss = Callable[[nn.Module, Batch, TrainConfig], Tensor]


def batch_loss(model: nn.Module, batch: Batch, config: TrainConfig) -> Tensor:
    """The label-smoothed loss of a batch, summed over its target tokens. Built in notebook 07."""
    tgt_in, tgt_out = teacher_forcing(batch.tgt)
    logits = model(batch.src, tgt_in)
    return label_smoothed_loss(logits, tgt_out, config.smoothing, config.pad_id)[0]


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: float,
    max_grad_norm: float,
    scaler: torch.amp.GradScaler,
) -> float:
    """Clips the gradients to max_grad_norm and takes one step of that rate.

    Args:
        scaler: float16 has no numbers below 6e-8, so the loss and with it all gradients were
            multiplied by a large number, which is taken out here. Where that was too large for
            the gradients, it is halved.

    Returns:
        The gradients' norm before clipping. Where it is not finite, no weight is changed.

    Built in notebook 07.
    """
    scaler.unscale_(optimizer)  # first: what is clipped is the gradients' true length
    grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
    for group in optimizer.param_groups:
        group["lr"] = rate
    if math.isfinite(grad_norm):
        scaler.step(optimizer)
    scaler.update()
    return grad_norm


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batch | Sequence[Batch],
    step: int,
    config: TrainConfig,
    scaler: torch.amp.GradScaler | None = None,
    loss_of: BatchLoss = batch_loss,
    divisor: float | None = None,
) -> StepResult:
    """One update: forward, loss, backward, rate, Adam.

    Args:
        batches: one, or several whose gradients are added up; it does not matter how they are cut.
        step: number of the update, from 1; it alone decides the rate.
        scaler: as in `update`; none is needed outside float16.
        loss_of: the objective to minimise, summed over the tokens of a batch.
        divisor: of the loss, instead of the number of target tokens in `batches`.

    Raises:
        ValueError, FloatingPointError: no target token; loss or gradient is not finite.

    Source: section 5. Built in notebook 07.
    """
    batches = [batches] if isinstance(batches, Batch) else batches
    scaler = scaler or torch.amp.GradScaler(enabled=False)  # which does nothing
    model.train()
    optimizer.zero_grad(set_to_none=True)
    n_tokens = sum(int((batch.tgt[:, 1:] != config.pad_id).sum()) for batch in batches)
    if n_tokens == 0:
        raise ValueError("nothing to learn from: no target token")
    total = 0.0
    for batch in batches:
        loss = loss_of(model, batch, config)
        scaler.scale(loss / (divisor or n_tokens)).backward()
        total += loss.detach()
    rate = rate_at(step, config)
    grad_norm = update(model, optimizer, rate, config.max_grad_norm, scaler)
    mean = float(total) / n_tokens
    hopeless = not scaler.is_enabled() or scaler.get_scale() < 1
    if not math.isfinite(grad_norm) and hopeless:
        told = f"loss {mean:.4g}, gradient norm {grad_norm:.4g} at step {step}, rate {rate:.3g}"
        raise FloatingPointError(f"{told}: nothing was updated")
    return StepResult(mean, n_tokens, grad_norm, rate)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off inside; restore the mode of every sub-module, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Evaluation(NamedTuple):
    """How well the model predicts given texts."""

    loss: float  # not smoothed, nats per target token
    accuracy: float  # share of target tokens predicted right, with the true prefix given
    n_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss): between how many tokens the model seems to choose."""
        return math.exp(self.loss)


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
    """The mean of several state dicts, entry by entry, in float64 and rounded once.

    Raises:
        ValueError: there is none, or they do not have the same entries.

    Source: section 6.1, "averaging the last 5 checkpoints". Built in notebook 07.
    """
    if not states or any(state.keys() != states[0].keys() for state in states):
        raise ValueError("average_weights needs one or more state dicts with the same entries")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        for name, first in states[0].items()
    }

"""Notebook 07's loop with what surrounds it: curves, validation, the stop button; and its text."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from transformer_lib.batching import IdPair, epoch_batches
from transformer_lib.data.multi30k import (
    DownloadError,
    MissingDataError,
    fetch_multi30k,
    has_multi30k,
    multi30k,
)
from transformer_lib.data.text import ParallelText
from transformer_lib.lessons.replicas import steps_on
from transformer_lib.training import (
    TrainConfig,
    batch_loss,
    count_targets,
    evaluation_mode,
    make_optimizer,
    train_step,
)

__all__ = ["Run", "captions", "fit"]

CAPTIONS = ("train", "val", "test_2016_flickr")


@dataclass
class Run:
    """The record of one run: its losses step by step, and what was measured on held-out pairs."""

    name: str
    steps: int
    losses: list[float] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)  # step: loss
    scores: dict[int, float] = field(default_factory=dict)  # step: share of what is right
    seconds: float = 0.0
    score_name: str = "sentences exactly right"

    def check(self, good: bool) -> None:
        """Print one line about the result of a run; raise if it is bad although the run ended."""
        if len(self.losses) < self.steps:
            stopped = f"stopped at step {len(self.losses)}"
            print(f"{self.name}: {stopped}, run its training cell for more")
        elif not good:
            raise AssertionError(f"{self.name}: trained to the end, but the result is bad")
        else:
            print(f"{self.name}: as expected")


def fit(
    name: str,
    model: nn.Module,
    pairs: Sequence[IdPair],
    config: TrainConfig,
    *,
    steps: int,
    max_tokens: int,
    val: Sequence[IdPair] = (),
    score: Callable[[], float] | None = None,
    score_name: str = "sentences exactly right",
    every: int = 100,
    floor: float | None = None,
    watch: Callable[[int], None] | None = None,
    cores: int | Literal["all"] = 1,
) -> Run:
    """Train for `steps` updates with `train_step`, draw the curves, and keep the best weights.

    On a CUDA device that has bf16, matrix products are computed in it. An interrupt, such as the ■
    button, ends the run early; the model keeps what it learned.

    Args:
        val: held-out pairs. Their loss, smoothed as in training, is measured `every` so many steps
            and at the end, and the model ends with the weights that had the lowest.
        score: measured at the same steps: the share of what `score_name` says.
        floor: the lowest possible loss, drawn as a dashed line.
        watch: called after every step with its number.
        cores: how many cores of a CPU share each batch, or "all": the updates are the same, but
            dropout draws other numbers.
    """
    from transformer_lib.lessons.figures import LiveCurves

    run, device = Run(name, steps, score_name=score_name), next(model.parameters()).device
    live, optimizer = LiveCurves(run, floor), make_optimizer(model.train(), config)
    held_out = [batch.to(device) for batch in epoch_batches(val, max_tokens)] if val else []
    best, epoch, started = (math.inf, {}), 0, time.monotonic()
    try:
        with mixed_precision(model), steps_on(cores, model, train_step) as update:
            while len(run.losses) < steps:
                for batch in epoch_batches(pairs, max_tokens, seed=0, epoch=epoch):
                    step = len(run.losses) + 1
                    result = update(optimizer, batch.to(device), step, config)
                    run.losses.append(result.loss)
                    if watch:
                        watch(step)
                    if step % every == 0 or step == steps:
                        if held_out:
                            run.validation[step] = loss = mean_loss(model, held_out, config)
                            if loss < best[0]:
                                best = loss, {k: v.clone() for k, v in model.state_dict().items()}
                        if score:
                            run.scores[step] = score()
                    live.draw_if_due()
                    if step == steps:
                        break
                epoch += 1
    except KeyboardInterrupt:
        print(f"\n{name}: stopped after {len(run.losses)} of {steps} steps, which the model keeps.")
        print("All cells below work; run this one again to train from the start.")
    else:
        if best[1]:
            model.load_state_dict(best[1])
    run.seconds = time.monotonic() - started
    return run


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence, config: TrainConfig) -> float:
    """Return the loss per target token, smoothed as in training, without dropout."""
    with evaluation_mode(model):
        total = sum(float(batch_loss(model, batch, config)) for batch in batches)
    return total / sum(count_targets(batch, config.pad_id) for batch in batches)


@contextmanager
def mixed_precision(model: nn.Module) -> Iterator[None]:
    """Compute the model's matrix products in bf16 inside, on a CUDA device that has it."""
    device, forward = next(model.parameters()).device, model.forward
    if device.type != "cuda" or not torch.cuda.is_bf16_supported():
        yield
        return

    def narrow(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return forward(*inputs).float()

    model.forward = narrow  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.forward


def captions(fetch: bool = True) -> dict[str, ParallelText] | None:
    """Return Multi30k's training, validation and test text of 2016, or None with a message.

    Args:
        fetch: get the files, about 1.3 MB, from the data set's repository if they are not here.
    """
    try:
        if fetch and not all(map(has_multi30k, CAPTIONS)):
            fetch_multi30k(splits=CAPTIONS)
        return {split.split("_")[0]: multi30k(split) for split in CAPTIONS}
    except (DownloadError, MissingDataError) as problem:
        print(f"Multi30k is not here, so this part is left out. {problem}")
        return None

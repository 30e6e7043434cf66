"""Data parallelism in threads: the second core for a training loop in a notebook."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from transformer_lib.batching import Batch
from transformer_lib.data.devices import n_physical_cores
from transformer_lib.training import StepResult, TrainConfig, batch_loss, count_targets, update

__all__ = ["Step", "steps_on"]

Step = Callable[[Optimizer, Batch, int, TrainConfig], StepResult]


class OwnDropout(nn.Dropout):
    """Dropout with random numbers of its own, so that threads do not draw from the same ones."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__(p)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout in training mode."""
        if not self.training or self.p == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep.div_(1 - self.p)


def replica(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy that shares the model's weights, with gradients and dropout of its own."""
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for mine, weight in zip(made.parameters(), model.parameters(), strict=True):
        mine.data = weight.data
    for module in list(made.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, OwnDropout(child.p, generator).train(child.training))
    return made


def share(batch: Batch, number: int, n: int, pad_id: int) -> Batch:
    """Return every n-th pair of a batch, padded no further than they need."""
    rows = (ids[number::n] for ids in batch)
    return Batch(*(ids[:, (ids != pad_id).any(0)] for ids in rows))


def train_step(
    replicas: list[nn.Module],
    pool: ThreadPoolExecutor,
    model: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    step: int,
    config: TrainConfig,
) -> StepResult:
    """Make the update of `training.train_step`, each replica with its share of the batch."""
    n_tokens = count_targets(batch, config.pad_id)
    if n_tokens == 0:
        raise ValueError("nothing to learn from: no target token")
    used = replicas[: len(batch.src)]

    def work(number: int) -> float:
        mine = used[number]
        mine.zero_grad()
        loss = batch_loss(mine, share(batch, number, len(used), config.pad_id), config)
        (loss / n_tokens).backward()
        return float(loss.detach())

    mean = sum(pool.map(work, range(len(used)))) / n_tokens
    for weight, *shared in zip(model.parameters(), *(r.parameters() for r in used), strict=True):
        grads = [mine.grad for mine in shared if mine.grad is not None]
        weight.grad = reduce(Tensor.add_, grads) if grads else None
    return StepResult(mean, n_tokens, *update(model, optimizer, mean, step, config))


@contextmanager
def steps_on(cores: int | Literal["all"], model: nn.Module, alone: Callable) -> Iterator[Step]:
    """Lend a function that makes one update of the model on so many cores of a CPU.

    Each core has a thread with a replica of the model, since one core is idle most of the time
    where two share the small matrices of a single model.

    Args:
        cores: "all" for the physical cores that this process may use; 1 for `alone`.
        alone: `training.train_step`, which makes the update on any other device, too.

    Raises:
        ValueError: cores is below 1.
    """
    n = n_physical_cores() if cores == "all" else cores
    if n < 1:
        raise ValueError(f"cores must be at least 1, got {n}")
    if n == 1 or next(model.parameters()).device.type != "cpu":
        yield partial(alone, model)
        return
    replicas = [replica(model, seed) for seed in torch.randint(2**62, (n,)).tolist()]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n, None, torch.set_num_threads, (1,)) as pool:
            yield partial(train_step, replicas, pool, model)
    finally:
        torch.set_num_threads(threads)  # that is what threads to come will get

"""How much memory a training step takes at its peak, told from two steps that take little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transformer_lib.batching import collate
from transformer_lib.train.consistency import choose_loss, loss_rows
from transformer_lib.train.distributed import train_step_of_all
from transformer_lib.train.resumable import ResumableRun
from transformer_lib.train.runs import InPrecision

__all__ = ["LiveTensors", "batch_bytes", "largest_at_once", "moment_bytes", "weight_bytes"]

ROWS = 4  # of the largest batch, and as many again, that are tried


class LiveTensors(TorchDispatchMode):
    """Inside, notes after every operation how many bytes the tensors hold that were made there.

    What an operation takes for itself and gives back before it ends is not seen.

    Args:
        device: tensors elsewhere are not counted.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.history = device, [0]
        self._alive: WeakValueDictionary[int, Any] = WeakValueDictionary()  # by address

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation; what comes out in the memory of what went in is not new."""
        given = self._storages((args, kwargs))
        out = func(*args, **(kwargs or {}))
        made = self._storages(out)
        self._alive.update({key: made[key] for key in made.keys() - given.keys()})
        self.history.append(sum(storage.nbytes() for storage in self._alive.values()))
        return out

    def _storages(self, values: Any) -> dict[int, Any]:
        tensors = (x for x in tree_leaves(values) if isinstance(x, torch.Tensor))
        found = (x.untyped_storage() for x in tensors if x.device.type == self.device.type)
        return {storage._cdata: storage for storage in found}


def largest_at_once(step: Callable[[int], object], times: float, device: torch.device) -> int:
    """The most bytes that a step on `times` as many rows would hold of what it makes.

    What an operation makes grows with the rows, or has nothing to do with them, as gradients. A
    step and one on twice the rows tell which, operation by operation: the peak of many rows may
    lie elsewhere than that of a few.

    Args:
        step: does the same operations for 1 (the rows) and 2 (all of them twice).
    """
    histories = []
    for repeat in (1, 2):
        with LiveTensors(device) as live:
            step(repeat)
        histories.append(live.history)
    if len(histories[0]) != len(histories[1]):  # torch does some things only for some sizes
        histories = [[max(history)] for history in histories]
    once, twice = histories
    return max(round(a + (b - a) * (times - 1)) for a, b in zip(once, twice, strict=True))


def batch_bytes(run: ResumableRun, largest: list[int]) -> int:
    """What a step with this batch holds at its peak besides weights, gradients and moments.

    The steps that are tried for that change weights and moments. Of a model that `torch.compile`
    will change, what it needs without that is told.

    Args:
        largest: indices of pairs.
    """
    lengths, settings, ranks = run.pairs.lengths, run.run, run.ranks
    longest = (max(largest, key=lambda i: lengths[i][side]) for side in (0, 1))  # as wide as all
    rows = list(dict.fromkeys([*longest, *largest]))[:ROWS]
    rows *= 2 if len(rows) == 1 else 1  # for a single row torch leaves some operations out
    times = len(largest) / len(rows)
    model = InPrecision(run.shared, run.dtype)
    at_a_time = loss_rows(settings.loss_rows, run.device, settings.compile)

    def step(repeat: int) -> None:
        batch = collate([run.pairs[i] for i in rows * repeat]).to(run.device)
        n_logits = at_a_time and repeat * max(1, round(at_a_time / times))
        batches = [batch] * min(run.accumulate, 2)  # the second finds gradients, as all later ones
        train_step_of_all(
            ranks, run.shared, model, run.optimizer, batches, run.step + 1, run.config, run.scaler,
            choose_loss(settings.r_drop, n_logits),
        )  # fmt: skip
        run.optimizer.zero_grad()

    for _ in range(2):  # the first makes the moments, and DDP puts its buckets in order behind it
        step(1)
    peak = largest_at_once(step, times, run.device)
    in_buckets = isinstance(run.shared, DistributedDataParallel)  # gradients, which stay there
    return max(0, peak - (0 if in_buckets else weight_bytes(run)))


def weight_bytes(run: ResumableRun) -> int:
    """Of the weights, or of their gradients."""
    return sum(p.nbytes for p in run.translator.model.parameters())


def moment_bytes(run: ResumableRun) -> int:
    """Adam keeps two numbers for every weight, Muon one."""
    return sum(
        p.nbytes * (2 if "betas" in group else 1)
        for group in run.optimizer.param_groups
        for p in group["params"]
    )

"""The processes of one training: who is who, what they tell each other, and how they fail together.

`torchrun` starts the same program N times, on one machine or on many, and tells each process its
number, its *rank*, through environment variables. A process that waits for one that will not come
waits until the time is up. So whatever decides the course of a training is decided by all, and an
error of one is an error of all.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

__all__ = ["ALONE", "AMONG_OTHERS", "Ranks", "join", "known_to_all"]

# What an error of one rank is raised as on the others, so that all end with the same exit status.
KINDS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    OSError,
    FloatingPointError,
    ValueError,
    RuntimeError,
)


def _kind(error: Exception) -> int:
    """Where in KINDS an error belongs."""
    return next((i for i, kind in enumerate(KINDS) if isinstance(error, kind)), len(KINDS) - 1)


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, and this one's place among them.

    With a single process every method gives back what it was given, to the bit.

    Args:
        rank: number of this process, from 0; rank 0 is the one that writes and speaks.
        world_size: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Is this the one that writes and speaks?"""
        return self.rank == 0

    @property
    def share(self) -> dict[str, int]:
        """This process's share, as `token_batches` takes it."""
        return {"rank": self.rank, "world_size": self.world_size} if self.world_size > 1 else {}

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order.

        They travel as JSON: torch's own `all_gather_object` would unpickle what comes from the
        network, and nothing from outside is ever unpickled here.
        """
        if self.world_size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(text)]))
        longest = int(max(sizes))  # all_gather wants tensors of one size
        found = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(found, F.pad(text, (0, longest - len(text))))
        return [json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(found, sizes, strict=True)]

    def sum(self, *values: int | float) -> list[int | float]:
        """Each value summed over the ranks."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, *values: int | float) -> list[int | float]:
        """Of each value the largest on any rank."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def mean(self, values: Sequence[float], weight: int) -> list[int | float]:
        """The mean of each value over the ranks, where this one counts `weight` times."""
        if self.world_size == 1:
            return list(values)
        *totals, n = self.sum(*(value * weight for value in values), weight)
        return [total / n for total in totals]

    def _reduce(self, values: Sequence[int | float], operation: dist.ReduceOp) -> list[int | float]:
        if self.world_size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, operation)
        return found.tolist()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What fails inside on one rank fails on all, instead of leaving the others waiting.

        Only for work in which the ranks do not wait for each other.
        """
        if self.world_size == 1:
            yield
            return
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            mine = error
        told = self.gather(mine and [_kind(mine), str(mine) or type(mine).__name__])
        failed = [(rank, *words) for rank, words in enumerate(told) if words]
        if failed and mine is None:
            rank, kind, text = failed[0]
            mine = KINDS[kind](f"rank {rank}: {text}")
        if mine:
            raise known_to_all(mine)

    def split(self, per_update: int) -> int:
        """How many of so many batches are this process's: an update stays as large as it was.

        Raises:
            ValueError: they cannot be shared evenly.
        """
        if per_update % self.world_size:
            raise ValueError(
                f"this run takes {per_update} batches for an update, which {self.world_size} "
                "processes cannot share evenly: start another number of them"
            )
        return per_update // self.world_size

    def seed_dropout(self, seed: int, step: int) -> None:
        """Other random numbers on every rank, the same whenever it is started again.

        Rank 0 goes on with the numbers that one process alone would draw.
        """
        if self.rank:
            torch.manual_seed(random.Random(f"{seed} {step} {self.rank}").getrandbits(63))


ALONE = Ranks()
AMONG_OTHERS = {"RANK", "WORLD_SIZE", "MASTER_ADDR"}  # what torchrun tells every process it starts


@contextlib.contextmanager
def join(choose_device: Callable[[], torch.device], wait_minutes: float) -> Iterator[Ranks]:
    """Meets the other processes where `torchrun` has started this one; else it stays alone.

    Args:
        choose_device: says what to compute on; of several GPUs each process takes its own.
        wait_minutes: how long to wait for another process before giving up.

    Raises:
        ValueError: there are more processes than GPUs.
        RuntimeError: another rank was lost.
    """
    if not os.environ.keys() >= AMONG_OTHERS:
        yield Ranks(device=choose_device())
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        device = _own_device(choose_device())
        # gloo for what the ranks tell each other: it needs no GPU, so no GPU has to wait for it
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(minutes=wait_minutes)
        place = {"store": _meeting_point(limit), "rank": rank, "world_size": world_size}
        dist.init_process_group(backend, timeout=limit, **place)
        yield Ranks(rank, world_size, device)
    except Exception as error:
        if world_size > 1 and not hasattr(error, "known_to_all"):
            raise _of_one_rank(error, rank) from error  # no farewell: the others are busy or gone
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _meeting_point(limit: timedelta) -> dist.Store:
    """Where the processes leave their addresses for each other: a store that torchrun keeps.

    It still has the addresses from before a restart, and whoever reads one of those finds nobody
    there. So each attempt gets names of its own. Of several agents each counts for itself, so
    their numbers cannot be used: there, it may take torchrun another attempt.
    """
    store, *_ = next(dist.rendezvous("env://", timeout=limit))
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _own_device(device: torch.device) -> torch.device:
    """Of the GPUs of this machine the one of this process."""
    if device.type != "cuda":
        return device
    number, n_devices = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= n_devices:
        raise ValueError(f"every process needs a GPU of its own: --nproc-per-node {n_devices}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def known_to_all(error: Exception) -> Exception:
    """The error, marked as one that every rank raises: rank 0 tells it for all."""
    error.known_to_all = True
    return error


def _of_one_rank(error: Exception, rank: int) -> Exception:
    """Either this rank failed alone, which only it can tell, or it has lost another one."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, dist.DistError) or "gloo" in reason:
        reason = re.sub(r"\[\S+:\d+\] ", "", reason)  # the place in torch's own source
        return RuntimeError(
            "another process of this training ended or does not answer, see what it wrote; to go "
            f"on from the last checkpoint: the same command with --resume auto ({reason})"
        )
    found = KINDS[_kind(error)](f"rank {rank}: {reason}")
    found.of_one_rank = True  # so it speaks, though it may not be rank 0
    return found

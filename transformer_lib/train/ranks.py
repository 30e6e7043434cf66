"""The processes of one training: their ranks, the values they exchange, and how they fail together.

`torchrun` starts the same program N times, on one machine or on many, and tells each process its
number, its *rank*, through environment variables. A process that waits for one that never arrives
waits until its time limit. So every decision about the course of a run is made by all ranks, and
an error on one is raised on all.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from transformer_lib.train.run_config import AMONG_OTHERS

__all__ = [
    "ALONE",
    "AMONG_OTHERS",
    "Ranks",
    "SharedMemory",
    "among_others",
    "connected",
    "is_of_connection",
    "join",
    "known_to_all",
]

connected = threading.Event()  # set once gloo's threads have been started in this process

# The kinds of error that other ranks raise too, so that all end with the same exit status.
WRONG_PATH = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
KINDS = (*WRONG_PATH, OSError, FloatingPointError, ValueError, RuntimeError)


def _kind(error: Exception) -> int:
    """Return the index in KINDS of an error's kind."""
    return next((i for i, kind in enumerate(KINDS) if isinstance(error, kind)), len(KINDS) - 1)


class SharedMemory:
    """Memory that the workers of one machine share, which is faster than the loopback interface.

    Each kind of exchange has a region of its own, which is written once in an update: all workers
    have waited for each other since, so nobody reads what the next update writes over.

    Args:
        file: number of a memory file (Linux) that all workers have open.
    """

    def __init__(self, file: int) -> None:
        self.file, self.n_bytes = file, 0
        self.regions: dict[Any, Tensor] = {}

    def region(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return the region of this shape; all workers ask for new ones in the same order."""
        if (shape, dtype) not in self.regions:
            n_bytes, page = math.prod(shape) * dtype.itemsize, mmap.ALLOCATIONGRANULARITY
            os.posix_fallocate(self.file, self.n_bytes, n_bytes)
            found = mmap.mmap(self.file, n_bytes, offset=self.n_bytes)
            self.n_bytes += math.ceil(n_bytes / page) * page
            self.regions[shape, dtype] = torch.frombuffer(found, dtype=dtype).view(shape)
        return self.regions[shape, dtype]


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, and this one's rank.

    With a single process every method returns its argument, to the bit.

    Args:
        rank: number of this process, from 0; rank 0 writes files and messages.
        world_size: number of processes.
        device: of this process.
        share_batches: the processes are the workers of one machine, which share every batch, so
            that their number changes no update; else each has batches of its own.
        memory: that such workers share; None where there is none.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    share_batches: bool = False
    memory: SharedMemory | None = None

    @property
    def is_main(self) -> bool:
        """True for the rank that writes files and messages."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order.

        They are sent as JSON: torch's own `all_gather_object` would unpickle data from the
        network, and nothing from outside is ever unpickled here.
        """
        if self.world_size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(text)]))
        longest = int(max(sizes))  # all_gather takes tensors of one size
        texts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(texts, F.pad(text, (0, longest - len(text))))
        return [json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(texts, sizes, strict=True)]

    def sum(self, *values: int | float) -> list[int | float]:
        """Return each value summed over the ranks."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, *values: int | float) -> list[int | float]:
        """Return the largest of each value on any rank."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Sequence[int | float], operation: dist.ReduceOp) -> list[int | float]:
        if self.world_size == 1:
            return list(values)
        reduced = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(reduced, operation)
        return reduced.tolist()

    @contextlib.contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Raise an error of one rank on all, instead of leaving the others waiting.

        Only for work in which the ranks do not wait for each other.
        """
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.world_size == 1:
                raise
            mine = error
        errors = self.gather(mine and [_kind(mine), str(mine) or type(mine).__name__])
        failed = [(rank, *error) for rank, error in enumerate(errors) if error]
        if failed and mine is None:
            rank, kind, text = failed[0]
            mine = KINDS[kind](f"rank {rank}: {text}")
        if mine:
            raise known_to_all(mine)


ALONE = Ranks()


@contextlib.contextmanager
def join(choose_device: Callable[[], torch.device], wait_minutes: float) -> Iterator[Ranks]:
    """Join the other processes if `torchrun` has started this one; else remain a single process.

    Args:
        choose_device: returns the device; of several GPUs each process takes its own.
        wait_minutes: how long to wait for another process before giving up.

    Raises:
        ValueError: there are more processes than GPUs.
        RuntimeError: another rank was lost.
    """
    if not among_others():
        yield Ranks(device=choose_device())
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        device = _own_device(choose_device())
        # gloo for the values that ranks exchange: no GPU has to wait for it
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(minutes=wait_minutes)
        group = {"store": _rendezvous(limit), "rank": rank, "world_size": world_size}
        dist.init_process_group(backend, timeout=limit, **group)
        yield Ranks(rank, world_size, device)
    except Exception as error:
        if world_size > 1 and not hasattr(error, "known_to_all"):
            raise _of_one_rank(error, rank) from error  # no goodbye: the others are gone
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def among_others() -> bool:
    """True if `torchrun` has started this process."""
    return os.environ.keys() >= AMONG_OTHERS


def _rendezvous(limit: timedelta) -> dist.Store:
    """Return the store, kept by torchrun, in which the processes leave their addresses.

    After a restart it still holds the old addresses, at which nobody answers. So each attempt
    uses a prefix of its own. Several agents count their attempts separately, so there the number
    cannot be used, and torchrun may need another attempt.
    """
    store, *_ = next(dist.rendezvous("env://", timeout=limit))
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _own_device(device: torch.device) -> torch.device:
    """Return this process's GPU of those in this machine."""
    if device.type == "mps":
        raise ValueError("several processes cannot share an MPS device: add --device cpu")
    if device.type != "cuda":
        return device
    number, n_devices = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= n_devices:
        raise ValueError(f"every process needs a GPU of its own: --nproc-per-node {n_devices}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def known_to_all(error: Exception) -> Exception:
    """Mark an error as one that every rank raises: rank 0 prints it for all."""
    error.known_to_all = True
    return error


def is_of_connection(error: Exception) -> bool:
    """True for an error of the connection to another process, which ended or does not answer."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _of_one_rank(error: Exception, rank: int) -> Exception:
    """Return an error of this rank alone, which only it can print, or of a lost rank."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if is_of_connection(error):
        reason = re.sub(r"\[\S+:\d+\] ", "", reason)  # the place in torch's own source
        return RuntimeError(
            "another process of this training ended or does not answer, see its output; to resume "
            f"from the last checkpoint: the same command with --resume auto ({reason})"
        )
    alone = KINDS[_kind(error)](f"rank {rank}: {reason}")
    alone.of_one_rank = True  # so it prints, though it may not be rank 0
    return alone

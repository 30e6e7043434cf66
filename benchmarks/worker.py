"""One peer in its own process, which measures on request.

    python -m benchmarks.worker KIND PEER FOLDER --threads N [--rank R --processes P --meeting FILE]

Orders come as lines of JSON on standard input, answers go as lines of JSON to standard output;
whatever a peer prints goes to standard error. So all peers stay ready while one of them works.
Several processes receive the same orders and share every batch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import distributions
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.loop import peak_memory, timed_steps
from benchmarks.material import Material
from benchmarks.peers import PEERS, NotOfferedError

__all__ = ["DecodingWorker", "TrainingWorker", "serve"]

DROPOUT = 0.1


class TrainingWorker:
    """Answers `losses`, `time` and `memory`."""

    def __init__(self, material: Material, module: Any, options: dict[str, Any]) -> None:
        self.material, self.make = material, module.training
        self.options, self.step = options, None
        self.batches = cycle(material.batches)

    def losses(self, steps: int) -> list[float]:
        """Return the first losses from the common weights, without dropout."""
        step = self.make(self.material, 0.0, **self.options)
        return [step(*batch) for batch in islice(cycle(self.material.batches), steps)]

    def _ready(self) -> Callable[..., float]:
        if self.step is None:
            self.step = self.make(self.material, DROPOUT, **self.options)
        return self.step

    def time(self, steps: int) -> dict[str, float]:
        """Return seconds and target tokens of so many steps; every peer gets the same batches."""
        return timed_steps(self._ready(), islice(self.batches, steps))

    def memory(self, steps: int) -> float | None:
        """Return the peak memory of training in bytes, on the largest batches first."""
        step = self._ready()
        by_size = sorted(self.material.batches, key=lambda pair: -pair[1].numel())
        return peak_memory(step, islice(cycle(by_size), steps))


class DecodingWorker:
    """Answers `translate`."""

    def __init__(self, material: Material, module: Any, options: dict[str, Any]) -> None:
        self.material = material
        self.decode = module.decoder(material, **options)
        self.threads = torch.get_num_threads()
        self.decode(material.sentences[:2], 1)  # what is set up once is not timed

    def translate(
        self, beam: int, batch: int, every: int, threads: int, workers: int = 1
    ) -> dict[str, Any] | None:
        """Return seconds and translations of every n-th sentence, or None if not offered.

        Args:
            workers: batches that are decoded side by side; they share the threads.
        """
        lines = self.material.sentences[::every]
        if getattr(self.decode, "whole", False):
            if batch == 1:
                return None
            batch = len(lines)
        many = getattr(self.decode, "many", self._many)  # a peer may have workers of its own
        try:
            many(lines[:2], beam, batch, workers, threads // workers)  # sets up, untimed
            started = time.perf_counter()
            found = many(lines, beam, batch, workers, threads // workers)
        except NotOfferedError:
            return None
        finally:
            torch.set_num_threads(self.threads)
        return {"seconds": time.perf_counter() - started, "found": found}

    def _many(
        self, lines: Sequence[str], beam: int, batch: int, workers: int, threads: int
    ) -> list[str]:
        """Decode in batches, the longest first: so no worker is left alone with a long one."""
        starts = range(0, len(lines), batch)[::-1]
        parts, beams = [lines[start : start + batch] for start in starts], [beam] * len(starts)
        torch.set_num_threads(threads)
        if workers == 1:
            found = list(map(self.decode, parts, beams))
        else:
            with ThreadPoolExecutor(workers, None, torch.set_num_threads, (threads,)) as pool:
                found = list(pool.map(self.decode, parts, beams))
        return list(chain.from_iterable(found[::-1]))


def versions() -> dict[str, str]:
    """Return the installed packages and their versions."""
    return {found.metadata["Name"]: found.version for found in distributions()}


def serve(kind: str, name: str, folder: Path, device: str) -> None:
    """Set the peer up, report it, and answer orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # from here on, what is printed goes to standard error
    peer = PEERS[kind][name]
    module = importlib.import_module(f"benchmarks.peers.{peer.module}")
    make = TrainingWorker if kind == "training" else DecodingWorker
    worker = make(Material.open(folder).to(device), module, peer.options)
    print(json.dumps({"ready": versions()}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(worker, order.pop("do"))(**order)
        if device != "cpu":
            torch.cuda.empty_cache()  # all peers share the card's memory
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Run the command described at the top of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=PEERS)
    parser.add_argument("peer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--meeting", help="file in which the processes find each other")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if (n := options.processes) > 1:
        given = {"store": dist.FileStore(options.meeting, n), "rank": options.rank}
        limit = timedelta(minutes=2)
        dist.init_process_group("gloo", **given, world_size=n, timeout=limit)
    serve(options.kind, options.peer, options.folder, options.device)


if __name__ == "__main__":
    main()

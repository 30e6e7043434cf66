"""Training on all cores of a CPU: one process for each, which share every batch.

One process with several threads leaves most of the second core idle, because the matrices of a
small model are too small to share. So the process that a user has started takes helpers. Each
computes its part of every batch on one core, and the gradients are summed (`distributed`). The
first process alone decides, writes and prints. The helpers end with it, whatever ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
import torch.distributed as dist

from transformer_lib.config import ModelConfig
from transformer_lib.data.devices import (
    check_threads,
    free_memory,
    keep_freed_memory,
    n_physical_cores,
)
from transformer_lib.train.ranks import ALONE, Ranks, SharedMemory, connected, is_of_connection
from transformer_lib.train.run_config import RunConfig, Workers
from transformer_lib.train.settings import n_weights

__all__ = ["Helpers", "choose_workers", "serve", "start_helpers"]

RATE = 4e10  # operations a second of one core, a low estimate
LEAST = 0.03  # seconds of computing, at that rate, that each worker has to have in an update
START = 20.0  # seconds of one core that a run has to take; starting the helpers takes about 1
PROCESS = 4e8  # bytes of a process with torch in it
WIDE = 256  # d_model from which more threads than one pay in a process
LOOPBACK = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
# How a helper starts: with the import path of the first process, and the rest as JSON.
CODE = """import json, sys
orders = json.loads(sys.stdin.readline())
sys.path[:] = orders["path"]
from transformer_lib.train.workers import serve
serve(orders)
"""


def choose_workers(
    workers: Workers, threads: int | None, config: ModelConfig, run: RunConfig
) -> tuple[int, int]:
    """Return the number of processes to train with on this CPU, and the threads of each.

    Args:
        workers: number of processes. "auto" is one per core where that pays: every worker has at
            least 30 ms to compute for an update, the whole run takes more than 20 s of one core,
            and the memory suffices.
        threads: cores to use in all; when left out, the physical cores of this job.

    Raises:
        ValueError: a number is below 1, or there are more workers than threads.
    """
    if threads is not None:
        check_threads(threads)
    if workers != "auto" and workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    if threads and workers != "auto" and workers > threads:
        raise ValueError(f"--workers {workers} need as many threads, but --threads is {threads}")
    cores = threads or n_physical_cores()
    n = _best_number(cores, config, run) if workers == "auto" else workers
    one_is_best = threads is None and config.d_model < WIDE
    return n, 1 if one_is_best else max(1, cores // n)


def _best_number(cores: int, config: ModelConfig, run: RunConfig) -> int:
    size = n_weights(config)
    seconds = 6 * size * run.max_tokens * run.accumulate / RATE  # of an update, on one core
    if run.last_step * seconds < START:
        return 1
    n = min(cores, int(seconds / LEAST), run.max_tokens // 64)
    if (free := free_memory(torch.device("cpu"))) is not None:
        layers = 120 * config.n_layers * config.d_model * run.max_tokens  # shared by the workers
        n = min(n, int((free - layers) / (PROCESS + 24 * size)))
    return max(1, n)


class Helpers:
    """The other processes of a training, and what ended them."""

    def __init__(self) -> None:
        self.started: list[tuple[subprocess.Popen[str], IO[str]]] = []  # and their errors

    def start(self, orders: Mapping[str, Any], threads: int) -> None:
        """Start one more process and give it its orders."""
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            pass_fds=[orders["group"]["memory"]] if orders["group"]["memory"] else (),
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        self.started.append((process, errors))
        with contextlib.suppress(OSError):  # it has ended already, and `wait_for_all` says so
            process.stdin.write(json.dumps(orders) + "\n")
            process.stdin.flush()

    def wait_for_all(self, store: dist.Store) -> None:
        """Wait until all have started; RuntimeError if one ends before."""
        names = [_ready(rank) for rank in range(1, len(self.started) + 1)]
        while not store.check(names):
            if any(process.poll() is not None for process, _ in self.started):
                raise RuntimeError(self._reason())
            time.sleep(0.02)

    def stop(self, grace: float = 0.0) -> None:
        """End all that are still running, after some seconds of grace."""
        for process, errors in self.started:
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
            errors.close()
        self.started = []

    @contextlib.contextmanager
    def name_the_lost(self) -> Iterator[None]:
        """Replace the error of a broken connection by what has ended a worker."""
        try:
            yield
        except Exception as error:
            if not (self.started and is_of_connection(error)):
                raise
            raise RuntimeError(self._reason()) from error

    def _reason(self) -> str:
        deadline = time.monotonic() + 2.0
        for rank, (process, errors) in enumerate(self.started, 1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if (status := process.returncode or 0) < 0:
                name = signal.Signals(-status).name
                hint = " (out of RAM? fewer --workers need less)" * (name == "SIGKILL")
                return f"worker {rank} was ended by {name}{hint}"
            errors.seek(0)
            if status and (lines := errors.read().strip().splitlines()):
                return f"worker {rank} failed: {lines[-1]}"
        return "a worker does not answer"


@contextlib.contextmanager
def start_helpers(
    n: int, threads: int, wait_minutes: float, module: str, given: Mapping[str, Any]
) -> Iterator[tuple[Ranks, Helpers]]:
    """Start n - 1 processes that train with this one, and stop them at the end.

    Args:
        n: number of workers; with 1, nothing is started.
        threads: of each.
        wait_minutes: how long to wait for another worker before giving up.
        module: its `help_out` is called in each helper, with its ranks and `given`.
        given: what JSON can hold.

    Raises:
        RuntimeError: a helper was lost.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    helpers = Helpers()
    if n == 1:
        yield ALONE, helpers
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, memory_file() as memory:
        meeting = str(Path(folder) / "meeting")
        group = {"world_size": n, "meeting": meeting, "wait": wait_minutes, "memory": memory}
        orders = {"path": sys.path, "module": module, "group": group, "given": given}
        try:
            for rank in range(1, n):
                helpers.start(orders | {"rank": rank}, threads)
            store = dist.FileStore(group["meeting"], n)
            helpers.wait_for_all(store)
            with helpers.name_the_lost():
                yield _join(store, 0, group), helpers
            helpers.stop(grace=10.0)
        finally:
            helpers.stop()  # before the group: nothing may be waited for any more
            if dist.is_initialized():
                dist.destroy_process_group()


@contextlib.contextmanager
def memory_file() -> Iterator[int | None]:
    """Lend the number of a file in memory; None where the system has none."""
    try:
        number = os.memfd_create("workers")
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield number
    finally:
        os.close(number)


def _join(store: dist.Store, rank: int, group: Mapping[str, Any]) -> Ranks:
    """Connect the processes over the loopback interface."""
    name, before = "GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME")
    if LOOPBACK and not before:
        os.environ[name] = LOOPBACK
    try:
        limit = timedelta(minutes=group["wait"])
        ours = {"store": store, "rank": rank, "world_size": group["world_size"]}
        connected.set()
        dist.init_process_group("gloo", timeout=limit, **ours)
    finally:
        if LOOPBACK and not before:
            del os.environ[name]
    memory = group["memory"] and SharedMemory(group["memory"])
    return Ranks(rank, group["world_size"], share_batches=True, memory=memory)


def _ready(rank: int) -> str:
    return f"worker {rank} is ready"


def serve(orders: Mapping[str, Any]) -> NoReturn:
    """Work as a helper, and end with the first process, whatever ends it."""
    if hasattr(signal, "SIGHUP"):  # the first process makes it a request to stop
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_end_with_input, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rank, group, status = orders["rank"], orders["group"], 0
    try:
        work = import_module(orders["module"]).help_out
        store = dist.FileStore(group["meeting"], group["world_size"])
        store.set(_ready(rank), "")
        work(_join(store, rank, group), orders["given"])
    except BaseException as error:
        status = 1
        if not hasattr(error, "known_to_all") and not is_of_connection(error):
            print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
    sys.stderr.flush()
    os._exit(status)  # threads of gloo may still be busy


def _end_with_input() -> NoReturn:
    """Wait for the end of the input, which the first process keeps open while it lives."""
    sys.stdin.read()
    os._exit(1)

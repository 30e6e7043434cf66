"""Measure peers in turns: all others wait while one works."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.environments import python_of
from benchmarks.peers import HERE, PEERS
from transformer_lib.train.workers import LOOPBACK

__all__ = [
    "Conditions",
    "Crew",
    "PeerError",
    "Worker",
    "agreement",
    "best_settings",
    "best_ways",
    "decoding_rounds",
    "largest_difference",
    "training_rounds",
]

ROOT = Path(__file__).resolve().parents[1]
# name: width of the beam, sentences in a batch, every n-th sentence, threads (None: as in training)
MODES = {
    "greedy": {"beam": 1, "batch": 64, "every": 1, "threads": None},
    "beam 5": {"beam": 5, "batch": 64, "every": 1, "threads": None},
    "one at a time": {"beam": 1, "batch": 1, "every": 10, "threads": 1},
}
# Too slow for the whole set every time: sentences per second of every fourth sentence instead.
SLOW = {("joeynmt", "beam 5"): 4}
# Sizes of a batch that every peer tries, each with all threads on one batch and with a batch for
# each thread; on every second sentence, before the rounds. Ours decides by itself.
BATCHES, SWEEP_EVERY = (32, 64, 128), 2


ERROR = re.compile(r"(\[rank\d+\]: )?\w*(Error|Exception)\b")  # last line of a traceback
Way = tuple[int, int]  # processes that share a peer's batches, and threads of each


class PeerError(RuntimeError):
    """A peer's process died; the message is the last thing it said."""


class Conditions:
    """Conditions shared by all peers of a run.

    Args:
        folder: of the material and the environments.
        threads: of every peer, but for `MODES` that say otherwise.
        preload: an allocator to load before everything else; None for the C library's.
        device: where all peers compute.
        here: all run in this environment, none in one of its own.
    """

    def __init__(
        self,
        folder: Path,
        threads: int,
        preload: str | None,
        device: str = "cpu",
        here: bool = False,
    ) -> None:
        self.folder, self.threads, self.preload = folder, threads, preload
        self.device, self.here = device, here

    def python_of(self, environment: str) -> Path:
        """Return the interpreter of a peer's environment."""
        return python_of(HERE if self.here else environment, self.folder)

    def environment(self, threads: int) -> dict[str, str]:
        """Return the environment variables of a worker with so many threads."""
        found = dict(os.environ) | {
            "OMP_WAIT_POLICY": "PASSIVE",  # who waits for its turn must not keep a core busy
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if LOOPBACK:
            found["GLOO_SOCKET_IFNAME"] = LOOPBACK
        if self.preload:
            found["LD_PRELOAD"] = self.preload
        return found


class Worker:
    """A `benchmarks.worker` in the peer's environment: one process, or several that train together.

    Args:
        way: processes and threads of each; left out, one with all threads.
    """

    def __init__(
        self, kind: str, name: str, conditions: Conditions, way: Way | None = None
    ) -> None:
        python = conditions.python_of(PEERS[kind][name].environment)
        logs = conditions.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.errors = logs / f"{kind}-{name.replace(' ', '-')}.txt"
        n, threads = way or (1, conditions.threads)
        self.meeting = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [python, "-m", "benchmarks.worker", kind, name, conditions.folder]
        command += ["--threads", threads, "--device", conditions.device, "--processes", n]
        command += ["--meeting", Path(self.meeting.name) / "file", "--rank"]
        with self.errors.open("w") as errors:
            self.processes = [
                subprocess.Popen(
                    [*map(str, command), str(rank)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=ROOT,
                    env=conditions.environment(threads),
                )
                for rank in range(n)
            ]
        self.versions: dict[str, str] = {}

    def wait(self) -> Worker:
        """Wait until the worker is set up.

        Raises:
            PeerError: it could not be.
        """
        self.versions = self._answer()["ready"]
        return self

    def ask(self, order: str, **values: Any) -> Any:
        """Send an order and wait for the answer, of several processes the first one's.

        Raises:
            PeerError: it died.
        """
        try:
            for process in self.processes:
                print(json.dumps({"do": order, **values}), file=process.stdin, flush=True)
        except BrokenPipeError as error:
            raise PeerError(self._last_words()) from error
        return self._answer()

    def _answer(self) -> Any:
        lines = [process.stdout.readline() for process in self.processes]
        if not all(lines):
            raise PeerError(self._last_words())
        return json.loads(lines[0])

    def _last_words(self) -> str:
        lines = self.errors.read_text("utf-8", "replace").strip().splitlines()
        errors = list(filter(ERROR.match, lines))
        causes = [line for line in errors if "gloo" not in line]  # not of one who lost the other
        return (causes or errors or lines or ["it died without a word"])[-1][:300]

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in self.processes:
            process.stdout.close()
            process.wait()
        self.meeting.cleanup()


class Crew:
    """Workers of one kind by name; one that fails is removed, and the reason recorded.

    Args:
        left_out: where that is noted.
        ways: processes and threads of some; of the others, one process with all threads.
    """

    def __init__(
        self,
        kind: str,
        names: Sequence[str],
        conditions: Conditions,
        left_out: dict[str, str],
        ways: Mapping[str, Way] | None = None,
    ) -> None:
        self.kind, self.left_out, ways = kind, left_out, ways or {}
        # all at once
        self.workers = {name: Worker(kind, name, conditions, ways.get(name)) for name in names}
        for name, worker in list(self.workers.items()):
            with self._noting(name):
                worker.wait()

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        try:
            yield
        except PeerError as error:
            self.left_out[f"{self.kind}: {PEERS[self.kind][name].title}"] = str(error)
            self.workers.pop(name).close()

    def turns(
        self, order: str, names: Sequence[str] | None = None, **values: Any
    ) -> Iterator[tuple[str, Any]]:
        """Ask one worker after the other; yield the name and answer of each that answers.

        A value may be a function of the name.

        Args:
            names: ask only these.
        """
        for name, worker in list(self.workers.items()):
            if names is not None and name not in names:
                continue
            given = {key: v(name) if callable(v) else v for key, v in values.items()}
            with self._noting(name):
                yield name, worker.ask(order, **given)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()


def training_rounds(
    crew: Crew, rounds: int, steps: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Return target tokens per second of every peer in every round, after a warm-up."""
    list(crew.turns("time", steps=warm_up))
    speeds: dict[str, list[float]] = {name: [] for name in crew.workers}
    for _ in range(rounds):
        for name, found in crew.turns("time", steps=steps):
            speeds[name].append(found["tokens"] / found["seconds"])
    return {name: speeds[name] for name in crew.workers}


def best_ways(
    names: Sequence[str],
    conditions: Conditions,
    left_out: dict[str, str],
    ways: Sequence[Way],
    steps: int,
) -> dict[str, list[dict[str, Any]]]:
    """Try every peer with each number of processes and threads, and return what each trial found.

    Every trial is a fresh start: first the peak memory of a process, then the speed.

    Returns:
        For each peer that trains, one entry per way that works, the fastest first.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name, way in itertools.product(names, ways):
        with Crew("training", [name], conditions, left_out, {name: way}) as crew:
            memory = dict(crew.turns("memory", steps=steps)).get(name)
            for _, timed in crew.turns("time", steps=steps):
                speed = timed["tokens"] / timed["seconds"]
                tried = {"processes": way[0], "threads": way[1]}
                tried |= {"tokens per second": speed, "memory": memory}
                found.setdefault(name, []).append(tried)
    return {
        name: sorted(tried, key=lambda trial: -trial["tokens per second"])
        for name, tried in found.items()
    }


def best_settings(
    crew: Crew, threads: int, batches: Sequence[int] = BATCHES, thin: int = SWEEP_EVERY
) -> dict[str, dict[str, dict[str, int]]]:
    """Return the fastest batch size and number of batches side by side, by mode and peer.

    Modes whose batch is one sentence have nothing to choose, and neither has ours, which decides
    by itself.
    """
    chosen: dict[str, dict[str, dict[str, int]]] = {}
    for mode, settings in MODES.items():
        fastest: dict[str, float] = {}
        for batch in batches if settings["batch"] > 1 else ():
            for workers in sorted({1, threads}):
                tried = {"batch": batch, "workers": workers}
                every = {
                    name: settings["every"] * SLOW.get((name, mode), 1) * thin
                    for name in crew.workers
                    if not name.startswith("ours")
                }
                order = settings | tried | {"threads": threads, "every": every.get}
                for name, found in crew.turns("translate", [*every], **order):
                    if found and found["seconds"] < fastest.get(name, float("inf")):
                        fastest[name] = found["seconds"]
                        chosen.setdefault(mode, {})[name] = tried
    return chosen


def decoding_rounds(
    crew: Crew,
    rounds: int,
    sentences: int,
    threads: int,
    thin: int = 1,
    chosen: Mapping[str, Mapping[str, Mapping[str, int]]] | None = None,
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, dict[int, str]]]]:
    """Return sentences per second of every peer, mode and round, and the translations.

    Args:
        sentences: how many there are in all.
        thin: takes only every n-th of what a mode would take, for a quick look.
        chosen: from `best_settings`.

    Returns:
        Mode to peer to speeds, and mode to peer to the last translations, by the sentence's number.
    """
    speeds: dict[str, dict[str, list[float]]] = {mode: {} for mode in MODES}
    texts: dict[str, dict[str, dict[int, str]]] = {mode: {} for mode in MODES}
    for _ in range(rounds):
        for mode, settings in MODES.items():
            every = {n: settings["every"] * SLOW.get((n, mode), 1) * thin for n in crew.workers}
            own = (chosen or {}).get(mode, {})
            order = settings | {
                "threads": settings["threads"] or threads,
                "every": every.get,
                "batch": lambda name, own=own, usual=settings: own.get(name, usual)["batch"],
                "workers": lambda name, own=own: own.get(name, {}).get("workers", 1),
            }
            for name, found in crew.turns("translate", **order):
                if found is not None:
                    places = range(0, sentences, every[name])
                    speeds[mode].setdefault(name, []).append(len(places) / found["seconds"])
                    texts[mode][name] = dict(zip(places, found["found"], strict=True))
    there = set(crew.workers)
    speeds = {
        mode: {n: v for n, v in found.items() if n in there} for mode, found in speeds.items()
    }
    return speeds, texts


def agreement(texts: Mapping[str, Mapping[int, str]], reference: str) -> dict[str, dict[str, int]]:
    """Count, for every peer, the translations that equal the reference's.

    Args:
        texts: peer to number of the sentence to its translation.
    """
    expected = texts.get(reference, {})
    found = {}
    for name, lines in texts.items():
        both = [number for number in lines if number in expected]
        same = sum(lines[number] == expected[number] for number in both)
        found[name] = {"same": same, "of": len(both)}
    return found if expected else {}


def largest_difference(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Return the largest difference of two curves, relative to the reference."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=True))

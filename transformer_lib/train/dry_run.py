"""Before the first step: does the disk hold it, does the memory, and when will it end?"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from transformer_lib.batching import collate, token_batches
from transformer_lib.data.corpora import ParallelText
from transformer_lib.data.files import list_checkpoints
from transformer_lib.train.memory import batch_bytes, moment_bytes, weight_bytes
from transformer_lib.train.resumable import ResumableRun, Resume
from transformer_lib.train.trainer import Trainer
from transformer_lib.train.validation import validation_scores

__all__ = ["Forecast", "check_space", "checkpoint_bytes", "disk_bytes", "forecast"]

STEPS = 6  # that are timed, after one to warm up
CPU_SLACK = 1.45  # glibc keeps pieces that were freed, as measured: see docs/faults.md
SENTENCES = 64  # of the validation text that are timed
SMALL = 2**16  # bytes of a checkpoint besides tensors and vocabularies
LABEL = 2**9  # more of them for each tensor: its name, and those of its moments


def checkpoint_bytes(run: ResumableRun) -> int:
    """The size of one checkpoint: weights, moments, vocabularies."""
    weights = weight_bytes(run)
    vocabularies = run.data.src_vocab.to_bytes(), run.data.tgt_vocab.to_bytes()
    labels = SMALL + LABEL * len(list(run.translator.model.parameters()))
    return weights + moment_bytes(run) + sum(map(len, vocabularies)) + labels


def disk_bytes(run: ResumableRun) -> int:
    """What the run's checkpoints will need on top of what they have now.

    As many as are kept, the best one, and the one that is being written.
    """
    left = max(0, run.run.last_step - run.step)
    saves = -(-left // run.run.validate_every)
    old = list_checkpoints(run.checkpoints)
    most = min(len(old) + saves, run.run.keep + 2)
    there = sum(path.stat().st_size for folder in old for path in folder.iterdir())
    return max(0, most * checkpoint_bytes(run) - there)


def check_space(run: ResumableRun) -> tuple[int, int]:
    """The bytes that the run will need, and those that its disk has left.

    The place is really asked for, in a file without a name that is gone at once: free space is no
    promise where users have a quota.

    Raises:
        OSError: there is not enough room, or the folder may not be written.
    """
    needed, place = disk_bytes(run), _existing(run.checkpoints)
    free = shutil.disk_usage(place).free
    problem = f"{free / 1e6:.3g} MB are free" if needed > free else ""
    if not problem:
        with tempfile.TemporaryFile(dir=place) as file:
            try:
                if needed and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, needed)
            except OSError as error:
                problem = error.strerror
    if problem:
        raise OSError(
            f"{run.checkpoints}: up to {run.run.keep + 2} checkpoints of "
            f"{checkpoint_bytes(run) / 1e6:.3g} MB need {needed / 1e6:.3g} MB more, but "
            f"{problem}: make room, or keep fewer with --keep"
        )
    return needed, free


@dataclass(frozen=True)
class Forecast:
    """What a training will need.

    Attributes:
        parameters: of the model, shared ones counted once.
        disk, disk_free: bytes of its checkpoints; bytes that are left.
        fixed, activations: bytes of weights, gradients and moments; of what a step with the
            largest batch holds besides, at its peak.
        slack: of what its tensors hold, so many times as much is taken from the system.
        memory_free: bytes that are left; None where the system does not tell.
        steps, step_seconds: updates to do, and the mean time of one.
        validations, validation_seconds: the same for looking up. At most: a model that has
            learned nothing yet writes up to the length limit.
    """

    parameters: int
    batches: int
    disk: int
    disk_free: int
    fixed: int
    activations: int
    slack: float
    memory_free: int | None
    steps: int
    step_seconds: float
    validations: int
    validation_seconds: float

    @property
    def memory(self) -> int:
        """Bytes that the process takes, on top of what Python and torch need themselves."""
        return round((self.fixed + self.activations) * self.slack)

    @property
    def seconds(self) -> float:
        """To the end."""
        return self.steps * self.step_seconds + self.validations * self.validation_seconds

    def table(self) -> str:
        """The forecast in words."""
        free = f" of {self.memory_free / 1e9:,.1f} GB free" if self.memory_free else ""
        return "\n".join(
            [
                f"model   {self.parameters:,} parameters; {self.batches:,} batches an epoch",
                f"disk    {self.disk / 1e6:,.0f} MB of {self.disk_free / 1e6:,.0f} MB free",
                f"memory  about {self.memory / 1e9:.2f} GB{free}: weights, gradients and moments "
                f"{self.fixed / 1e9:.2f}, the largest batch {self.activations / 1e9:.2f}, both "
                f"times {self.slack:g} for freed pieces that are not given back",
                f"time    about {_duration(self.seconds)}: {self.steps:,} steps of "
                f"{self.step_seconds:.3g} s, {self.validations:,} validations of at most "
                f"{self.validation_seconds:.3g} s",
            ]
        )


def forecast(trainer: Trainer, resume: Resume = "no") -> Forecast:
    """Tries a few steps of a run without keeping anything.

    The trainer is used up: its weights have moved. Nothing is written in its folder.

    Raises:
        ValueError: the folder holds a run already, or none to go on with, or one with other
            settings.
        OSError: there is no room for the checkpoints.
    """
    found = list_checkpoints(trainer.checkpoints)
    # "auto" would rename a checkpoint that is damaged; here it is only told
    trainer._take_up(found, "latest" if resume == "auto" and found else resume, len)
    needed, free = check_space(trainer)
    run, model = trainer.run, trainer.translator.model
    steps = max(0, run.last_step - trainer.step)
    draw = {"seed": run.seed, "epoch": trainer.epoch}
    plan = token_batches(trainer.pairs.lengths, run.max_tokens, **draw)
    memory_free = _free_memory(trainer.device)
    largest = max(plan, key=lambda rows: _cells(trainer.pairs.lengths, rows))
    return Forecast(
        parameters=sum(p.numel() for p in model.parameters()),
        batches=len(plan),
        disk=needed,
        disk_free=free,
        fixed=2 * weight_bytes(trainer) + moment_bytes(trainer),
        activations=batch_bytes(trainer, largest),
        slack=CPU_SLACK if trainer.device.type == "cpu" else 1.0,
        memory_free=memory_free,
        steps=steps,
        step_seconds=_time_steps(trainer, plan),
        validations=-(-steps // run.validate_every),
        validation_seconds=_time_validation(trainer),
    )


def _time_steps(trainer: Trainer, plan: list[list[int]]) -> float:
    """Seconds of a step of mean size."""
    batches, each, seconds, cells = trainer.batches(), trainer.run.accumulate, 0.0, 0
    for number in range(1 + STEPS):
        here = list(itertools.islice(batches, each))
        started = time.monotonic()
        trainer._update(iter(here))
        if number:  # the first one warms up
            seconds += time.monotonic() - started
            cells += sum(batch.src.numel() + batch.tgt.numel() for batch in here)
    lengths = trainer.pairs.lengths
    return seconds / cells * each * sum(_cells(lengths, rows) for rows in plan) / len(plan)


def _cells(lengths: list[tuple[int, int]], rows: list[int]) -> int:
    """Ids of a batch, padding included."""
    return len(rows) * sum(max(lengths[i][side] for i in rows) for side in (0, 1))


def _time_validation(trainer: Trainer) -> float:
    """Seconds of a validation, from some sentences of its text."""
    text, pairs = trainer.validation, trainer.validation_pairs
    chosen = range(0, len(text), -(-len(text) // SENTENCES))
    sides = (tuple(side[i] for i in chosen) for side in (text.source, text.target))
    some = ParallelText(*sides, name="some")
    batches = [collate([pairs[i] for i in chosen]).to(trainer.device)]
    started = time.monotonic()
    validation_scores(trainer.model, trainer.translator, batches, some)
    return (time.monotonic() - started) * len(text) / len(chosen)


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"

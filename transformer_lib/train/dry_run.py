"""A forecast before the first step: is there room on the disk and in memory, and how long?"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from dataclasses import dataclass

from transformer_lib.batching import collate, token_batches
from transformer_lib.data.devices import free_memory
from transformer_lib.data.files import list_checkpoints
from transformer_lib.data.reading import check_ids
from transformer_lib.data.text import ParallelText
from transformer_lib.train.folder import Resume, check_run_folder, choose_checkpoint
from transformer_lib.train.trainer import Trainer
from transformer_lib.train.validation import validation_scores

__all__ = ["Forecast", "check_space", "checkpoint_bytes", "disk_bytes", "forecast", "memory_bytes"]

STEPS = 6  # timed, after one to warm up
SENTENCES = 64  # of the validation text, timed
SMALL = 2**16  # bytes of a checkpoint besides tensors and vocabularies
LABEL = 2**9  # more bytes for each tensor: its name, and those of its moments
SAVED_D, SAVED_F = 29, 1  # numbers of width D and F that a pair of layers keeps for each token
LOGITS = 3  # logits, their softmax, and their gradient


def checkpoint_bytes(trainer: Trainer) -> int:
    """Estimate the size of one checkpoint: weights, moments, vocabularies."""
    vocabularies = trainer.data.src_vocab.to_bytes(), trainer.data.tgt_vocab.to_bytes()
    labels = SMALL + LABEL * len(list(trainer.translator.model.parameters()))
    tensors = _weight_bytes(trainer) + _moment_bytes(trainer)
    return tensors + sum(map(len, vocabularies)) + labels


def disk_bytes(trainer: Trainer) -> int:
    """Estimate the bytes that the run's checkpoints will need in addition to those on disk.

    There are as many as are kept, the best one, and the one that is being written.
    """
    run = trainer.run
    saves = -(-max(0, run.last_step - trainer.step) // run.validate_every)
    old = list_checkpoints(trainer.checkpoints)
    most = min(len(old) + saves, run.keep + 2)
    there = sum(path.lstat().st_size for folder in old for path in folder.glob("*"))
    return max(0, most * checkpoint_bytes(trainer) - there)


def check_space(trainer: Trainer) -> tuple[int, int]:
    """Return the bytes that the run will need, and those that its disk has left.

    A nameless file of that size is allocated and freed at once: where users have a quota, free
    space alone is no promise.

    Raises:
        OSError: there is not enough room, or the folder may not be written.
    """
    check_run_folder(trainer.folder)
    needed, path = disk_bytes(trainer), trainer.checkpoints.absolute()
    folder = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    problem = f"{free / 1e6:.3g} MB are free" if needed > free else ""
    if not problem:
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                if needed and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, needed)
            except OSError as error:
                problem = error.strerror
    if problem:
        raise OSError(
            f"{trainer.checkpoints}: up to {trainer.run.keep + 2} checkpoints of "
            f"{checkpoint_bytes(trainer) / 1e6:.3g} MB need {needed / 1e6:.3g} MB more, but "
            f"{problem}: make room, or keep fewer with --keep"
        )
    return needed, free


@dataclass(frozen=True)
class Forecast:
    """The resources that a run will need; memory and disk in bytes."""

    parameters: int  # of the model, shared ones counted once
    batches: int  # in an epoch
    disk: int  # for its checkpoints
    disk_free: int
    fixed: int  # memory of weights, gradients and moments
    step_memory: int  # of a step with the largest batch
    memory_free: int | None  # None if the system does not say
    steps: int  # updates to do
    step_seconds: float  # mean of one
    validations: int
    validation_seconds: float  # at most: an untrained model translates up to the length limit
    processes: int = 1  # on this machine, each with the memory above

    @property
    def memory(self) -> int:
        """Bytes that the run needs, in addition to those of Python and torch."""
        return self.processes * (self.fixed + self.step_memory)

    def table(self) -> str:
        """Return the forecast as text."""
        seconds = self.steps * self.step_seconds + self.validations * self.validation_seconds
        each = f" in each of {self.processes} processes" * (self.processes > 1)
        free = f" of {self.memory_free / 1e9:,.1f} GB free" if self.memory_free else ""
        return "\n".join(
            [
                f"model   {self.parameters:,} parameters; {self.batches:,} batches an epoch",
                f"disk    {self.disk / 1e6:,.0f} MB of {self.disk_free / 1e6:,.0f} MB free",
                f"memory  about {self.memory / 1e9:.2f} GB{free}: weights, gradients and moments "
                f"{self.fixed / 1e9:.2f}, the largest batch {self.step_memory / 1e9:.2f}{each}",
                f"time    about {_duration(seconds)}: {self.steps:,} steps of "
                f"{self.step_seconds:.3g} s, {self.validations:,} validations of at most "
                f"{self.validation_seconds:.3g} s",
            ]
        )


def forecast(trainer: Trainer, resume: Resume = "no") -> Forecast:
    """Try a few steps of a run without keeping anything.

    The trainer is used up: its weights have moved. Nothing is written in its folder.

    Raises:
        ValueError: the folder holds a run already, or none to resume, or one with other settings.
        OSError: there is no room for the checkpoints.
    """
    if resume == "auto" and list_checkpoints(trainer.checkpoints):
        resume = "latest"  # "auto" would rename a damaged checkpoint
    choose_checkpoint(trainer.folder, resume, trainer.restore, lambda message: None)
    needed, free = check_space(trainer)
    run, lengths = trainer.run, trainer.pairs.lengths
    steps = max(0, run.last_step - trainer.step)
    plan = token_batches(lengths, run.max_tokens, seed=run.seed, epoch=trainer.epoch)
    return Forecast(
        parameters=sum(p.numel() for p in trainer.translator.model.parameters()),
        batches=len(plan),
        disk=needed,
        disk_free=free,
        fixed=2 * _weight_bytes(trainer) + _moment_bytes(trainer),
        step_memory=max(memory_bytes(trainer, *_sizes(lengths, rows)) for rows in plan)
        // trainer.split,
        memory_free=free_memory(trainer.device),
        processes=trainer.ranks.world_size if trainer.ranks.share_batches else 1,
        steps=steps,
        step_seconds=_time_steps(trainer, plan),
        validations=-(-steps // run.validate_every),
        validation_seconds=_time_validation(trainer),
    )


def memory_bytes(trainer: Trainer, n_src: int, n_tgt: int) -> int:
    """Estimate the bytes of a step besides weights, gradients and moments.

    Args:
        n_src, n_tgt: ids of the batch, padding included.
    """
    config, rows = trainer.translator.model.config, trainer.loss.rows or n_tgt
    width = SAVED_D * config.d_model + SAVED_F * config.d_ff
    layers = config.n_layers * width * (n_src + n_tgt) // 2
    return 4 * (layers + LOGITS * min(rows, n_tgt) * config.tgt_vocab_size)


def _sizes(lengths: list[tuple[int, int]], rows: list[int]) -> tuple[int, ...]:
    """Return the source and target ids of a batch, padding included."""
    return tuple(len(rows) * max(lengths[i][side] for i in rows) for side in (0, 1))


def _weight_bytes(trainer: Trainer) -> int:
    return sum(p.nbytes for p in trainer.translator.model.parameters())


def _moment_bytes(trainer: Trainer) -> int:
    """Return the bytes of the moments: Adam keeps two numbers for every weight, Muon one."""
    return sum(
        p.nbytes * (2 if "betas" in group else 1)
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    )


def _time_steps(trainer: Trainer, plan: list[list[int]]) -> float:
    """Return the seconds of a step of mean size."""
    batches, each, seconds, n_ids = trainer.batches(), trainer.accumulate, 0.0, 0
    for number in range(1 + STEPS):
        here = list(itertools.islice(batches, each))
        started = time.monotonic()
        trainer.update(here)
        if number:  # the first one warms up
            seconds += time.monotonic() - started
            n_ids += sum(batch.src.numel() + batch.tgt.numel() for batch in here)
    lengths, n_batches = trainer.pairs.lengths, each / trainer.split
    mean = sum(sum(_sizes(lengths, rows)) for rows in plan) / len(plan)
    return seconds / n_ids * n_batches * mean


def _time_validation(trainer: Trainer) -> float:
    """Return the seconds of a validation, from some sentences of its text."""
    text, pairs = trainer.validation, trainer.validation_pairs
    fits = trainer.validated
    chosen = fits[:: -(-len(fits) // SENTENCES)]
    sides = (tuple(side[i] for i in chosen) for side in (text.source, text.target))
    some = ParallelText(*sides, name="some")
    config = trainer.translator.model.config
    batches = [check_ids(collate([pairs[i] for i in chosen]), config).to(trainer.device)]
    started = time.monotonic()
    validation_scores(trainer.loss.to(trainer.device), trainer.translator, batches, some)
    return (time.monotonic() - started) * len(text) / len(chosen)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"

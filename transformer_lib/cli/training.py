"""`transformer-lib train`: every field of our three configurations as a flag."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from transformer_lib.cli.common import Device, choose_device, set_threads
from transformer_lib.cli.ending import how_to_go_on, saved, told_what_is_saved
from transformer_lib.config import ModelConfig
from transformer_lib.data.prepared import Prepared
from transformer_lib.train.dry_run import check_space, forecast
from transformer_lib.train.ranks import join
from transformer_lib.train.resumable import Resume
from transformer_lib.train.runs import RunConfig
from transformer_lib.train.trainer import Trainer
from transformer_lib.training import TrainConfig

__all__ = ["ModelFlags", "TrainFlags", "train"]


@dataclass(frozen=True)
class ModelFlags:
    """Sizes of the model; what is left out comes from the preset.

    Args:
        d_model: width of all vectors between the sub-layers.
        n_heads: attention heads; they divide d_model.
        n_layers: encoder layers, and as many decoder layers.
        d_ff: inner width of the feed-forward network.
        dropout: share dropped behind every sub-layer and behind embedding + position.
        max_len: positions held ready.
        norm_first: pre-norm instead of the paper's post-norm.
        tie_embeddings: one matrix for source, target and output where they share a vocabulary.
        positions: what tells the model the order of the words.
    """

    d_model: int | None = None
    n_heads: int | None = None
    n_layers: int | None = None
    d_ff: int | None = None
    dropout: float | None = None
    max_len: int | None = None
    norm_first: bool | None = None
    tie_embeddings: bool | None = None
    positions: Literal["sinusoidal", "learned", "none"] | None = None


@dataclass(frozen=True)
class TrainFlags:
    """Loss, learning rate and Adam; the defaults are the paper's.

    Args:
        peak_rate: highest learning rate; the paper's (d_model · warmup)^-0.5 when left out.
        warmup: steps until it is reached.
        cooldown: share of the steps, at the end, over which the rate falls to 0; the paper has 0.
        smoothing: of the labels.
        max_grad_norm: longer gradients are cut to this length.
        betas: Adam's two memories.
        eps: Adam's smallest divisor.
    """

    peak_rate: float | None = None
    warmup: int = 4000
    cooldown: float = 0.0
    smoothing: float = 0.1
    max_grad_norm: float = math.inf
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9


def train(
    data: Annotated[Path, Positional, arg(metavar="DATA")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    model: ModelFlags,
    rates: TrainFlags,
    run: RunConfig,
    preset: Literal["tiny", "base", "big"] = "tiny",
    device: Device = "auto",
    threads: int | None = None,
    validation: str = "val",
    resume: Resume = "no",
    dry_run: bool = False,
) -> int:
    """Trains a model, validates and saves on a schedule, and goes on after an interruption.

    Args:
        data: a folder that `prepare` wrote.
        out: the folder of this run.
        model: sizes.
        rates: loss and optimiser.
        run: length and schedule.
        preset: sizes to start from: tiny (4 layers, 128), base and big (the paper's).
        device: auto takes a GPU where there is one.
        threads: CPU threads; torch's choice when left out.
        validation: the split to validate on.
        dry_run: check settings, data, disk and memory, time a few steps, and write nothing.
        resume: go on in `out`: from the latest checkpoint, or (auto) from the latest whole one.
    """
    set_threads(threads)
    check_flags(preset, model, rates, run.steps)
    with join(partial(choose_device, device), run.wait_minutes) as ranks:
        with ranks.together():
            corpus = Prepared(data)
            config = model_config(corpus, preset, model)
            schedule = train_config(rates, config, run.steps)
        place = {"device": ranks.device, "validation": validation, "ranks": ranks}
        trainer = Trainer(corpus, config, schedule, run, out, **place)
        with ranks.together():
            if dry_run:
                return tell_forecast(trainer, resume)
            if ranks.is_main:  # it alone writes there
                check_space(trainer)
        say = partial(print, flush=True) if ranks.is_main else len
        trainer.start(resume, say=say)
        with told_what_is_saved(trainer):
            reason = trainer.fit()
    best = trainer.best
    say(f"{reason}: step {trainer.step}, {trainer.seconds / 60:.1f} minutes of training")
    if best["step"]:
        say(f"best validation BLEU {best['bleu']:.2f} at step {best['step']}")
    say(f"{saved(trainer)}; {how_to_go_on(trainer, reason)}")
    stopped = {signal.SIGINT.name: 130, signal.SIGTERM.name: 143}
    return stopped.get(reason, 0)


def check_flags(preset: str, model: ModelFlags, rates: TrainFlags, steps: int) -> None:
    """Lists what is wrong with all settings at once, before any data is read."""
    problems, sizes = [], ModelConfig.tiny(4)
    try:
        sizes = getattr(ModelConfig, preset)(4, **_given(model))
    except ValueError as error:
        problems.append(str(error))
    try:
        train_config(rates, sizes, steps)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))


def tell_forecast(trainer: Trainer, resume: Resume) -> int:
    """Says what a training would need.

    Raises:
        MemoryError: it is more memory than there is.
    """
    say = print if trainer.ranks.is_main else len
    found = forecast(trainer, resume)
    say(found.table())
    if found.memory_free is not None and found.memory > found.memory_free:
        raise MemoryError("this is more memory than there is: a smaller --max-tokens needs less")
    say("a dry run: nothing was written")
    return 0


def model_config(corpus: Prepared, preset: str, flags: ModelFlags) -> ModelConfig:
    """The preset's sizes with the flags' changes, for the corpus's vocabularies."""
    changes = _given(flags)
    vocab_sizes = len(corpus.src_vocab), len(corpus.tgt_vocab)
    sizes = getattr(ModelConfig, preset)(vocab_sizes[0], **changes)
    if vocab_sizes[0] == vocab_sizes[1]:
        return sizes
    names = {field.name for field in fields(ModelConfig)} - {"src_vocab_size", "tgt_vocab_size"}
    return ModelConfig(*vocab_sizes, **{name: getattr(sizes, name) for name in names})


def train_config(flags: TrainFlags, config: ModelConfig, steps: int) -> TrainConfig:
    """The flags as a `TrainConfig`: the paper's rate where none is given, the cooldown in steps."""
    if not 0 <= flags.cooldown <= 1:
        raise ValueError(f"--cooldown is a share between 0 and 1, got {flags.cooldown}")
    values = _given(flags) | {"pad_id": config.pad_id}
    if "peak_rate" not in values and flags.warmup > 0:  # else TrainConfig says what is wrong
        values["peak_rate"] = (config.d_model * flags.warmup) ** -0.5
    start = round(steps * (1 - flags.cooldown))
    return TrainConfig(**(values | {"cooldown": (start, steps) if start < steps else None}))


def _given(flags: Any) -> dict[str, Any]:
    values = {field.name: getattr(flags, field.name) for field in fields(flags)}
    return {name: value for name, value in values.items() if value is not None}

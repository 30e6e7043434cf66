"""`transformer-lib train`: every field of the three configurations as a flag."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from transformer_lib.cli.commands import ModelFlags, Preset, TrainFlags
from transformer_lib.cli.common import choose_device, command_line, set_threads
from transformer_lib.config import ModelConfig
from transformer_lib.data.files import list_checkpoints
from transformer_lib.data.prepared import Prepared
from transformer_lib.train.dry_run import check_space, forecast
from transformer_lib.train.finetune import Start
from transformer_lib.train.folder import Resume
from transformer_lib.train.ranks import Ranks, among_others, join
from transformer_lib.train.run_config import RunConfig, Workers
from transformer_lib.train.trainer import Trainer
from transformer_lib.train.validation import describe
from transformer_lib.train.workers import Helpers, choose_workers, start_helpers
from transformer_lib.training import TrainConfig

__all__ = ["train"]

PRESET_SIZES = ("d_model", "n_heads", "n_layers", "d_ff")
AGAIN = "to resume: the same command with --resume auto"


def train(
    data: Path,
    out: Path,
    model: ModelFlags,
    rates: TrainFlags,
    run: RunConfig,
    preset: Preset | None,
    init: str | None,
    device: str,
    threads: int | None,
    workers: Workers,
    validation: str,
    resume: Resume,
    dry_run: bool,
) -> int:
    """Run the command; `commands.train` has its arguments."""
    with join(partial(choose_device, device), run.wait_minutes) as ranks:
        with ranks.raise_on_all_ranks():
            if not init:
                check_flags(preset or "tiny", model, rates, run.steps)
            corpus = Prepared(data)
            start = find_start(init, out, corpus, resume)
            if start:
                config = config_of(start, preset, model)
            else:
                config = model_config(corpus, preset or "tiny", model)
            schedule = train_config(rates, config, run.steps)
            n, threads = find_workers(workers, threads, config, run, ranks)
        given = {"data": str(data.absolute()), "out": str(out.absolute()), "resume": resume}
        given |= {"model": asdict(config), "train": asdict(schedule), "run": asdict(run)}
        given |= {"validation": validation, "init": start.record if start else None}
        given |= {"dry_run": dry_run}
        helpers_of = start_helpers(n, threads, run.wait_minutes, __name__, given)
        with helpers_of as (workers_ranks, helpers):
            ranks = workers_ranks if n > 1 else ranks
            options = {"device": ranks.device, "validation": validation, "ranks": ranks}
            trainer = Trainer(corpus, config, schedule, run, out, **options, init=start)
            say = partial(print, flush=True) if ranks.is_main else (lambda message: None)
            if dry_run:
                with ranks.raise_on_all_ranks():
                    return print_forecast(trainer, resume)
            reason = run_training(trainer, start, resume, helpers, say)
    best = trainer.best
    say(f"{reason}: step {trainer.step}, {trainer.seconds / 60:.1f} minutes of training")
    if best["step"]:
        say(f"best validation {describe(best, trainer.measure)} at step {best['step']}")
    if trainer.saved:
        last = corpus.splits[-1]  # the one for final scores, if there is one
        say(f"to score it: {command_line('evaluate', out, '--data', data, '--split', last)}")
        say(f"to use it:   {command_line('translate', out, corpus.text(validation).source[0])}")
    say(f"{last_saved(trainer)}; {next_command(trainer, reason)}")
    stopped = {signal.SIGINT.name: 130, signal.SIGTERM.name: 143}
    return stopped.get(reason, 0)


def find_workers(
    workers: Workers, threads: int | None, config: ModelConfig, run: RunConfig, ranks: Ranks
) -> tuple[int, int]:
    """Return the number of processes and the threads of each, see `choose_workers`.

    On a GPU, and where torchrun has started the processes, there is nothing to start.

    Raises:
        ValueError: several workers are asked for there, or a number is wrong.
    """
    if ranks.device.type == "cpu" and not among_others():
        return choose_workers(workers, threads, config, run)
    if workers not in ("auto", 1):
        raise ValueError(
            f"--workers {workers} is for the CPU of one machine: leave it out with a GPU, "
            "or where torchrun starts the processes"
        )
    set_threads(threads)
    return 1, torch.get_num_threads()


def run_training(
    trainer: Trainer,
    start: Start | None,
    resume: Resume,
    helpers: Helpers,
    say: Callable[[str], Any],
) -> str:
    """Train, and return the reason why it ended."""
    with trainer.ranks.raise_on_all_ranks():
        if trainer.ranks.is_main:  # it alone writes there
            check_space(trainer)
    if start and start.model:
        say(f"starting from the weights of {start.name}")
    trainer.start(resume, say=say)
    with explain_how_to_resume(trainer), helpers.name_the_lost():
        return trainer.fit()


def help_out(ranks: Ranks, given: dict[str, Any]) -> None:
    """Train as one of the helpers that `train` has started."""
    kinds = {"model": ModelConfig, "train": TrainConfig, "run": RunConfig}
    configs = [kind(**_with_tuples(given[name])) for name, kind in kinds.items()]
    init = given["init"] and Start(**given["init"], config=configs[0])
    options = {"validation": given["validation"], "ranks": ranks, "init": init}
    trainer = Trainer(Prepared(given["data"]), *configs, Path(given["out"]), **options)
    if given["dry_run"]:
        with ranks.raise_on_all_ranks():
            print_forecast(trainer, given["resume"])
    else:
        run_training(trainer, init, given["resume"], Helpers(), lambda message: None)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as it was before JSON made its tuples lists."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def check_flags(preset: str, model: ModelFlags, rates: TrainFlags, steps: int) -> None:
    """Raise an error that lists all wrong settings at once, before any data is read."""
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


def print_forecast(trainer: Trainer, resume: Resume) -> int:
    """Print the resources that a run would need.

    Raises:
        MemoryError: the run needs more memory than there is.
    """
    needs = forecast(trainer, resume)
    if trainer.ranks.is_main:
        print(needs.table())
    if needs.memory_free is not None and needs.memory > needs.memory_free:
        raise MemoryError("this is more memory than there is: a smaller --max-tokens needs less")
    if trainer.ranks.is_main:
        print("a dry run: nothing was written")
    return 0


def model_config(corpus: Prepared, preset: str, flags: ModelFlags) -> ModelConfig:
    """Return the preset's sizes with the flags' changes, for the corpus's vocabularies.

    Source and target share a vocabulary if the two files are the same, not merely of one size.
    """
    sizes = getattr(ModelConfig, preset)(len(corpus.src_vocab), **_given(flags))
    shared = corpus.src_vocab.to_bytes() == corpus.tgt_vocab.to_bytes()
    return replace(sizes, tgt_vocab_size=len(corpus.tgt_vocab), shared_vocabulary=shared)


def find_start(init: str | None, out: Path, corpus: Prepared, resume: Resume) -> Start | None:
    """Return the model to start from; a run that resumes has recorded it.

    Raises:
        ValueError: the run started from another model, or the corpus has other vocabularies.
    """
    recorded = Start.from_run(out) if resume != "no" else None
    if recorded and init and Path(init) != Path(recorded.name):
        raise ValueError(f"{out} started from {recorded.name}, not from {init}: leave --init out")
    return recorded or (Start.from_model(init, corpus) if init else None)


def config_of(start: Start, preset: Preset | None, flags: ModelFlags) -> ModelConfig:
    """Return the sizes of the model to start from, perhaps with another dropout.

    Raises:
        ValueError: a flag contradicts the model.
    """
    given = _given(flags)
    if preset:
        paper = asdict(getattr(ModelConfig, preset)(4))
        given = {size: paper[size] for size in PRESET_SIZES} | given
    has = asdict(start.config)
    wrong = [
        f"--{name.replace('_', '-')} {value} contradicts {start.name}, which has {has[name]}"
        for name, value in given.items()
        if name != "dropout" and has[name] != value
    ]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}: with --init, leave the sizes out")
    return replace(start.config, dropout=given.get("dropout", start.config.dropout))


def train_config(flags: TrainFlags, config: ModelConfig, steps: int) -> TrainConfig:
    """Return the flags as a `TrainConfig`: the paper's rate by default, the cooldown in steps."""
    if not 0 <= flags.cooldown <= 1:
        raise ValueError(f"--cooldown is a share between 0 and 1, got {flags.cooldown}")
    values = _given(flags) | {"pad_id": config.pad_id}
    if "peak_rate" not in values and flags.warmup > 0:  # else TrainConfig names the problem
        values["peak_rate"] = (config.d_model * flags.warmup) ** -0.5
    start = round(steps * (1 - flags.cooldown))
    return TrainConfig(**(values | {"cooldown": (start, steps) if start < steps else None}))


def last_saved(trainer: Trainer) -> str:
    """Name the checkpoint from which the run can resume."""
    checkpoints = list_checkpoints(trainer.checkpoints)
    if not checkpoints:
        return "no checkpoint was saved yet"
    step = int(checkpoints[-1].name.removeprefix("step-"))
    return f"saved: step {step} in {trainer.checkpoints}"


def next_command(trainer: Trainer, reason: str) -> str:
    """Say what to do next; the same command alone would stop at once at the limit it reached."""
    if reason == "all steps done":
        if trainer.config.cooldown:
            return "the run is complete: its rate has cooled down"
        return f"{AGAIN} and more --steps"
    if "steps are done" in reason:
        return f"{AGAIN} and more --max-steps"
    if "minutes are over" in reason:
        return f"{AGAIN} and more --max-minutes (they count from the first start)"
    if reason.startswith("no better"):
        return f"{AGAIN} and a larger --patience"
    return AGAIN


@contextmanager
def explain_how_to_resume(trainer: Trainer) -> Iterator[None]:
    """Add the last checkpoint and how to resume to any error."""
    try:
        yield
    except FloatingPointError as error:
        # the same steps from a checkpoint would come to the same end, to the bit
        hint = "start a new run with a lower --peak-rate, or with --precision fp32"
        raise _reworded(error, f"{error}; {last_saved(trainer)}; {hint}") from error
    except KeyboardInterrupt as error:
        message = f"interrupted at once, at step {trainer.step}; {_or_anew(trainer)}"
        raise _reworded(error, message) from error
    except OSError as error:
        named = error.filename or str(trainer.folder) in str(error)
        message = str(error) if named else f"{trainer.folder}: {error}"
        message += f"; {_or_anew(trainer)}, once there is room or the disk is back"
        raise _reworded(error, message, OSError) from error
    except (RuntimeError, MemoryError) as error:
        in_memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
        hint = "; less memory: a smaller --max-tokens needs a new run" * in_memory
        message = f"{str(error) or 'out of memory'}; {_or_anew(trainer)}{hint}"
        raise _reworded(error, message, RuntimeError) from error


def _reworded(
    error: BaseException, message: str, kind: type[BaseException] | None = None
) -> BaseException:
    """Return an error with another text and, if given, of another kind, with the same marks."""
    new = (kind or type(error))(message)
    new.__dict__.update(error.__dict__)
    return new


def _or_anew(trainer: Trainer) -> str:
    return f"{last_saved(trainer)}; {AGAIN}"


def _given(flags: Any) -> dict[str, Any]:
    values = {field.name: getattr(flags, field.name) for field in fields(flags)}
    return {name: value for name, value in values.items() if value is not None}

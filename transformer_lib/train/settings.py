"""The settings of a run, and whether those of a checkpoint allow it to resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from transformer_lib.config import ModelConfig
from transformer_lib.data.files import plain
from transformer_lib.data.reading import blame_file, read_json
from transformer_lib.training import TrainConfig

__all__ = [
    "OptimizerName",
    "Precision",
    "RunConfig",
    "Select",
    "Sharding",
    "check_same",
    "choose_precision",
    "read_progress",
]

OptimizerName = Literal["adam", "muon"]
Precision = Literal["auto", "fp32", "bf16"]
Sharding = Literal["ddp", "fsdp"]
Select = Literal["bleu", "chrf", "loss"]


@dataclass(frozen=True)
class RunConfig:
    """Length, schedule and machinery of a run.

    Args:
        steps: updates in all; with a cooldown they decide the rate.
        max_steps: stop, and save, after so many updates in all, with the rate of `steps`.
        max_minutes: stop, and save, after so many minutes of training in all; validating and
            saving come on top.
        max_tokens: most ids of a batch on its longer side, padding included.
        accumulate: batches whose gradients are added up before one update, in every process.
        optimizer: "adam" as in the paper, or "muon" for the matrices of the layers.
        loss_rows: target tokens whose logits are computed at a time, 0 for all. Fewer need less
            memory and give the same numbers to rounding. Default: 256 on a CPU, where that is
            also faster; all on a GPU and with `compile`.
        precision: of the matrix products; "auto" is bf16 on a GPU that has it, else fp32.
        compile: let torch compile the model first: slow to start, faster on a GPU.
        validate_every: steps between two validations; a checkpoint is saved with each.
        keep: the newest checkpoints that stay on disk; the best one always stays.
        select: the score on the validation split that decides which checkpoint is the best, and
            patience. The loss breaks ties, and chrF replaces BLEU where most sentences have fewer
            than the four tokens that BLEU counts.
        patience: stop after so many validations without a better score.
        seed: of the weights, of dropout, and of the order of the batches.
        sharding: with several processes (torchrun), "ddp" gives each the whole model, and "fsdp"
            a part of it, which needs less memory and more traffic.
        wait_minutes: how long a process waits for another one before it gives up.
    """

    steps: int = 20_000
    max_steps: int | None = None
    max_minutes: float | None = None
    max_tokens: int = 4096
    accumulate: int = 1
    optimizer: OptimizerName = "adam"
    loss_rows: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    validate_every: int = 1000
    keep: int = 5
    select: Select = "bleu"
    patience: int | None = None
    seed: int = 0
    sharding: Sharding = "ddp"
    wait_minutes: float = 10.0

    @property
    def last_step(self) -> int:
        """The step at which this run stops, unless something stops it before."""
        return min(self.steps, self.max_steps or self.steps)

    def __post_init__(self) -> None:
        names = ("steps", "max_tokens", "accumulate", "validate_every", "keep")
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in names
            if getattr(self, name) < 1
        ]
        for name in ("max_steps", "max_minutes", "patience", "wait_minutes"):
            if (value := getattr(self, name)) is not None and not value > 0:
                problems.append(f"{name} must be above 0, got {value}")
        choices = {"precision": Precision, "optimizer": OptimizerName}
        choices |= {"sharding": Sharding, "select": Select}
        for name, kinds in choices.items():
            if (value := getattr(self, name)) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                problems.append(f"{name} must be one of {known}, got {value!r}")
        if (self.loss_rows or 0) < 0:
            problems.append(f"loss_rows must be at least 0, got {self.loss_rows}")
        if (self.optimizer, self.sharding) == ("muon", "fsdp"):
            problems.append("muon needs whole matrices, which fsdp shards: use adam, or ddp")
        if problems:
            raise ValueError("invalid RunConfig: " + "; ".join(problems))


# Settings that may change when a run resumes.
FREE_TO_CHANGE = {"steps", "max_steps", "max_minutes", "validate_every", "keep", "patience"}
FREE_TO_CHANGE |= {"sharding", "wait_minutes"}
# Settings of earlier versions: a run that left them at these values can resume without them.
REMOVED = {"run.r_drop": 0.0, "run.subword_dropout": 0.0}
CLASSES = {"model": ModelConfig, "train": TrainConfig, "run": RunConfig}
Settings = Mapping[str, Any]


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the dtype of autocast; None for plain float32."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        precision = "bf16" if has_bf16 else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def check_same(saved: Settings, current: Settings) -> None:
    """Raise unless a run saved under these settings may resume under the current ones.

    Raises:
        ValueError: the message lists each difference.
    """
    saved, current = _upgrade(plain(saved)), plain(current)
    differences = [
        f"{part}.{name} was {saved[part].get(name)!r}, is {value!r}"
        for part in (*CLASSES, "data")
        for name, value in current[part].items()
        if saved[part].get(name) != value and not (part == "run" and name in FREE_TO_CHANGE)
    ]
    before, now = saved.get("validation"), current["validation"]
    if not isinstance(before, dict):  # an earlier version recorded the split, and nothing else
        before = now | {"split": before or now["split"]}
    differences += [
        f"validation.{name} was {before.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if saved.get("init") != current.get("init"):
        differences.append(f"init was {saved.get('init')}, is {current.get('init')}")
    if differences:
        hint = ""
        if saved["train"].get("cooldown") != current["train"]["cooldown"]:
            hint = " (with a cooldown, the number of steps decides the rate: keep both unchanged)"
        elif before != now:
            hint = " (the best checkpoint is chosen among scores that can be compared: keep them)"
        raise ValueError(f"the checkpoint is of another run: {'; '.join(differences)}{hint}")


def _upgrade(saved: Settings) -> dict[str, Any]:
    """Return settings of an earlier version as this version would have saved them.

    Raises:
        ValueError: they have a setting that this version does not know or no longer supports.
    """
    if not all(isinstance(saved.get(part), dict) for part in (*CLASSES, "data")):
        raise ValueError("the checkpoint's settings are not those of a run of this library")
    unknown = {
        f"{part}.{name}": value
        for part, kind in CLASSES.items()
        for name, value in saved[part].items()
        if name not in {field.name for field in fields(kind)}
    }
    if problems := [
        f"{name}={value!r}" for name, value in unknown.items() if REMOVED.get(name, ...) != value
    ]:
        raise ValueError(
            "the checkpoint was saved by another version of this library, with "
            f"{', '.join(problems)}, which this one does not have: resume with that version, "
            "or start a new run; "
            "translate, evaluate and average read it all the same"
        )
    sizes = (saved["model"].get(f"{side}_vocab_size") for side in ("src", "tgt"))
    defaults = {part: _defaults(kind) for part, kind in CLASSES.items()}
    defaults["model"]["shared_vocabulary"] = len({*sizes}) == 1  # was: the sizes decided
    return dict(saved) | {part: defaults[part] | saved[part] for part in CLASSES}


def _defaults(kind: type) -> dict[str, Any]:
    found = {field.name: field.default for field in fields(kind)}
    return plain({name: value for name, value in found.items() if value is not MISSING})


def read_progress(path: str | Path) -> dict[str, Any]:
    """Return the position of a run when it saved a checkpoint, with its settings.

    Raises:
        CheckpointError: entries are missing or of another kind.
    """
    kinds = dict.fromkeys(("step", "epoch", "index", "n_tokens"), int) | {"seconds": (int, float)}
    progress = read_json(path, {**kinds, "settings": dict, "best": dict})
    with blame_file(path):  # older checkpoints have neither of these two
        per_update = progress.get("per_update", progress["settings"]["run"]["accumulate"])
        loss, n_tokens = progress.get("recent", (0.0, 0))  # JSON has null for NaN
        progress["per_update"] = int(per_update)
        progress["recent"] = [float("nan" if loss is None else loss), int(n_tokens)]
        if min(*map(progress.get, kinds), progress["per_update"] - 1, progress["recent"][1]) < 0:
            raise ValueError("a number is too small")
        best = progress["best"]
        for line in progress.get("curve", []):  # the best of an older checkpoint has no loss
            if line["step"] == best["step"] and "val_loss" in line:
                best.setdefault("val_loss", line["val_loss"])
        scores = [best["bleu"], *(best.get(name) for name in ("val_loss", "chrf"))]
        if not isinstance(best["step"], int) or not all(
            isinstance(score, int | float | None) for score in scores
        ):
            raise ValueError(f"best is {best!r:.100}")
    return progress

"""Whether the settings of a checkpoint allow a run to resume, and its position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch

from transformer_lib.config import MAX_WHOLE, ModelConfig
from transformer_lib.data.files import plain
from transformer_lib.data.reading import blame_file, read_json
from transformer_lib.model import Transformer
from transformer_lib.train.run_config import (
    MOST,
    OptimizerName,
    Precision,
    RunConfig,
    Select,
    Sharding,
)
from transformer_lib.training import TrainConfig

__all__ = [
    "OptimizerName",
    "Precision",
    "RunConfig",
    "Select",
    "Sharding",
    "check_same",
    "choose_precision",
    "n_weights",
    "read_progress",
]

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


def n_weights(config: ModelConfig) -> int:
    """Return the number of weights that a model has, without making it."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in Transformer(config).parameters())


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
        progress["per_update"], progress["split"] = int(per_update), int(progress.get("split", 1))
        progress["recent"] = [float("nan" if loss is None else loss), int(n_tokens)]
        numbers = [*map(progress.get, kinds), progress["recent"][1]]
        if not all(0 <= number < MAX_WHOLE for number in numbers):
            raise ValueError("a number is negative or too large")
        if not all(1 <= progress[name] <= MOST["accumulate"] for name in ("per_update", "split")):
            raise ValueError("the parts of an update are none or too many")
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

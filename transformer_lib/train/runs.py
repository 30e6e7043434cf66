"""Around a training run: its settings, its log, and its folder's lock."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from transformer_lib.data.files import plain, write_text
from transformer_lib.data.reading import check_version
from transformer_lib.model import Readout
from transformer_lib.train.distributed import Sharding
from transformer_lib.train.optimizers import OptimizerName

__all__ = [
    "InPrecision",
    "Precision",
    "RunConfig",
    "RunLock",
    "RunLog",
    "check_max_len",
    "check_same",
    "choose_precision",
    "make_scaler",
    "progress_bar",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class RunConfig:
    """How long to train and how often to look up.

    Args:
        steps: updates in all; with a cooldown they decide the rate.
        max_steps: stop, and save, after so many updates in all, with the rate of `steps`.
        max_minutes: stop, and save, after so many minutes of training in all; validating and
            saving come on top.
        max_tokens: most ids of a batch on its longer side, padding included, before
            subword_dropout makes sentences longer.
        accumulate: batches whose gradients are added up before one update, in every process.
        optimizer: "adam" as in the paper, or "muon" for the matrices of the layers.
        subword_dropout: probability of leaving out a merge of two pieces in training.
        r_drop: weight of R-Drop, which asks two passes with other dropout to predict the same;
            5 is usual where there is little data, and a step takes about twice as long.
        loss_rows: target tokens that have logits at a time, 0 for all: less memory, the same
            numbers to rounding, and padding has none. Left out: 256 on a CPU, where that is
            faster too; all on a GPU, with `compile` and with `r_drop`.
        precision: of the matrix products; "auto" is bf16 on a GPU that has it, else fp32. With
            fp16, a step whose gradients are too large for it is counted but changes nothing.
        compile: let torch compile the model first: slow to start, faster on a GPU.
        validate_every: steps between two validations; a checkpoint is saved with each.
        keep: the newest checkpoints that stay on disk; the best one always stays.
        patience: stop after so many validations without a better BLEU.
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
    subword_dropout: float = 0.0
    r_drop: float = 0.0
    loss_rows: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    validate_every: int = 1000
    keep: int = 5
    patience: int | None = None
    seed: int = 0
    sharding: Sharding = "ddp"
    wait_minutes: float = 10.0

    @property
    def last_step(self) -> int:
        """Where this run stops, if nothing stops it before."""
        return min(self.steps, self.max_steps or self.steps)

    def __post_init__(self) -> None:
        names = ("steps", "max_tokens", "accumulate", "validate_every", "keep")
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in names
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} must be above 0, got {value}"
            for name in ("max_steps", "max_minutes", "patience", "wait_minutes")
            if (value := getattr(self, name)) is not None and not value > 0
        ]
        choices = {"precision": Precision, "optimizer": OptimizerName, "sharding": Sharding}
        for name, kinds in choices.items():
            if (value := getattr(self, name)) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                problems.append(f"{name} must be one of {known}, got {value!r}")
        if not 0 <= self.subword_dropout < 1:
            problems.append(f"subword_dropout must be in [0, 1), got {self.subword_dropout}")
        if not 0 <= self.r_drop < math.inf:
            problems.append(f"r_drop must be 0 or above, got {self.r_drop}")
        if (self.loss_rows or 0) < 0 or (self.loss_rows and self.r_drop):
            problems.append(f"loss_rows must be 0 or above, and 0 with r_drop: {self.loss_rows}")
        if (self.optimizer, self.sharding) == ("muon", "fsdp"):
            problems.append("muon needs whole matrices, which fsdp cuts up: use adam, or ddp")
        if problems:
            raise ValueError("invalid RunConfig: " + "; ".join(problems))


# What may differ between a run and the one that goes on with it.
FREE_TO_CHANGE = {"steps", "max_steps", "max_minutes", "validate_every", "keep", "patience"}
FREE_TO_CHANGE |= {"sharding", "wait_minutes"}


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast; None for plain float32."""
    if precision == "auto":
        precision = (
            "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else "fp32"
        )
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def make_scaler(dtype: torch.dtype | None, device: torch.device) -> torch.amp.GradScaler:
    """What float16 needs so that small gradients do not vanish; it does nothing elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


class InPrecision(nn.Module):
    """A model whose matrix products run in a shorter dtype; weights and logits stay float32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, src: Tensor, tgt: Tensor, readout: Readout | None = None) -> Tensor:
        """As the model's own."""
        with torch.autocast(src.device.type, self.dtype, enabled=self.dtype is not None):
            output = self.model(src, tgt) if readout is None else self.model(src, tgt, readout)
        return output if self.dtype is None else output.float()


class RunLog:
    """One JSON object per line in `log.jsonl`, and TensorBoard's curves where it is installed."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self.path = folder / "log.jsonl"
        self._forget_after(first_step)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        except ImportError:
            self.board = None

    def _forget_after(self, step: int) -> None:
        """Lines of steps that will be done again are taken away."""
        lines = self.read(self.path)
        kept = [line for line in lines if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines; the last may be torn by a crash."""
        found = []
        for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
            try:
                noted = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(noted, dict) or not isinstance(noted.get("step"), int):
                break
            found.append(noted)
        return found

    def __call__(self, step: int, **values: int | float) -> None:
        """Notes the values of a step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items() if self.board else ():
            self.board.add_scalar(name, value, step)


def check_same(noted: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to go on with a run under other settings; lists each difference."""
    noted, wanted = plain(noted), plain(wanted)
    check_version(noted, wanted, FREE_TO_CHANGE)
    differences = [
        f"{part}.{name} was {noted[part].get(name)!r}, is {value!r}"
        for part in ("model", "train", "run", "data")
        for name, value in wanted[part].items()
        if noted[part].get(name) != value and not (part == "run" and name in FREE_TO_CHANGE)
    ]
    if differences:
        hint = ""
        if noted["train"].get("cooldown") != wanted["train"]["cooldown"]:
            hint = (
                " (with a cooldown, the number of steps decides the rate: keep both as they were)"
            )
        raise ValueError(f"the checkpoint is of another run: {'; '.join(differences)}{hint}")


def check_max_len(max_len: int, longest: int, decoded: int) -> None:
    """Compares the positions of a model with the tokens that a run may give it.

    Raises:
        ValueError: they are too few.
    """
    if max(longest, decoded) > max_len:
        raise ValueError(
            f"max_len={max_len} is too small: training pairs have up to {longest} tokens, and "
            f"translating the validation text may take {decoded}"
        )


class RunLock:
    """One training at a time in a folder, as long as this object lives or until `release`."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / ".lock").open("w")
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise ValueError(f"{folder}: another training is running there") from error
        except (ImportError, OSError):  # Windows, or a file system without locks: all may enter
            pass

    def release(self) -> None:
        """Lets the next one in."""
        self._file.close()


def progress_bar(done: int, total: int, quiet: bool) -> tqdm:
    """Steps done, speed and time left; in a log file a line now and then."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        initial=done, total=total, unit="step", mininterval=interval, disable=quiet,
        dynamic_ncols=True,
    )  # fmt: skip

"""The settings of a run: a module without torch, so that `train --help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformer_lib.config import wrong_kinds

__all__ = ["OptimizerName", "Precision", "RunConfig", "Select", "Sharding", "Workers"]

AMONG_OTHERS = {"RANK", "WORLD_SIZE", "MASTER_ADDR"}  # torchrun sets these for every process
OptimizerName = Literal["adam", "muon"]
Precision = Literal["auto", "fp32", "bf16"]
Sharding = Literal["ddp", "fsdp"]
Select = Literal["bleu", "chrf", "loss"]
Workers = int | Literal["auto"]

# The batches of an update are in memory together; a process that waits for a year is forgotten.
MOST = {"accumulate": 10_000, "wait_minutes": 525_600}


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
        if problems := wrong_kinds(self) or _problems(self):
            raise ValueError("invalid RunConfig: " + "; ".join(problems))


def _problems(run: RunConfig) -> list[str]:
    """List the values that are out of range."""
    names = ("steps", "max_tokens", "accumulate", "validate_every", "keep")
    problems = [
        f"{name} must be at least 1, got {value}"
        for name in names
        if (value := getattr(run, name)) < 1
    ]
    for name in ("max_steps", "max_minutes", "patience", "wait_minutes"):
        if (value := getattr(run, name)) is not None and not value > 0:
            problems.append(f"{name} must be above 0, got {value}")
    for name, most in MOST.items():
        if getattr(run, name) > most:
            problems.append(f"{name} must be at most {most:,}, got {getattr(run, name)}")
    if (run.loss_rows or 0) < 0:
        problems.append(f"loss_rows must be at least 0, got {run.loss_rows}")
    if (run.optimizer, run.sharding) == ("muon", "fsdp"):
        problems.append("muon needs whole matrices, which fsdp shards: use adam, or ddp")
    return problems

"""The loop around `train_step` that survives real life: it validates, saves, stops when asked to,
and goes on where it was."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from transformer_lib.batching import Batch
from transformer_lib.checkpoint import (
    CheckpointError,
    check_folder,
    list_checkpoints,
    load_state,
    sweep,
    write_folder,
    write_text,
)
from transformer_lib.config import ModelConfig
from transformer_lib.evaluation import conditions
from transformer_lib.metrics import bleu
from transformer_lib.model import Transformer
from transformer_lib.prepared import Prepared
from transformer_lib.runs import (
    InPrecision,
    RunConfig,
    RunLog,
    StopSignal,
    check_same,
    choose_precision,
    progress_bar,
)
from transformer_lib.training import (
    StepResult,
    TrainConfig,
    evaluate,
    make_optimizer,
    rate_at,
    train_step,
)
from transformer_lib.translator import Translator

__all__ = ["Resume", "Trainer"]

Resume = Literal["no", "latest", "auto"]


class Trainer:
    """One training run in one folder.

    Args:
        data: a prepared corpus; its first split is trained on.
        model_config, train_config, run: every setting; noted in `run.json`.
        folder: where checkpoints and log go.
        device: where to compute.
        validation: the split to validate on.
    """

    log_every = 50

    def __init__(
        self,
        data: Prepared,
        model_config: ModelConfig,
        train_config: TrainConfig,
        run: RunConfig,
        folder: str | Path,
        *,
        device: torch.device | str = "cpu",
        validation: str = "val",
    ) -> None:
        self.data, self.run, self.config = data, run, train_config
        self.folder, self.device = Path(folder), torch.device(device)
        self.pairs, self.validation = data.pairs(data.splits[0]), data.text(validation)
        self.validation_pairs = data.pairs(validation)
        torch.manual_seed(run.seed)
        model = Transformer(model_config).to(self.device)
        self.translator = Translator(model, data.src_vocab, data.tgt_vocab)
        dtype = choose_precision(run.precision, self.device)
        self.model = InPrecision(torch.compile(model) if run.compile else model, dtype)
        self.optimizer = make_optimizer(model, train_config)
        # Where we are. Everything that a checkpoint has to bring back is here or has a state_dict.
        self.step = self.epoch = self.index = self.n_tokens = 0
        self.seconds = 0.0
        self.best: dict[str, float] = {"step": 0, "bleu": -math.inf}
        settings = {"model": model_config, "train": train_config, "run": run}
        self.settings = {name: asdict(config) for name, config in settings.items()}
        self.settings |= {"data": data.about, "validation": validation}

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def start(self, resume: Resume = "no", say: Any = print) -> None:
        """Makes the folder ready, and takes up an earlier run where that is asked for.

        Args:
            resume: "no" starts anew and refuses a folder with checkpoints; "latest" goes on from
                the newest; "auto" from the newest that is whole, or starts anew.

        Raises:
            ValueError: the folder holds a run already, or one with other settings.
            CheckpointError: the newest checkpoint is damaged ("latest").
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        sweep(self.checkpoints)
        found = list_checkpoints(self.checkpoints)
        if found and resume == "no":
            raise ValueError(
                f"{self.folder} holds a run already: add --resume auto, or choose another"
            )
        if resume == "latest" and not found:
            raise ValueError(f"{self.folder} holds no checkpoint to go on from")
        for checkpoint in reversed(found):
            try:
                self._restore(check_folder(checkpoint))
            except CheckpointError as error:
                if resume == "latest":
                    raise
                say(f"skipped: {error}")
                continue
            say(f"going on from {checkpoint}, step {self.step}")
            break
        self.log = RunLog(self.folder, self.step)
        noted = self.settings | {"conditions": conditions(self.device)}
        write_text(self.folder / "run.json", json.dumps(noted, indent=1) + "\n")

    def _restore(self, checkpoint: Path) -> None:
        noted = json.loads((checkpoint / "training.json").read_text())
        check_same(noted["settings"], self.settings)
        weights = Translator.from_pretrained(checkpoint).model.state_dict()
        self.translator.model.load_state_dict(weights)
        state = load_state(checkpoint / "training.pt")
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        for name in ("step", "epoch", "index", "n_tokens", "seconds", "best"):
            setattr(self, name, noted[name])

    def save(self) -> Path:
        """Writes a checkpoint that is also a model folder, and clears away the oldest."""
        state = {"optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()

        def fill(temporary: Path) -> None:
            self.translator.write_files(temporary)
            torch.save(state, temporary / "training.pt")
            (temporary / "training.json").write_text(json.dumps(self.progress(), indent=1) + "\n")

        saved = write_folder(self.checkpoints / f"step-{self.step:06d}", fill)
        for old in list_checkpoints(self.checkpoints)[: -self.run.keep]:
            if int(old.name.removeprefix("step-")) != self.best["step"]:
                shutil.rmtree(old)
        return saved

    def progress(self) -> dict[str, Any]:
        """Where the run is, with its settings and its curve."""
        names = ("step", "epoch", "index", "n_tokens", "seconds", "best")
        curve = RunLog.read(self.log.path)
        return {
            **{name: getattr(self, name) for name in names},
            "settings": self.settings,
            "conditions": conditions(self.device),
            "curve": [line for line in curve if "bleu" in line or line["step"] % 500 == 0],
        }

    def batches(self) -> Iterator[Batch]:
        """Batches without end, from where the run is; it moves on as they are taken."""
        while True:
            draw = {"seed": self.run.seed, "epoch": self.epoch}
            batches = self.pairs.batches(self.run.max_tokens, **draw)
            for batch in itertools.islice(batches, self.index, None):
                self.index += 1
                yield batch
            self.epoch, self.index = self.epoch + 1, 0

    def fit(self, *, quiet: bool = False) -> str:
        """Trains until the end of the run, and returns in words why it stopped.

        Raises:
            FloatingPointError: a loss or gradient was not finite; nothing was updated.
        """
        batches, recent = self.batches(), []
        with StopSignal() as stop, progress_bar(self.step, self.run.steps, quiet) as bar:
            while not (reason := self._reason_to_stop(stop)):
                started = time.monotonic()
                recent.append(self._update(itertools.islice(batches, self.run.accumulate)))
                self.seconds += time.monotonic() - started
                bar.update()
                if self.step % self.log_every == 0:
                    self._note(recent, bar)
                    recent.clear()
                if self.step % self.run.validate_every == 0 or self.step == self.run.steps:
                    tqdm.write(self.validate()) if not quiet else self.validate()
                    self.save()
        if self.step % self.run.validate_every and self.step != self.run.steps:
            self.save()
        return reason

    def _update(self, batches: Iterator[Batch]) -> StepResult:
        here = [batch.to(self.device) for batch in batches]
        result = train_step(self.model, self.optimizer, here, self.step + 1, self.config)
        self.step += 1
        self.n_tokens += result.n_tokens
        return result

    def _reason_to_stop(self, stop: StopSignal) -> str | None:
        since_best = self.step - max(self.best["step"], 0)
        if stop.number is not None:
            return signal.Signals(stop.number).name
        if self.step >= self.run.steps:
            return "all steps done"
        if self.run.max_minutes and self.seconds > 60 * self.run.max_minutes:
            return f"{self.run.max_minutes:g} minutes are over"
        if self.run.patience and since_best >= self.run.patience * self.run.validate_every:
            return f"no better BLEU in {self.run.patience} validations"
        return None

    def _note(self, recent: list[StepResult], bar: tqdm) -> None:
        n_tokens = sum(result.n_tokens for result in recent)
        loss = sum(result.loss * result.n_tokens for result in recent) / n_tokens
        rate = rate_at(self.step, self.config)
        told = f"loss {loss:.3f}, rate {rate:.2g}, {self._speed():,.0f} tokens/s"
        bar.set_postfix_str(told, refresh=False)
        self.log(self.step, loss=loss, rate=rate, tokens=self.n_tokens, seconds=self.seconds)

    def _speed(self) -> float:
        return self.n_tokens / max(self.seconds, 1e-9)

    def validate(self) -> str:
        """Loss and greedy BLEU on the validation split; notes them, and the best so far."""
        batches = self.validation_pairs.batches(self.run.max_tokens)
        told = evaluate(self.model, (batch.to(self.device) for batch in batches))
        greedy = {"beam_size": 1, "alpha": 0.0}
        hypotheses = self.translator.translate(self.validation.source, **greedy)
        score = bleu(hypotheses, self.validation.target, special_tokens=()).value
        if score > self.best["bleu"]:
            self.best = {"step": self.step, "bleu": score}
            write_text(self.folder / "best.json", json.dumps(self.best) + "\n")
        scores = {"val_loss": told.loss, "val_accuracy": told.accuracy, "bleu": score}
        self.log(self.step, **scores, tokens=self.n_tokens, seconds=self.seconds)
        return (
            f"step {self.step}: validation loss {told.loss:.3f}, greedy BLEU {score:.2f}, "
            f"{self.seconds / 60:.1f} minutes"
        )

"""A training run on disk: started, saved, found again, and taken up where it was."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from transformer_lib.config import ModelConfig
from transformer_lib.data.files import (
    CheckpointError,
    list_checkpoints,
    set_aside,
    sweep,
    to_json,
    write_folder,
    write_text,
)
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.reading import load_state, read_progress, understood
from transformer_lib.model import Transformer
from transformer_lib.train.consistency import choose_loss, loss_rows
from transformer_lib.train.distributed import (
    copy_weights,
    cut_like,
    in_one_piece,
    random_states,
    set_random_state,
    share_out,
)
from transformer_lib.train.optimizers import check_optimizer, choose_optimizer
from transformer_lib.train.ranks import ALONE, Ranks
from transformer_lib.train.runs import (
    InPrecision,
    RunConfig,
    RunLock,
    RunLog,
    check_max_len,
    check_same,
    choose_precision,
    make_scaler,
)
from transformer_lib.train.subword_dropout import SubwordDropout
from transformer_lib.training import TrainConfig
from transformer_lib.translate.evaluation import conditions
from transformer_lib.translate.translator import EXTRA, Translator

__all__ = ["Resume", "ResumableRun"]

Resume = Literal["no", "latest", "auto"]
PLACE = ("step", "epoch", "index", "n_tokens", "seconds", "recent", "best")  # where a run is


class ResumableRun:
    """A training run that can be put down and taken up: what it knows, and where it keeps it.

    Args:
        data: a prepared corpus; its first split is trained on.
        model_config, train_config, run: every setting; noted in `run.json`.
        folder: where checkpoints and log go.
        device: where to compute.
        validation: the split to validate on.
        ranks: the processes that train together; each makes the same `ResumableRun`.
    """

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
        ranks: Ranks = ALONE,
    ) -> None:
        self.data, self.run, self.config, self.ranks = data, run, train_config, ranks
        self.folder, self.device = Path(folder), torch.device(device)
        with ranks.together():
            self._open_data(validation, model_config.max_len)
            torch.manual_seed(run.seed)
            model = Transformer(model_config)
            self.translator = Translator(model, data.src_vocab, data.tgt_vocab)
        self._make_trainable(model)
        self.loss_of = choose_loss(run.r_drop, loss_rows(run.loss_rows, self.device, run.compile))
        self.accumulate = run.accumulate  # here, for an update that is as large as it ever was
        # Where we are. Everything that a checkpoint has to bring back is here or has a state_dict.
        self.step = self.epoch = self.index = self.n_tokens = self.saved = 0
        self.seconds, self.recent = 0.0, [0.0, 0]  # and loss, tokens since the log's last line
        self.best: dict[str, Any] = {"step": 0, "bleu": None}
        settings = {"model": model_config, "train": train_config, "run": run}
        self.settings = {name: asdict(config) for name, config in settings.items()}
        self.settings |= {"data": data.about | {"sha256": data.sha256}, "validation": validation}
        self.conditions = conditions(self.device)  # of the code that runs, not of a later checkout
        self.conditions["processes"] = ranks.world_size

    def _make_trainable(self, model: Transformer) -> None:
        run, self.is_cut = self.run, self.run.sharding == "fsdp"
        if not self.is_cut:  # else the whole model waits in main memory until it is needed
            model.to(self.device)
        self.shared = share_out(model, self.ranks, run.sharding)
        self.dtype = choose_precision(run.precision, self.device)
        compiled = torch.compile(self.shared) if run.compile else self.shared
        self.model = InPrecision(compiled, self.dtype)
        trained = self.shared if self.is_cut else model
        self.optimizer = choose_optimizer(run.optimizer, trained, self.config)
        self.scaler = make_scaler(self.dtype, self.device)
        self.ranks.seed_dropout(run.seed, 0)

    def _open_data(self, validation: str, max_len: int) -> None:
        data = self.data
        self.pairs, self.validation = data.pairs(data.splits[0]), data.text(validation)
        self.validation_pairs = data.pairs(validation)
        self.vary = None
        if rate := self.run.subword_dropout:
            self.vary = SubwordDropout(data.src_vocab, data.tgt_vocab, rate, max_len)
        share = self.ranks.share
        if share and next(self.pairs.batches(self.run.max_tokens, **share), None) is None:
            raise ValueError(f"more processes than batches: {self.ranks.world_size} are too many")
        check_max_len(max_len, max(self.pairs.longest), self.validation_pairs.longest[0] + EXTRA)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def start(self, resume: Resume = "no", say: Any = print) -> None:
        """Makes the folder ready, and takes up an earlier run where that is asked for.

        Args:
            resume: "no" starts anew and refuses a folder with checkpoints; "latest" goes on from
                the newest; "auto" from the newest that is whole, or starts anew if there is none.

        Raises:
            ValueError: the folder holds a run already, or one with other settings.
            CheckpointError: the newest checkpoint is damaged ("latest"), or all are ("auto").
        """
        chosen = None
        with self.ranks.together():
            if self.ranks.is_main:
                chosen = self._open_folder(resume, say)
        chosen = self.ranks.gather(chosen)[0]
        with self.ranks.together():
            if chosen and not self.ranks.is_main:  # rank 0 has read it already
                self._restore(self.checkpoints / chosen)

    def _open_folder(self, resume: Resume, say: Any) -> str | None:
        """Locks the folder and goes on from a checkpoint, whose name is returned."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.folder)
        try:
            sweep(self.checkpoints)
            chosen = self._take_up(list_checkpoints(self.checkpoints), resume, say)
        except BaseException:
            self.close()
            raise
        self._note_best()
        self.log = RunLog(self.folder, self.step)
        noted = self.settings | {"conditions": self.conditions}
        write_text(self.folder / "run.json", to_json(noted))
        return chosen

    def close(self) -> None:
        """Lets another training into the folder."""
        if self.ranks.is_main:
            self._lock.release()

    def _take_up(self, found: list[Path], resume: Resume, say: Any) -> str | None:
        if found and resume == "no":
            raise ValueError(
                f"{self.folder} holds a run already: add --resume auto, or choose another"
            )
        if resume == "latest" and not found:
            raise ValueError(f"{self.folder} holds no checkpoint to go on from")
        skipped: dict[Path, str] = {}
        for checkpoint in reversed(found):
            try:
                self._restore(checkpoint)
            except CheckpointError as error:
                if resume == "latest":
                    raise
                skipped[checkpoint] = str(error)
                continue
            for damaged, told in skipped.items():  # renamed only now that there is a way on
                say(f"skipped: {told}; it is now called {set_aside(damaged).name}")
            say(f"going on from {checkpoint}, step {self.step}")
            if self.accumulate != self.run.accumulate:
                say(f"{self.accumulate} batches per process now, so that updates stay as large")
            return checkpoint.name
        if skipped:  # to start anew here would empty the log
            told = next(iter(skipped.values()))
            raise CheckpointError(f"{told}; no checkpoint there can be used: start anew elsewhere")
        return None

    def _restore(self, checkpoint: Path) -> None:
        saved = Translator.from_pretrained(checkpoint)  # compares every file with the manifest
        noted = read_progress(checkpoint / "training.json")
        check_same(noted["settings"], self.settings)
        self.accumulate = self.ranks.split(noted["per_update"])
        self.translator.model.load_state_dict(saved.model.state_dict())
        if self.is_cut:
            copy_weights(self.translator.model, self.shared)
        state = load_state(checkpoint / "training.pt")
        with understood(checkpoint / "training.pt"):
            self.optimizer.load_state_dict(cut_like(state["optimizer"], self.optimizer))
            check_optimizer(self.optimizer)
            self.scaler.load_state_dict(state["scaler"])
            set_random_state(state, self.ranks, self.device, self.run.seed, noted["step"])
        for name in PLACE:
            setattr(self, name, noted[name])
        self.saved = self.step

    def save(self) -> Path:
        """Writes a checkpoint that is also a model folder, and clears away the oldest."""
        if self.is_cut:
            copy_weights(self.shared, self.translator.model)
        state = random_states(self.ranks, self.device) | {
            "optimizer": in_one_piece(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
        }
        folder = self.checkpoints / f"step-{self.step:06d}"
        with self.ranks.together():
            if self.ranks.is_main:
                self._write(folder, state)
        self.saved = self.step
        return folder

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        def fill(temporary: Path) -> None:
            self.translator.write_files(temporary)
            torch.save(state, temporary / "training.pt")
            (temporary / "training.json").write_text(to_json(self.progress()), "utf-8")

        write_folder(folder, fill)
        self._note_best()
        for old in list_checkpoints(self.checkpoints)[: -self.run.keep]:
            if int(old.name.removeprefix("step-")) != self.best["step"]:
                shutil.rmtree(old)

    def _note_best(self) -> None:
        """Written behind the checkpoint that it names, so that it never names one in vain."""
        if self.best["step"]:
            write_text(self.folder / "best.json", to_json(self.best))
        else:
            (self.folder / "best.json").unlink(missing_ok=True)

    def progress(self) -> dict[str, Any]:
        """Where the run is, with its settings and its curve."""
        curve = RunLog.read(self.log.path)
        return {
            **{name: getattr(self, name) for name in PLACE},
            "per_update": self.accumulate * self.ranks.world_size,
            "settings": self.settings,
            "conditions": self.conditions,
            "curve": [line for line in curve if "bleu" in line or line["step"] % 500 == 0],
        }

"""The training loop for real runs: it validates, saves, stops when asked to, and resumes."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transformer_lib.batching import Batch, collate, token_batches
from transformer_lib.config import ModelConfig
from transformer_lib.data import devices, files
from transformer_lib.data.locks import make_folders, remove_empty
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.progress import progress_bar
from transformer_lib.data.reading import blame_file, check_ids, load_state
from transformer_lib.model import Transformer
from transformer_lib.train import distributed
from transformer_lib.train.dropout import use_fast_dropout
from transformer_lib.train.finetune import Start
from transformer_lib.train.folder import (
    Resume,
    RunLog,
    check_run_folder,
    choose_checkpoint,
    lock_folder,
)
from transformer_lib.train.losses import TrainingLoss, choose_rows
from transformer_lib.train.optimizers import check_state, choose_optimizer
from transformer_lib.train.ranks import ALONE, Ranks
from transformer_lib.train.settings import (
    RunConfig,
    check_same,
    choose_precision,
    n_weights,
    read_progress,
)
from transformer_lib.train.signals import StopSignal
from transformer_lib.train.validation import (
    NAMES,
    explain_scores,
    how_to_score,
    pairs_that_fit,
    rank,
    validation_scores,
)
from transformer_lib.training import StepResult, TrainConfig, rate_at
from transformer_lib.translate.evaluation import conditions
from transformer_lib.translate.translator import Translator

__all__ = ["Trainer"]

# The position of a run, as a checkpoint saves it.
POSITION = ("step", "epoch", "index", "n_tokens", "seconds", "recent", "best")
NO_BEST = {"step": 0, "bleu": None}


class Trainer:
    """A training run that can be interrupted and resumed: call `start` first, then `fit`.

    Args:
        data: a prepared corpus; its first split is trained on.
        model_config, train_config, run: every setting; recorded in `run.json`.
        folder: for checkpoints and log.
        device: to compute on.
        validation: the split to validate on.
        ranks: the processes that train together; each makes the same `Trainer`.
        init: the model whose weights are the first; random ones when left out.

    Raises:
        ValueError: the corpus has no such split, the model has too few positions for the training
            pairs or for all validation pairs, or there are more processes than batches.
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
        ranks: Ranks = ALONE,
        init: Start | None = None,
    ) -> None:
        self.data, self.run, self.config, self.ranks = data, run, train_config, ranks
        self.folder, self.device = Path(folder), torch.device(device)
        self.checkpoints = self.folder / "checkpoints"
        with ranks.raise_on_all_ranks():
            self._open_data(validation, model_config)
            if run.sharding != "fsdp":  # where each process has a part only
                devices.check_memory(n_weights(model_config), self.device)
            torch.manual_seed(run.seed)
            model = Transformer(model_config)
            if init and init.model:
                model.load_state_dict(init.model.state_dict())
            self.translator = Translator(model, data.src_vocab, data.tgt_vocab)
        self._make_trainable(model)
        self._deal(run.accumulate * (1 if ranks.share_batches else ranks.world_size))
        self.step = self.epoch = self.index = self.n_tokens = self.saved = 0
        self.place = [0, 0]  # epoch and number of this rank's newest batch
        self.seconds, self.recent = 0.0, [0.0, 0]  # and loss, tokens since the log's last line
        self.best: dict[str, Any] = NO_BEST
        self.dealt_anew = ""  # why dropout differs after resuming
        settings = {"model": model_config, "train": train_config, "run": run}
        self.settings = {name: asdict(config) for name, config in settings.items()}
        self.settings["data"] = data.about | {"sha256": data.sha256}
        self.settings["validation"] = {"split": validation, **self.scoring}
        self.settings |= {"init": init.record} if init else {}
        self.conditions = conditions(self.device)  # of the code that runs, not of a later checkout
        self.conditions["processes"] = ranks.world_size

    def _open_data(self, validation: str, config: ModelConfig) -> None:
        data, max_len = self.data, config.max_len
        if config.shared_vocabulary and data.src_vocab.to_bytes() != data.tgt_vocab.to_bytes():
            raise ValueError("shared_vocabulary=True, but the corpus has two vocabularies")
        self.pairs, self.validation = data.pairs(data.splits[0]), data.text(validation)
        self.validation_pairs = data.pairs(validation)
        n, plan = self.ranks.world_size, self.pairs.batch_indices(self.run.max_tokens)
        if n > 1 and not self.ranks.share_batches and len(list(itertools.islice(plan, n))) < n:
            raise ValueError(f"more processes than batches: {n} are too many")
        longest = max(self.pairs.longest)
        if longest > max_len:
            raise ValueError(f"max_len={max_len} is too small: pairs have up to {longest} tokens")
        self.validated = pairs_that_fit(self.validation_pairs.lengths, max_len)
        self.scoring = how_to_score(self.run.select, self.validation, data.about.get("target"))
        self.measure = self.scoring["measure"]

    def _make_trainable(self, model: Transformer) -> None:
        run, self.is_sharded = self.run, self.run.sharding == "fsdp"
        if not self.is_sharded:  # else the whole model waits in main memory until it is needed
            model.to(self.device)
        use_fast_dropout(model)
        dtype = choose_precision(run.precision, self.device)
        rows = choose_rows(run.loss_rows, self.device, run.compile)
        self.loss = TrainingLoss(model, self.config, dtype, rows)
        self.parallel = distributed.parallelize(self.loss, self.ranks, run.sharding)
        self.compiled = torch.compile(self.parallel) if run.compile else self.parallel
        trained = self.parallel if self.is_sharded else model
        self.optimizer = choose_optimizer(run.optimizer, trained, self.config, self.ranks)

    def _deal(self, per_update: int, split: int = 1) -> None:
        """Deal the batches of an update to the ranks, or parts of them if there are too few.

        Args:
            per_update: number of batches in an update of all ranks.
            split: number of parts of each; changed only if the ranks could not share them evenly.
        """
        n = self.ranks.world_size
        self.per_update, self.split = per_update, n if per_update * split % n else split
        self.accumulate = per_update * self.split // n  # of this rank

    # Start and resume

    def start(self, resume: Resume = "no", say: Callable[[str], Any] = print) -> None:
        """Prepare the folder, and resume an earlier run if asked to.

        Args:
            resume: "no" starts anew and refuses a folder with checkpoints; "latest" resumes from
                the newest; "auto" from the newest that is whole, or starts anew if there is none.
            say: receives each message.

        Raises:
            ValueError: the folder holds a run already, or one with other settings.
            CheckpointError: the newest checkpoint is damaged ("latest"), or all are ("auto").
        """
        chosen = None
        with self.ranks.raise_on_all_ranks():
            if self.ranks.is_main:
                chosen = self._open_folder(resume, say)
        chosen = self.ranks.gather(chosen)[0]
        with self.ranks.raise_on_all_ranks():
            if chosen and not self.ranks.is_main:  # rank 0 has read it already
                self.restore(self.checkpoints / chosen)

    def _open_folder(self, resume: Resume, say: Callable[[str], Any]) -> str | None:
        """Lock the folder and resume from a checkpoint, whose name is returned."""
        check_run_folder(self.folder)
        made = make_folders(self.checkpoints)
        self._lock = lock_folder(self.folder)
        try:
            files.sweep(self.checkpoints)
            chosen = choose_checkpoint(self.folder, resume, self.restore, say)
            self._write_best()
            self.log = RunLog(self.folder, self.step)
            record = self.settings | {"conditions": self.conditions}
            files.write_text(self.folder / "run.json", files.to_json(record))
        except BaseException:
            if self.folder in made:
                (self.folder / ".lock").unlink(missing_ok=True)
            self.close()
            remove_empty(made)
            raise
        lines = self.data.line_numbers(self.settings["validation"]["split"])
        for message in explain_scores(lines, self.validated, self.measure, self.run.select):
            say(message)
        if chosen is None:
            return None
        say(f"resuming from {chosen}, step {self.step}")
        if self.dealt_anew:
            say(f"{self.dealt_anew}: the same updates, but dropout draws other numbers")
        return chosen.name

    def close(self) -> None:
        """Let another training into the folder."""
        if self.ranks.is_main:
            self._lock.release()

    def restore(self, checkpoint: Path) -> None:
        """Restore weights, optimizer, random numbers and position from a checkpoint.

        Raises:
            CheckpointError: a file is damaged.
            ValueError: the checkpoint is of a run with other settings.
        """
        saved = Translator.from_pretrained(checkpoint)  # compares every file with the manifest
        progress = read_progress(checkpoint / "training.json")
        check_same(progress["settings"], self.settings)
        self._deal(progress["per_update"], progress["split"])
        if self.split != progress["split"]:
            self.dealt_anew = f"{self.split} parts of every batch now, not {progress['split']}"
        self.translator.model.load_state_dict(saved.model.state_dict())
        if self.is_sharded:
            distributed.copy_weights(self.loss, self.parallel)
        state = load_state(checkpoint / "training.pt")
        with blame_file(checkpoint / "training.pt"):
            moments = check_state(state["optimizer"], self.optimizer)
            moments = distributed.shard_optimizer_state(moments, self.optimizer)
            self.optimizer.load_state_dict(moments)
            devices.set_random_state(state, self.device)
        for name in POSITION:
            setattr(self, name, progress[name])
        is_older = not isinstance(progress["settings"].get("validation"), dict)
        if is_older and self.scoring["tokenize"] != "13a":  # its BLEU was counted in another way
            self.best = NO_BEST
        self.saved = self.step

    # Save

    def save(self) -> Path:
        """Write a checkpoint, which is also a model folder, and remove the oldest."""
        if self.is_sharded:
            distributed.copy_weights(self.parallel, self.loss)
        state: dict[str, Any] = devices.random_state(self.device)
        state["optimizer"] = distributed.full_state_dict(self.optimizer.state_dict())
        folder = self.checkpoints / f"step-{self.step:06d}"
        with self.ranks.raise_on_all_ranks():
            if self.ranks.is_main:
                self._write(folder, state)
        self.saved = self.step
        return folder

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        def fill(temporary: Path) -> None:
            self.translator.write_files(temporary)
            torch.save(state, temporary / "training.pt")
            (temporary / "training.json").write_text(files.to_json(self.progress()), "utf-8")

        files.write_folder(folder, fill, kind="checkpoint")
        self._write_best()
        for old in files.list_checkpoints(self.checkpoints)[: -self.run.keep]:
            if int(old.name.removeprefix("step-")) != self.best["step"]:
                files.remove_folder(old)

    def _write_best(self) -> None:
        """Name the best checkpoint. It is written first, so the name is never of a missing one."""
        if self.best["step"]:
            files.write_text(self.folder / "best.json", files.to_json(self.best))
        else:
            (self.folder / "best.json").unlink(missing_ok=True)

    def progress(self) -> dict[str, Any]:
        """Return the position of the run, with its settings and its curve."""
        curve = RunLog.read(self.log.path)
        return {
            **{name: getattr(self, name) for name in POSITION},
            "per_update": self.per_update,
            "split": self.split,
            "settings": self.settings,
            "conditions": self.conditions,
            "curve": [line for line in curve if "bleu" in line or line["step"] % 500 == 0],
        }

    # Train

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's batches without end, from the position of the run, which they advance.

        The ranks take turns, from one epoch into the next: no batch is left out at the end of an
        epoch. The position counts the batches of all ranks, so any number of them can resume.
        """
        for turn in zip(*[self._parts()] * self.ranks.world_size, strict=True):  # one for each rank
            *self.place, rows, whole = turn[self.ranks.rank]
            self.epoch, self.index, *_ = turn[-1]
            batch = collate([self.pairs[i] for i in rows or whole[:1]])
            if not rows:  # more parts than pairs: this one has a sentence, and nothing to predict
                batch = batch._replace(tgt=torch.full_like(batch.tgt, self.config.pad_id))
            yield batch

    def _parts(self) -> Iterator[tuple[int, int, list[int], list[int]]]:
        """Yield epoch, number, the pairs of a part and those of its batch, part by part.

        The pairs of a batch are sorted by length, so that taking turns makes the parts equal.
        """
        for epoch, number, rows in self._plan():
            for part in range(self.split):
                yield epoch, number, rows[part :: self.split], rows

    def _plan(self) -> Iterator[tuple[int, int, list[int]]]:
        """Yield epoch, number in it and pairs of every batch that follows, without end."""
        done = self.index
        for epoch in itertools.count(self.epoch):
            draw = {"seed": self.run.seed, "epoch": epoch}
            plan = enumerate(self.pairs.batch_indices(self.run.max_tokens, **draw), 1)
            yield from ((epoch, number, rows) for number, rows in plan if number > done)
            done = 0

    def fit(self, *, quiet: bool = False) -> str:
        """Train to the end of the run, and return the reason why it stopped.

        Raises:
            FloatingPointError: a loss or gradient was not finite; nothing was updated.
        """
        try:
            return self._fit(quiet or not self.ranks.is_main)
        finally:
            self.close()

    def _fit(self, quiet: bool) -> str:
        batches = self.batches()
        signals = StopSignal(quiet=not self.ranks.is_main)
        done, total = self.step, self.run.last_step
        with signals as stop, progress_bar(total=total, unit="step", done=done, quiet=quiet) as bar:
            while not (reason := self._reason_to_stop(stop)):
                started = time.monotonic()
                result = self.update(list(itertools.islice(batches, self.accumulate)))
                self.recent[0] += result.loss * result.n_tokens
                self.recent[1] += result.n_tokens
                self.seconds += time.monotonic() - started
                bar.update()
                if self.step % self.log_every == 0:
                    self._log_loss(bar)
                if self.step % self.run.validate_every == 0 or self.step == self.run.steps:
                    self._validate_and_save(bar, quiet)
            if self.saved != self.step:
                self.save()
        return reason

    def _validate_and_save(self, bar: Any, quiet: bool) -> None:
        try:
            message = self.validate()
        except Exception:
            self.save()  # the steps were right, whatever is wrong with the validation
            raise
        self.save()
        if not quiet:
            bar.write(message, file=sys.stderr)

    def update(self, batches: Sequence[Batch]) -> StepResult:
        """Make one update of all ranks, with these batches of this rank."""
        sizes, ranks = self.translator.model.config, self.ranks
        here = [check_ids(batch, sizes).to(self.device) for batch in batches]
        where = "epoch {}, batch {}".format(*self.place)
        if ranks.world_size > 1:
            where = f"rank {ranks.rank}, {where}"
        result = distributed.train_step_on_all_ranks(
            ranks,
            self.compiled,
            self.optimizer,
            here,
            self.step + 1,
            self.config,
            where,
            self._seeds(len(here)),
        )
        self.step += 1
        self.n_tokens += result.n_tokens
        return result

    def _seeds(self, n: int) -> list[int]:
        """Return the seeds of this rank's parts of the next update, whoever computes them.

        A single part continues with the random numbers of the run.
        """
        numbers = range(self.ranks.rank, n * self.ranks.world_size, self.ranks.world_size)
        names = [f"{self.run.seed} {self.step + 1} {number}" for number in numbers]
        alone = n * self.ranks.world_size == 1
        return [] if alone else [random.Random(name).getrandbits(63) for name in names]

    def _reason_to_stop(self, stop: StopSignal) -> str | None:
        # One rank alone may have received a signal, and no two clocks agree.
        number, self.seconds = self.ranks.max(stop.number or 0, self.seconds)
        since_best = self.step - self.best["step"]
        if number:
            return signal.Signals(int(number)).name
        if self.step >= self.run.steps:
            return "all steps done"
        if self.run.max_steps and self.step >= self.run.max_steps:
            return f"{self.run.max_steps} steps are done"
        if self.run.max_minutes and self.seconds > 60 * self.run.max_minutes:
            return f"{self.run.max_minutes:g} minutes are over"
        if self.run.patience and since_best >= self.run.patience * self.run.validate_every:
            return f"no better {NAMES[self.measure]} in {self.run.patience} validations"
        return None

    # Report

    def _log_loss(self, bar: Any) -> None:
        (loss, n_tokens), self.recent = self.recent, [0.0, 0]
        loss, rate = loss / n_tokens, rate_at(self.step, self.config)
        speed = self.n_tokens / max(self.seconds, 1e-9)
        bar.set_postfix_str(f"loss {loss:.3f}, rate {rate:.2g}, {speed:,.0f} tokens/s", False)
        self._log(loss=loss, rate=rate)

    def validate(self) -> str:
        """Score the model on the validation split, and log the scores and the best step."""
        with self._whole_model() as model:
            batches = self._validation_batches()
            scores = validation_scores(
                model,
                self.translator,
                batches,
                self.validation,
                self.ranks,
                self.scoring["tokenize"],
            )
        if rank(scores, self.measure) > rank(self.best, self.measure):
            named = ("bleu", "chrf", "val_loss")
            self.best = {"step": self.step, **{name: scores[name] for name in named}}
        self._log(**scores)
        return (
            f"step {self.step}: validation loss {scores['val_loss']:.3f}, "
            f"greedy BLEU {scores['bleu']:.2f}, chrF {scores['chrf']:.2f}, "
            f"{self.seconds / 60:.1f} minutes"
        )

    def _validation_batches(self) -> Iterator[Batch]:
        """Yield this rank's share; unlike in training, no batch may be left out."""
        pairs, ranks = self.validation_pairs, self.ranks
        lengths, chosen = pairs.lengths, self.validated
        batches = token_batches([lengths[i] for i in chosen], self.run.max_tokens)
        for indices in batches[ranks.rank :: ranks.world_size]:
            batch = collate([pairs[chosen[i]] for i in indices])
            yield check_ids(batch, self.translator.model.config).to(self.device)

    @contextlib.contextmanager
    def _whole_model(self) -> Iterator[nn.Module]:
        """Lend the whole model for validation.

        A sharded model would gather every layer again for each token that it translates, on all
        ranks in step, however long their sentences are. One whole copy is cheaper.
        """
        if self.is_sharded:
            distributed.copy_weights(self.parallel, self.loss)
            self.loss.to(self.device)
        yield self.loss
        if self.is_sharded:
            self.loss.to("cpu")

    def _log(self, **values: int | float) -> None:
        """Write a line of the log, which only rank 0 keeps."""
        if self.ranks.is_main:
            self.log(self.step, **values, tokens=self.n_tokens, seconds=self.seconds)

"""The loop around `train_step` that survives real life: it validates, saves, stops when asked to,
and goes on where it was."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Iterator

from torch import nn
from tqdm import tqdm

from transformer_lib.batching import Batch, collate, token_batches
from transformer_lib.data.reading import check_ids
from transformer_lib.train.distributed import copy_weights, train_step_of_all
from transformer_lib.train.resumable import ResumableRun
from transformer_lib.train.runs import InPrecision, progress_bar
from transformer_lib.train.signals import StopSignal
from transformer_lib.train.validation import validation_scores
from transformer_lib.training import StepResult, rate_at

__all__ = ["Trainer"]


class Trainer(ResumableRun):
    """Trains a `ResumableRun` to its end; call `start` first, then `fit`."""

    log_every = 50

    def batches(self) -> Iterator[Batch]:
        """This rank's batches without end, from where the run is; it moves on as they are taken.

        `index` counts the batches of all ranks, so that it means the same to any number of them.
        """
        n = self.ranks.world_size
        while True:
            draw = {"seed": self.run.seed, "epoch": self.epoch, **self.ranks.share}
            start = -(-self.index // n)  # where fewer ranks stopped half-way, the rest is left out
            place = {"start": start, "vary": self.vary}
            for i, batch in enumerate(self.pairs.batches(self.run.max_tokens, **place, **draw)):
                self.index = (start + i + 1) * n
                yield batch
            self.epoch, self.index = self.epoch + 1, 0

    def fit(self, *, quiet: bool = False) -> str:
        """Trains until the end of the run, and returns in words why it stopped.

        Raises:
            FloatingPointError: a loss or gradient was not finite; nothing was updated.
        """
        try:
            return self._fit(quiet)
        finally:
            self.close()

    def _fit(self, quiet: bool) -> str:
        batches = self.batches()
        quiet = quiet or not self.ranks.is_main
        signals = StopSignal(quiet=not self.ranks.is_main)
        with signals as stop, progress_bar(self.step, self.run.last_step, quiet) as bar:
            while not (reason := self._reason_to_stop(stop)):
                started = time.monotonic()
                self._count(self._update(itertools.islice(batches, self.accumulate)))
                self.seconds += time.monotonic() - started
                bar.update()
                if self.step % self.log_every == 0:
                    self._note(bar)
                if self.step % self.run.validate_every == 0 or self.step == self.run.steps:
                    self._validate_and_save(quiet)
            if self.saved != self.step:
                self.save()
        return reason

    def _validate_and_save(self, quiet: bool) -> None:
        try:
            told = self.validate()
        except Exception:
            self.save()  # the steps were right, whatever is wrong with looking at them
            raise
        self.save()
        if not quiet:
            tqdm.write(told, file=sys.stderr)

    def _update(self, batches: Iterator[Batch]) -> StepResult:
        sizes = self.translator.model.config
        here = [check_ids(batch, sizes).to(self.device) for batch in batches]
        ranks, shared = self.ranks, self.shared
        place = f"epoch {self.epoch}, batch {self.index - ranks.world_size + ranks.rank + 1}"
        if ranks.world_size > 1:
            place = f"rank {ranks.rank}, {place}"
        result = train_step_of_all(
            ranks, shared, self.model, self.optimizer, here, self.step + 1, self.config,
            self.scaler, self.loss_of, place,
        )  # fmt: skip
        self.step += 1
        self.n_tokens += result.n_tokens
        return result

    def _reason_to_stop(self, stop: StopSignal) -> str | None:
        # One rank alone may have been sent a signal, and no two have clocks that agree.
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
            return f"no better BLEU in {self.run.patience} validations"
        return None

    def _count(self, result: StepResult) -> None:
        loss, n_tokens = self.recent
        self.recent = [loss + result.loss * result.n_tokens, n_tokens + result.n_tokens]

    def _note(self, bar: tqdm) -> None:
        (loss, n_tokens), self.recent = self.recent, [0.0, 0]
        loss, rate = loss / n_tokens, rate_at(self.step, self.config)
        told = f"loss {loss:.3f}, rate {rate:.2g}, {self._speed():,.0f} tokens/s"
        bar.set_postfix_str(told, refresh=False)
        self.note(loss=loss, rate=rate, tokens=self.n_tokens, seconds=self.seconds)

    def _speed(self) -> float:
        return self.n_tokens / max(self.seconds, 1e-9)

    def validate(self) -> str:
        """Loss and greedy BLEU on the validation split; notes them, and the best so far."""
        with self._whole_model() as model:
            batches = self._validation_batches()
            scores = validation_scores(model, self.translator, batches, self.validation, self.ranks)
        if self.best["bleu"] is None or scores["bleu"] > self.best["bleu"]:
            self.best = {"step": self.step, "bleu": scores["bleu"]}
        self.note(**scores, tokens=self.n_tokens, seconds=self.seconds)
        return (
            f"step {self.step}: validation loss {scores['val_loss']:.3f}, "
            f"greedy BLEU {scores['bleu']:.2f}, {self.seconds / 60:.1f} minutes"
        )

    def _validation_batches(self) -> Iterator[Batch]:
        """This rank's share; unlike in training, no batch may be left out."""
        pairs, ranks = self.validation_pairs, self.ranks
        batches = token_batches(pairs.lengths, self.run.max_tokens)
        for indices in batches[ranks.rank :: ranks.world_size]:
            batch = collate([pairs[i] for i in indices])
            yield check_ids(batch, self.translator.model.config).to(self.device)

    @contextlib.contextmanager
    def _whole_model(self) -> Iterator[nn.Module]:
        """What validation computes with.

        A model that is cut up would gather every layer again for each token that it translates,
        on all ranks in step, however long their sentences are. One whole copy is cheaper.
        """
        if not self.is_cut:
            yield self.model
            return
        whole = self.translator.model
        copy_weights(self.shared, whole)
        yield InPrecision(whole.to(self.device), self.dtype)
        whole.to("cpu")

    def note(self, **values: int | float) -> None:
        """A line in the log, which only rank 0 keeps."""
        if self.ranks.is_main:
            self.log(self.step, **values)

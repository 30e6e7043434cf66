"""The loop around `train_step` that survives real life: it validates, saves, stops when asked to,
and goes on where it was."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from transformer_lib.batching import Batch
from transformer_lib.evaluation import validation_scores
from transformer_lib.loading import check_ids
from transformer_lib.resumable import ResumableRun
from transformer_lib.runs import StopSignal, progress_bar
from transformer_lib.training import StepResult, rate_at, train_step

__all__ = ["Trainer"]


class Trainer(ResumableRun):
    """Trains a `ResumableRun` to its end; call `start` first, then `fit`."""

    log_every = 50

    def batches(self) -> Iterator[Batch]:
        """Batches without end, from where the run is; it moves on as they are taken."""
        while True:
            draw = {"seed": self.run.seed, "epoch": self.epoch}
            place = {"start": self.index, "vary": self.vary}
            for batch in self.pairs.batches(self.run.max_tokens, **place, **draw):
                self.index += 1
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
        try:
            step = self.step + 1
            result = train_step(
                self.model, self.optimizer, here, step, self.config, self.scaler, self.loss_of
            )
        except FloatingPointError as error:
            place = f"epoch {self.epoch}, batch {self.index}"
            raise FloatingPointError(f"{error} ({place})") from error
        self.step += 1
        self.n_tokens += result.n_tokens
        return result

    def _reason_to_stop(self, stop: StopSignal) -> str | None:
        since_best = self.step - self.best["step"]
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
        sizes = self.translator.model.config
        found = self.validation_pairs.batches(self.run.max_tokens)
        batches = (check_ids(batch, sizes).to(self.device) for batch in found)
        scores = validation_scores(self.model, self.translator, batches, self.validation)
        if self.best["bleu"] is None or scores["bleu"] > self.best["bleu"]:
            self.best = {"step": self.step, "bleu": scores["bleu"]}
        self.log(self.step, **scores, tokens=self.n_tokens, seconds=self.seconds)
        return (
            f"step {self.step}: validation loss {scores['val_loss']:.3f}, "
            f"greedy BLEU {scores['bleu']:.2f}, {self.seconds / 60:.1f} minutes"
        )

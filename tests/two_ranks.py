"""What each of two processes does for tests/test_distributed.py: everything in one start.

Reads `given.pt` in the folder it is told, and writes what it found as `rank0.pt` and `rank1.pt`.
"""

import math
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from helpers import silent
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from transformer_lib.batching import Batch
from transformer_lib.config import ModelConfig
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.text import ParallelText
from transformer_lib.model import Transformer
from transformer_lib.train.distributed import (
    full_state_dict,
    parallelize,
    train_step_on_all_ranks,
)
from transformer_lib.train.folder import RunLog
from transformer_lib.train.losses import TrainingLoss
from transformer_lib.train.ranks import ALONE, join
from transformer_lib.train.settings import RunConfig
from transformer_lib.train.trainer import Trainer
from transformer_lib.train.validation import validation_scores
from transformer_lib.training import TrainConfig, make_optimizer

VOCAB_SIZE = 45
TINY = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 32}
# The gradient of a key's bias is 0 but for rounding, of which an eps of 1e-9 would make steps.
RATES = TrainConfig(peak_rate=3e-3, warmup=5, max_grad_norm=0.5, eps=1e-6)
# five batches an epoch, so that an update of two ranks takes some from two epochs
RUN = RunConfig(steps=6, max_tokens=36, validate_every=3, keep=9)


def make_trainer(corpus, folder, ranks=ALONE, dropout=0.0, **changes):
    model = ModelConfig.tiny(VOCAB_SIZE, **TINY, dropout=dropout)
    return Trainer(Prepared(corpus), model, RATES, replace(RUN, **changes), folder, ranks=ranks)


def started(corpus, folder, resume="no", **changes):
    made = make_trainer(corpus, folder, **changes)
    made.log_every = 1
    made.start(resume, say=silent)
    return made


@contextmanager
def float64():
    """Make new models, and whatever is computed, float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def float64_model():
    torch.manual_seed(0)
    return Transformer(ModelConfig.tiny(20, **TINY, dropout=0.0)).double()


def float64_loss(ranks, sharding, kind=TrainingLoss):
    return parallelize(kind(float64_model(), RATES), ranks, sharding)


def whole_weights(loss):
    return [full_state_dict(weight.detach()).clone() for weight in loss.parameters()]


def updates(ranks, sharding, all_batches):
    """Make updates of all ranks; return their results, the last gradients, the weights."""
    shared = float64_loss(ranks, sharding)
    sent = []

    def hook(state, bucket):
        sent.append(1)
        return allreduce_hook(state, bucket)

    if sharding == "ddp":
        shared.register_comm_hook(None, hook)
    optimizer = make_optimizer(shared, RATES)
    told = []
    for step, batches in enumerate(all_batches, 1):
        mine = [Batch(*batch) for batch in batches[ranks.rank :: ranks.world_size]]
        result = train_step_on_all_ranks(ranks, shared, optimizer, mine, step, RATES)
        told.append(tuple(result))
    gradients = [full_state_dict(weight.grad) for weight in shared.parameters()]
    return {
        "told": told,
        "gradients": gradients,
        "weights": whole_weights(shared),
        "n_sent": len(sent),
        "n_kept": sum(getattr(w, "to_local", w.detach)().numel() for w in shared.parameters()),
    }


def spoiled(ranks, sharding, batches):
    """Make the loss of rank 1 NaN; return what all raise, and whether no weight has changed."""

    class Spoiled(TrainingLoss):
        def forward(self, *ids):
            return super().forward(*ids) * (math.nan if ranks.rank == 1 else 1.0)

    shared = float64_loss(ranks, sharding, Spoiled)
    before, optimizer = whole_weights(shared), make_optimizer(shared, RATES)
    mine = [Batch(*batches[ranks.rank])]
    where = f"here is rank {ranks.rank}"
    try:
        train_step_on_all_ranks(ranks, shared, optimizer, mine, 1, RATES, where)
    except FloatingPointError as error:
        return {"error": str(error), "same": all(map(torch.equal, before, whole_weights(shared)))}


def failing_alone(ranks):
    try:
        with ranks.raise_on_all_ranks():
            if ranks.rank == 1:
                raise FileNotFoundError("no such disk")
    except Exception as error:
        return [type(error).__name__, str(error)]


def scored(ranks, text):
    """BLEU of a translator that knows every sentence, if no translation loses its place."""
    known = dict(zip(text["source"], text["target"], strict=True))

    class Knowing:
        model = float64_model()

        def translate(self, sentences, **_):
            return [known[sentence] for sentence in sentences]

    batches = [Batch(torch.tensor([[5, 3]]), torch.tensor([[2, 6, 3]]))] if ranks.is_main else []
    whole = ParallelText(tuple(text["source"]), tuple(text["target"]), "known")
    return validation_scores(Knowing.model, Knowing(), batches, whole, ranks)


class Runs:
    """Whole trainings by two ranks, each in a folder of its own."""

    def __init__(self, ranks, home):
        self.ranks, self.home = ranks, home

    def fit(self, name, *arguments, **options):
        """Train to the end; return what a test compares."""
        corpus, folder = self.home / "data", self.home / name
        with float64():
            made = started(corpus, folder, *arguments, ranks=self.ranks, **options)
            reason = made.fit(quiet=True)
        return {
            "reason": reason,
            "place": [made.step, made.epoch, made.index, made.n_tokens],
            "best": made.best["bleu"],
            "weights": [w.detach().clone() for w in made.translator.model.parameters()],
            "curve": RunLog.read(made.folder / "log.jsonl"),
        }

    def fit_until_one_is_asked_to_end(self, name):
        """Send a signal to rank 1 alone, after step 2."""
        original = Trainer.update

        def update_and_signal(made, batches):
            result = original(made, batches)
            if made.step == 2 and self.ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return result

        Trainer.update = update_and_signal
        try:
            return self.fit(name)
        finally:
            Trainer.update = original


def help_out(ranks, given):
    """What each of three workers does for tests/test_workers.py."""
    runs, muon = Runs(ranks, Path(given["home"])), {"optimizer": "muon", "dropout": 0.2}
    return {
        "plain": runs.fit("plain"),
        "resumed": runs.fit("one", "latest"),
        "muon": runs.fit("muon", **muon),
        "cut": runs.fit("cut", **muon, steps=4),
        "again": runs.fit("cut", "latest", **muon),
        "memory": ranks.memory is not None,
        "by messages": Runs(replace(ranks, memory=None), runs.home).fit("by messages", **muon),
    }


def main(home):
    given = torch.load(home / "given.pt", weights_only=True)
    one, two = given["one batch each"], given["two batches each"]
    with join(lambda: torch.device("cpu"), wait_minutes=1.0) as ranks:
        runs = Runs(ranks, home)
        found = {
            "ddp": updates(ranks, "ddp", one),
            "ddp, accumulated": updates(ranks, "ddp", two),
            "fsdp": updates(ranks, "fsdp", one),
            "fsdp, accumulated": updates(ranks, "fsdp", two),
            "spoiled ddp": spoiled(ranks, "ddp", one[0]),
            "spoiled fsdp": spoiled(ranks, "fsdp", one[0]),
            "scored": scored(ranks, given["text"]),
            "failing alone": failing_alone(ranks),
            "gathered": ranks.gather(["ä" * ranks.rank, ranks.rank]),
            "whole": runs.fit("whole", dropout=0.2),
            "cut": runs.fit("cut", dropout=0.2, steps=4),
            "again": runs.fit("cut", "latest", dropout=0.2),
            "plain": runs.fit("plain"),
            "from one": runs.fit("one", "latest", accumulate=2),
            "half": runs.fit("half", steps=3),
            "half by fsdp": runs.fit("fsdp", steps=3, sharding="fsdp"),
            "fsdp to ddp": runs.fit("fsdp", "latest"),
            "ddp to fsdp": runs.fit("half", "latest", sharding="fsdp", steps=6),
            "one is asked": runs.fit_until_one_is_asked_to_end("asked"),
        }
    torch.save(found, home / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

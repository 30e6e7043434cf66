"""`train --dry-run`: says what a training will need, and leaves no trace."""

import itertools
import re
import shutil
import time
from pathlib import Path

import pytest
from helpers import prepared, tree
from torch.profiler import ProfilerActivity, profile

from transformer_lib import ModelConfig, TrainConfig, collate
from transformer_lib.batching import token_batches
from transformer_lib.cli import main
from transformer_lib.data.files import list_checkpoints
from transformer_lib.data.text import ParallelText
from transformer_lib.train import dry_run
from transformer_lib.train.settings import RunConfig
from transformer_lib.train.trainer import Trainer

SIDES = ("a b c d", "b c d e f", "c d", "d e f a b") * 9, ("a b c", "f e", "c", "b") * 9
TEXT = ParallelText(*SIDES, "tiny")
FLAGS = ["--n-layers", "2", "--d-model", "64", "--d-ff", "128", "--max-tokens", "60"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data") / "p", TEXT, 16)


@pytest.fixture(scope="module")
def done(corpus, tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("done") / "run"
    length = ["--steps", "4", "--validate-every", "2"]
    assert main(["train", str(corpus.folder), str(folder), *FLAGS, *length]) == 0
    return folder


def ask(capsys, corpus, folder, *flags):
    capsys.readouterr()
    call = ["train", str(corpus.folder), str(folder), *FLAGS, "--dry-run", *flags]
    return main(call), *capsys.readouterr()


def test_it_tells_what_is_needed_and_writes_nothing(capsys, corpus, tmp_path):
    status, out, err = ask(capsys, corpus, tmp_path / "deep" / "run", "--steps", "500")
    assert (status, err) == (0, "")
    for words in (
        r"^model +168,448 parameters; \d+ batches an epoch$",
        r"^disk +\d+ MB of [\d,]+ MB free$",
        r"^memory +about 0\.\d\d GB",
        r"^time +about .*: 500 steps of \S+ s, 1 validations of at most \S+ s$",
        r"^a dry run: nothing was written$",
    ):
        assert re.search(words, out, re.M), out
    assert list(tmp_path.iterdir()) == []


def test_of_a_run_that_is_half_way_only_the_rest_is_counted(capsys, corpus, done):
    before = tree(done)
    length = ["--steps", "10", "--validate-every", "2"]
    status, out, _ = ask(capsys, corpus, done, *length, "--resume", "auto", "--max-steps", "8")
    assert status == 0 and re.search(r"4 steps of \S+ s, 2 validations", out)
    status, _, err = ask(capsys, corpus, done, *length)
    assert status == 2 and "holds a run already" in err
    assert tree(done) == before


def test_a_damaged_checkpoint_is_told_and_keeps_its_name(capsys, corpus, done, tmp_path):
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    (list_checkpoints(folder / "checkpoints")[-1] / "training.pt").write_bytes(b"")
    before = tree(folder)
    status, _, err = ask(capsys, corpus, folder, "--steps", "10", "--resume", "auto")
    assert status == 2 and "training.pt is damaged" in err
    assert tree(folder) == before


def test_too_little_memory_or_disk_is_a_failure(capsys, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 1000)
    status, _, err = ask(capsys, corpus, tmp_path / "run")
    assert status == 1 and "more memory than there is" in err
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda place: usage)
    status, _, err = ask(capsys, corpus, tmp_path / "run")
    assert status == 1 and "0.001 MB are free: make room" in err


def test_a_model_larger_than_the_memory_is_refused_before_it_is_made(capsys, corpus, tmp_path):
    sizes = ["--d-model", "16384", "--n-layers", "10", "--workers", "1"]
    call = ["train", str(corpus.folder), str(tmp_path / "run"), *sizes, "--steps", "2"]
    started = time.perf_counter()
    assert main(call) == 2
    assert time.perf_counter() - started < 30
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: a model of [\d,]+ weights needs [\d,]+\.\d GB or more to be trained, but .*\n",
        error,
    )
    assert list(tmp_path.iterdir()) == []


def make_trainer(corpus, folder, run, **sizes):
    config = ModelConfig.tiny(len(corpus.src_vocab), **({"n_layers": 2, "d_ff": 128} | sizes))
    return Trainer(corpus, config, TrainConfig(), RunConfig(**({"max_tokens": 60} | run)), folder)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_size_of_a_checkpoint_is_right(corpus, tmp_path, optimizer):
    run = {"steps": 1, "validate_every": 1, "optimizer": optimizer}
    trainer = make_trainer(corpus, tmp_path / "run", run)
    told = dry_run.checkpoint_bytes(trainer)
    trainer.start()
    trainer.fit(quiet=True)
    real = sum(path.stat().st_size for path in trainer.save().iterdir())
    assert real <= told <= real + dry_run.SMALL


def really_held(trainer):
    """Weights, moments and, as torch's own allocator counts it, the peak of a step."""
    plan = token_batches(trainer.pairs.lengths, trainer.run.max_tokens)
    batch = collate([trainer.pairs[i] for i in max(plan, key=len)])
    trainer.update([batch])
    trainer.optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        trainer.update([batch])
    events = record.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    step = max(itertools.accumulate(nbytes for _, nbytes in changes))
    return step + dry_run._weight_bytes(trainer) + dry_run._moment_bytes(trainer)


@pytest.mark.parametrize("run", [{}, {"optimizer": "muon", "precision": "bf16"}], ids=str)
@pytest.mark.parametrize("sizes", [{}, {"d_model": 64, "d_ff": 512, "n_layers": 3}], ids=str)
def test_the_memory_that_is_told_is_about_what_the_allocator_counts(small, tmp_path, run, sizes):
    """docs/training.md has the error that was measured."""
    run = {"max_tokens": 1000} | run
    told = dry_run.forecast(make_trainer(small, tmp_path / "run", run, **sizes)).memory
    real = really_held(make_trainer(small, tmp_path / "run", run, **sizes))
    assert told == pytest.approx(real, rel=0.25)


@pytest.fixture(scope="module")
def small(small_corpus, tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("data") / "small", n_val=4)

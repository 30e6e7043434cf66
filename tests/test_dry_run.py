"""`train --dry-run`: says what a training will need, and leaves no trace."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from transformer_lib import ModelConfig, TrainConfig, dry_run
from transformer_lib.checkpoint import list_checkpoints
from transformer_lib.cli import main
from transformer_lib.corpora import ParallelText
from transformer_lib.prepared import learn_vocabularies, prepare
from transformer_lib.runs import RunConfig
from transformer_lib.trainer import Trainer

SIDES = ("a b c d", "b c d e f", "c d", "d e f a b") * 9, ("a b c", "f e", "c", "b") * 9
TEXT = ParallelText(*SIDES, "tiny")
SIZES = {"n_layers": 2, "d_model": 64, "d_ff": 128}
FLAGS = ["--n-layers", "2", "--d-model", "64", "--d-ff", "128", "--max-tokens", "60"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    vocabularies = learn_vocabularies(TEXT, "subwords", 16, ("de", "en"))
    folder = tmp_path_factory.mktemp("data") / "p"
    return prepare({"train": TEXT, "val": TEXT}, vocabularies, folder, say=len)


@pytest.fixture(scope="module")
def done(corpus, tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("done") / "run"
    length = ["--steps", "4", "--validate-every", "2"]
    assert main(["train", str(corpus.folder), str(folder), *FLAGS, *length]) == 0
    return folder


def tree(folder):
    """Every file below it, with its sum."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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
    status, out, _ = ask(capsys, corpus, done, *length, "--resume", "auto")
    assert status == 0 and re.search(r"6 steps of \S+ s, 3 validations", out)
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
    monkeypatch.setattr(dry_run, "_free_memory", lambda device: 1000)
    status, _, err = ask(capsys, corpus, tmp_path / "run")
    assert status == 1 and "more memory than there is" in err
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda place: usage)
    status, _, err = ask(capsys, corpus, tmp_path / "run")
    assert status == 1 and "0.001 MB are free: make room" in err


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_size_of_a_checkpoint_is_right(corpus, tmp_path, optimizer):
    run = RunConfig(steps=1, max_tokens=60, validate_every=1, optimizer=optimizer)
    trainer = Trainer(corpus, ModelConfig.tiny(16, **SIZES), TrainConfig(), run, tmp_path / "run")
    told = dry_run.checkpoint_bytes(trainer)
    trainer.start()
    trainer.fit(quiet=True)
    real = sum(path.stat().st_size for path in trainer.save().iterdir())
    assert real <= told <= real + dry_run.SMALL


def test_what_a_batch_keeps_grows_with_its_rows(corpus, tmp_path):
    """Counted on a few rows, as much as counted on all."""
    run, config = RunConfig(max_tokens=400), ModelConfig.tiny(16, **SIZES)
    trainer = Trainer(corpus, config, TrainConfig(), run, tmp_path / "run")
    plan = [list(range(32))]
    few = dry_run._activation_bytes(trainer, plan)
    dry_run.ROWS, rows = 32, dry_run.ROWS
    try:
        whole = dry_run._activation_bytes(trainer, plan)
    finally:
        dry_run.ROWS = rows
    assert few == pytest.approx(whole, rel=0.05)
    smallest = 32 * 6 * 64 * 4 * 2 * 2 * 5  # of every layer at least five inputs are kept
    assert whole > smallest

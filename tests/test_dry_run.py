"""`train --dry-run`: says what a training will need, and leaves no trace."""

import hashlib
import itertools
import json
import platform
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.profiler import ProfilerActivity, profile

from transformer_lib import ModelConfig, TrainConfig, collate
from transformer_lib.batching import token_batches
from transformer_lib.cli import main
from transformer_lib.data.corpora import ParallelText
from transformer_lib.data.files import list_checkpoints
from transformer_lib.data.prepared import learn_vocabularies, prepare
from transformer_lib.train import dry_run
from transformer_lib.train.runs import RunConfig
from transformer_lib.train.trainer import Trainer

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


# --- memory


DRAW = random.Random(0)
WORDS = {"few": "abcdef", "many": [f"w{i}" for i in range(3000)]}


def sentences(words, n):
    """Of quite different lengths: some rows of a batch are mostly padding."""
    return tuple(" ".join(DRAW.choices(words, k=DRAW.randint(3, 20))) for _ in range(n))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """A vocabulary of 16 ids, and one whose logits are most of what a step makes."""
    made, folder = {}, tmp_path_factory.mktemp("memory")
    for name, kind, size in (("few", "subwords", 16), ("many", "words", 4000)):
        lines = sentences(WORDS[name], 1500)
        text, short = (ParallelText(part, part, name) for part in (lines, lines[:4]))
        vocabularies = learn_vocabularies(text, kind, size, ("de", "en"))
        assert (len(vocabularies[0]) > 2500) == (name == "many")  # or it would show nothing
        made[name] = prepare({"train": text, "val": short}, vocabularies, folder / name, say=len)
    return made


def make_trainer(corpus, folder, run):
    sizes = {"n_layers": 2, "d_model": 128, "d_ff": 64, "n_heads": 4}
    config = ModelConfig.tiny(len(corpus.src_vocab), **sizes)
    return Trainer(corpus, config, TrainConfig(), RunConfig(**run), folder)


def largest(trainer):
    plan = token_batches(trainer.pairs.lengths, trainer.run.max_tokens)
    return max(plan, key=lambda rows: dry_run._cells(trainer.pairs.lengths, rows))


def really_held(trainer):
    """Weights, moments and, as torch's own allocator counts it, the peak of a step."""
    rows = [trainer.pairs[i] for i in largest(trainer)]
    batches = [collate(rows)] * trainer.run.accumulate
    trainer._update(iter(batches))
    trainer.optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as noted:
        trainer._update(iter(batches))
    events = noted.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    step = max(itertools.accumulate(nbytes for _, nbytes in changes))
    moments = trainer.optimizer.state_dict()
    parts = moments.get("parts", [moments])
    state = [x for part in parts for held in part["state"].values() for x in held.values()]
    weights = trainer.translator.model.parameters()
    return step + sum(tensor.nbytes for tensor in (*weights, *state))


@pytest.mark.parametrize(
    ("words", "run"),
    [
        ("few", {}),
        ("few", {"optimizer": "muon"}),
        ("few", {"max_tokens": 24}),
        ("few", {"accumulate": 2, "precision": "bf16"}),
        ("many", {}),
        ("many", {"optimizer": "muon"}),
        ("many", {"r_drop": 5.0}),
        ("many", {"loss_rows": 100}),
        ("many", {"loss_rows": 0}),
    ],
    ids=str,
)
def test_the_memory_of_a_step_is_what_the_allocator_counts(corpora, tmp_path, words, run):
    run = {"max_tokens": 1000} | run
    found = dry_run.forecast(make_trainer(corpora[words], tmp_path / "run", run))
    real = really_held(make_trainer(corpora[words], tmp_path / "run", run))
    assert found.fixed + found.activations == pytest.approx(real, rel=0.03)


TAKEN = """
import json, pathlib, sys
import torch
from transformer_lib import ModelConfig, TrainConfig, collate
from transformer_lib.data.prepared import Prepared
from transformer_lib.train.runs import RunConfig
from transformer_lib.train.trainer import Trainer
torch.set_num_threads(1)
place, folder, sizes, run, rows = sys.argv[1:]
corpus, run = Prepared(place), RunConfig(**json.loads(run))
def trainer(**sizes):
    config = ModelConfig.tiny(len(corpus.src_vocab), **sizes)
    return Trainer(corpus, config, TrainConfig(), run, folder)
def taken(kind):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
def step(trainer, rows):
    trainer._update(iter([collate([trainer.pairs[i] for i in rows])]))
step(trainer(n_layers=1, d_model=4, n_heads=1, d_ff=4), [0])  # loads what is loaded once
before = taken("VmRSS")
large = trainer(**json.loads(sizes))
for _ in range(3):
    step(large, json.loads(rows))
print(taken("VmHWM") - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it was measured with glibc")
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("words", ["few", "many"])
def test_the_memory_that_is_told_is_what_a_process_takes(corpora, tmp_path, words, optimizer):
    run = {"max_tokens": 4000, "optimizer": optimizer}
    trainer = make_trainer(corpora[words], tmp_path / "run", run)
    rows = json.dumps(largest(trainer))
    told = dry_run.forecast(trainer).memory
    sizes = json.dumps({"n_layers": 2, "d_model": 128, "d_ff": 64, "n_heads": 4})
    call = [sys.executable, "-c", TAKEN, corpora[words].folder, tmp_path, sizes, json.dumps(run)]
    done = subprocess.run([*call, rows], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert told == pytest.approx(int(done.stdout), rel=0.25)

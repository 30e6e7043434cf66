"""The loop that survives real life: resumed to the bit, stopped by real signals, never lost."""

import copy
import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import SOURCE, TARGET, pair_files, prepared, silent, tree

from transformer_lib import ModelConfig, TrainConfig, Translator
from transformer_lib.data.files import CheckpointError, list_checkpoints
from transformer_lib.data.reading import blame_file
from transformer_lib.data.text import ParallelText
from transformer_lib.train.folder import RunLog
from transformer_lib.train.settings import RunConfig, read_progress
from transformer_lib.train.trainer import Trainer
from transformer_lib.train.validation import best_validation, how_to_score, rank
from transformer_lib.training import StepResult, make_optimizer, train_step

TEXT = ParallelText(SOURCE, TARGET, "tiny")
RATES = TrainConfig(peak_rate=3e-3, warmup=5)
RUN = RunConfig(steps=6, max_tokens=30, validate_every=3, keep=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data") / "p", TEXT, 45)


@pytest.fixture
def trainer(corpus, tmp_path):
    opened = []

    def make(folder="run", run=RUN, resume="no", rates=RATES, say=silent, *, data=corpus, **sizes):
        model = ModelConfig.tiny(45, **({"n_layers": 1, "d_model": 16, "d_ff": 32} | sizes))
        made = Trainer(data, model, rates, run, tmp_path / folder)
        made.log_every = 1
        made.start(resume, say=say)
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


def state(trainer):
    return trainer.translator.model.state_dict()


def validate_with(monkeypatch, scores, losses=None):
    """Every validation finds the next of these BLEU scores (and losses)."""

    def score(*_):
        loss = next(losses) if losses else 1.0
        return {"val_loss": loss, "val_accuracy": 0.5, "chrf": 40.0, "bleu": next(scores)}

    monkeypatch.setattr("transformer_lib.train.trainer.validation_scores", score)


def losses(trainer):
    return [line["loss"] for line in RunLog.read(trainer.log.path) if "loss" in line]


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, (1, 3)),
        ({"accumulate": 2}, (4, 5)),
        ({"optimizer": "muon"}, (2,)),
        ({"precision": "bf16"}, (2,)),
    ],
    ids=str,
)
def test_an_interrupted_run_ends_with_the_same_bits(trainer, changes, stops):
    run = replace(RUN, **changes)
    whole = trainer("whole", run)
    assert whole.fit(quiet=True) == "all steps done"
    if changes:  # they have an effect
        plain = trainer("plain")
        plain.fit(quiet=True)
        assert losses(plain) != losses(whole)
    for stop_at in stops:
        trainer(f"cut-{stop_at}", replace(run, steps=stop_at)).fit(quiet=True)
        torch.manual_seed(99)  # whatever happened to the process in between
        again = trainer(f"cut-{stop_at}", run, resume="latest")
        assert again.step == stop_at
        again.fit(quiet=True)
        assert losses(again) == losses(whole)
        for name in ("epoch", "index", "recent"):
            assert getattr(again, name) == getattr(whole, name)
        assert again.epoch > 0 or again.index == 6
        for name, tensor in state(whole).items():
            assert torch.equal(tensor, state(again)[name]), name


@pytest.mark.parametrize("rows", [0, 256])
def test_its_update_is_the_step_of_the_lesson(trainer, rows):
    rates = replace(RATES, eps=1e-6)  # the key's bias has no gradient but rounding
    made = trainer(run=replace(RUN, loss_rows=rows), rates=rates, dropout=0.0)
    model = made.translator.model.double()
    lesson = copy.deepcopy(model)
    optimizer = make_optimizer(lesson, rates)
    batches = made.batches()
    for step in (1, 2, 3):
        both = [next(batches), next(batches)]
        expected = train_step(lesson, optimizer, both, step, rates)
        tolerance = 0 if rows == 0 else 1e-12
        assert made.update(both) == pytest.approx(expected, rel=tolerance, abs=0)
        parts = dict(model.named_parameters()), dict(lesson.named_parameters())
        torch.testing.assert_close(*parts, rtol=0, atol=tolerance)


def test_a_mean_loss_in_the_log_is_the_same_wherever_the_run_was_cut(trainer):
    def fit(*arguments, **options):
        made = trainer(*arguments, **options)
        made.log_every = 4
        made.fit(quiet=True)
        return made

    whole = fit("whole")
    for stop_at in (2, 3):
        fit(f"cut-{stop_at}", replace(RUN, steps=stop_at))
        again = fit(f"cut-{stop_at}", resume="latest")
        assert losses(again) == losses(whole) and len(losses(whole)) == 1
        assert again.recent == whole.recent and whole.recent[1] > 0


def test_progress_of_an_older_version_is_read_and_a_wrong_one_is_not(trainer):
    first = trainer()
    first.fit(quiet=True)
    path = first.checkpoints / "step-000006" / "training.json"
    noted = json.loads(path.read_text())
    new = read_progress(path)
    assert (new["recent"], new["per_update"]) == ([0.0, 0], 1)
    path.write_text(json.dumps({k: noted[k] for k in noted if k not in ("recent", "per_update")}))
    assert read_progress(path) == new
    path.write_text(json.dumps(noted | {"recent": [None, 7]}))  # JSON has no NaN
    loss, n_tokens = read_progress(path)["recent"]
    assert math.isnan(loss) and n_tokens == 7
    for wrong in ({"per_update": "x"}, {"per_update": 0}, {"recent": [1.0]}, {"recent": [1.0, -1]}):
        path.write_text(json.dumps(noted | wrong))
        with pytest.raises(CheckpointError, match=r"training\.json cannot be used"):
            read_progress(path)


def test_the_log_forgets_what_is_done_again(trainer):
    trainer("run", replace(RUN, steps=5)).fit(quiet=True)
    again = trainer("run", resume="latest")
    again.close()
    with again.log.path.open("a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    again = trainer("run", resume="latest")
    steps = [line["step"] for line in RunLog.read(again.log.path) if "loss" in line]
    assert steps == [*range(1, 6)]


def test_a_run_is_not_overwritten(trainer):
    trainer().fit(quiet=True)
    with pytest.raises(ValueError, match="holds a run already: add --resume auto"):
        trainer()
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        trainer("new", resume="latest")


def test_other_settings_are_refused_and_each_difference_is_named(trainer):
    trainer().fit(quiet=True)
    other = replace(RATES, warmup=7)
    with pytest.raises(ValueError, match="another run") as error:
        trainer(run=replace(RUN, seed=1), resume="latest", rates=other, dropout=0.3)
    for words in ("model.dropout was 0.1, is 0.3", "train.warmup was 5, is 7", "run.seed was 0"):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="with a cooldown, the number of steps decides the rate"):
        trainer(rates=replace(RATES, cooldown=(5, 10)), resume="latest")
    trainer(run=replace(RUN, steps=99, keep=9, patience=4), resume="latest")  # these may change


def test_where_every_checkpoint_is_damaged_auto_refuses_and_touches_nothing(trainer):
    first = trainer()
    first.fit(quiet=True)
    for checkpoint in list_checkpoints(first.checkpoints):
        (checkpoint / "training.pt").write_bytes(b"x")
    before = tree(first.folder)
    for _ in range(2):  # a cluster tries again
        with pytest.raises(CheckpointError, match=r"step-000006/training.pt is .* start anew"):
            trainer(resume="auto")
        assert tree(first.folder) == before


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, ImportError, OSError])
def test_what_the_machine_lacks_is_not_the_files_fault(trainer, monkeypatch, error):
    first = trainer()
    first.fit(quiet=True)
    before = tree(first.folder)

    def fail(*_):
        raise error("no room on the card")

    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", fail)
    with pytest.raises(error, match="no room on the card"):
        trainer(resume="auto")
    assert tree(first.folder) == before
    monkeypatch.undo()
    assert trainer(resume="auto").step == 6


@pytest.mark.parametrize(
    "words", ["Cannot allocate memory (os error 12)", "DefaultCPUAllocator: can't allocate memory"]
)
def test_a_parser_without_memory_does_not_accuse_the_file(words):
    lacks = pytest.raises(MemoryError, match=r"^a.safetensors: .*llocate memory")
    with lacks, blame_file("a.safetensors"):
        raise RuntimeError(words)
    accuses = pytest.raises(CheckpointError, match=r"^a.safetensors cannot be used: no header")
    with accuses, blame_file("a.safetensors"):
        raise RuntimeError("no header")


def test_a_planted_link_is_not_followed_by_the_lock(trainer, tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"\.lock"):
        trainer()
    assert (tmp_path / "precious").read_text() == "kept"


def test_two_trainings_do_not_share_a_folder_and_a_killed_one_leaves_no_lock(trainer, tmp_path):
    (tmp_path / "run").mkdir()
    code = "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
    code += "from transformer_lib.train.folder import lock_folder\n"
    code += "lock = lock_folder(Path(sys.argv[1])); print('locked', flush=True); input()"
    call = [sys.executable, "-c", code, str(tmp_path / "run"), str(Path(__file__).parents[1])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(call, **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ValueError, match="another training is running there"):
            trainer()
        other.kill()
    trainer()


def test_where_the_file_system_has_no_locks_a_run_starts_all_the_same(trainer, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    trainer().fit(quiet=True)


def test_steps_are_kept_when_the_validation_fails(trainer, monkeypatch):
    made = trainer()
    monkeypatch.setattr("transformer_lib.train.trainer.validation_scores", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.fit(quiet=True)
    assert [path.name for path in list_checkpoints(made.checkpoints)] == ["step-000003"]


# Signals


def send(monkeypatch, *numbers, then=lambda: None):
    """Replace the first update by signals to this very process; what follows is not trained."""

    def update(self, batches):
        self.step += 1
        for number in numbers:
            os.kill(os.getpid(), number)
        then()
        return StepResult(1.0, 1, 1.0, 0.1)

    monkeypatch.setattr(Trainer, "update", update)


@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]]
)
def test_a_signal_finishes_the_step_and_saves(trainer, monkeypatch, numbers):
    send(monkeypatch, *numbers)
    before = signal.getsignal(numbers[0])
    stopped = trainer()
    assert stopped.fit(quiet=True) == numbers[0].name
    assert [path.name for path in list_checkpoints(stopped.checkpoints)] == ["step-000001"]
    assert signal.getsignal(numbers[0]) is before


def test_a_second_ctrl_c_stops_at_once(trainer, monkeypatch):
    send(monkeypatch, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(quiet=True)


def not_heard():
    raise AssertionError("the second signal was not heard")


def test_a_second_signal_is_heard_while_the_first_is_told(trainer, monkeypatch):
    """The user may answer "Ctrl-C again" before the line after the one that prints it runs."""

    class Impatient(io.StringIO):
        def write(self, text):
            if "Ctrl-C again" in text:
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    send(monkeypatch, signal.SIGINT, then=not_heard)
    monkeypatch.setattr("sys.stderr", Impatient())
    with pytest.raises(KeyboardInterrupt):
        trainer().fit()


def test_a_second_signal_is_not_lost_where_python_drops_it(trainer, monkeypatch):
    dropped = []
    monkeypatch.setattr("sys.unraisablehook", lambda lost: dropped.append(lost.exc_type))

    class Cleared:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def long_step():
        Cleared()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.01)
        not_heard()

    send(monkeypatch, signal.SIGINT, then=long_step)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(quiet=True)
    assert dropped == [KeyboardInterrupt]  # or the test has shown nothing


def test_a_line_that_cannot_be_printed_does_not_end_a_training(trainer, monkeypatch):
    """A signal in the middle of a write: Python does not let the handler write there, too."""

    class Busy(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside")

    made = trainer()
    send(monkeypatch, signal.SIGINT)
    with monkeypatch.context() as busy:
        busy.setattr("sys.stderr", Busy())
        assert made.fit(quiet=True) == "SIGINT"


# The end of a run


def test_the_newest_and_the_best_stay(trainer, monkeypatch):
    scores = iter([5.0, 50.0, 10.0, 20.0, 30.0, 40.0])
    validate_with(monkeypatch, scores)
    made = trainer(run=replace(RUN, validate_every=1))
    made.fit(quiet=True)
    kept = [path.name for path in list_checkpoints(made.checkpoints)]
    assert kept == ["step-000002", "step-000005", "step-000006"]
    best = json.loads((made.folder / "best.json").read_text())
    assert best == {"step": 2, "bleu": 50.0, "chrf": 40.0, "val_loss": 1.0}


def test_patience_and_minutes_end_a_run(trainer, monkeypatch):
    worse = iter(range(100, 0, -1))
    validate_with(monkeypatch, worse)
    made = trainer(run=replace(RUN, steps=50, validate_every=1, patience=3))
    assert made.fit(quiet=True) == "no better BLEU in 3 validations"
    assert made.step == 4
    made = trainer("short", run=replace(RUN, steps=10**6, max_minutes=1e-5))
    assert "minutes are over" in made.fit(quiet=True)
    assert list_checkpoints(made.checkpoints)


ENGLISH_TO_CHINESE = [(20, 2.86, 0.0, 1.9), (80, 0.31, 0.0, 71.0), (120, 0.11, 0.0, 100.0)]


@pytest.mark.parametrize(
    ("measure", "validations", "best"),
    [
        ("bleu", ENGLISH_TO_CHINESE, 120),  # as recorded, with a tokenizer that splits at spaces
        ("chrf", ENGLISH_TO_CHINESE, 120),
        ("bleu", [(1, 1.0, 30.0, 50.0), (2, 0.9, 29.0, 60.0), (3, 1.1, 28.0, 40.0)], 1),
        ("chrf", [(1, 1.0, 30.0, 50.0), (2, 0.9, 29.0, 60.0), (3, 1.1, 28.0, 40.0)], 2),
        ("loss", [(1, 1.0, 30.0, 50.0), (2, 1.1, 40.0, 60.0), (3, 0.9, 0.0, 0.0)], 3),
        ("bleu", [(1, math.nan, 99.0, 99.0), (2, 5.0, 0.0, 1.0), (3, None, 99.0, 99.0)], 2),
        ("bleu", [(1, 5.0, 7.0, 1.0), (2, 5.0, 7.0, 1.0)], 1),
        ("loss", [(1, math.nan, 99.0, 99.0)], None),
    ],
)
def test_the_best_validation_has_the_best_score_or_of_ties_the_lowest_loss(
    measure, validations, best
):
    names = ("step", "val_loss", "bleu", "chrf")
    log = [dict(zip(names, validation, strict=True)) for validation in validations]
    found = best_validation([{"step": 0, "loss": 9.0}, *log], measure)
    assert (found and found["step"]) == best


def test_patience_and_the_best_checkpoint_follow_the_selected_score(trainer, monkeypatch):
    run = replace(RUN, steps=50, validate_every=1, patience=2, keep=1)
    for select, scores in {"bleu": [0.0] * 6, "loss": range(6)}.items():
        made = trainer(select, replace(run, select=select))
        losses = iter([math.nan, 3.0, 2.0, 1.0, 1.5, math.nan])
        validate_with(monkeypatch, iter(scores), losses)
        assert made.fit(quiet=True).startswith("no better ")
        assert (made.step, made.best["step"], made.best["val_loss"]) == (6, 4, 1.0)
        assert json.loads((made.folder / "best.json").read_text())["step"] == 4
    validate_with(monkeypatch, iter([9.0] * 9), iter([math.nan] * 9))
    made = trainer("nan", replace(run, patience=None, steps=3))
    made.fit(quiet=True)
    assert made.best["step"] == 0 and not (made.folder / "best.json").exists()


def test_scores_that_cannot_be_compared_are_refused(corpus, trainer, tmp_path, monkeypatch):
    trainer().fit(quiet=True)
    with pytest.raises(ValueError, match=r"run\.select was 'bleu', is 'loss'"):
        trainer(run=replace(RUN, select="loss"), resume="latest")
    other = r"validation\.split was 'val', is 'train'.*can be compared"
    monkeypatch.setattr(corpus, "text", lambda split: TEXT)
    model = ModelConfig.tiny(45, n_layers=1, d_model=16, d_ff=32)
    made = Trainer(corpus, model, RATES, RUN, tmp_path / "run", validation="train")
    with pytest.raises(ValueError, match=other):
        made.start("latest", say=silent)
    monkeypatch.setattr("transformer_lib.train.validation.choose_tokenizer", lambda *_: "char")
    with pytest.raises(ValueError, match=r"validation\.tokenize was '13a', is 'char'"):
        trainer(resume="auto")


def test_a_run_whose_sentences_are_too_short_for_bleu_is_ranked_by_chrf():
    short = ParallelText(("ja", "ein Hund"), ("Yes.", "A dog."), "short")
    assert how_to_score("bleu", short, "en")["measure"] == "chrf"
    assert how_to_score("loss", short, "en")["measure"] == "loss"
    assert how_to_score("bleu", TEXT, "en")["measure"] == "bleu"
    babble, right = {"val_loss": 3.0, "bleu": 0.4, "chrf": 9.0}, {"val_loss": 0.1, "bleu": 0.0}
    assert rank(right | {"chrf": 100.0}, "chrf") > rank(babble, "chrf")


def test_a_validation_line_that_is_too_long_is_named_and_does_not_end_the_training(tmp_path):
    lines = [(SOURCE[0], TARGET[0]), ("", "lost"), ("ja " * 40, "yes"), (SOURCE[3], "yes " * 40)]
    val = pair_files(tmp_path, *zip(*lines, strict=True), "val")
    data = prepared(tmp_path / "p", TEXT, 45, val=val)
    model = ModelConfig.tiny(45, n_layers=1, d_model=16, d_ff=32, max_len=30)
    messages, made = [], Trainer(data, model, RATES, RUN, tmp_path / "run")
    made.start(say=messages.append)
    assert messages[0].startswith("warning: validation line 3, 4 has more tokens than the model")
    assert made.fit(quiet=True) == "all steps done"
    assert math.isfinite(made.best["val_loss"])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_learns_its_few_sentences_by_heart(trainer, tmp_path, language):
    target, options = TARGET, {"norm_first": True, "d_model": 32}
    if language == "zh":
        target = ("一只狗在睡觉。", "一只猫看见狗。", "花园是绿色的。", "是的是的。")
        text = ParallelText(SOURCE, target, "tiny")
        options["data"] = prepared(tmp_path / "p", text, 45, about={"target": "zh"})
    run = replace(RUN, steps=150, validate_every=150, max_tokens=200)
    made = trainer(run=run, rates=TrainConfig(peak_rate=1e-2, warmup=20), **options)
    made.fit(quiet=True)
    assert made.best["bleu"] == pytest.approx(100)
    folder = list_checkpoints(made.checkpoints)[-1]
    assert Translator.from_pretrained(folder).translate(list(SOURCE)) == list(target)


def test_all_problems_of_a_run_are_listed_at_once():
    with pytest.raises(
        ValueError, match=r"steps must.*keep must.*max_minutes must.*loss_rows must"
    ):
        RunConfig(steps=0, keep=0, max_minutes=-1.0, loss_rows=-1)

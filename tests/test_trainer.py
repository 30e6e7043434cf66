"""The loop that survives real life: resumed to the bit, stopped by real signals, never lost."""

import errno
import io
import json
import math
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from transformer_lib import ModelConfig, TrainConfig, Transformer, Translator
from transformer_lib.data.corpora import ParallelText
from transformer_lib.data.files import CheckpointError, list_checkpoints
from transformer_lib.data.prepared import learn_vocabularies, prepare
from transformer_lib.data.reading import read_progress, understood
from transformer_lib.train.runs import InPrecision, RunConfig, RunLog, choose_precision
from transformer_lib.train.trainer import Trainer
from transformer_lib.training import StepResult

SOURCE = ("ein Hund schläft", "eine Katze sieht den Hund", "der Garten ist grün", "ja ja ja")
TARGET = ("a dog sleeps", "a cat sees the dog", "the garden is green", "yes yes yes")
TEXT = ParallelText(SOURCE, TARGET, "tiny")
RATES = TrainConfig(peak_rate=3e-3, warmup=5)
RUN = RunConfig(steps=6, max_tokens=30, validate_every=3, keep=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    texts = {"train": TEXT, "val": TEXT}
    vocabularies = learn_vocabularies(TEXT, "subwords", 45, ("de", "en"))
    return prepare(texts, vocabularies, tmp_path_factory.mktemp("data") / "p", say=len)


@pytest.fixture
def trainer(corpus, tmp_path):
    opened = []

    def make(folder="run", run=RUN, resume="no", rates=RATES, say=len, **sizes):
        model = ModelConfig.tiny(45, **({"n_layers": 1, "d_model": 16, "d_ff": 32} | sizes))
        made = Trainer(corpus, model, rates, run, tmp_path / folder)
        made.log_every = 1
        made.start(resume, say=say)
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


def state(trainer):
    return trainer.translator.model.state_dict()


def validate_with(monkeypatch, scores):
    """Every validation finds the next of these BLEU scores."""
    fixed = {"val_loss": 1.0, "val_accuracy": 0.5}
    monkeypatch.setattr(
        "transformer_lib.train.trainer.validation_scores", lambda *_: fixed | {"bleu": next(scores)}
    )


def losses(trainer):
    return [line["loss"] for line in RunLog.read(trainer.log.path) if "loss" in line]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "muon"},
        {"subword_dropout": 0.4},
        {"r_drop": 5.0},
        {"precision": "bf16"},
        {"precision": "fp16"},
    ],
    ids=lambda changes: "-".join(map(str, next(iter(changes.items())))),
)
def test_whatever_is_chosen_a_cut_run_ends_with_the_same_bits(trainer, changes):
    run = replace(RUN, **changes)
    whole = trainer("whole", run)
    whole.fit(quiet=True)
    plain = trainer("plain")
    plain.fit(quiet=True)
    trainer("cut", replace(run, steps=2)).fit(quiet=True)
    again = trainer("cut", run, resume="latest")
    again.fit(quiet=True)
    assert losses(whole) == losses(again)
    assert losses(whole) != losses(plain)  # the choice was heard
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(again)[name]), name
    if changes == {"precision": "fp16"}:
        told = again.scaler.state_dict()
        assert told == whole.scaler.state_dict() and told["_growth_tracker"] == RUN.steps


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_was_cut_ends_with_the_same_bits(trainer, stop_at, accumulate):
    run = replace(RUN, accumulate=accumulate)
    whole = trainer("whole", run)
    assert whole.fit(quiet=True) == "all steps done"
    trainer("cut", replace(run, steps=stop_at)).fit(quiet=True)
    torch.manual_seed(99)  # whatever happened to the process in between
    again = trainer("cut", run, resume="latest")
    assert again.step == stop_at
    again.fit(quiet=True)
    assert (whole.epoch, whole.index) == (again.epoch, again.index)
    assert whole.epoch > 0 or whole.index == 6
    assert losses(whole) == losses(again)
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(again)[name]), name


def test_a_mean_loss_in_the_log_is_the_same_wherever_the_run_was_cut(trainer):
    made = trainer("whole")
    made.log_every = 4
    made.fit(quiet=True)
    for stop_at in (1, 2, 3, 6):
        cut = trainer(f"cut-{stop_at}", replace(RUN, steps=stop_at))
        cut.log_every = 4
        cut.fit(quiet=True)
        again = trainer(f"cut-{stop_at}", resume="latest")
        again.log_every = 4
        again.fit(quiet=True)
        assert losses(again) == losses(made) and len(losses(made)) == 1
        assert again.recent == made.recent and made.recent[1] > 0


def test_progress_of_an_older_version_is_read_and_a_wrong_one_is_not(trainer):
    first = trainer()
    first.fit(quiet=True)
    path = first.checkpoints / "step-000006" / "training.json"
    noted = json.loads(path.read_text())
    new = read_progress(path)
    assert (new["recent"], new["per_update"]) == ([0.0, 0], 1)
    path.write_text(json.dumps({k: noted[k] for k in noted if k not in ("recent", "per_update")}))
    assert read_progress(path) == new
    path.write_text(json.dumps(noted | {"recent": [None, 7]}))  # float16 was too short for a loss
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
    assert [line["step"] for line in RunLog.read(again.log.path) if "loss" in line] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_a_run_is_not_overwritten(trainer):
    trainer().fit(quiet=True)
    with pytest.raises(ValueError, match="holds a run already: add --resume auto"):
        trainer()
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        trainer("new", resume="latest")


def test_two_trainings_do_not_share_a_folder(trainer):
    first = trainer()
    with pytest.raises(ValueError, match="another training is running there"):
        trainer(resume="auto")
    first.fit(quiet=True)
    assert trainer(resume="auto").step == 6


def test_other_settings_are_refused_and_each_difference_is_named(trainer):
    trainer().fit(quiet=True)
    other = replace(RATES, warmup=7)
    with pytest.raises(ValueError, match="another run") as error:
        trainer(run=replace(RUN, seed=1), resume="latest", rates=other, dropout=0.3)
    for words in ("model.dropout was 0.1, is 0.3", "train.warmup was 5, is 7", "run.seed was 0"):
        assert words in str(error.value)
    trainer(run=replace(RUN, steps=99, keep=9, patience=4), resume="latest")  # these may change


def test_a_damaged_checkpoint_stops_latest_and_is_skipped_by_auto(trainer):
    said = []
    first = trainer()
    first.fit(quiet=True)
    newest = list_checkpoints(first.checkpoints)[-1]
    (newest / "training.pt").write_bytes(b"x" + (newest / "training.pt").read_bytes()[1:])
    with pytest.raises(CheckpointError, match=r"step-000006/training.pt is damaged"):
        trainer(resume="latest")
    again = trainer(resume="auto", say=said.append)
    assert again.step == 3
    assert "skipped" in said[0] and "training.pt" in said[0]
    assert "now called damaged-step-000006" in said[0]
    assert "going on from" in said[1] and "step 3" in said[1]


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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
@pytest.mark.parametrize("resume", ["latest", "auto"])
def test_what_the_machine_lacks_is_not_the_files_fault(trainer, monkeypatch, error, resume):
    first = trainer()
    first.fit(quiet=True)
    before = tree(first.folder)

    def fail(*_):
        raise error("no room on the card")

    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", fail)
    with pytest.raises(error, match="no room on the card"):
        trainer(resume=resume)
    assert tree(first.folder) == before
    monkeypatch.undo()
    assert trainer(resume=resume).step == 6


@pytest.mark.parametrize(
    "words", ["Cannot allocate memory (os error 12)", "DefaultCPUAllocator: can't allocate memory"]
)
def test_a_parser_without_memory_does_not_accuse_the_file(words):
    lacks = pytest.raises(MemoryError, match=r"^a.safetensors: .*llocate memory")
    with lacks, understood("a.safetensors"):
        raise RuntimeError(words)
    accuses = pytest.raises(CheckpointError, match=r"^a.safetensors cannot be used: no header")
    with accuses, understood("a.safetensors"):
        raise RuntimeError("no header")


def test_where_the_file_system_has_no_locks_a_run_starts_all_the_same(trainer, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    trainer().fit(quiet=True)


def test_what_is_damaged_does_not_push_out_what_is_whole(trainer):
    run = replace(RUN, keep=1)
    first = trainer(run=replace(run, keep=2))
    first.fit(quiet=True)
    newest = list_checkpoints(first.checkpoints)[-1]
    (newest / "training.json").write_text("{}")
    again = trainer(run=run, resume="auto")
    again.step += 1
    saved = again.save()
    assert saved in list_checkpoints(again.checkpoints)


def test_steps_are_kept_when_the_validation_fails(trainer, monkeypatch):
    made = trainer()
    monkeypatch.setattr("transformer_lib.train.trainer.validation_scores", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.fit(quiet=True)
    assert [path.name for path in list_checkpoints(made.checkpoints)] == ["step-000003"]


def test_best_names_no_checkpoint_that_is_not_there(trainer, monkeypatch):
    made = trainer()
    made.fit(quiet=True)
    (made.folder / "best.json").write_text('{"step": 77}')
    assert trainer(resume="latest").best["step"] in (3, 6)
    assert json.loads((made.folder / "best.json").read_text())["step"] in (3, 6)


def test_more_steps_with_a_cooldown_are_refused_in_words(trainer):
    rates = replace(RATES, cooldown=(3, 6))
    trainer(rates=rates).fit(quiet=True)
    longer = replace(RATES, cooldown=(5, 10))
    with pytest.raises(ValueError, match="with a cooldown, the number of steps decides the rate"):
        trainer(run=replace(RUN, steps=10), rates=longer, resume="latest")


def test_positions_have_to_reach(trainer):
    with pytest.raises(ValueError, match=r"max_len=20 is too small: .* up to \d+ tokens"):
        trainer(max_len=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(trainer, monkeypatch, number):
    update = Trainer._update

    def update_and_signal(self, batches):
        result = update(self, batches)
        if self.step == 2:
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(Trainer, "_update", update_and_signal)
    before = signal.getsignal(number)
    stopped = trainer()
    assert stopped.fit(quiet=True) == number.name
    assert [path.name for path in list_checkpoints(stopped.checkpoints)] == ["step-000002"]
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once(trainer, monkeypatch):
    def two_signals(self, batches):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_update", two_signals)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(quiet=True)


def test_a_second_signal_is_heard_while_the_first_is_told(trainer, monkeypatch):
    """Whoever reads "Ctrl-C again" may be faster than the line behind the one that prints it."""

    class Impatient(io.StringIO):
        def write(self, text):
            if "Ctrl-C again" in text:
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    def one_signal(self, batches):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal was not heard")

    monkeypatch.setattr(Trainer, "_update", one_signal)
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

    def long_step(self, batches):
        os.kill(os.getpid(), signal.SIGINT)
        Cleared()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.01)
        raise AssertionError("the second signal was not heard")

    monkeypatch.setattr(Trainer, "_update", long_step)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(quiet=True)
    assert dropped == [KeyboardInterrupt]  # or the test has shown nothing


def test_a_line_that_cannot_be_printed_does_not_end_a_training(trainer, monkeypatch):
    """A signal in the middle of a write: Python does not let the handler write there, too."""

    class Busy(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside")

    def one_signal(self, batches):
        self.step += 1
        monkeypatch.setattr("sys.stderr", Busy())
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.undo()
        return StepResult(1.0, 1, 1.0, 0.1)

    monkeypatch.setattr(Trainer, "_update", one_signal)
    assert trainer().fit() == "SIGINT"


def test_a_second_request_to_end_does_not_cut_the_save(trainer, monkeypatch):
    def two_signals(self, batches):
        self.step += 1
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        return StepResult(1.0, 1, 1.0, 0.1)

    monkeypatch.setattr(Trainer, "_update", two_signals)
    made = trainer()
    assert made.fit(quiet=True) == "SIGTERM"
    assert len(list_checkpoints(made.checkpoints)) == 1


def test_the_newest_and_the_best_stay(trainer, monkeypatch):
    scores = iter([5.0, 50.0, 10.0, 20.0, 30.0, 40.0])
    validate_with(monkeypatch, scores)
    made = trainer(run=replace(RUN, validate_every=1))
    made.fit(quiet=True)
    kept = [path.name for path in list_checkpoints(made.checkpoints)]
    assert kept == ["step-000002", "step-000005", "step-000006"]
    assert json.loads((made.folder / "best.json").read_text()) == {"step": 2, "bleu": 50.0}


def test_patience_and_minutes_end_a_run(trainer, monkeypatch):
    worse = iter(range(100, 0, -1))
    validate_with(monkeypatch, worse)
    made = trainer(run=replace(RUN, steps=50, validate_every=1, patience=3))
    assert made.fit(quiet=True) == "no better BLEU in 3 validations"
    assert made.step == 4
    made = trainer("short", run=replace(RUN, steps=10**6, max_minutes=1e-5))
    assert "minutes are over" in made.fit(quiet=True)
    assert list_checkpoints(made.checkpoints)


def test_a_loss_that_is_no_number_keeps_the_checkpoints(trainer):
    made = trainer()
    made.run = replace(RUN, steps=3)
    made.fit(quiet=True)
    made.run = RUN
    with torch.no_grad():
        made.translator.model.tgt_embedding.weight[:] = math.nan
    with pytest.raises(FloatingPointError, match=r"at step 4.*epoch \d+, batch \d+"):
        made.fit(quiet=True)
    assert trainer(resume="latest").step == 3


def test_it_learns_its_few_sentences_by_heart(trainer):
    run = replace(RUN, steps=150, validate_every=150, max_tokens=200)
    made = trainer(
        run=run, rates=TrainConfig(peak_rate=1e-2, warmup=20), norm_first=True, d_model=32
    )
    made.fit(quiet=True)
    assert made.best["bleu"] == pytest.approx(100)
    folder = list_checkpoints(made.checkpoints)[-1]
    assert Translator.from_pretrained(folder).translate(list(SOURCE)) == list(TARGET)


def test_bf16_rounds_the_products_and_nothing_else():
    model = Transformer(ModelConfig.tiny(30, dropout=0.0)).eval()
    short = InPrecision(model, torch.bfloat16)
    src, tgt = torch.randint(4, 30, (2, 7)), torch.randint(4, 30, (2, 5))
    logits, exact = short(src, tgt), InPrecision(model, None)(src, tgt)
    assert torch.equal(exact, model(src, tgt))
    assert logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.05 * exact.abs().max()
    logits.sum().backward()
    assert all(p.grad.dtype == p.dtype == torch.float32 for p in model.parameters())
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) is choose_precision("fp32", cpu) is None
    assert choose_precision("fp16", cpu) is torch.float16


def test_all_problems_of_a_run_are_listed_at_once():
    with pytest.raises(ValueError, match=r"steps must.*keep must.*max_minutes must be above 0"):
        RunConfig(steps=0, keep=0, max_minutes=-1.0)
    with pytest.raises(
        ValueError, match=r"steps must.*subword_dropout must be in \[0, 1\), got 1.0"
    ):
        RunConfig(steps=0, subword_dropout=1.0)

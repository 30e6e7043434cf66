"""What is written: where it may go, by one writer at a time, before or instead of the work."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers import silent, tree

from transformer_lib import Translator, WordVocab
from transformer_lib.cli import main
from transformer_lib.data import files, manifest
from transformer_lib.data.encoding import prepare
from transformer_lib.data.files import check_folder, list_checkpoints, write_folder
from transformer_lib.data.locks import hold_name
from transformer_lib.data.text import ParallelText
from transformer_lib.decoding import Hypothesis

TEXT = ["a b c d", "b c d e f", "c d", "d e f a b"]
PREPARE = "prepare {out} --corpus files --source de --target en --train {text} {text} "
PREPARE += "--val {text} {text} --vocab-size 16"
TRAIN = "train {data} {out} --n-layers 1 --d-model 16 --n-heads 2 --d-ff 16 --threads 1 "
TRAIN += "--max-tokens 32 --validate-every 4 --steps 12 --keep 3"
EVALUATE = "evaluate {model} --data {data} --split val --beam 1 "
TRANSLATE = "translate {model} --beam 1 "
AVERAGE = "average {out} {run}"
REPORT, ATTENTION = EVALUATE + "--report {out}.html", TRANSLATE + "ab --attention {out}.png"
FILES = [EVALUATE + "--result {out}", EVALUATE + "--hypotheses {out}", REPORT, ATTENTION]
FOLDERS = [PREPARE, AVERAGE, "export {model} {out} --to transformers"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "text").write_text("\n".join(TEXT))
    places = {name: folder / name for name in ("text", "data", "run", "model")}
    for command, out in ((PREPARE, "data"), (TRAIN, "run")):
        assert main(command.format(**places | {"out": folder / out}).split()) == 0
    Translator.open(folder / "run").save(folder / "model")
    return folder


@pytest.fixture
def cli(home, tmp_path, capsys):
    """Run a command on what `home` has, copied to where the test may break it."""
    folder = Path(shutil.copytree(home, tmp_path / "home"))

    def call(command, out="out", **places):
        places = {name: folder / name for name in ("text", "data", "run", "model")} | places
        capsys.readouterr()
        status = main(command.format(out=folder / out, **places).split())
        return status, *capsys.readouterr()

    call.folder = folder
    return call


@contextmanager
def no_work():
    """Let decoding, learning, averaging and reading a model fail."""
    with ExitStack() as stack:
        for name in (
            "translate.translator.Translator.from_pretrained",
            "data.encoding.learn_vocabularies",
        ):
            stack.enter_context(mock.patch(f"transformer_lib.{name}", side_effect=AssertionError))
        yield


def refused(cli, command, *words, status=2, **places):
    """Run a command that must change nothing, and end in one line with these words."""
    before = {str(path): path.lstat().st_mode for path in cli.folder.rglob("*")}, tree(cli.folder)
    found, out, err = cli(command, **places)
    assert (found, out, err.count("\n")) == (status, "", 1), err
    for word in words:
        assert word in err
    after = {str(path): path.lstat().st_mode for path in cli.folder.rglob("*")}, tree(cli.folder)
    assert before == after


# One writer at a time


def test_a_name_is_held_by_one_writer_and_nothing_is_left_behind(tmp_path):
    def other():
        held = pytest.raises(FileExistsError, match="x is being written by another process")
        with held, hold_name(tmp_path / "new" / "x"):
            pass
        told.append(True)

    told, path = [], tmp_path / "new" / "x"
    with hold_name(path), hold_name(path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert told and list(tmp_path.iterdir()) == []
    hold = "import sys, time, pathlib; from transformer_lib.data.locks import hold_name\n"
    hold += "with hold_name(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    call = [sys.executable, "-c", hold, path]
    with subprocess.Popen(call, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        other()
        process.send_signal(signal.SIGKILL)
    with hold_name(path):  # what was killed holds nothing
        path.touch()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("command", FILES + FOLDERS)
def test_a_name_that_is_taken_is_told_before_the_work(cli, command):
    path = cli.folder / "out"
    path = path.with_suffix({REPORT: ".html", ATTENTION: ".png"}.get(command, ""))
    ready, done = threading.Event(), threading.Event()

    def other():
        with hold_name(path):
            ready.set()
            done.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(30)
    with no_work():
        refused(cli, command, f"{path} is being written by another process")
    done.set()
    thread.join()


@pytest.mark.parametrize("command", FILES + FOLDERS)
def test_a_read_only_place_is_told_before_the_work(cli, command, monkeypatch):
    real = os.open

    def fail(path, flags, *arguments, **options):
        if flags & os.O_CREAT and Path(path).parent == cli.folder:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
    with no_work():
        refused(cli, command, "Read-only file system", status=1)


@pytest.mark.parametrize("command", [*FILES, *FOLDERS, TRAIN + " --resume latest"])
def test_a_refused_command_leaves_no_folder(cli, command):
    nowhere = cli.folder / "nowhere"
    places = {"model": nowhere, "run": nowhere, "text": nowhere}
    refused(cli, command, out="deep/er/out", **places)


# Whole or not at all


@pytest.mark.parametrize("command", FILES)
def test_an_output_is_replaced_whole_or_not_at_all(cli, command, monkeypatch):
    path = cli.folder / "out"
    path = path.with_suffix({REPORT: ".html", ATTENTION: ".png"}.get(command, ""))
    path.write_text("old")
    before = sorted(cli.folder.iterdir())

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_flush", full)
    status, _, err = cli(command + " --force")
    assert status == 1 and f"No space left on device: '{path}'" in err
    assert path.read_text() == "old" and sorted(cli.folder.iterdir()) == before


def test_outputs_that_would_destroy_each_other_or_an_input_are_refused(cli):
    folder = cli.folder
    (folder / "x.html").write_text("mine")
    os.link(folder / "x.html", folder / "y")
    for outputs, words in (
        ("--result {out} --hypotheses {out}/b", "one lies in the other"),
        ("--report {out}/../x.html --result {out}/../y --force", "two outputs have the same name"),
        ("--result {run}/checkpoints/step-000099/x", "checkpoints, a folder of ours"),
        ("--result {data} --force", "is a folder"),
    ):
        refused(cli, EVALUATE + outputs, words)
    shutil.copy(folder / "text", folder / "text.png")
    refused(cli, TRANSLATE + "--file {text}.png --attention {text}.png --force", "the input, too")


def test_a_run_goes_into_no_folder_that_is_something_else(cli):
    folder = cli.folder
    for out in ("data", "data/new", "model", "run/checkpoints/step-000004", "run/checkpoints/new"):
        refused(cli, TRAIN, "a folder of ours", out=out)
    refused(cli, TRAIN, "text is not a folder", out="text")
    for name in ("log.jsonl", "best.json", "run.json"):  # another program's
        (folder / name).write_text('{"mine": 1}')
        refused(cli, TRAIN, f"{name} is not of a run of ours", out=".")
        (folder / name).unlink()
    (folder / "run" / "best.json").unlink()
    os.mkfifo(folder / "run" / "best.json")
    refused(cli, f"{TRAIN} --resume latest", "best.json is no file", out="run")


# Checkpoints that are linked, or go while they are read


def test_a_checkpoint_that_was_moved_and_linked_is_read_and_its_target_left_alone(cli):
    """It is resumed from, pruned, and replaced: always the link, never what it leads to."""
    folder, away = cli.folder / "run" / "checkpoints", cli.folder / "away"
    folder.rename(away)
    folder.mkdir()
    for path in away.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "step-000016").symlink_to(cli.folder / "unmounted")
    before = tree(away)
    status, out, err = cli(TRAIN.replace("12", "28") + " --resume auto", out="run")
    assert status == 0, err
    assert "skipped: step-000016 cannot be read now, and keeps its name" in out
    assert tree(away) == before
    kept = list_checkpoints(folder)
    assert [path.name for path in kept][-1] == "step-000028"
    assert not any(path.is_symlink() for path in kept[1:])  # the first one may be the best
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    "command",
    [
        AVERAGE,
        "info {run}",
        "translate {run} a",
        EVALUATE,
        PREPARE.replace("-size 16", "-from {run}"),
        "explore {run} --out {out}.html",
    ],
)
def test_a_checkpoint_that_goes_while_it_is_read_is_looked_for_again(cli, command, monkeypatch):
    newest = list_checkpoints(cli.folder / "run" / "checkpoints")[-1]
    (cli.folder / "run" / "best.json").unlink()
    real = manifest.file_sha256

    def lose(path):
        if newest.exists() and Path(path).name == "model.safetensors":
            newest.rename(newest.with_name("step-000099"))  # as if a later one had come
        return real(path)

    monkeypatch.setattr(manifest, "file_sha256", lose)
    status, _, err = cli(command.replace("{model}", "{run}"))
    assert status == 0, err
    assert not newest.exists()


def test_a_file_of_a_folder_that_is_a_link_to_nothing_is_not_called_damaged(tmp_path):
    folder = write_folder(tmp_path / "x", lambda new: (new / "a").touch(), kind="model")
    (folder / "a").rename(tmp_path / "a")
    (folder / "a").symlink_to(tmp_path / "a")
    check_folder(folder)
    (tmp_path / "a").unlink()
    with pytest.raises(FileNotFoundError, match=f"a link to nothing: '{folder / 'a'}'"):
        check_folder(folder)


# What is written can be read


def test_weights_that_could_not_be_read_are_not_written(home, tmp_path):
    translator = Translator.open(home / "model")
    model = translator.model
    copies = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(copies, assign=True)  # unties what is shared
    with pytest.raises(ValueError, match=r"projection\.weight is unknown; .*assign=True"):
        translator.save(tmp_path / "untied")
    model.output_projection.weight = model.tgt_embedding.weight
    model.src_embedding.weight = model.tgt_embedding.weight
    bias = model.encoder.layers[0].feed_forward.expand.bias
    model.encoder.layers[0].feed_forward.expand.bias = torch.nn.Parameter(bias.to(torch.complex64))
    with pytest.raises(ValueError, match=r"of floats, found .* of torch\.complex64"):
        translator.save(tmp_path / "complex")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [*FILES, *FOLDERS, TRAIN, TRANSLATE.replace("{model}", "{out}")]
)
def test_a_name_that_is_not_utf8_is_refused(cli, command):
    refused(
        cli, command, r"\udcff is not UTF-8" if "." not in command else r"\udcff", out="x\udcff"
    )


@pytest.mark.parametrize(
    ("split", "about", "words"),
    [
        ("../x", {}, "a split needs a name"),
        ("x", {"name": 5}, "name of a corpus"),
        ("x", {"y": Path()}, "recorded about a corpus"),
    ],
)
def test_a_corpus_that_could_not_be_read_is_not_written(tmp_path, split, about, words):
    texts = {split: ParallelText(("a",), ("b",), "x")}
    vocab = WordVocab(["<pad>", "<unk>", "<bos>", "<eos>", "a", "b"], "en")
    with pytest.raises(ValueError, match=words):
        prepare(texts, (vocab, vocab), tmp_path / "new", about=about, say=silent)
    assert list(tmp_path.iterdir()) == []


# Done, or a status that says it is not


@pytest.mark.parametrize(
    "command",
    [PREPARE + " --workers 1", AVERAGE, FILES[0], ATTENTION + " --file {text}"],
)
def test_work_is_done_although_nobody_reads_about_it(cli, monkeypatch, command):
    """Neither the output nor the warnings: `command 2>&1 | true`."""
    monkeypatch.setattr("transformer_lib.cli.prepare.LARGE", 1)  # so that it has to say something
    (cli.folder / "text").write_text("Zebra!\n" * 3 + "\n".join(TEXT))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        monkeypatch.setattr(sys, "stderr", nobody)
        status, *_ = cli(command.replace(" ab", ""))
        monkeypatch.undo()
    assert status == 0 and list(cli.folder.glob("out*"))


@pytest.mark.parametrize("command", [FILES[0], "info {model}", TRANSLATE + "a"])
def test_a_result_that_could_not_be_printed_is_no_0(cli, command, monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    status, _, err = cli(command)
    monkeypatch.undo()
    with suppress(OSError):
        full.close()
    assert status == 1 and "No space left on device" in err.splitlines()[-1]
    assert (cli.folder / "out").exists() == ("--result" in command)


@pytest.mark.parametrize("package", ["matplotlib.figure", "sacrebleu"])
def test_a_missing_package_is_told_before_the_work(cli, package):
    command, extra = (EVALUATE, "cli") if package == "sacrebleu" else (REPORT, "lessons")
    with mock.patch.dict(sys.modules, {package: None}), no_work():
        refused(cli, command, f"transformer-lib[{extra}]")
        if extra == "lessons":
            refused(cli, ATTENTION, f"transformer-lib[{extra}]")


def test_a_translation_that_is_too_long_to_draw_is_printed(cli, monkeypatch):
    long = [[Hypothesis([5] * 6000, -1.0, -1.0, False)]]
    monkeypatch.setattr(Translator, "hypotheses", lambda *_, **__: long)
    status, out, err = cli(ATTENTION)
    assert status == 0 and out.count("\n") == 1
    assert "line 1 cannot be drawn, the translation has 6,001 tokens" in err
    assert "out.png was not written" in err


def test_sweeping_takes_the_locks_that_nobody_holds(tmp_path):
    (tmp_path / ".lock-left").touch()
    with hold_name(tmp_path / "held"):
        files.sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock-held"]


def test_a_link_in_place_of_a_prepared_folder_is_refused(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "away")
    with pytest.raises(FileExistsError, match="is a link"):
        files.check_free(tmp_path / "link", "corpus", replace=True)

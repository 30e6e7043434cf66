"""Real faults on real runs: killed, starved of disk, corrupted byte by byte, cut off from whoever
reads. docs/faults.md is the list; what is tested elsewhere is named there."""

import ast
import errno
import hashlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transformer_lib
from transformer_lib import Translator
from transformer_lib.cli import main
from transformer_lib.cli.commands import COMMANDS
from transformer_lib.data.files import (
    CheckpointError,
    check_folder,
    list_checkpoints,
    sweep,
    write_folder,
    write_text,
)
from transformer_lib.train.folder import RunLog

ROOT = Path(__file__).resolve().parents[1]
TEXT = ["a b c d", "b c d e f", "c d", "d e f a b"]
SIZES = ["--n-layers", "1", "--d-model", "16", "--n-heads", "2", "--d-ff", "16", "--threads", "1"]
LENGTH = ["--steps", "60", "--validate-every", "4", "--max-tokens", "16", "--keep", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "text").write_text("\n".join(TEXT))
    pair = [str(folder / "text")] * 2
    command = ["prepare", str(folder / "data"), "--corpus", "files", "--vocab-size", "16"]
    command += ["--source", "de", "--target", "en"]
    assert main([*command, "--train", *pair, "--val", *pair]) == 0
    return folder / "data"


def command(data, folder, *flags):
    call = [sys.executable, "-m", "transformer_lib", "train", data, folder]
    return [str(word) for word in (*call, *SIZES, *LENGTH, *flags)]


def start(data, folder):
    call = command(data, folder, "--resume", "auto")
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def weights(folder):
    newest = list_checkpoints(folder / "checkpoints")[-1]
    return (check_folder(newest) / "model.safetensors").read_bytes()


def curve(folder):
    """The log without the clock: losses, rates, tokens and scores, line by line."""
    lines = RunLog.read(folder / "log.jsonl")
    return [{name: line[name] for name in line if name != "seconds"} for line in lines]


def wait_for(condition, process):
    for _ in range(30000):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def last_line(text):
    return text.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(data, folder)[3:]) == 0
    return folder


@pytest.fixture
def run(data, capsys):
    """Trains in a folder with these flags; exit status, output, errors."""

    def train(folder, *flags, data=data):
        capsys.readouterr()
        status = main(command(data, folder, *flags)[3:])
        return status, *capsys.readouterr()

    return train


@pytest.fixture
def copy(whole, tmp_path):
    """The whole run once more, to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


# --- killed


def test_killed_at_random_moments_it_ends_with_the_same_bits(data, whole, tmp_path):
    draw, n_kills, folder = random.Random(0), 0, tmp_path / "cut"
    for _ in range(3):
        with start(data, folder) as process:
            before = list_checkpoints(folder / "checkpoints")
            wait_for(lambda old=before: list_checkpoints(folder / "checkpoints") != old, process)
            time.sleep(draw.random() / 5)
            n_kills += process.poll() is None
            process.kill()
    with start(data, folder) as process:
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out.decode()
    assert n_kills >= 2  # or the test has shown nothing
    assert b"resuming from" in out
    assert weights(whole) == weights(folder)
    assert curve(whole) == curve(folder)  # every step once, as if nothing had been


SAVE_AND_DIE = """
import os, pathlib, signal, sys
from transformer_lib.data import files as checkpoint
moment, folder = sys.argv[1], pathlib.Path(sys.argv[2])
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def fill(temporary):
    (temporary / "weights.json").write_text("new")
    if moment == "while writing":
        die()
if moment == "before the manifest":
    checkpoint.fingerprint = die
if moment == "before the rename":
    checkpoint._move_into_place = die
if moment == "between the two renames":
    rename = pathlib.Path.rename
    def rename_once(path, target):
        if path.name.startswith(checkpoint.TEMPORARY):
            die()
        return rename(path, target)
    pathlib.Path.rename = rename_once
checkpoint.write_folder(folder, fill, kind="checkpoint")
"""


def test_killed_in_the_middle_of_a_save_the_old_one_is_whole(tmp_path):
    moments = "while writing", "before the manifest", "before the rename", "between the two renames"
    folders, processes = [], []

    def write_old(folder):
        (folder / "weights.json").write_text("old")

    for moment in moments:
        folders.append(tmp_path / moment / "step-000001")
        write_folder(folders[-1], write_old, kind="checkpoint")
        call = [sys.executable, "-c", SAVE_AND_DIE, moment, folders[-1]]
        processes.append(subprocess.Popen(call))
    for folder, process in zip(folders, processes, strict=True):
        assert process.wait(timeout=100) == -signal.SIGKILL
        sweep(folder.parent)
        assert [path.name for path in folder.parent.iterdir()] == ["step-000001"]
        assert (check_folder(folder) / "weights.json").read_text() == "old"


# --- the disk


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of a given size, that can be filled and made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        options = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        try:
            subprocess.run(options, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_a_full_disk_keeps_what_is_saved_and_the_run_resumes_later(data, whole, disk):
    folder, filler = disk("size=2m") / "run", disk("remount", "size=2m") / "filler"
    with start(data, folder) as process:
        wait_for(lambda: list_checkpoints(folder / "checkpoints"), process)
        with filler.open("wb", buffering=0) as file:
            while process.poll() is None:
                try:
                    file.write(bytes(4096))
                except OSError:
                    time.sleep(0.01)
        out, _ = process.communicate(timeout=300)
    message = last_line(out.decode())
    assert process.returncode == 1, message
    assert str(folder) in message and "Traceback" not in out.decode()
    assert "; to resume: the same command with --resume auto" in message
    saved = list_checkpoints(folder / "checkpoints")
    for checkpoint in saved:
        check_folder(checkpoint)
    assert f"saved: step {int(saved[-1].name[5:])} in" in message
    assert not list((folder / "checkpoints").glob(".*"))  # what is half written takes no room
    filler.unlink()
    assert main(command(data, folder, "--resume", "auto")[3:]) == 0
    assert weights(folder) == weights(whole)


@pytest.mark.parametrize("promised", [False, True])  # True, as where users have a quota
def test_a_disk_that_cannot_hold_the_run_is_told_before_the_first_step(
    disk, run, monkeypatch, promised
):
    folder = disk("size=300k")
    words = r"run/checkpoints: up to 7 checkpoints of .* MB need .* MB more, but"
    if promised:
        words = "No space left on device: make room"
        usage = shutil.disk_usage(folder)._replace(free=10**12)
        monkeypatch.setattr("transformer_lib.train.dry_run.shutil.disk_usage", lambda _: usage)
    status, out, err = run(folder / "run", "--keep", 5)
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert re.search(words, err)
    assert list(folder.iterdir()) == []


def test_a_small_file_that_finds_no_room_is_named_and_the_old_one_kept(disk):
    path = disk("size=64k") / "best.json"
    write_text(path, "old")
    with pytest.raises(OSError) as caught:
        write_text(path, "x" * 10**6)
    assert caught.value.filename == str(path)
    assert [file.name for file in path.parent.iterdir()] == ["best.json"]
    assert path.read_text() == "old"


def test_a_read_only_disk_is_named(disk, run):
    folder = disk("size=2m")
    assert run(folder / "run")[0] == 0
    disk("remount", "ro")
    for name in ("run", "new"):
        status, _, err = run(folder / name, "--resume", "auto")
        assert status == 1 and err.count("\n") == 1
        assert "Read-only file system" in err and str(folder) in err
    assert len(weights(folder / "run")) > 1000


# --- corrupted

FILES = {"config.json", "manifest.json", "model.safetensors", "source.vocab", "target.vocab"}
FILES |= {"training.json", "training.pt"}
DAMAGE = {
    "flipped": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "truncated": lambda data: data[:-2],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_file_is_named_and_an_older_checkpoint_taken_only_with_auto(
    copy, whole, run, name
):
    older, newest = list_checkpoints(copy / "checkpoints")[-2:]
    assert {path.name for path in newest.iterdir()} == FILES
    intact = (newest / name).read_bytes()
    for damage in DAMAGE.values():
        (newest / name).write_bytes(damage(intact))
        status, out, err = run(copy, "--resume", "latest")
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert f"{newest / name} is damaged" in err
        if name != "manifest.json":
            assert re.search(r"\d+ bytes with sha256 \w{64}, expected \d+ with \w{64}", err)
    (newest / name).write_bytes(DAMAGE["flipped"](intact))
    status, out, _ = run(copy, "--resume", "auto")
    lines = out.splitlines()
    assert status == 0 and lines[0].startswith(f"skipped: {newest / name} is damaged")
    assert lines[0].endswith(f"it is now called damaged-{newest.name}")
    assert lines[1] == f"resuming from {older}, step {int(older.name[5:])}"
    assert weights(copy) == weights(whole)


def test_every_single_flipped_bit_of_a_manifest_is_noticed(tmp_path):
    """The one file that no sum protects: what it says has to disagree with the rest."""
    folder = write_folder(
        tmp_path / "x", lambda path: (path / "a.json").write_text("{}"), kind="model"
    )
    intact = (folder / "manifest.json").read_bytes()
    for i, bit in itertools.product(range(len(intact) - 1), range(8)):
        flipped = bytes([intact[i] ^ (1 << bit)])
        (folder / "manifest.json").write_bytes(intact[:i] + flipped + intact[i + 1 :])
        with pytest.raises(CheckpointError):
            check_folder(folder)


@pytest.mark.parametrize("lost", ["manifest.json", "training.json"])
def test_a_checkpoint_that_lost_a_part_is_not_passed_over_in_silence(copy, run, lost):
    older, newest = list_checkpoints(copy / "checkpoints")[-2:]
    words = f"{newest} is not a folder that this library wrote"
    if lost == "manifest.json":
        (newest / lost).unlink()
    else:  # it became a model, and its manifest agrees
        words = f"{newest / lost} is missing"
        shutil.rmtree(newest)
        Translator.from_pretrained(older).save(copy / "model").rename(newest)
    status, _, err = run(copy, "--resume", "latest")
    assert status == 2 and words in err
    status, out, _ = run(copy, "--resume", "auto")
    assert status == 0 and f"skipped: {words}" in out and "it is now called damaged-step-" in out


@pytest.mark.parametrize("name", ["manifest.json", "training.pt"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_that_cannot_be_read_now_is_told_and_its_checkpoint_kept(
    copy, whole, run, monkeypatch, name, number
):
    """An older one is taken with auto, unless no file at all can be opened."""
    checkpoints, real = list_checkpoints(copy / "checkpoints"), io.open

    def fail(file, *arguments, **options):
        if str(file) == str(checkpoints[-1] / name):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr("io.open", fail)
    monkeypatch.setattr("builtins.open", fail)
    for resume in ["latest"] + ["auto"] * (number == errno.EMFILE):
        status, out, err = run(copy, "--resume", resume)
        assert (status, out) == (1, "") and err.count("\n") == 1
        assert os.strerror(number) in err and name in err and "damaged" not in err
    if number != errno.EMFILE:
        status, out, _ = run(copy, "--resume", "auto", "--steps", "59")
        first, second, *_ = out.splitlines()
        assert first.startswith(f"skipped: {checkpoints[-1].name} cannot be read now, and keeps")
        assert os.strerror(number) in first and name in first and "damaged" not in out
        assert status == 0 and second.startswith(f"resuming from {checkpoints[-2]}")
        monkeypatch.undo()
        assert weights(copy) == weights(whole)  # nothing of the newest was lost
    assert checkpoints[-1].is_dir()


def test_a_checkpoint_is_never_an_output(copy, data, capsys):
    newest = list_checkpoints(copy / "checkpoints")[-1]
    before = (newest / "manifest.json").read_bytes()
    pair = [str(data.parent / "text")] * 2
    files = ["--corpus", "files", "--source", "de", "--target", "en", "--train", *pair]
    for call in (
        ["average", newest, copy, "--force"],
        ["export", copy, newest, "--to", "ctranslate2", "--force"],
        ["prepare", newest, *files, "--val", *pair, "--vocab-size", "16", "--force"],
    ):
        assert main([str(word) for word in call]) == 2
        assert f"{newest} holds another kind, checkpoint" in capsys.readouterr().err
    assert (check_folder(newest) / "manifest.json").read_bytes() == before


def forge(folder, name, data):
    """Other bytes in a folder of ours, with a manifest that agrees."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Payload:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickled_callable_is_never_run(copy, data, run, tmp_path):
    newest = list_checkpoints(copy / "checkpoints")[-1]
    torch.save({"optimizer": Payload(tmp_path / "owned")}, tmp_path / "evil.pt")
    evil = (tmp_path / "evil.pt").read_bytes()
    for name in ("training.pt", "model.safetensors", "source.vocab"):
        before = (newest / name).read_bytes()
        forge(newest, name, evil)
        status, out, err = run(copy, "--resume", "latest")
        assert (status, out) == (2, "") and str(newest / name) in err and err.count("\n") == 1
        forge(newest, name, before)
    corpus = Path(shutil.copytree(data, tmp_path / "corpus"))
    np.save(tmp_path / "evil.npy", np.array([Payload(tmp_path / "owned")]), allow_pickle=True)
    forge(corpus, "train.src.ids.npy", (tmp_path / "evil.npy").read_bytes())
    status, _, err = run(tmp_path / "new", data=corpus)
    assert status == 2 and "train.src.ids.npy cannot be used" in err
    assert not (tmp_path / "owned").exists()
    with pytest.raises(FileExistsError):  # the payload would have worked
        Payload(tmp_path).__reduce__()[0](tmp_path)


def test_weights_and_vocabularies_of_another_model_are_refused_with_each_difference(copy, run):
    newest = list_checkpoints(copy / "checkpoints")[-1]
    intact = (newest / "model.safetensors").read_bytes()
    state = load_file(newest / "model.safetensors")
    first, second, third = sorted(state)[:3]
    del state[first]
    state |= {"surplus": torch.ones(2), second: torch.ones(3, 5), third: state[third].long()}
    save_file(state, newest / "other")
    forge(newest, "model.safetensors", (newest / "other").read_bytes())
    status, _, err = run(copy, "--resume", "latest")
    assert status == 2 and err.count("\n") == 1
    differences = f"{first} is missing", "surplus is unknown", f"{second}: expected [", "of I64"
    for words in (*differences, "found [3, 5] of F32"):
        assert words in err
    forge(newest, "model.safetensors", intact)
    words = {"language": "en", "tokens": ["<pad>", "<unk>", "<bos>", "<eos>", "a"]}
    forge(newest, "source.vocab", json.dumps(words).encode())
    status, _, err = run(copy, "--resume", "latest")
    assert status == 2
    assert "vocabularies of (5, 16) ids, but the model was built for (16, 16)" in err


def forge_array(folder, name, change):
    """Change an array of a prepared corpus, with a manifest that agrees."""
    array, file = np.load(folder / name), io.BytesIO()
    change(array)
    np.save(file, array)
    forge(folder, name, file.getvalue())


def test_a_corpus_that_does_not_fit_is_refused(copy, data, run, tmp_path):
    other, wrong_id, wrong_val, wrong_ends = (
        Path(shutil.copytree(data, tmp_path / name)) for name in ("other", "id", "val", "ends")
    )
    forge(other, "val.src.txt", b"a\n" * 4)
    forge_array(wrong_id, "train.tgt.ids.npy", lambda ids: ids.put(3, 77))
    forge_array(wrong_val, "val.tgt.ids.npy", lambda ids: ids.put(3, 77))
    forge_array(wrong_ends, "train.src.ends.npy", lambda ends: ends.put([1, 2], ends[[2, 1]]))
    wrong = r"id 77 is out of range: the vocabulary has 16 ids"
    for folder, corpus, words in (
        (copy, other, r"data.sha256 was '\w{64}', is '\w{64}'"),
        (tmp_path / "new", wrong_id, f"target {wrong}"),  # before the device sees it
        (tmp_path / "new", wrong_ends, "ends.npy cannot be used: a sentence ends before it begins"),
    ):
        status, _, err = run(folder, "--resume", "auto", data=corpus)
        assert status == 2 and re.search(words, last_line(err))
    status, _, err = run(tmp_path / "dry", "--dry-run", data=wrong_val)
    assert status == 2 and re.search(f"target {wrong}", last_line(err))


def test_a_run_of_another_version_is_refused_as_one_and_still_translates(copy, run):
    newest = list_checkpoints(copy / "checkpoints")[-1]
    record = json.loads((newest / "training.json").read_text())
    record["settings"]["run"]["r_drop"] = 5.0  # a setting that an earlier version had
    forge(newest, "training.json", json.dumps(record).encode())
    status, _, err = run(copy, "--resume", "latest")
    assert status == 2 and "another version of this library, with run.r_drop=5.0, which" in err
    Translator.from_pretrained(newest)


# --- how it ends


@contextmanager
def running(data, folder, *flags):
    """A training without end, which has taken steps."""
    endless = ["--steps", "1000000", "--validate-every", "1000000", *flags]
    log = folder / "log.jsonl"
    process = subprocess.Popen(
        command(data, folder, *endless),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # whoever runs the tests
    )
    with process:
        try:
            yield process, lambda: log.is_file() and "loss" in log.read_text()
        finally:
            process.kill()


def test_a_signal_ends_with_a_checkpoint_and_a_clear_last_line(data, tmp_path):
    statuses = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
    with ExitStack() as stack:
        folders = [tmp_path / number.name for number in statuses]
        runs = [stack.enter_context(running(data, folder)) for folder in folders]
        for (process, has_steps), number in zip(runs, statuses, strict=True):
            wait_for(has_steps, process)
            process.send_signal(number)
        for (process, _), folder, status in zip(runs, folders, statuses.values(), strict=True):
            out, err = process.communicate(timeout=300)
            (saved,) = list_checkpoints(folder / "checkpoints")
            step = int(check_folder(saved).name[5:])
            assert process.returncode == status and step >= 50 and b"Traceback" not in err
            assert last_line(out.decode()) == (
                f"saved: step {step} in {folder / 'checkpoints'}; "
                "to resume: the same command with --resume auto"
            )


def test_a_second_ctrl_c_ends_at_once_and_says_what_there_is(data, tmp_path):
    folder = tmp_path / "run"
    with running(data, folder, "--accumulate", "10000", "--max-tokens", "8") as (process, _):
        wait_for(lambda: (folder / "run.json").is_file(), process)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        while b"stopping after this step" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert last_line(err.decode()) == (
        "error: interrupted at once, at step 0; no checkpoint was saved yet; "
        "to resume: the same command with --resume auto"
    )


@pytest.mark.parametrize(
    ("flags", "reason", "hint"),
    [
        ([], "all steps done", "--resume auto and more --steps"),
        (["--cooldown", "0.5"], "all steps done", "the run is complete: its rate has cooled down"),
        (["--max-minutes", "1e-4"], "minutes are over", "--resume auto and more --max-minutes"),
        (
            ["--patience", "1", "--peak-rate", "1", "--warmup", "1"],
            "no better BLEU",
            "--resume auto and a larger --patience",
        ),
    ],
    ids=["steps", "cooldown", "minutes", "patience"],
)
def test_every_end_says_what_was_saved_and_how_to_resume(run, tmp_path, flags, reason, hint):
    status, out, _ = run(tmp_path / "run", *flags)
    step = int(list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name[5:])
    assert (status == 0 and f"{reason}: step {step}," in out) or f"{reason} in" in out
    assert last_line(out).startswith(f"saved: step {step} in {tmp_path / 'run' / 'checkpoints'}; ")
    assert hint in last_line(out)


def test_a_loss_that_is_no_number_names_its_place_and_what_is_kept(run, tmp_path):
    wild = ["--peak-rate", "1e30", "--warmup", "1", "--validate-every", "1"]
    status, _, err = run(tmp_path / "run", *wild)
    message = last_line(err)
    assert status == 1
    assert re.search(r"loss nan.* at step 2, rate 7.07e\+29: .*\(epoch 0, batch 2\)", message)
    assert "saved: step 1 in" in message and "start a new run with a lower --peak-rate" in message
    check_folder(tmp_path / "run" / "checkpoints" / "step-000001")


def test_a_closed_pipe_does_not_end_a_training(data, whole, tmp_path):
    """`train … 2>&1 | head`: who looked at the beginning still wants the end."""
    line = f"{' '.join(command(data, tmp_path / 'run'))} 2>&1 | head -c 20; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    assert weights(tmp_path / "run") == weights(whole)


# --- bad input


def test_all_problems_are_told_at_once_and_before_any_data_is_read(run, tmp_path):
    flags = ["--dropout", "1.5", "--n-heads", "7", "--peak-rate", "-1", "--smoothing", "2"]
    status, out, err = run(tmp_path / "run", *flags, data=tmp_path / "nowhere")
    assert (status, out) == (2, "") and err.count("\n") == 1
    for words in ("n_heads=7", "dropout must be", "peak_rate must be", "smoothing must be"):
        assert words in err


def test_an_argument_that_is_not_utf8_is_refused(whole, tmp_path):
    page = tmp_path / "page.html"
    for number, arguments in (
        (2, ["translate", whole, "a b", b"a \xff"]),
        (1, ["explore", whole, "--out", page, "--sentence", b"a \xff"]),
    ):
        call = [sys.executable, "-m", "transformer_lib", *arguments]
        done = subprocess.run(call, capture_output=True, timeout=300)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr == f"error: sentence {number} is not UTF-8\n".encode()
    assert not page.exists()


def test_an_argument_is_utf8_whatever_the_locale(whole, tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    call = [sys.executable, "-m", "transformer_lib", "explore", whole, "--out", "page.html"]
    call += ["--sentence", "ä b".encode()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ascii_only
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert r'"\u00e4 b"' in (tmp_path / "page.html").read_text("utf-8")


def test_a_file_that_is_there_is_replaced_only_with_force(whole, data, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("years of work")
    call = ["evaluate", str(whole), "--data", str(data), "--hypotheses", str(tmp_path / "mine.txt")]
    assert main(call) == 2
    assert "mine.txt exists: choose another name, or add --force" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "years of work"
    assert main([*call, "--force"]) == 0
    assert (tmp_path / "mine.txt").read_text() != "years of work"


# --- what is never done

FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN |= {"tarfile", "zipfile"}
UNSAFE = {
    "eval",
    "exec",
    "unpack_archive",
    "extract",
    "extractall",
    "unsafe_load",
    "mktemp",
    "system",
}


def test_nothing_is_unpickled_and_no_archive_unpacked():
    for path in (ROOT / "transformer_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            known = {"zipfile"} if path.name == "reading.py" else set()  # sizes, before torch.load
            assert not FORBIDDEN & {name.split(".")[0] for name in names} - known, path
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name != "torch.load" or words["weights_only"] == "True", path
            assert "allow_pickle" not in words, path
            first, _, last = name.rpartition(".")
            if not (last == "eval" and first):  # model.eval() is torch's
                assert last not in UNSAFE, f"{path}: {name}"


# --- the list


FAULTS = ROOT / "docs" / "faults.md"


def test_the_list_of_faults_names_tests_that_exist():
    text = FAULTS.read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", text, re.M)
    numbers = [int(number) for number, _ in rows]
    assert numbers[:29] == list(range(1, 30)) and numbers == sorted(set(numbers))
    for number, row in rows:
        named = re.findall(r"`(test_\w+)\.(test_\w+)`", row)
        assert named, f"row {number} names no test"
        for module, test in named:
            tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text("utf-8"))
            functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert test in functions, f"row {number}: {module}.{test}"


def test_the_table_of_faults_has_every_fault_and_every_command_and_nothing_is_broken():
    faults = dict(re.findall(r"^\| (\d+) \| (.+?) \| .*\|$", FAULTS.read_text("utf-8"), re.M))
    table = FAULTS.with_name("faults_table.md").read_text("utf-8")
    assert dict(re.findall(r"^\| (\d+): (.+?) \| ", table, re.M)) == faults
    assert [*COMMANDS] == re.search(r"^\| fault \| (.+) \|$", table, re.M)[1].split(" | ")
    listed = set(re.findall(r"^\| `([\w.]+)` \|", table, re.M))
    plain = {"AttentionMaps", "Batch", "Evaluation", "Hypothesis", "StepResult", "Vocab"}  # tuples
    assert set(transformer_lib.__all__) - listed == plain and "**broken**" not in table

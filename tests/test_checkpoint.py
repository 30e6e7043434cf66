"""Folders that are whole or absent: every way to break one is tried on real files."""

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from transformer_lib import ModelConfig
from transformer_lib.data import files
from transformer_lib.data.files import (
    CheckpointError,
    check_folder,
    contents_sha256,
    list_checkpoints,
    remove_folder,
    set_aside,
    sweep,
    to_json,
    write_folder,
    write_text,
)
from transformer_lib.data.reading import read_config

KINDS = ["model", "checkpoint", "corpus", "export"]


def fill(folder, text="first file"):
    (folder / "a.txt").write_text(text)
    (folder / "b.bin").write_bytes(bytes(range(256)))


def write(folder, text="first file", kind="model", **options):
    return write_folder(folder, lambda path: fill(path, text), kind=kind, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def as_before(folder):
    """The folder with a manifest as earlier versions wrote it, without a kind."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["kind"]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


# --- written and replaced


def test_what_is_written_passes_its_own_check_and_is_replaced_as_a_whole(tmp_path):
    folder = write(tmp_path / "deep" / "model")
    assert check_folder(folder, ["a.txt"]) == folder
    assert names(folder) == ["a.txt", "b.bin", "manifest.json"]
    write_folder(folder, lambda path: (path / "new").touch(), kind="model")
    assert names(folder) == ["manifest.json", "new"]
    assert names(folder.parent) == ["model"]


def test_a_folder_is_replaced_only_if_that_is_wanted_and_by_its_own_kind(tmp_path):
    write(tmp_path / "x", kind="export")
    with pytest.raises(FileExistsError, match="x exists: choose another name, or add --force"):
        write(tmp_path / "x", kind="export", replace=False)
    for kind in KINDS[:3]:
        with pytest.raises(FileExistsError, match="x holds another kind, export: choose another"):
            write(tmp_path / "x", kind=kind)
    assert (write(tmp_path / "x", "new", kind="export") / "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("files_of_old", "kind"),
    [
        (["config.json", "model.safetensors", "source.vocab", "training.json"], "model"),
        (["config.json", "model.safetensors", "source.vocab", "training.pt"], "checkpoint"),
        (["corpus.json", "source.vocab"], "corpus"),
        (["config.json", "model.safetensors", "vocab.json"], "export"),  # for Hugging Face
        (["config.json", "model.bin", "source.vocab"], "export"),  # for CTranslate2
    ],
)
def test_the_kind_of_an_old_folder_is_told_by_its_files(tmp_path, files_of_old, kind):
    def fill(folder):
        for name in files_of_old:
            (folder / name).touch()

    folder = as_before(write_folder(tmp_path / "x", fill, kind="export"))
    check_folder(folder, files_of_old)
    for other in {*KINDS} - {kind}:
        with pytest.raises(FileExistsError, match=f"holds another kind, {kind}:"):
            write(folder, kind=other)
    write(folder, kind=kind)


@pytest.mark.parametrize("foreign", ["notes.txt", "thesis/text.tex", "a.txt/text.tex"])
def test_a_folder_that_holds_anything_else_is_not_replaced(tmp_path, foreign):
    folder, name = write(tmp_path / "model"), foreign.partition("/")[0]
    if name == "a.txt":
        (folder / name).unlink()
    (folder / foreign).parent.mkdir(exist_ok=True)
    (folder / foreign).write_text("years of work")
    with pytest.raises(FileExistsError, match=f"model also holds '{name}', which is not ours"):
        write(folder, "new")
    assert (folder / foreign).read_text() == "years of work"


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("years of work")
    for manifest in ("", '{"name": "app"}', "[]", "{", '{"kind": "app"}'):
        if manifest:  # a web application has a file of that name, too
            (tmp_path / "thesis" / "manifest.json").write_text(manifest)
        with pytest.raises(FileExistsError, match="thesis exists and is not one of ours"):
            write(tmp_path / "thesis")
        assert "text.tex" in names(tmp_path / "thesis")
    (tmp_path / "empty").mkdir()  # may be filled
    check_folder(write(tmp_path / "empty", replace=False), ["b.bin"])


# --- what goes wrong while writing


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "disk full"), "model could not be written: .*disk full"),
        (RuntimeError("[enforce fail at x.cc:6]"), "model could not be written: .*enforce fail"),
        (KeyboardInterrupt(), None),
    ],
)
def test_what_fails_half_way_leaves_the_old_folder_and_no_rest(tmp_path, error, words):
    write(tmp_path / "model")

    def fail(folder):
        (folder / "a.txt").write_text("half")
        raise error

    with pytest.raises((OSError, KeyboardInterrupt), match=words):
        write_folder(tmp_path / "model", fail, kind="model")
    assert names(tmp_path) == ["model"]
    assert (check_folder(tmp_path / "model") / "a.txt").read_text() == "first file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="model"):
        write(tmp_path / "model")


def test_a_rename_that_fails_brings_the_old_folder_back(tmp_path, monkeypatch):
    write(tmp_path / "model")
    rename = Path.rename

    def fail(path, target):
        if path.name.startswith(files.TEMPORARY):
            raise OSError(errno.EIO, "the disk is gone", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk is gone"):
        write(tmp_path / "model", "new")
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("moment", ["while filling", "between the renames"])
def test_of_two_writers_one_wins_whole_and_the_other_is_told(tmp_path, monkeypatch, moment):
    write(tmp_path / "x")

    def other(folder):
        fill(folder, "mine")
        if moment == "while filling":
            write(tmp_path / "x", "theirs")

    if moment == "between the renames":
        rename = Path.rename

        def rename_and_lose(path, target):
            done = rename(path, target)
            if target.name.startswith(files.REPLACED):  # the old one stepped aside
                monkeypatch.undo()
                write(tmp_path / "x", "theirs")
            return done

        monkeypatch.setattr(Path, "rename", rename_and_lose)
    with pytest.raises(FileExistsError, match=r"x was (replaced|written) by another process"):
        write_folder(tmp_path / "x", other, kind="model")
    assert (check_folder(tmp_path / "x") / "a.txt").read_text() == "theirs"
    assert names(tmp_path) == ["x"]


def test_a_file_system_that_flushes_no_folder_will_do(tmp_path, monkeypatch):
    for number in (errno.EINVAL, errno.ENOTSUP, errno.EIO):

        def fail(descriptor, number=number):
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(number, "no flush")

        monkeypatch.setattr(os, "fsync", fail)
        if number != errno.EIO:
            check_folder(write(tmp_path / "x"))
    with pytest.raises(OSError, match="no flush"):
        write(tmp_path / "x")


# --- what a writer that was killed leaves behind


def orphans(folder, process):
    """An unfinished folder and file of a process, and a folder that it had moved aside."""
    (folder / f".writing-{process}-step-2").mkdir()
    (folder / f".writing-{process}-best.json").write_text("half")
    write(folder / "step-1").rename(folder / f".replaced-{process}-step-1")
    return names(folder)


def test_sweeping_takes_orphans_and_brings_back_what_stepped_aside(tmp_path):
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    # also those of a process that once had our number, as in a container that was started anew
    for number in (died.pid, os.getpid()):
        orphans(tmp_path, f"{number}-0123abcd-0")
        (tmp_path / ".writing-notes").touch()  # no name of ours
        sweep(tmp_path)
        assert names(tmp_path) == [".writing-notes", "step-1"]
        check_folder(tmp_path / "step-1")
        remove_folder(tmp_path / "step-1")


def test_sweeping_leaves_alone_what_is_still_being_written(tmp_path):
    for process in (f"{os.getppid()}-0123abcd-0", f"{os.getpid()}-{files.PROCESS}-7"):
        before = orphans(tmp_path, process)
        sweep(tmp_path)
        assert names(tmp_path) == before


def test_a_writer_sweeps_its_own_name_only(tmp_path):
    before = orphans(tmp_path, f"{os.getpid()}-0123abcd-0")
    write(tmp_path / "step-2")
    write_text(tmp_path / "best.json", "{}")
    assert names(tmp_path) == sorted([before[0], "best.json", "step-2"])


# --- read again


def test_every_damage_is_noticed_and_the_file_named(tmp_path):
    path = write(tmp_path / "model") / "b.bin"
    data = path.read_bytes()
    for damaged in (data[:-1], b"", data + b"x", data[:3] + bytes([data[3] ^ 1]) + data[4:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"b\.bin is damaged: .*sha256.*expected"):
            check_folder(tmp_path / "model")


def test_a_missing_file_and_a_damaged_manifest_are_named(tmp_path):
    folder = write(tmp_path / "model")
    with pytest.raises(CheckpointError, match="other is missing"):
        check_folder(folder, ["other"])
    os.mkfifo(folder / "training.json")  # which nobody ever fills, and no manifest names
    with pytest.raises(CheckpointError, match=r"training\.json is not a file"):
        check_folder(folder)
    (folder / "training.json").unlink()
    (folder / "b.bin").unlink()
    os.mkfifo(folder / "b.bin")
    with pytest.raises(CheckpointError, match=r"b\.bin is missing"):
        check_folder(folder)
    for damaged in ('{"a.txt": ', "[]", '{"a.txt": 1}', '{"a.txt": {"bxtes": 1, "sha256": "x"}}'):
        (folder / "manifest.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
            check_folder(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="model is not a folder that this library wrote"):
        check_folder(folder)
    for nothing in (tmp_path / "nowhere", folder / "a.txt"):
        with pytest.raises(FileNotFoundError, match="is not a folder that this library wrote"):
            check_folder(nothing)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("name", ["manifest.json", "b.bin"])
def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch, number, name):
    folder = write(tmp_path / "model")
    real = Path.stat

    def stat(path, **options):
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(OSError) as caught:
        check_folder(folder)
    assert (caught.value.errno, caught.value.filename) == (number, str(folder / name))
    if name == "manifest.json":
        with pytest.raises(OSError) as caught:
            write(folder)
        assert caught.value.errno == number


def test_the_sum_of_a_folder_does_not_depend_on_the_version_of_its_manifest(tmp_path):
    folder = write(tmp_path / "x")
    before = contents_sha256(folder)
    assert contents_sha256(as_before(folder)) == before
    assert contents_sha256(write(tmp_path / "y", "other")) != before


def test_checkpoints_come_oldest_first_and_only_whole_ones(tmp_path):
    for step in (1000, 200, 30):
        write(tmp_path / f"step-{step}", kind="checkpoint")
    (tmp_path / "step-5000").mkdir()
    write(tmp_path / "step-200-good")  # somebody's copy
    steps = [path.name for path in list_checkpoints(tmp_path)]
    assert steps == ["step-30", "step-200", "step-1000"]


def test_a_damaged_or_removed_checkpoint_is_not_listed(tmp_path, monkeypatch):
    for _ in range(2):
        set_aside(write(tmp_path / "step-3"))
    assert names(tmp_path) == ["damaged-step-3", "damaged-step-3-2"]
    folder = write(tmp_path / "step-3", kind="checkpoint")
    monkeypatch.setattr(files.shutil, "rmtree", lambda path: 1 / 0)  # killed here
    with pytest.raises(ZeroDivisionError):
        remove_folder(folder)
    assert list_checkpoints(tmp_path) == [] and len(names(tmp_path)) == 3


# --- small files


@pytest.mark.parametrize(
    ("sizes", "tied", "shared"),
    [((9, 9), True, True), ((9, 9), False, False), ((9, 8), True, False)],
)
def test_an_old_configuration_shares_its_embeddings_where_the_sizes_agree(
    tmp_path, sizes, tied, shared
):
    record = asdict(ModelConfig(*sizes, d_model=4, n_heads=1, tie_embeddings=tied))
    for name, expected in (("new", False), ("old", shared)):
        (tmp_path / name).write_text(json.dumps(record))
        assert read_config(tmp_path / name).shared_vocabulary is expected
        record.pop("shared_vocabulary", None)
    (tmp_path / "bad").write_text(json.dumps(record | {"max_len": 2**27}))
    with pytest.raises(CheckpointError, match=r"bad cannot be used: .*max_len=134217728"):
        read_config(tmp_path / "bad")


def test_a_text_is_replaced_at_once(tmp_path, monkeypatch):
    write_text(tmp_path / "best.json", "old")
    monkeypatch.setattr(files, "_flush", lambda path: 1 / 0)  # the machine stops here
    with pytest.raises(ZeroDivisionError):
        write_text(tmp_path / "best.json", json.dumps({"new": 1}))
    assert (tmp_path / "best.json").read_text() == "old"
    assert names(tmp_path) == ["best.json"]


def test_infinity_becomes_null_because_json_has_none():
    value = {"a": (math.inf, [math.nan, np.float32(1.5)]), "b": "ü", "c": np.int64(3)}
    expected = {"a": [None, [None, 1.5]], "b": "ü", "c": 3}
    assert json.loads(to_json(value), parse_constant=pytest.fail) == expected


def test_on_windows_files_are_flushed_and_folders_are_not(tmp_path, monkeypatch):
    """There no folder can be opened, and no read-only file can be flushed."""

    def open_there(path, flags):
        assert flags & os.O_RDWR and not Path(path).is_dir()
        return os.open(path, flags)

    there = SimpleNamespace(**vars(os) | {"name": "nt", "open": open_there})
    monkeypatch.setattr(files, "os", there)
    write_text(tmp_path / "best.json", "{}")
    check_folder(write(tmp_path / "x"))

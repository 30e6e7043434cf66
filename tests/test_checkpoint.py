"""Folders that are whole or absent: every way to break one is tried on real files."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch

from transformer_lib.data import files as checkpoint
from transformer_lib.data.files import (
    CheckpointError,
    check_folder,
    list_checkpoints,
    set_aside,
    sweep,
    to_json,
    write_folder,
    write_text,
)
from transformer_lib.data.reading import load_state


def fill(folder):
    (folder / "a.txt").write_text("first file")
    (folder / "b.bin").write_bytes(bytes(range(256)))
    (folder / "kind.json").write_text("{}")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_passes_its_own_check(tmp_path):
    folder = write_folder(tmp_path / "deep" / "model", fill)
    assert check_folder(folder, ["a.txt"]) == folder
    assert names(folder) == ["a.txt", "b.bin", "kind.json", "manifest.json"]
    assert names(folder.parent) == ["model"]


def test_a_folder_of_ours_is_replaced_as_a_whole(tmp_path):
    write_folder(tmp_path / "model", fill)
    write_folder(tmp_path / "model", lambda folder: (folder / "kind.json").write_text("new"))
    assert names(tmp_path / "model") == ["kind.json", "manifest.json"]
    assert names(tmp_path) == ["model"]


def test_a_folder_is_replaced_only_if_that_is_wanted_and_by_its_own_kind(tmp_path):
    write_folder(tmp_path / "model", fill)
    with pytest.raises(FileExistsError, match="model exists: choose another name, or add --force"):
        write_folder(tmp_path / "model", fill, replace=False)
    with pytest.raises(FileExistsError, match="model holds something else of ours"):
        write_folder(tmp_path / "model", lambda folder: (folder / "x.json").write_text("other"))
    assert names(tmp_path / "model") == ["a.txt", "b.bin", "kind.json", "manifest.json"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "model").mkdir()
    check_folder(write_folder(tmp_path / "model", fill), ["b.bin"])


@pytest.mark.parametrize("manifest", ["", '{"name": "app"}', "[]", "{"])
def test_somebody_elses_folder_is_left_alone(tmp_path, manifest):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("years of work")
    if manifest:  # a web application has a file of that name, too
        (tmp_path / "thesis" / "manifest.json").write_text(manifest)
    with pytest.raises(FileExistsError, match="thesis exists and is not one of ours"):
        write_folder(tmp_path / "thesis", fill)
    assert "text.tex" in names(tmp_path / "thesis")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_the_old_folder_and_no_rest(tmp_path, error):
    write_folder(tmp_path / "model", fill)

    def fail(folder):
        (folder / "a.txt").write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_folder(tmp_path / "model", fail)
    assert names(tmp_path) == ["model"]
    assert (check_folder(tmp_path / "model") / "a.txt").read_text() == "first file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="model"):
        write_folder(tmp_path / "model", fill)


@pytest.mark.parametrize("name", ["a.txt", "b.bin"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: data[:3] + bytes([data[3] ^ 1]) + data[4:],
    ],
    ids=["truncated", "empty", "longer", "one bit"],
)
def test_every_damage_is_noticed_and_the_file_named(tmp_path, name, damage):
    path = write_folder(tmp_path / "model", fill) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: .*sha256.*expected"):
        check_folder(tmp_path / "model")


def test_a_missing_file_and_a_damaged_manifest_are_named(tmp_path):
    folder = write_folder(tmp_path / "model", fill)
    with pytest.raises(CheckpointError, match="other is missing"):
        check_folder(folder, ["other"])
    (folder / "b.bin").unlink()
    with pytest.raises(CheckpointError, match=r"b\.bin is missing"):
        check_folder(folder)
    for damaged in ('{"a.txt": ', "[]", '{"a.txt": 1}', '{"a.txt": {"bxtes": 1, "sha256": "x"}}'):
        (folder / "manifest.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
            check_folder(folder)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder that this library wrote"):
        check_folder(tmp_path / "nowhere")


def test_checkpoints_come_oldest_first_and_only_whole_ones(tmp_path):
    for step in (1000, 200, 30):
        write_folder(tmp_path / f"step-{step}", fill)
    (tmp_path / "step-5000").mkdir()
    write_folder(tmp_path / "step-200-good", fill)  # somebody's copy
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-30",
        "step-200",
        "step-1000",
    ]


def test_sweeping_takes_orphans_and_brings_back_what_stepped_aside(tmp_path):
    write_folder(tmp_path / "step-1", fill)
    (tmp_path / f"{checkpoint.TEMPORARY}step-2").mkdir()
    (tmp_path / "step-1").rename(tmp_path / f"{checkpoint.REPLACED}step-1")
    sweep(tmp_path)
    assert names(tmp_path) == ["step-1"]
    check_folder(tmp_path / "step-1")


def test_tensors_and_plain_values_come_back(tmp_path):
    state = {"rng": torch.get_rng_state(), "step": 7, "moments": [torch.ones(2), None]}
    torch.save(state, tmp_path / "state.pt")
    found = load_state(tmp_path / "state.pt")
    assert torch.equal(found["rng"], state["rng"])
    assert (found["step"], found["moments"][1]) == (7, None)


class Payload:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickled_callable_is_refused_and_never_run(tmp_path):
    torch.save({"optimizer": Payload(tmp_path / "owned")}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged or holds more than tensors"):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "owned").exists()


def test_a_torn_state_is_refused(tmp_path):
    torch.save({"step": torch.ones(100)}, tmp_path / "state.pt")
    data = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"state.pt is damaged"):
        load_state(tmp_path / "state.pt")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none.pt")


def test_a_text_is_replaced_at_once(tmp_path, monkeypatch):
    write_text(tmp_path / "best.json", "old")
    monkeypatch.setattr(checkpoint, "_flush", lambda path: 1 / 0)  # the machine stops here
    with pytest.raises(ZeroDivisionError):
        write_text(tmp_path / "best.json", json.dumps({"new": 1}))
    assert (tmp_path / "best.json").read_text() == "old"
    assert names(tmp_path) == ["best.json"]


def test_a_rename_that_fails_brings_the_old_folder_back(tmp_path, monkeypatch):
    write_folder(tmp_path / "model", fill)
    rename = Path.rename

    def fail(path, target):
        if path.name.startswith(checkpoint.TEMPORARY):
            raise OSError(errno.EIO, "the disk is gone", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk is gone"):
        write_folder(tmp_path / "model", fill)
    assert names(tmp_path) == ["model"]


def test_an_error_of_a_library_names_the_folder(tmp_path):
    def fail(folder):
        raise RuntimeError("[enforce fail at inline_container.cc:672]")

    with pytest.raises(OSError, match=r"model could not be written: .*enforce fail"):
        write_folder(tmp_path / "model", fail)


def test_a_damaged_checkpoint_gets_another_name(tmp_path):
    for _ in range(2):
        set_aside(write_folder(tmp_path / "step-3", fill))
    assert names(tmp_path) == ["damaged-step-3", "damaged-step-3-2"]


def test_infinity_becomes_null_because_json_has_none():
    value = {"a": (math.inf, [math.nan, 1.5]), "b": "ü", "c": None}
    assert json.loads(to_json(value), parse_constant=pytest.fail) == {
        "a": [None, [None, 1.5]],
        "b": "ü",
        "c": None,
    }


class Windows:
    """What matters here of `os` there: no folder is opened, no read-only file is flushed."""

    name = "nt"

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        self.flags = flags
        return os.open(path, flags)

    def fsync(self, number):
        if not self.flags & os.O_RDWR:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os.fsync(number)


def test_on_windows_files_are_flushed_and_folders_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "os", Windows())
    write_text(tmp_path / "best.json", "{}")
    check_folder(write_folder(tmp_path / "x", fill))

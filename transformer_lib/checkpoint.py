"""Folders on disk that are either whole or absent.

A folder is written under a temporary name, every file is flushed to the disk, a manifest with the
size and sha256 of each comes last, and one rename makes it visible. Whoever opens it compares the
manifest first. Nothing is ever unpickled but tensors and plain values (`weights_only=True`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "MANIFEST",
    "CheckpointError",
    "check_folder",
    "list_checkpoints",
    "load_state",
    "sweep",
    "write_folder",
    "write_text",
]

MANIFEST = "manifest.json"
TEMPORARY = ".writing-"
REPLACED = ".replaced-"


class CheckpointError(ValueError):
    """A folder is not what was written into it; the message names the file."""


def write_folder(folder: str | Path, fill: Callable[[Path], None]) -> Path:
    """Writes a folder as a whole, or leaves everything as it was.

    Args:
        folder: its final name. A folder that was written by this function is replaced.
        fill: writes the files into the folder it is given.

    Raises:
        FileExistsError: the name is taken by something this function did not write.
        OSError: the disk is full or read-only; the message names the path.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MANIFEST).is_file() and not _is_empty(folder):
        raise FileExistsError(f"{folder} exists and is not one of ours: choose another name")
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        manifest = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        _move_into_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _move_into_place(temporary: Path, folder: Path) -> None:
    """One rename; a folder that is replaced steps aside and goes once the new one is there."""
    old = folder.with_name(f"{REPLACED}{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def check_folder(folder: str | Path, names: Iterable[str] = ()) -> Path:
    """Compares every file with the manifest.

    Args:
        names: files that have to be there.

    Raises:
        FileNotFoundError: there is no such folder, or it has no manifest.
        CheckpointError: a file is missing, or is not what was written.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} is not a folder that this library wrote: no {MANIFEST}")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {error}") from error
    for name in {*names, *manifest}:
        if not (folder / name).is_file() or name not in manifest:
            raise CheckpointError(f"{folder / name} is missing")
        found, expected = _fingerprint(folder / name), manifest[name]
        if found != expected:
            raise CheckpointError(
                f"{folder / name} is damaged: {found['bytes']} bytes with sha256 "
                f"{found['sha256']}, expected {expected['bytes']} with {expected['sha256']}"
            )
    return folder


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The folders `step-…` in it that were written to the end, oldest first."""
    found = [path for path in Path(folder).glob("step-*") if (path / MANIFEST).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def sweep(folder: str | Path) -> None:
    """Takes away what an interrupted save left behind; a folder that stepped aside comes back."""
    for old in Path(folder).glob(f"{REPLACED}*"):
        final = old.with_name(old.name.removeprefix(REPLACED))
        shutil.rmtree(old) if final.exists() else old.rename(final)
    for orphan in Path(folder).glob(f"{TEMPORARY}*"):
        shutil.rmtree(orphan)


def load_state(path: str | Path) -> dict[str, Any]:
    """A file of tensors and plain values; one that holds anything callable is refused.

    Raises:
        CheckpointError: the file is damaged, or would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises four kinds, according to where the bytes are wrong
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or holds more than tensors: {reason}") from error


def write_text(path: str | Path, text: str) -> None:
    """Replaces a file by one rename, so that it is never half written."""
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    temporary.write_text(text, encoding="utf-8")
    _flush(temporary)
    temporary.replace(path)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _flush(path: Path) -> None:
    """Makes the system write file or folder to the disk now."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

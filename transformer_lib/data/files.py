"""Folders on disk that are either whole or absent.

A folder is written under a temporary name, every file is flushed to the disk, a manifest with the
size and sha256 of each comes last, and one rename makes it visible. Whoever opens it compares the
manifest first.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = [
    "MANIFEST",
    "CheckpointError",
    "check_folder",
    "check_free",
    "list_checkpoints",
    "plain",
    "set_aside",
    "sweep",
    "to_json",
    "write_folder",
    "write_text",
]

MANIFEST = "manifest.json"
TEMPORARY = ".writing-"
REPLACED = ".replaced-"


class CheckpointError(ValueError):
    """A folder is not what was written into it; the message names the file."""


def write_folder(folder: str | Path, fill: Callable[[Path], None], *, replace: bool = True) -> Path:
    """Writes a folder as a whole, or leaves everything as it was.

    Args:
        folder: its final name.
        fill: writes the files into the folder it is given.
        replace: whether an earlier folder of the same kind may go; one of another kind never goes.

    Raises:
        FileExistsError: the name is taken.
        OSError: the disk is full or read-only; the message names the path.
    """
    folder = Path(folder)
    check_free(folder, replace=replace)
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        manifest = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
        check_free(folder, replace=replace, files=manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        usual = (temporary / MANIFEST).stat().st_mode
        for path in temporary.iterdir():
            path.chmod(usual)  # safetensors lets nobody else read
            _flush(path)
        _flush(temporary)
        _move_into_place(temporary, folder)
    except ValueError:
        raise
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        if isinstance(error, FileExistsError) or getattr(error, "filename", None):
            raise
        raise OSError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_free(
    folder: str | Path, *, replace: bool = False, files: Iterable[str] | None = None
) -> None:
    """Refuses a name that is taken by something that must not go.

    Args:
        replace: whether a folder that this library wrote may go.
        files: names of the new files; an old folder without one of their `.json` is another kind.

    Raises:
        FileExistsError: the name is taken.
    """
    folder = Path(folder)
    if not folder.exists() or _is_empty(folder):
        return
    old = _read_manifest(folder)
    if old is None:
        raise FileExistsError(f"{folder} exists and is not one of ours: choose another name")
    if not replace:
        raise FileExistsError(f"{folder} exists: choose another name, or add --force")
    if files is not None and not {name for name in files if name.endswith(".json")} & {*old}:
        raise FileExistsError(f"{folder} holds something else of ours: choose another name")


def _move_into_place(temporary: Path, folder: Path) -> None:
    """One rename; a folder that is replaced steps aside and goes once the new one is there."""
    old = folder.with_name(f"{REPLACED}{folder.name}")
    _bring_back(old)
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    except BaseException:
        _bring_back(old)
        raise
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _bring_back(old: Path) -> None:
    """A folder that stepped aside returns, unless its successor is there."""
    final = old.with_name(old.name.removeprefix(REPLACED))
    if old.exists():
        shutil.rmtree(old) if final.exists() else old.rename(final)


def check_folder(folder: str | Path, names: Iterable[str] = ()) -> Path:
    """Compares every file with the manifest.

    Args:
        names: files that have to be there.

    Raises:
        FileNotFoundError: there is no such folder.
        CheckpointError: a file or the manifest is missing, or is not what was written.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        told = f"{folder} is not a folder that this library wrote: no {MANIFEST}"
        raise CheckpointError(told) if folder.is_dir() else FileNotFoundError(told)
    manifest = _read_manifest(folder)
    if manifest is None:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: it is not a list of files")
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
    """The folders `step-…` in it, oldest first; whether they are whole, `check_folder` tells.

    One that has lost its manifest is among them: whoever wants the newest has to hear of it.
    """
    found = [
        path
        for path in Path(folder).glob("step-*")
        if path.name.removeprefix("step-").isdecimal() and path.is_dir() and not _is_empty(path)
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint, so that nobody takes it for a good one."""
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (checkpoint.with_name(f"damaged-{checkpoint.name}{ending}") for ending in endings)
    return checkpoint.rename(next(name for name in names if not name.exists()))


def sweep(folder: str | Path) -> None:
    """Takes away what an interrupted save left behind; a folder that stepped aside comes back."""
    for old in Path(folder).glob(f"{REPLACED}*"):
        _bring_back(old)
    for orphan in Path(folder).glob(f"{TEMPORARY}*"):
        shutil.rmtree(orphan)


def write_text(path: str | Path, text: str) -> None:
    """Replaces a file by one rename, so that it is never half written."""
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not tell where
        raise
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """The same value for a JSON file: infinity and NaN, which JSON does not know, become null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> str:
    """A JSON text that every reader understands."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, if it has the shape of ours."""
    try:
        noted = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(noted, dict) and all(itertools.starmap(_is_entry, noted.items()))
    return noted if ours else None


def _is_entry(name: str, noted: object) -> bool:
    """Size and sha256 of a file in the folder itself, all fit for an error of one line."""
    return (
        isinstance(noted, dict)
        and noted.keys() == {"bytes", "sha256"}
        and isinstance(noted["bytes"], int)
        and re.fullmatch("[0-9a-f]{64}", str(noted["sha256"])) is not None
        and name.isprintable()
        and Path(name).name == name
    )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _flush(path: Path) -> None:
    """Makes the system write file or folder to the disk now."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folder
        return
    number = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # and flushes no read-only file
    try:
        os.fsync(number)
    finally:
        os.close(number)

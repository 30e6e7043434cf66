"""Folders and files on disk that are either whole or absent.

A folder is written under a temporary name, every file is flushed to the disk, a manifest with the
kind of the folder and the size and sha256 of each file comes last, and one rename makes it visible.
Readers compare the folder with its manifest first.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transformer_lib.data.locks import LOCK, hold_name
from transformer_lib.data.manifest import (
    MANIFEST,
    CheckpointError,
    Kind,
    Manifest,
    check_folder,
    contents_sha256,
    file_sha256,
    fingerprint,
    read_manifest,
)

__all__ = [
    "MANIFEST",
    "CheckpointError",
    "Kind",
    "check_file",
    "check_folder",
    "check_free",
    "check_name",
    "contents_sha256",
    "file_sha256",
    "list_checkpoints",
    "owner_of",
    "plain",
    "remove_folder",
    "reserve",
    "set_aside",
    "sweep",
    "to_json",
    "write_bytes",
    "write_folder",
    "write_text",
]

RUN = "run.json"  # in the folder of a run
RUN_FILES = {RUN, "best.json", "log.jsonl", ".lock"}
TEMPORARY = ".writing-"
REPLACED = ".replaced-"
# Left behind by a writer that was killed: what it was, the process, which of its names it was for.
LEFTOVER = re.compile(r"(\.writing-|\.replaced-)(\d+)-([0-9a-f]{8})-\d+-(.+)", re.S)
PROCESS = secrets.token_hex(4)  # tells this process from an earlier one with the same number
COUNTER = itertools.count()
# What says that a caller's argument is wrong, not the disk.
OF_CALLER = (ValueError, TypeError, AttributeError, LookupError, FileExistsError)


def write_folder(
    folder: str | Path, fill: Callable[[Path], None], *, kind: Kind, replace: bool = True
) -> Path:
    """Write a folder as a whole, or leave everything as it was.

    Args:
        fill: writes the files into the folder it is given.
        replace: allow replacing an earlier folder of the same kind that holds nothing else.

    Raises:
        FileExistsError: the path is taken, or another process wrote to it meanwhile.
        OSError: the disk is full or read-only; the message names the path.
    """
    folder = Path(folder)
    with reserve(folder, kind, replace=replace) as before:
        temporary = _temporary(folder)
        try:
            temporary.mkdir()
            fill(temporary)
            files = {path.name: fingerprint(path) for path in sorted(temporary.iterdir())}
            assert None not in files.values(), "a folder of ours holds files, no folders"
            (temporary / MANIFEST).write_text(json.dumps({"kind": kind, **files}, indent=2) + "\n")
            usual = (temporary / MANIFEST).stat().st_mode
            for path in temporary.iterdir():
                path.chmod(usual)  # safetensors lets nobody else read
                _flush(path)
            _flush(temporary)
            if check_free(folder, kind, replace=replace) != before:
                raise FileExistsError(f"{folder} was replaced by another process meanwhile")
            _move_into_place(temporary, folder)
        except Exception as error:  # safetensors and torch have errors of their own for a full disk
            if isinstance(error, OF_CALLER) or getattr(error, "filename", None):
                raise
            raise OSError(f"{folder} could not be written: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextlib.contextmanager
def reserve(
    path: str | Path, kind: Kind | None = None, *, replace: bool = False
) -> Iterator[Manifest | None]:
    """Check and hold a name from before the work until its folder, or file, is written.

    Args:
        kind: of the folder; None for a file.
        replace: allow replacing a folder of the same kind, or a file.

    Raises:
        FileExistsError: the path is taken, or another process is writing to it.
        OSError: the place is read-only, or what is there cannot be read.
    """
    path = Path(path)
    sweep(path.parent, path.name)
    before = check_free(path, kind, replace=replace) if kind else None
    if not kind:
        check_file(path, replace=replace)
    with contextlib.nullcontext() if _is_stream(path) else hold_name(path):
        yield before


def check_free(folder: str | Path, kind: Kind, *, replace: bool = False) -> Manifest | None:
    """Raise if the path may not be written, and return the manifest of what will be replaced.

    Only a folder of the same kind is replaced, so a checkpoint by nothing but a checkpoint. Where
    a checkpoint was moved elsewhere and linked, a new one replaces the link.

    Raises:
        ValueError: the name is not UTF-8.
        FileExistsError: the path is taken.
        OSError: what is there cannot be read.
    """
    folder = Path(folder)
    _check_place(folder, in_checkpoints=True)
    if folder.is_symlink():
        if kind == "checkpoint":
            return None
        raise FileExistsError(f"{folder} is a link: name the folder itself")
    if not folder.exists() or _is_empty(folder):
        _check_place(folder, in_checkpoints=kind == "checkpoint")
        return None
    manifest = None
    with contextlib.suppress(CheckpointError):
        manifest = read_manifest(folder)
    if manifest is None:
        raise FileExistsError(f"{folder} exists and is not one of ours: choose another name")
    if manifest.kind != kind:
        raise FileExistsError(f"{folder} holds another kind, {manifest.kind}: choose another name")
    if not replace:
        raise FileExistsError(f"{folder} exists: choose another name, or add --force")
    ours = {MANIFEST, *manifest.files}
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in ours or p.is_dir())
    if foreign:
        raise FileExistsError(
            f"{folder} also holds {foreign[0]!r}, which is not ours: choose another name"
        )
    return manifest


def check_file(path: str | Path, *, replace: bool = False) -> None:
    """Raise if the path is not that of an ordinary file that may be written, or of a stream.

    Streams (a terminal, a pipe, /dev/null) are written to, so nothing there is lost.
    """
    path = Path(path)
    if _is_stream(path):
        return
    _check_place(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} is a link or a device: name an ordinary file")
    if path.name in RUN_FILES and (path.parent / RUN).is_file():
        raise FileExistsError(f"{path} belongs to a run: choose another name")
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists: choose another name, or add --force")


def check_name(path: str | Path) -> None:
    """Raise ValueError for what is no name, or not UTF-8: it could not be recorded or opened."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"the name of a file or folder is a text, not {type(path).__name__}")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        name = str(path).encode("utf-8", "backslashreplace").decode()
        raise ValueError(f"the name {name} is not UTF-8: choose another") from None


def _check_place(path: Path, *, in_checkpoints: bool = False) -> None:
    """Raise if nothing may be written at a path: the name, or the folder it lies in."""
    check_name(path)
    if owner := owner_of(path, in_checkpoints=in_checkpoints):
        raise FileExistsError(f"{path} lies in {owner}, a folder of ours: choose another name")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is not a folder")


def owner_of(path: str | Path, *, in_checkpoints: bool = False) -> Path | None:
    """Return the folder of ours that a path lies in, or the checkpoints of a run; else None.

    Args:
        in_checkpoints: a place among the checkpoints of a run is right.
    """
    for folder in (Path(path).absolute().parent.resolve() / "x").parents:
        among = folder.name == "checkpoints" and (folder.parent / RUN).is_file()
        if (folder / MANIFEST).is_file() or (among and not in_checkpoints):
            return folder
    return None


def _is_stream(path: Path) -> bool:
    """True for a terminal, a pipe or another device without places, also through a link."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _move_into_place(temporary: Path, folder: Path) -> None:
    """Rename the new folder; one that is replaced steps aside until the new one is there."""
    aside = _temporary(folder, REPLACED)
    try:
        if os.path.lexists(folder):
            folder.rename(aside)
        temporary.rename(folder)
    except BaseException as error:
        _bring_back(aside, folder)
        if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(f"{folder} was written by another process meanwhile") from error
        raise
    _flush(folder.parent)
    with contextlib.suppress(OSError):
        _discard(aside)


def _bring_back(aside: Path, folder: Path) -> None:
    """Restore a folder that stepped aside, unless its successor is there."""
    with contextlib.suppress(OSError):
        if os.path.lexists(folder):
            _discard(aside)
        else:
            aside.rename(folder)


def _discard(path: Path) -> None:
    """Remove a folder, or a link and not its target."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def list_checkpoints(folder: str | Path) -> list[Path]:
    """List the folders `step-…`, oldest first, unchecked: damaged ones must not go unnoticed.

    Links count, also those whose target is away.
    """
    steps = {path: path.name.removeprefix("step-") for path in Path(folder).glob("step-*")}
    steps = {path: int(step) for path, step in steps.items() if step.isdecimal()}
    checkpoints = [path for path in steps if _holds_something(path)]
    return sorted(checkpoints, key=steps.get)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that nobody takes it for a good one."""
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (checkpoint.with_name(f"damaged-{checkpoint.name}{ending}") for ending in endings)
    return checkpoint.rename(next(name for name in names if not name.exists()))


def remove_folder(folder: Path) -> None:
    """Remove a folder, or a link to one. It is renamed first: nobody finds a part of it."""
    _discard(folder.rename(_temporary(folder)))


def sweep(folder: str | Path, name: str | None = None) -> None:
    """Remove what killed writers of `name` (None: any) left, and restore what they moved aside."""
    for path in Path(folder).glob(f"{LOCK}*") if name is None else ():
        with contextlib.suppress(OSError), hold_name(path.with_name(path.name.removeprefix(LOCK))):
            pass  # removes the lock, unless it is held
    for path in Path(folder).glob(".*"):
        match = LEFTOVER.fullmatch(path.name)
        if match is None or name not in (None, match[4]) or not _is_gone(int(match[2]), match[3]):
            continue
        if match[1] == REPLACED:
            _bring_back(path, path.with_name(match[4]))
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_gone(number: int, process: str) -> bool:
    """True if the process no longer runs. On Windows, where asking would end it, always True."""
    if number == os.getpid():
        return process != PROCESS
    if os.name == "nt":
        return True
    try:
        os.kill(number, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, ProcessLookupError)
    return False


def _temporary(path: Path, prefix: str = TEMPORARY) -> Path:
    """Return a name beside the path that no other writer uses."""
    return path.with_name(f"{prefix}{os.getpid()}-{PROCESS}-{next(COUNTER)}-{path.name}")


def write_text(path: str | Path, text: str) -> None:
    """Replace a file by one rename, so that it is never half written; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace a file by one rename; a stream is written to.

    Raises:
        OSError: it could not be written; the message names the path.
    """
    path = Path(path)
    if _is_stream(path):
        path.write_bytes(data)
        return
    sweep(path.parent, path.name)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
        _flush(temporary)
        if path.is_symlink():
            raise FileExistsError(errno.EEXIST, "a link: name the file itself")
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk names nothing, other errors the temporary
        raise
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Return a value for a JSON file: numbers of Python; infinity and NaN become null.

    Bytes of a name that are not UTF-8 are spelled out.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, np.generic):  # numpy's numbers become Python's
        value = value.item()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> str:
    """Return a JSON text that every reader understands: see `plain`."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _holds_something(folder: Path) -> bool:
    """True for a folder with entries, and for a link to one or to nothing."""
    if folder.is_symlink() and not folder.exists():
        return True
    return folder.is_dir() and not _is_empty(folder)


def _is_empty(folder: Path) -> bool:
    """True for a folder without entries, and for one that has just been removed."""
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except FileNotFoundError:
        return True


def _flush(path: Path) -> None:
    """Make the system write a file or a folder to the disk now."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folder
        return
    number = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # and flushes no read-only file
    try:
        os.fsync(number)
    except OSError as error:  # some file systems flush no folder, and have written all the same
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(number)

"""The manifest of a folder: its kind, and the size and sha256 of each of its files.

A file that cannot be read now (OSError) is told from one that was read and is not what was written
(CheckpointError).
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import re
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

__all__ = [
    "MANIFEST",
    "CheckpointError",
    "Kind",
    "Manifest",
    "check_folder",
    "contents_sha256",
    "file_sha256",
    "fingerprint",
    "is_file",
    "read_manifest",
]

Kind = Literal["model", "checkpoint", "corpus", "export"]
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A folder is not what was written into it; the message names the file."""


class Manifest(NamedTuple):
    """The kind of a folder, and the size and sha256 of each of its files."""

    kind: str
    files: dict[str, dict[str, Any]]


def check_folder(folder: str | Path, names: Iterable[str] = ()) -> Path:
    """Compare every file with the manifest, in which these names must be.

    Raises:
        FileNotFoundError: there is no such folder.
        CheckpointError: a file or the manifest is missing, or is not what was written.
        OSError: a file cannot be read now, which says nothing about its contents.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        message = f"{folder} is not a folder that this library wrote: no {MANIFEST}"
        raise CheckpointError(message) if folder.is_dir() else FileNotFoundError(message)
    for name in dict.fromkeys([*names, *manifest.files]):
        found, expected = fingerprint(folder / name), manifest.files.get(name)
        if found is None or expected is None:
            raise CheckpointError(f"{folder / name} is missing")
        if found != expected:
            raise CheckpointError(
                f"{folder / name} is damaged: {found['bytes']} bytes with sha256 "
                f"{found['sha256']}, expected {expected['bytes']} with {expected['sha256']}"
            )
    for path in folder.iterdir():  # a pipe would be waited for
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} is not a file")
    return folder


def contents_sha256(folder: str | Path) -> str:
    """Return one hash for all files of a whole folder, whatever its manifest's version."""
    files = json.dumps(read_manifest(Path(folder)).files, indent=2) + "\n"
    return hashlib.sha256(files.encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 sum of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder; None if there is none. CheckpointError if it is damaged."""
    path = folder / MANIFEST
    if not is_file(path):
        return None
    try:
        entries = json.loads(path.read_text("utf-8"))
        kind = entries.pop("kind", None)
        known = kind is None or kind in get_args(Kind)
        ours = known and all(itertools.starmap(_is_entry, entries.items()))
    except (ValueError, TypeError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise CheckpointError(f"{path} is damaged: it is not a list of files")
    return Manifest(kind or _infer_kind(entries), entries)


def _is_entry(name: str, entry: object) -> bool:
    """True for size and sha256 of a file in the folder itself, fit for an error of one line."""
    return (
        isinstance(entry, dict)
        and entry.keys() == {"bytes", "sha256"}
        and isinstance(entry["bytes"], int)
        and re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])) is not None
        and name.isprintable()
        and Path(name).name == name
    )


def _infer_kind(names: Collection[str]) -> Kind:
    """Tell the kind of a folder from its files: old manifests do not state it."""
    if "training.pt" in names or "corpus.json" in names:
        return "checkpoint" if "training.pt" in names else "corpus"
    return "model" if {"config.json", "model.safetensors", "source.vocab"} <= {*names} else "export"


def is_file(path: Path) -> bool:
    """True for an ordinary file. Unlike pathlib's, it raises where it cannot find out."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():  # its disk may be away: no damage
            raise FileNotFoundError(errno.ENOENT, "a link to nothing", str(path)) from None
        return False


def fingerprint(path: Path) -> dict[str, Any] | None:
    """Return size and sha256 of a file; None if it is missing."""
    if not is_file(path):
        return None
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}

"""Flags and checks that several commands share."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from pathlib import Path

import torch

from transformer_lib.data.devices import choose_device, n_cores
from transformer_lib.data.files import RUN, owner_of

__all__ = ["check_alpha", "check_outputs", "choose_device", "command_line", "set_threads"]

RUN_FILES = {RUN, "best.json", "log.jsonl", ".lock"}


def check_outputs(*paths: Path | None, force: bool = False) -> None:
    """Raise before the work, not after it, if a file may not or cannot be written."""
    given = [path for path in paths if path]
    if len({path.resolve() for path in given}) < len(given):
        raise ValueError("two outputs have the same name")
    for path in given:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ValueError(f"{path} is a link or a device: name an ordinary file")
        if owner := owner_of(path):
            raise FileExistsError(f"{path} lies in {owner}, a folder of ours: choose another name")
        if path.name in RUN_FILES and (path.parent / RUN).is_file():
            raise FileExistsError(f"{path} belongs to a run: choose another name")
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists: choose another name, or add --force")
        if path.parent.exists() and not path.parent.is_dir():
            raise ValueError(f"{path.parent} is not a folder")
        path.parent.mkdir(parents=True, exist_ok=True)


def command_line(*words: str | Path) -> str:
    """Return a command of ours as one would type it in the shell of this system."""
    quote = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return quote(["transformer-lib", *map(str, words)])


def check_alpha(alpha: float) -> None:
    """Raise if the length penalty could not rank translations."""
    if not 0 <= alpha < math.inf:
        raise ValueError(f"--alpha must be a number of at least 0, got {alpha}")


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None is torch's choice, at most the cores of this process."""
    if threads is None:
        threads = min(torch.get_num_threads(), n_cores())
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)

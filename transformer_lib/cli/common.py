"""Flags and checks that several commands share."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from transformer_lib.data.devices import check_threads, choose_device, n_cores
from transformer_lib.data.files import reserve

__all__ = [
    "as_utf8",
    "check_alpha",
    "choose_device",
    "command_line",
    "reserve_outputs",
    "set_threads",
]


@contextmanager
def reserve_outputs(
    *paths: Path | None, inputs: Sequence[Path | None] = (), force: bool = False
) -> Iterator[None]:
    """Hold the files that the work inside writes, see `reserve`.

    Raises:
        ValueError: two of them, or one and an input, are the same or lie in one another.
    """
    given, read = ([p.resolve() for p in some if p] for some in (paths, inputs))
    for i, path in enumerate(given):
        if any(_same(path, other) for other in given[:i]):
            raise ValueError("two outputs have the same name, or one lies in the other")
        if any(_same(path, other) for other in read):
            raise ValueError(f"{path} is the input, too: choose another name")
    with ExitStack() as stack:
        for path in filter(None, paths):
            stack.enter_context(reserve(path, replace=force))
        yield


def _same(path: Path, other: Path) -> bool:
    if path in (other, *other.parents) or other in path.parents:
        return True
    return path.exists() and other.exists() and path.samefile(other)


def command_line(*words: str | Path) -> str:
    """Return a command of ours as one would type it in the shell of this system."""
    quote = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return quote(["transformer-lib", *map(str, words)])


def as_utf8(argument: str) -> str:
    """Return an argument as the UTF-8 that it is, where the locale is another."""
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:  # `check_sentences` names it
        return argument


def check_alpha(alpha: float) -> None:
    """Raise if the length penalty could not rank translations."""
    if not 0 <= alpha <= 100:  # as in `translate.search.check_search`, before a model is read
        raise ValueError(f"--alpha must be a number of at least 0 and at most 100, got {alpha}")


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None is torch's choice, at most the cores of this process."""
    if threads is None:
        threads = min(torch.get_num_threads(), n_cores())
    check_threads(threads)
    torch.set_num_threads(threads)

"""The folder of a run: its lock, its log, and the checkpoint to resume from."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from transformer_lib.data.files import (
    RUN,
    CheckpointError,
    check_name,
    list_checkpoints,
    owner_of,
    set_aside,
    write_text,
)
from transformer_lib.data.locks import NO_LOCKS

__all__ = ["Resume", "RunLog", "check_run_folder", "choose_checkpoint", "lock_folder"]

Resume = Literal["no", "latest", "auto"]
OF_THE_PROCESS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # no other file can be read, either


def check_run_folder(folder: Path) -> None:
    """Raise if a run may not be in a folder, before anything there is touched.

    Raises:
        ValueError: its name is not UTF-8.
        NotADirectoryError: it is a file.
        FileExistsError: it is, or lies in, a folder of ours, or has files of another program that
            have the names of a run's.
    """
    check_name(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: a run needs one")
    if owner := owner_of(folder / RUN):
        what = "is" if owner == folder.absolute().resolve() else f"lies in {owner},"
        raise FileExistsError(f"{folder} {what} a folder of ours: choose another for the run")
    names = (RUN, "log.jsonl", "best.json")
    for name in names:  # a pipe would wait for a reader
        if (folder / name).exists() and not (folder / name).is_file():
            raise FileExistsError(f"{folder / name} is no file: choose another folder for the run")
    if list_checkpoints(folder / "checkpoints") or _is_run(folder / RUN):
        return
    for name in names:
        if (folder / name).is_file() and (folder / name).stat().st_size:
            raise FileExistsError(f"{folder / name} is not of a run of ours: choose another folder")


def _is_run(path: Path) -> bool:
    try:
        return "train" in json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return False


def lock_folder(folder: Path) -> FileLock:
    """Let no second training into a folder until the lock is released or the process ends.

    On a file system without locks, every training is let in.

    Raises:
        ValueError: another training is running there.
    """
    lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{folder}: another training is running there") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return lock


def choose_checkpoint(
    folder: Path,
    resume: Resume,
    restore: Callable[[Path], None],
    say: Callable[[str], Any],
) -> Path | None:
    """Restore the newest checkpoint that may be used, and return it; None to start anew.

    Args:
        folder: of the run.
        resume: "no" refuses a run with checkpoints; "latest" takes the newest; "auto" the newest
            that is whole; it renames damaged ones, and leaves alone what cannot be read now.

    Raises:
        ValueError: there is no checkpoint for "latest", or one for "no".
        CheckpointError: the newest is damaged ("latest"), or all are ("auto").
        OSError: the newest ("latest"), or none ("auto"), can be read now.
    """
    checkpoints = list_checkpoints(folder / "checkpoints")
    if checkpoints and resume == "no":
        raise ValueError(f"{folder} holds a run already: add --resume auto, or choose another")
    if resume == "latest" and not checkpoints:
        raise ValueError(f"{folder} holds no checkpoint to resume from")
    damaged: dict[Path, str] = {}
    unread: dict[Path, OSError] = {}
    for checkpoint in reversed(checkpoints):
        try:
            restore(checkpoint)
        except CheckpointError as error:
            if resume == "latest":
                raise
            damaged[checkpoint] = str(error)
            continue
        except OSError as error:  # which says nothing about what is in the file
            if resume == "latest" or error.errno in OF_THE_PROCESS:
                raise
            unread[checkpoint] = error
            continue
        for skipped, error in unread.items():
            say(f"skipped: {skipped.name} cannot be read now, and keeps its name: {error}")
        for skipped, reason in damaged.items():  # renamed only once there is a way to resume
            say(f"skipped: {reason}; it is now called {set_aside(skipped).name}")
        return checkpoint
    if unread:
        raise next(iter(unread.values()))
    if damaged:  # to start anew here would empty the log
        reason = next(iter(damaged.values()))
        raise CheckpointError(f"{reason}; no checkpoint there can be used: start anew elsewhere")
    return None


class RunLog:
    """One JSON object per line in `log.jsonl`, and TensorBoard's curves if it is installed.

    Args:
        first_step: lines of later steps are removed: those steps will be repeated.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self.path = folder / "log.jsonl"
        lines = [line for line in self.read(self.path) if line["step"] <= first_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        except Exception:  # it is missing or broken: the log alone will do
            self.board = None

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Return all whole lines; a crash may have torn the last one."""
        lines = []
        for text in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                break
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                break
            lines.append(line)
        return lines

    def __call__(self, step: int, **values: int | float) -> None:
        """Record the values of a step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items() if self.board else ():
            self.board.add_scalar(name, value, step)

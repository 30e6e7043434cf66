"""How a training ends: what was saved, how to go on, and who is left to read it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformer_lib.data.files import list_checkpoints
from transformer_lib.train.resumable import ResumableRun

__all__ = ["how_to_go_on", "saved", "told_what_is_saved", "unbreakable_output"]

AGAIN = "to go on: the same command with --resume auto"


def saved(trainer: ResumableRun) -> str:
    """What there is to go on from."""
    found = list_checkpoints(trainer.checkpoints)
    if not found:
        return "no checkpoint was saved yet"
    return f"saved: step {int(found[-1].name.removeprefix('step-'))} in {trainer.checkpoints}"


def how_to_go_on(trainer: ResumableRun, reason: str) -> str:
    """What to do next; the same command alone would stop at once where a limit was reached."""
    if reason == "all steps done":
        if trainer.config.cooldown:
            return "the run is complete: its rate has cooled down"
        return f"{AGAIN} and more --steps"
    if "steps are done" in reason:
        return f"{AGAIN} and more --max-steps"
    if "minutes are over" in reason:
        return f"{AGAIN} and more --max-minutes (they count from the first start)"
    if reason.startswith("no better BLEU"):
        return f"{AGAIN} and a larger --patience"
    return AGAIN


@contextmanager
def told_what_is_saved(trainer: ResumableRun) -> Iterator[None]:
    """Whatever ends the training inside, its message says what was saved and how to go on."""
    try:
        yield
    except FloatingPointError as error:
        # the same steps from a checkpoint would come to the same end, to the bit
        hint = "start a new run with a lower --peak-rate, or with --precision fp32"
        raise _retold(error, f"{error}; {saved(trainer)}; {hint}") from error
    except KeyboardInterrupt as error:
        told = f"interrupted at once, at step {trainer.step}; {_or_anew(trainer)}"
        raise _retold(error, told) from error
    except OSError as error:
        place = "" if error.filename or str(trainer.folder) in str(error) else f"{trainer.folder}: "
        told = f"{place}{error}; {_or_anew(trainer)}, once there is room or the disk is back"
        raise _retold(OSError(), told, error) from error
    except (RuntimeError, MemoryError) as error:
        hint = "; less memory: a smaller --max-tokens needs a new run" * _is_memory(error)
        told = f"{str(error) or 'out of memory'}; {_or_anew(trainer)}{hint}"
        raise _retold(RuntimeError(), told, error) from error


def _retold(kind: BaseException, told: str, error: BaseException | None = None) -> BaseException:
    """An error of this kind with another text, and with what was noted on the one before."""
    new = type(kind)(told)
    new.__dict__.update((error or kind).__dict__)
    return new


def _or_anew(trainer: ResumableRun) -> str:
    return f"{saved(trainer)}; {AGAIN}"


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


class _Unbreakable:
    """A stream whose reader may go away."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes while somebody reads."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """As the stream's own."""
        self._try(self._stream.flush)

    def _try(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except OSError:  # the pipe is closed, the terminal gone, or the disk of the log full
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unbreakable_output() -> Iterator[None]:
    """Inside, hours of work do not end because a pipe was closed or a terminal went away.

    A terminal that goes away sends SIGHUP, which becomes a SIGTERM: the step is finished and a
    checkpoint saved. Under `nohup` it stays ignored.
    """
    streams = sys.stdout, sys.stderr
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    before = hangup and signal.getsignal(hangup)
    sys.stdout, sys.stderr = map(_Unbreakable, streams)
    if before is signal.SIG_DFL:
        signal.signal(hangup, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        if before is signal.SIG_DFL:
            signal.signal(hangup, before)

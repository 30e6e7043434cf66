"""Output that may lose its reader without ending the command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["unbreakable_output"]


class _Unbreakable:
    """A stream that discards its text once nobody reads it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or discard it."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or do nothing."""
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
    """Continue hours of work inside if a pipe is closed or the terminal goes away.

    A closed terminal sends SIGHUP, which becomes a SIGTERM: the step is finished and a checkpoint
    saved. Under `nohup` it stays ignored.
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

"""Standard streams that may be closed, narrow or ASCII, and output that may lose its reader."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

__all__ = ["escape", "in_one_line", "open_streams", "printable", "unbreakable_output"]

CODES = {*range(32), *range(127, 160)} - {*map(ord, "\t\n\r")}
CONTROLS = {code: f"\\x{code:02x}" for code in CODES}
TITLE, RULE, FRAME = re.compile("╭.*?╮"), re.compile("─+"), re.compile("[│╰╯]")  # tyro's boxes
NARROWEST = 40  # columns; in fewer than seven, laying out the help would never end


def open_streams() -> set[str]:
    """Make the standard streams usable: all there, in UTF-8, and wide enough for the help.

    Returns:
        The names of those that are closed; null devices take their numbers, which other files
        would get otherwise, and with them what is meant for the stream.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    closed = {name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None}
    for name in closed:
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook has streams of its own
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    return closed


@contextmanager
def in_one_line() -> Iterator[None]:
    """Raise ValueError with the text of tyro's usage errors, which would fill a box."""
    text = io.StringIO()
    try:
        with redirect_stderr(text):
            yield
    except SystemExit as end:
        if end.code:
            parts = RULE.split(FRAME.sub(" ", TITLE.sub(" ", text.getvalue())))
            raise ValueError("; ".join(filter(None, map(str.strip, parts)))) from None
        raise


def escape(text: str) -> str:
    """Return the text with its control characters spelled out, except line ends and tabs.

    A name in somebody else's file could hold codes that take over the terminal.
    """
    return text.translate(CONTROLS)


def discard(stream: Any) -> None:
    """Send what a stream still holds, and all that follows, nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class _Printable:
    """A stream that spells control characters out."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text."""
        self._stream.write(escape(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printable() -> Iterator[None]:
    """Spell out control characters in all that is printed inside."""
    with redirect_stdout(_Printable(sys.stdout)), redirect_stderr(_Printable(sys.stderr)):
        yield


class Unbreakable(_Printable):
    """A stream that discards its text once it cannot be written.

    Args:
        lost: receives the error, unless it is that nobody reads any more.
    """

    def __init__(self, stream: Any, lost: list[OSError]) -> None:
        super().__init__(stream)
        self._lost = lost

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
        except OSError as error:  # the pipe is closed, the terminal gone, or the disk full
            if not isinstance(error, BrokenPipeError):
                self._lost.append(error)
            discard(self._stream)


@contextmanager
def unbreakable_output(*, stdout: bool = True) -> Iterator[list[OSError]]:
    """Continue the work inside if a pipe is closed or the terminal goes away.

    A closed terminal sends SIGHUP, which becomes a SIGTERM: in a training run, the step is
    finished and a checkpoint saved. Under `nohup` it stays ignored.

    Args:
        stdout: whether this is so for standard output, too, not only for standard error.

    Returns:
        A list to which errors of standard output are added, such as a full disk.
    """
    streams, lost = (sys.stdout, sys.stderr), list[OSError]()
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    in_main = threading.current_thread() is threading.main_thread()  # others handle no signals
    before = signal.getsignal(hangup) if hangup and in_main else None
    sys.stderr = Unbreakable(sys.stderr, [])
    if stdout:
        sys.stdout = Unbreakable(sys.stdout, lost)
    if before is signal.SIG_DFL:
        signal.signal(hangup, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield lost
    finally:
        if stdout:
            sys.stdout.flush()
        sys.stdout, sys.stderr = streams
        if before is signal.SIG_DFL:
            signal.signal(hangup, before)

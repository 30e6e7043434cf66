"""Requests to stop, from the signals of the operating system."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from typing import Any

__all__ = ["StopSignal"]

AGAIN = 0.2  # seconds until a lost interrupt is raised again


class StopSignal:
    """Stop after the current step on Ctrl-C or SIGTERM, at once on a second Ctrl-C.

    Python drops an exception that a signal raises in a finaliser or a callback. So a second Ctrl-C
    is raised again and again until the `with` block is left.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.number: int | None = None
        self._quiet = quiet
        self._before: dict[int, Any] = {}
        self._left = threading.Event()
        self._insisting = False

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        is_first, self.number = self.number is None, self.number or number
        if is_first:  # recorded before it is announced: the next signal may come in between
            self._announce()
        elif number == signal.SIGINT and not self._left.is_set():
            if not self._insisting:
                self._insisting = True
                threading.Thread(target=self._insist, daemon=True).start()
            raise KeyboardInterrupt

    def _announce(self) -> None:
        message = "\nstopping after this step; Ctrl-C again stops at once"
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of a write
            if not self._quiet:
                print(message, file=sys.stderr)

    def _insist(self) -> None:
        while not self._left.wait(AGAIN):
            _thread.interrupt_main()

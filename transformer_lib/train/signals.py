"""The wish to stop, as the signals of the system bring it."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from typing import Any

__all__ = ["StopSignal"]

AGAIN = 0.2  # seconds until an interrupt that was lost is raised again


class StopSignal:
    """Ctrl-C and SIGTERM ask for a stop after the step; a second Ctrl-C stops at once.

    Python forgets an exception that it cannot hand on: what a signal raises while an object is
    cleared away, or in a callback, is printed and gone. So a second Ctrl-C is raised again and
    again until the `with` block is left.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.number: int | None = None
        self._quiet = quiet
        self._before: dict[int, Any] = {}
        self._left = threading.Event()
        self._insisting = False

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        is_first, self.number = self.number is None, self.number or number
        if is_first:  # noted first: the next signal may come before this line is printed
            self._tell()
        elif number == signal.SIGINT and not self._left.is_set():
            if not self._insisting:
                self._insisting = True
                threading.Thread(target=self._insist, daemon=True).start()
            raise KeyboardInterrupt

    def _tell(self) -> None:
        told = "\nstopping after this step; Ctrl-C again stops at once"
        with contextlib.suppress(RuntimeError):  # it came while somebody else was writing there
            if not self._quiet:
                print(told, file=sys.stderr)

    def _insist(self) -> None:
        while not self._left.wait(AGAIN):
            _thread.interrupt_main()

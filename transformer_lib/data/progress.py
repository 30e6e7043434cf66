"""The one progress bar of the library: tqdm's where it is installed, else nothing."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["progress_bar"]


class _NoBar(AbstractContextManager):
    """Stand-in for a bar of tqdm that shows nothing but messages."""

    write = staticmethod(print)

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def update(self, *_: object, **__: object) -> None:
        """Do nothing."""

    set_postfix_str = update


def progress_bar(
    what: str | None = None,
    total: int | None = None,
    *,
    unit: str = " pairs",
    done: int = 0,
    delay: float = 0.0,
    quiet: bool = False,
) -> Any:
    """Return a progress bar for standard error; in a log file it adds a line every 30 seconds.

    Args:
        what: text before the bar.
        done: how many of the `total` units were done before.
        delay: seconds before the bar appears at all.
    """
    try:
        from tqdm import tqdm
    except Exception:  # it is missing or broken
        return _NoBar()
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == " pairs",
        delay=delay,
        disable=quiet,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
    )

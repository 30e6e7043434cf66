"""One writer at a time for a name, and a place for what will be written."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["LOCK", "NO_LOCKS", "hold_name", "make_folders", "remove_empty"]

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}  # the file system has none
LOCK = ".lock-"  # beside what is written
HELD: set[tuple[int, Path]] = set()  # thread and path


@contextmanager
def hold_name(path: Path) -> Iterator[None]:
    """Make the folders above a path, and let nobody else write to it inside.

    A place that cannot be written is noticed here, before the work. Folders that stay empty are
    removed again. Where a file system has no locks, every writer is let in.

    Raises:
        FileExistsError: another process or thread writes to it.
        OSError: the place is read-only, or no folder.
    """
    path = path.absolute()
    key = threading.get_ident(), path
    if key in HELD:
        yield
        return
    made = make_folders(path.parent)
    try:
        lock = FileLock(path.with_name(f"{LOCK}{path.name}"), fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(f"{path} is being written by another process") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        HELD.add(key)
        try:
            yield
        finally:
            HELD.discard(key)
            with suppress(OSError):  # Windows removes no open file
                os.unlink(lock.lock_file)
            lock.release()
    finally:
        remove_empty(made)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, innermost first."""
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except BaseException:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()

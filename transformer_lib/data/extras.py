"""Optional packages: a missing one is one line that says which extra to install.

The core of the library does without them, so they are imported where they are used:

    with needs("cli"):
        from sacrebleu.metrics import BLEU
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

__all__ = ["Extra", "MissingPackageError", "needs"]

Extra = Literal["words", "lessons", "cli", "export"]


class MissingPackageError(ImportError):
    """An optional package is missing; the message says how to install it."""


@contextmanager
def needs(extra: Extra) -> Iterator[None]:
    """Import packages of an extra inside this context.

    Raises:
        MissingPackageError: a package is missing or does not load.
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ImportError as error:
        name = (error.name or "a package").partition(".")[0]
        if name == "transformer_lib":  # a bug of ours, no missing package
            raise
        missing = isinstance(error, ModuleNotFoundError)
        problem = f"{name} is not installed" if missing else f"{name} does not load ({error})"
        command = f'pip install "transformer-lib[{extra}]"'  # these quotes work on Windows, too
        raise MissingPackageError(f"{problem}: {command}", name=error.name) from error

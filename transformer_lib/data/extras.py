"""Optional packages: a missing one is one line that says which extra to install.

The core of the library does without them, so they are imported where they are used:

    with needs("cli"):
        from sacrebleu.metrics import BLEU
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from traceback import walk_tb
from typing import Literal

__all__ = ["Extra", "MissingPackageError", "import_on_use", "needs"]

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
    except Exception as error:  # a broken package may raise anything
        name = (getattr(error, "name", None) or _where(error)).partition(".")[0]
        if name == "transformer_lib":  # a bug of ours, no missing package
            raise
        missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if missing else f"does not load ({error!r:.200})"
        command = f'pip install "transformer-lib[{extra}]"'  # these quotes work on Windows, too
        raise MissingPackageError(f"{name} {problem}: {command}", name=name) from error


def _where(error: Exception) -> str:
    """Return the first module outside of this library that an error passed through."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    ours = ("transformer_lib", "importlib", "contextlib")
    return next((name for name in modules if not name.startswith(ours)), ours[0])


def import_on_use(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Return a `__getattr__` for a package that imports names on first use.

    Args:
        modules: the module of each name.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get

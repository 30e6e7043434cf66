"""The Transformer of "Attention Is All You Need": what seven notebooks build, and a translator.

The names that most users need are importable from here, see `api`; the modules beside hold the
rest. They are imported on first use, because torch takes a second that `--help` does not need.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformer_lib.api import *  # noqa: F403
    from transformer_lib.api import __all__ as __all__


def __getattr__(name: str) -> object:
    """Import the public names, and `probes`: the paper's code needs no lessons."""
    if name == "probes":
        from transformer_lib.lessons import probes

        return probes
    if name == "__all__" or not name.startswith("_"):
        api = import_module("transformer_lib.api")
        if name in ("__all__", *api.__all__):
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    api = import_module("transformer_lib.api")
    return sorted({*globals(), *api.__all__, "probes"})


class _Package(ModuleType):
    """A package whose `attention` is the function, although a module has that name, too."""

    @property
    def attention(self) -> object:
        return __getattr__("attention")

    @attention.setter
    def attention(self, module: ModuleType) -> None:
        """Ignore that the module is set here when it is imported."""


sys.modules[__name__].__class__ = _Package

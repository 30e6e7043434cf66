"""Time and memory of a call, for the measurements of notebook 04."""

import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["measure", "peak_bytes", "seconds"]


class TensorMemory(TorchDispatchMode):
    """Count the bytes of the tensors made inside the `with`; `peak` is the most alive at once."""

    def __enter__(self) -> "TensorMemory":
        self.live, self.peak, self.known = 0, 0, set()
        return super().__enter__()

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        for tensor in filter(torch.is_tensor, args):
            self._track(tensor.untyped_storage(), 0)  # an input existed before
        result = function(*args, **(kwargs or {}))
        for tensor in filter(torch.is_tensor, result if isinstance(result, tuple) else [result]):
            self._track(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _track(self, storage: Any, size: int) -> None:
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.live += size
            weakref.finalize(storage, self._forget, storage._cdata, size)

    def _forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


def seconds(call: Callable[[], Any], enough: float = 0.05) -> float:
    """Return the computing time per call, repeated until `enough` seconds can be measured."""
    call()  # the first call also sets things up
    start, count = time.process_time(), 0
    while time.process_time() - start < enough:
        call()
        count += 1
    return (time.process_time() - start) / count


def peak_bytes(call: Callable[[], Any]) -> int:
    """Return the most memory that the tensors made by the call take at any moment."""
    with TensorMemory() as memory:
        call()
    return memory.peak


def measure(
    calls: Mapping[str, Callable[[], Any]],
    times: dict[str, list[float]],
    memory: dict[str, list[int]],
) -> None:
    """Append the seconds and the bytes of each named call to the lists of that name."""
    for name, call in calls.items():
        times.setdefault(name, []).append(seconds(call))
        memory.setdefault(name, []).append(peak_bytes(call))

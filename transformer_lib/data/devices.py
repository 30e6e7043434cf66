"""The devices that torch computes on: CUDA, Apple's MPS, and the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from pathlib import Path

import torch

__all__ = [
    "check_memory",
    "check_threads",
    "choose_device",
    "device_name",
    "free_memory",
    "keep_freed_memory",
    "n_cores",
    "n_physical_cores",
    "random_state",
    "set_random_state",
]

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in a period
MEMORY = Path("/sys/fs/cgroup")  # of a container: its limit in bytes, or "max", and its use
CORES = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
MOST_THREADS = 256
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of malloc.h
WITH_RANDOM_NUMBERS = ("cuda", "mps")  # of their own, beside the CPU's


def choose_device(name: torch.device | str = "auto") -> torch.device:
    """Return the named device; "auto" takes CUDA, else MPS, else the CPU.

    Raises:
        ValueError: torch does not see the device here, or it is no device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_available in available.items() if is_available)
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"no device: {name!r:.50}") from error
    if not available.get(device.type, True):  # of other kinds torch itself says what is wrong
        kind = device.type.upper()
        raise ValueError(f"torch sees no {kind} device here: choose auto or cpu")
    return device


def device_name(device: torch.device | str) -> str:
    """Return what a result should call the device: the GPU, or the kind of processor."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.machine() + f", {device.type}" * (device.type != "cpu")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a GPU, or the system, has left for this job; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        limit, used = (int((MEMORY / f"memory.{name}").read_text()) for name in ("max", "current"))
        uses = dict(line.split() for line in (MEMORY / "memory.stat").read_text().splitlines())
        return max(0, min(free, limit - used + int(uses["inactive_file"])))  # which makes room
    except (OSError, ValueError, KeyError):  # no control group, or "max": no limit
        return free


def check_memory(n_weights: int, device: torch.device) -> None:
    """Raise ValueError if weights, gradients and a moment, 12 bytes a weight, exceed the memory."""
    free = free_memory(device)
    if free is not None and 12 * n_weights > free:
        needed, free_too = (f"{number / 1e9:,.1f} GB" for number in (12 * n_weights, free))
        raise ValueError(
            f"a model of {n_weights:,} weights needs {needed} or more to be trained, but "
            f"{free_too} of memory are free: make it smaller"
        )


def check_threads(threads: int) -> None:
    """Raise ValueError for a number of threads that cannot be started or would only wait."""
    most = max(MOST_THREADS, n_cores())
    if not 1 <= threads <= most:
        raise ValueError(f"--threads must be at least 1 and at most {most}, got {threads}")


def n_cores() -> int:
    """Return the number of cores that this process may use, which containers and jobs limit."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return cores


def n_physical_cores() -> int:
    """Return `n_cores()` with the hyperthreads of a core counted once, where the system tells."""
    if not hasattr(os, "sched_getaffinity"):
        return min(n_cores(), torch.get_num_threads())  # torch's own default counts them once
    try:
        siblings = {Path(CORES.format(cpu)).read_text() for cpu in os.sched_getaffinity(0)}
    except OSError:
        return n_cores()
    return min(n_cores(), len(siblings))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of the CPU's random numbers and, by name, of the device's own."""
    states = {"rng": torch.get_rng_state()}
    if device.type in WITH_RANDOM_NUMBERS:
        states[f"{device.type}_rng"] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned, as far as it is of this kind of device."""
    torch.set_rng_state(states["rng"])
    if (own := f"{device.type}_rng") in states:
        torch.get_device_module(device).set_rng_state(states[own], device)


def keep_freed_memory() -> None:
    """Let the C library reuse freed memory, where it would give it back to the system at each step.

    That halves the time in the kernel, some 4 % of a training step, and makes greedy decoding of a
    long file 1.09 times as fast. For glibc; elsewhere nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows
        tune = ctypes.CDLL(None).mallopt
        tune(MMAP_THRESHOLD, 2**25)  # bytes; more is not allowed
        tune(TRIM_THRESHOLD, 2**31 - 1)

"""Conditions of a run: machine, allocator, commit, load."""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from transformer_lib.data.devices import n_cores

__all__ = ["commit", "load_average", "machine", "preload"]

ROOT = Path(__file__).resolve().parents[1]


def preload(allocator: str) -> str | None:
    """Return the library to preload for an allocator, None for the C library's own.

    Raises:
        ValueError: it is not installed.
    """
    if allocator == "system":
        return None
    found = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    if not found:
        raise ValueError("tcmalloc is not installed: apt-get install libtcmalloc-minimal4")
    return found


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return a description of the machine."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = set((re.search(r"flags\s*: (.*)", text) or ["", ""])[1].split())
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": n_cores(),
        "instructions": [name for name in wanted if name in flags],
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(device) if device != "cpu" else None,
    }


def commit() -> str:
    """Return the commit, marked if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def load_average() -> float | None:
    """Return the load average over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None

"""A virtual environment for every peer, below build/bench: none of them gets into ours."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers import HERE

__all__ = ["PACKAGES", "install", "missing_here", "python_of"]

# Releases are fixed: a table without them could not be checked by anybody.
PACKAGES = {
    "transformers": ["transformers==5.24.0", "sacremoses==0.1.1"],
    "ctranslate2": ["ctranslate2==4.8.5"],
    # it imports importlib_metadata without asking for it
    "joeynmt": ["joeynmt==2.3.0", "importlib_metadata==10.2.0"],
    "fairseq": ["fairseq==0.12.2"],
}
# fairseq needs omegaconf 2.0, whose metadata newer releases of pip refuse.
FIRST = {"fairseq": ["pip<24.1"]}
# The parts of the library that the peers' modules use; in the releases that we have ourselves.
SHARED = ("torch", "jaxtyping", "safetensors", "sentencepiece", "tqdm")


def python_of(environment: str, folder: Path) -> Path:
    """Return the interpreter of an environment."""
    return Path(sys.executable) if environment == HERE else folder / environment / "bin" / "python"


def missing_here(environment: str) -> str | None:
    """Return why a peer cannot be measured in our own environment, or None."""
    if environment == HERE or importlib.util.find_spec(environment):
        return None
    return f"{environment} is not installed here"


def install(environment: str, folder: Path, pip_args: Sequence[str] = ()) -> str | None:
    """Create the environment unless it exists.

    Args:
        folder: where all environments are.
        pip_args: more arguments for `pip install`, for example an index.

    Returns:
        Why it failed, in a line; None when it is ready.
    """
    if environment == HERE:
        return None
    shared = [f"{name}=={version(name).partition('+')[0]}" for name in SHARED]
    steps = [FIRST.get(environment, []), [*shared, *PACKAGES[environment]]]
    home, noted = folder / environment, json.dumps(steps)
    stamp = home / "installed.json"
    if stamp.is_file() and stamp.read_text() == noted:
        return None
    print(f"installing {environment} into {home}", file=sys.stderr, flush=True)
    venv.create(home, with_pip=True, clear=True)
    for step in filter(None, steps):
        command = [str(python_of(environment, folder)), "-m", "pip", "install", "--quiet"]
        done = subprocess.run([*command, *pip_args, *step], capture_output=True, text=True)
        if done.returncode:
            return f"pip install {' '.join(step)}: {_reason(done.stderr)}"
    stamp.write_text(noted)
    return None


def _reason(output: str) -> str:
    """Return the last line of pip's output that names the problem."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it failed without a word"])[-1]

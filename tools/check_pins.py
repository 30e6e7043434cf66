"""Resolve constraints.txt for every Python that the README promises, without installing anything.

A pin that asks for a newer Python than ours ends a newcomer's first command. Pip only notices on
the Python it runs on, so `uv` resolves the set for the others. The extra `colab` is resolved next
to the packages that Colab brings, because none of them may be replaced. Needs the package index.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0", "3.14.0")
EXTRAS = ("lessons", "cli", "test")  # and `book`, which only `make book` installs
# As seen in August 2026, on Python 3.13.
COLAB = {"torch": "2.11.0", "numpy": "2.1.3", "matplotlib": "3.10.0", "seaborn": "0.13.2"}
COLAB |= {"spacy": "3.8.15", "pandas": "2.2.3", "ipython": "7.34.0", "ipywidgets": "7.7.1"}


def resolve(python: str, constraints: Path, extras: tuple[str, ...]) -> tuple[bool, str]:
    """Return whether the pins resolve for a Python version, and uv's message."""
    command = [sys.executable, "-m", "uv", "pip", "compile", str(ROOT / "pyproject.toml")]
    command += ["--constraints", str(constraints), "--python-version", python, "--no-header"]
    command += [word for extra in extras for word in ("--extra", extra)]
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command += ["--quiet", "--output-file", str(Path(folder) / "resolved.txt")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode == 0, done.stderr.strip()


def main(constraints: Path = ROOT / "constraints.txt") -> int:
    """Return 0 if every version resolves, else 1, and print uv's reason."""
    with tempfile.TemporaryDirectory() as folder:
        colab = Path(folder) / "colab.txt"
        colab.write_text("".join(f"{name}=={version}\n" for name, version in COLAB.items()))
        cases = [(f"Python {python}", python, constraints, (*EXTRAS, "book")) for python in PYTHONS]
        for name, *case in [*cases, ("Colab", "3.13.0", colab, ("colab",))]:
            resolved, message = resolve(*case)
            print(f"{name}: {'the pins resolve' if resolved else 'the pins do NOT resolve'}")
            if not resolved:
                print(message)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))

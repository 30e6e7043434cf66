"""Write copies of the notebooks to work in: student/ without the solutions, or lab/ with them.

A copy is never written over once somebody has changed it. Each copy records a fingerprint of its
cells, so that an unchanged copy can be told from a changed one and gets the newer notebook.
"""

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION[ \t]*$", re.DOTALL | re.M
)
BLANK = r"\g<indent># your code here\n\g<indent>raise NotImplementedError"
RECORD = "transformer_lib_copy"  # the key of the fingerprint in the copy's metadata


def student_copy(notebook):
    """Return the notebook without solutions and outputs."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        cell.source, found = SOLUTION.subn(BLANK, cell.source)
        if "### BEGIN SOLUTION" in cell.source or "### END SOLUTION" in cell.source:
            raise ValueError(f"a solution without its other end:\n{cell.source}")
        if found and "jupyter" in cell.metadata:
            cell.metadata.jupyter.pop("source_hidden", None)
    return notebook


def fingerprint(notebook):
    """Hash what a reader types: the kind and the text of every cell, but no outputs."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def replace(notebook, path):
    """Write the copy in one step, so that an interruption leaves no half of one."""
    nbformat.write(notebook, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def write_copy(notebook, path):
    """Write the copy unless a changed one is there, and return the line to print."""
    new = notebook.metadata[RECORD] = fingerprint(notebook)
    if not path.exists():
        replace(notebook, path)
        return f"wrote {path}"
    try:
        old = nbformat.read(path, as_version=4)
        record, now = old.metadata.get(RECORD), fingerprint(old)
    except Exception:  # no notebook any more, but somebody's work
        record, now = None, "unreadable"
    if now == new:
        return f"kept {path}"
    if now == record:
        replace(notebook, path)
        return f"wrote {path}: the notebook is newer, and you had not changed the copy"
    text = f"kept {path}, which you have changed"
    if record in (new, None):
        return text
    return f"{text}. The notebook is newer: to get it, rename your copy and run this again"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks")
    parser.add_argument("--to", type=Path, help="folder of the copies: student/ or lab/")
    parser.add_argument(
        "--solutions", action="store_true", help="keep solutions (folded) and outputs"
    )
    options = parser.parse_args(argv)
    folder = options.to or ROOT / ("lab" if options.solutions else "student")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.notebooks.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        try:
            copy = notebook if options.solutions else student_copy(notebook)
        except ValueError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        print(write_copy(copy, folder / path.name))
    if not options.solutions:
        print(f"\nNext: {Path(sys.executable)} -m jupyterlab {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

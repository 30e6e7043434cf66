"""Write copies of the notebooks to build/student/ without the solutions and without outputs."""

import argparse
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION[ \t]*$", re.DOTALL | re.M
)
BLANK = r"\g<indent># your code here\n\g<indent>raise NotImplementedError"


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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "student")
    options = parser.parse_args(argv)
    options.to.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.notebooks.glob("*.ipynb")):
        try:
            copy = student_copy(nbformat.read(path, as_version=4))
        except ValueError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        nbformat.write(copy, options.to / path.name)
        print(f"wrote {options.to / path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

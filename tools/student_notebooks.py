"""Write copies of the notebooks to work in: student/ without outputs, or lab/ with solutions.

The notebooks hold the exercises open; notebooks/solutions/ has a small notebook of solutions for
each. lab/ gets them, too, and keeps the outputs. In student/, the exercise cells have the metadata
of nbgrader 0.9.6, by which tools/grade.py recognizes them.

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
RECORD = "transformer_lib_copy"  # the key of the fingerprint in the copy's metadata
CHECK = re.compile(r"""^lessons\.check\(["']([\dA-Z]\.\d[a-z]?)["'], *(\w+)\)""", re.M)
POINTS = {"easy": 1, "medium": 2, "harder": 3, "challenging": 3}  # for each check


def student_copy(notebook):
    """Return the notebook without outputs, its exercise cells marked for grading."""
    points = exercises_of(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if cell.get("id") in points:
            checks = checks_of(cell.source)
            cell.metadata["nbgrader"] = {
                "cell_type": "code",
                "grade": True,
                "grade_id": grade_id(checks),
                "locked": False,
                "points": points[cell.id] * len(checks),
                "schema_version": 3,
                "solution": True,
                "task": False,
            }
    return notebook


def checks_of(source):
    """Return {exercise: name of the answer} for the checks that a cell calls."""
    return dict(CHECK.findall(source))


def grade_id(checks):
    """Return nbgrader's id of an exercise: exercise-4-1 for the checks 4.1a to 4.1c."""
    return f"exercise-{next(iter(checks)).rstrip('abc').replace('.', '-')}"


def exercises_of(notebook):
    """Return {id of an exercise cell: points of each check}, by the level in the task's heading."""
    points, level = {}, 1
    for cell in notebook.cells:
        if heading := re.match(r"### Exercise .*\((\w+)\)", cell.source):
            level = POINTS[heading[1]]
        elif cell.cell_type == "code" and checks_of(cell.source):
            points[cell.id] = level
    return points


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
        "--solutions", action="store_true", help="keep outputs and copy the solutions, too"
    )
    options = parser.parse_args(argv)
    folder = options.to or ROOT / ("lab" if options.solutions else "student")
    names = ("*.ipynb", "solutions/*.ipynb") if options.solutions else ("*.ipynb",)
    for path in sorted(found for name in names for found in options.notebooks.glob(name)):
        notebook = nbformat.read(path, as_version=4)
        copy = folder / path.relative_to(options.notebooks)
        copy.parent.mkdir(parents=True, exist_ok=True)
        print(write_copy(notebook if options.solutions else student_copy(notebook), copy))
    if not options.solutions:
        print(f"\nNext: {Path(sys.executable)} -m jupyterlab {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`make grade`: every answer gets its verdict, and none can hang, end or deceive the grader."""

import csv
import os

import grade
import nbformat
import pytest
import student_notebooks
from test_exercises import NOTEBOOKS

(FOUR,) = [path for path in NOTEBOOKS if path.stem.startswith("04")]
HEAD = "def neighbors(length, radius):\n    "
RIGHT = "d = torch.arange(length)\n    return (d[:, None] - d).abs() <= radius"
SYNTAX = "def neighbors(length, radius:"
FORGED = f"""import sys, os
from transformer_lib import lessons
from transformer_lib.lessons.exercises import checker
lessons.check = lambda *a: print("✓ 4.3")
checker.judge = lambda *a: None
{HEAD}for fd in os.listdir("/proc/self/fd")[3:]:
        try: os.write(int(fd), b'\\n["passed", ""]\\n')
        except OSError: pass
    print("✓ 4.3: passed"); return 1"""
HELPER = "import torch as t\ndef far(n):\n    return t.arange(n)\n"
ANSWERS = {
    "right": (HEAD + RIGHT, "passed", ""),
    "helper": (HELPER + HEAD + RIGHT.replace("torch.arange", "far"), "passed", ""),
    "wrong": (HEAD + "return torch.ones(length, length).bool()", "wrong", ""),
    "invalid": (SYNTAX, "wrong", "not valid Python"),
    "renamed": ("def other(): pass", "wrong", "'neighbors' is not defined"),
    "raises": ("1 / 0", "wrong", "ZeroDivisionError"),
    "endless": (HEAD + "while True: pass", "stopped", "endless loop"),
    "exits": (HEAD + "import os; os._exit(0)", "stopped", "exit code 0"),
    "kills": (HEAD + "import os; os.kill(os.getppid(), 9); os._exit(1)", "stopped", "ended"),
    "closes": (HEAD + "import os; os.closerange(0, 99)\n    while True: pass", "stopped", "ended"),
    "flood": (HEAD + "print('✓' * 10**7)\n    return None", "wrong", "None"),
    "memory": (HEAD + "return torch.zeros(10**9, dtype=torch.double)", "wrong", "memory"),
    "deletes": (HEAD + "import os\n    assert os.listdir() == []\n    " + RIGHT, "passed", ""),
    "forged": (FORGED, "wrong", "replaces"),
}


@pytest.fixture(scope="module")
def copy():
    """A student copy of notebook 04."""
    return student_notebooks.student_copy(nbformat.read(FOUR, as_version=4))


def hand_in(copy, source, path):
    """Write the copy with an answer to exercise 4.3."""
    changed = nbformat.from_dict(copy)
    for cell in changed.cells:
        if 'lessons.check("4.3"' in cell.source and source:
            cell.source = f'{source}\n\n\nlessons.check("4.3", neighbors)'
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(changed, path)


def test_every_answer_gets_its_verdict(copy, tmp_path, capsys):
    for name, (source, _, _) in ANSWERS.items():
        hand_in(copy, source, tmp_path / name / "any name.ipynb")
    hand_in(copy, "", tmp_path / "flat.ipynb")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "04.ipynb").write_text('{"cells": [3, {"cell_type": "code"}]}')
    (tmp_path / "absent").mkdir()
    assert grade.main([str(tmp_path), "--seconds=2"]) == 0
    with (tmp_path / "grades.csv").open(encoding="utf-8-sig") as file:
        rows = [*csv.DictReader(file)]
    by_student = {row["student"]: row for row in rows if row["exercise"] == "4.3"}
    for name, (_, result, message) in ANSWERS.items():
        row = by_student[name]
        assert (name, row["result"]) == (name, result) and message in row["message"], row
        assert row["points"] == ("2" if result == "passed" else "0") and row["of"] == "2"
    assert by_student["flat"]["result"] == "untouched"
    others = {(row["student"], row["message"]) for row in rows if not row["exercise"]}
    unreadable = ("damaged", "not a readable notebook (ValidationError)")
    missing = {(student, "not handed in") for student in ("absent", "damaged")}
    assert others == {unreadable, *missing}
    shown = capsys.readouterr().out
    assert len([line for line in shown.splitlines() if line.startswith("right")]) == 1
    assert "4.1a –" in shown and "4.3 ✓" in shown and "4.3 !" in shown
    assert os.listdir(tmp_path / "right") == ["any name.ipynb"]


def test_only_the_statements_that_an_answer_needs_are_run():
    """No figure and no training; and every cell is recognized without ids and metadata."""
    tasks = grade.read_tasks(FOUR.parent)
    solved = {}
    for path in (FOUR.parent / "solutions").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            solved |= dict.fromkeys(student_notebooks.checks_of(cell.source), cell.source)
    for task in tasks:
        for number in task.checks:
            answers = {task.id: solved[number]}
            mine = [(other, code) for _, other, code in task.before]
            before = "\n".join(part for _, part in grade.needed(mine, grade.plain(solved[number])))
            assert "figures.show" not in before and before.count("\n") < 150, number
            assert grade.find_answers(as_notebook(solved[number]), tasks) == answers


def test_what_an_answer_needs_indirectly_is_run_too():
    cells = ["import os\nroot = os.sep", "def f(): return g()", "g = lambda: root", "print(root)"]
    found = grade.needed([(False, cell) for cell in cells], "f()")
    assert [part.split()[0] for _, part in found] == ["import", "root", "def", "g"]


def as_notebook(source):
    cell = nbformat.v4.new_code_cell(source)
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))


def test_exercise_cells_have_nbgraders_metadata_and_nothing_else_has(copy):
    marked = [cell for cell in copy.cells if "nbgrader" in cell.metadata]
    assert [cell.metadata.nbgrader.grade_id for cell in marked] == [
        f"exercise-4-{i}" for i in range(1, 7)
    ]
    assert [cell.metadata.nbgrader.points for cell in marked] == [3, 2, 2, 3, 3, 3]
    keys = "cell_type grade grade_id locked points schema_version solution task"
    assert all(sorted(cell.metadata.nbgrader) == keys.split() for cell in marked)


def test_a_row_cannot_begin_as_a_formula_does(tmp_path):
    row = dict.fromkeys(grade.FIELDS, "") | {"student": "=1+1", "points": 0}
    grade.write_csv([row], tmp_path / "grades.csv")
    assert "'=1+1" in (tmp_path / "grades.csv").read_text("utf-8-sig")

"""Grade a folder of student copies: which exercises passed, as a table and as a CSV file.

The code cells before an exercise come from our notebook, and of these only the statements that the
answer needs. The student's exercise cells are all that is read from a copy. Every check runs in a
process of its own, in an empty temporary folder, with a limit on time and memory. The verdict
arrives through a pipe with a random key, so what an answer prints does not count. This catches
mistakes and simple cheating; it is no security sandbox.
"""

import argparse
import ast
import builtins
import contextlib
import csv
import json
import linecache
import os
import re
import secrets
import select
import shutil
import signal
import symtable
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from student_notebooks import ROOT, checks_of, exercises_of, grade_id

MARKS = {"passed": "✓", "wrong": "✗", "untouched": "–", "stopped": "!", "missing": "?"}
LARGEST = 100_000_000  # bytes of a notebook
FIELDS = ("student", "file", "notebook", "exercise", "result", "points", "of", "message")
PREPARE_SECONDS = 300  # for our own statements, which are not the student's fault


class Task(NamedTuple):
    """One exercise cell of a notebook, with the code cells before it."""

    notebook: str
    id: str
    source: str
    checks: dict[str, str]  # exercise -> the name of the answer
    points: int  # for each check
    before: list  # (cell id, is it an exercise?, source)


class Verdict(NamedTuple):
    result: str  # a key of MARKS
    message: str


def read_tasks(folder):
    """Return the exercise cells of our notebooks."""
    tasks = []
    for path in sorted(folder.glob("*.ipynb")):
        notebook, before = nbformat.read(path, as_version=4), []
        points = exercises_of(notebook)
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            if cell.id in points:
                checks, each = checks_of(cell.source), points[cell.id]
                tasks.append(Task(path.stem, cell.id, cell.source, checks, each, [*before]))
            before.append((cell.id, cell.id in points, cell.source))
    return tasks


def find_answers(text, tasks):
    """Return {task's cell id: the student's source}; the last changed cell of an exercise counts.

    A cell is recognized by nbgrader's id, else by its own id, else by its call of the check.
    """
    by_grade, by_check = {grade_id(t.checks): t for t in tasks}, {}
    by_id = {task.id: task for task in tasks}
    for task in tasks:
        by_check |= dict.fromkeys(task.checks, task)
    answers = {}
    for cell in nbformat.reads(text, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        source = "".join(cell.source)
        named = cell.metadata.get("nbgrader", {}).get("grade_id")
        called = [by_check[number] for number in checks_of(source) if number in by_check]
        task = by_grade.get(named) or by_id.get(cell.get("id")) or next(iter(called), None)
        if task and (task.id not in answers or source.strip() != task.source.strip()):
            answers[task.id] = source
    return answers


def names(source):
    """Return the global names that a piece of code binds, and those that it uses."""
    binds, uses = set(), set()
    tables = [symtable.symtable(source, "cell", "exec")]
    for table in tables:
        tables += table.get_children()
        for symbol in table.get_symbols():
            top = table.get_type() == "module"
            if top and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()):
                binds.add(symbol.get_name())
            if symbol.is_referenced() if top else symbol.is_global():
                uses.add(symbol.get_name())
    return binds, uses


def plain(source):
    """Return the cell without IPython's magics."""
    return TransformerManager().transform_cell(source)


def needed(cells, source):
    """Return the statements of the cells that bind what `source` uses, directly or indirectly.

    Args:
        cells: (is it the student's?, source) in the order of the notebook.
        source: the student's cell.

    Returns:
        (is it the student's?, statement) in the same order.
    """
    found = []
    for theirs, cell in cells:
        try:
            found += [(theirs, ast.unparse(part)) for part in ast.parse(plain(cell)).body]
        except (SyntaxError, ValueError, RecursionError):  # another answer, which has its own row
            continue
    facts, wanted, chosen = [names(part) for _, part in found], names(source)[1], set()
    while more := {i for i, (binds, _) in enumerate(facts) if binds & wanted} - chosen:
        chosen |= more
        wanted = wanted.union(*(facts[i][1] for i in more))
    return [found[i] for i in sorted(chosen)]


def grade_check(task, number, answers, limits):
    """Return the verdict on one exercise of one copy."""
    source = answers.get(task.id)
    if source is None:
        return Verdict("missing", "the notebook has no cell for this exercise")
    if source.strip() == task.source.strip():
        return Verdict("untouched", "")
    name = f"<exercise {number}>"
    try:
        compile(source := plain(source), name, "exec")
        mine = [
            (is_exercise, answers.get(cell_id, code) if is_exercise else code)
            for cell_id, is_exercise, code in task.before
        ]
        before = needed(mine, source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return Verdict("wrong", f"the cell is not valid Python (line {line}): {error.args[0]}")
    ours = "\n".join(part for theirs, part in before if not theirs)
    earlier = "\n".join(part for theirs, part in before if theirs)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)

    def run(ready):
        from transformer_lib import lessons
        from transformer_lib.lessons.exercises import EXERCISES, checker

        space = {"__name__": "__main__"}
        exec(ours, space)
        exercise, judge = EXERCISES[number], checker.judge
        lessons.check = lessons.exercises.check = lambda number, answer: None
        before = functions()
        ready()
        try:
            exec(compile(earlier, "<earlier exercises>", "exec"), space)
            exec(compile(source, name, "exec"), space)
        except BaseException as error:
            return "wrong", f"the cell stops with {type(error).__name__}: {error}"
        if task.checks[number] not in space:
            return "wrong", f"the cell does not define `{task.checks[number]}`"
        hint = judge(exercise, space[task.checks[number]])
        after = functions()
        if changed := [key for key, value in before.items() if after.get(key) is not value]:
            return "wrong", f"the answer replaces {'.'.join(changed[0])}: please look at the cell"
        if hint == checker.NOT_YET:
            return "untouched", ""
        return ("wrong", hint) if hint else ("passed", "")

    return in_own_process(run, limits)


def functions():
    """Return every function by which an answer is judged, to see whether an answer replaces one."""
    modules = [(n, m) for n, m in [*sys.modules.items()] if n.startswith("transformer_lib")]
    found = {("torch", "allclose"): sys.modules["torch"].allclose}
    for name, module in (*modules, ("builtins", builtins)):
        found |= {(name, key): value for key, value in vars(module).items() if callable(value)}
    return found


def in_own_process(run, limits):
    """Call `run(ready)` in a process with limits and return the verdict that it reports.

    The process is a grandchild: an answer that kills its parent hits the process in between.
    """
    key, folder = secrets.token_hex(16), tempfile.mkdtemp(prefix="grade-")
    out, report = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(out)
            if grandchild := os.fork():
                os.close(report)
                status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
                os._exit(status if status >= 0 else 128 - status)
            os.chdir(folder)
            os.environ.update(HOME=folder, TMPDIR=folder)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os.closerange(3, report)
            os.closerange(report + 1, 1024)
            limit_memory(limits.memory)

            def send(*parts):
                os.write(report, f"{key}{json.dumps(parts)}\n".encode())

            try:
                verdict = run(lambda: send("ready"))
            except BaseException as error:
                verdict = "stopped", f"the check stops with {type(error).__name__}: {error}"
            send(verdict[0], verdict[1][:300])
        finally:
            os._exit(0)
    os.close(report)
    try:
        return listen(out, child, key, limits.seconds)
    finally:
        os.close(out)
        shutil.rmtree(folder, ignore_errors=True)


def limit_memory(megabytes):
    """Limit the address space to what is in use now and so much more, and files to 50 MB."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, 50_000_000))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # macOS does not enforce the limit
        return
    size = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def listen(out, child, key, seconds):
    """Return the verdict from the pipe; end the process when it is late or sends too much."""
    received, said, status, late = b"", [], None, True
    end = time.monotonic() + PREPARE_SECONDS
    while len(received) < 100_000 and (left := end - time.monotonic()) > 0:
        if not select.select([out], [], [], left)[0]:
            continue
        received += (data := os.read(out, 4096))
        before, said = len(said), messages(key, received)
        if not before and said:
            end = time.monotonic() + seconds
        if not data or said[-1:] not in ([], [["ready"]]):
            late = False
            break
    wait_until = time.monotonic() + 0.5
    while not late and status is None and time.monotonic() < wait_until:
        done, found = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(found) if done else time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    if said and said[-1] != ["ready"]:
        return Verdict(*said[-1])
    if not said:
        return Verdict("stopped", "the notebook's own cells took too long or ended the program")
    if late:
        return Verdict("stopped", f"no result after {seconds:g} seconds: is there an endless loop?")
    how = "" if status is None else f" (exit code {status})"
    return Verdict("stopped", f"the answer ended the program{how}")


def messages(key, received):
    """Return the messages of the complete lines that begin with the key."""
    lines = received.split(b"\n")[:-1]
    return [json.loads(line[len(key) :]) for line in lines if line.startswith(key.encode())]


def grade(folder, tasks, limits):
    """Return one row, a dict of FIELDS, for every exercise of every copy in the folder."""
    copies = read_copies(folder, tasks)
    handed_in, rows = {}, []
    for student, file, answers in copies:
        handed_in.setdefault(student, set())
        found = {
            task.notebook for task in tasks if isinstance(answers, dict) and task.id in answers
        }
        handed_in[student] |= found
        row = {
            "student": student,
            "file": file,
            "notebook": "",
            "exercise": "",
            "points": 0,
            "of": 0,
        }
        if not found and file:
            message = answers if isinstance(answers, str) else "no exercise cells were found"
            rows.append(row | {"result": "missing", "message": message})
        for task in tasks:
            if task.notebook not in found:
                continue
            for number in task.checks:
                result, message = grade_check(task, number, answers, limits)
                points = task.points if result == "passed" else 0
                about = {"notebook": task.notebook, "exercise": number, "result": result}
                rows.append(row | about | {"points": points, "of": task.points, "message": message})
    folders = {student for student, file, _ in copies if "/" in file or not file}
    expected = set().union(*(handed_in[student] for student in folders))
    for student in sorted(folders):
        for notebook in sorted(expected - handed_in[student]):
            total = sum(len(t.checks) * t.points for t in tasks if t.notebook == notebook)
            row = {"student": student, "notebook": notebook, "points": 0, "of": total}
            row |= {"result": "missing", "message": "not handed in"}
            rows.append(dict.fromkeys(FIELDS, "") | row)
    return rows


def read_copies(folder, tasks):
    """Return (student, file, answers) of every notebook; for a damaged one, a message instead.

    The student is the first subfolder, or the file's name. Everything is read before any answer
    runs, so an answer cannot change another copy.
    """
    copies = []
    for path in sorted(folder.rglob("*.ipynb")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        student = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        try:
            if not path.is_file() or path.stat().st_size > LARGEST:
                raise ValueError("not a file, or larger than 100 MB")
            answers = find_answers(path.read_text("utf-8"), tasks)
        except Exception as error:  # whatever a student hands in
            answers = f"not a readable notebook ({type(error).__name__})"
        copies.append((student, inside.as_posix(), answers))
    known = {student for student, _, _ in copies}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in known and not path.name.startswith("."):
            copies.append((path.name, "", "no notebook in this folder"))
    return copies


def table(rows):
    """Return the rows as text, one line for each copy of a notebook."""
    groups = {}
    for row in rows:
        groups.setdefault((row["student"], row["notebook"], row["file"]), []).append(row)
    lines = []
    for (student, notebook, file), group in groups.items():
        points = f"{sum(r['points'] for r in group)}/{sum(r['of'] for r in group)}"
        marks = "  ".join(f"{r['exercise']} {MARKS[r['result']]}" for r in group if r["exercise"])
        lines.append((student, notebook or file, points, marks or group[0]["message"]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)] if lines else []
    text = [
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, "", "  ".join(f"{mark} {name}" for name, mark in MARKS.items())])


def write_csv(rows, path):
    """Write the rows for a spreadsheet, in which no cell may begin as a formula does."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: escape(v) for k, v in row.items()})
    part.replace(path)


def escape(value):
    return f"'{value}" if re.match(r"[=+@\t\r-]", str(value)) else value


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="flat, or with one subfolder for each student")
    parser.add_argument("--csv", type=Path, help="default: grades.csv in the folder")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit of a check")
    parser.add_argument("--memory", type=int, default=2000, help="memory limit of a check, in MB")
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        parser.error(f"there is no folder {options.folder}")
    if not hasattr(os, "fork"):
        parser.error("grading needs Linux or macOS; on Windows, run it in WSL")
    os.environ.update(CUDA_VISIBLE_DEVICES="", MPLBACKEND="Agg", TRANSFORMER_LIB_BUDGET="test")
    import torch

    import transformer_lib.lessons.exercises  # noqa: F401 - loaded once, before every fork

    torch.set_num_threads(1)
    rows = grade(options.folder, read_tasks(options.notebooks), options)
    path = options.csv or options.folder / "grades.csv"
    write_csv(rows, path)
    print(table(rows))
    print(f"\nwrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

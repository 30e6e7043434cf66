"""Try the faults of docs/faults.md on every command and public function, and write the table.

    python tools/faults_table.py                 # probes this checkout, prints what is not kept
    python tools/faults_table.py --write         # and writes docs/faults_table.md
    python tools/faults_table.py --before FOLDER # an older checkout: what failed there is "mended"

A probe breaks one thing in a sandbox of its own, acts, and raises `Broken` with what happened
instead of the promise. Rows are read from docs/faults.md, columns from the signatures of the
commands and of the public names; whether a row applies to a column is computed from the parameters
of the column. Probes are in the modules faults_*.py beside this one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import inspect
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIST, TABLE = ROOT / "docs" / "faults.md", ROOT / "docs" / "faults_table.md"
ROW = re.compile(r"^\| (\d+) \| (.+?) \| .*\|$", re.M)
TEXT = ["a b c d", "b c d e f", "c d", "d e f a b"] * 3
SIZES = ["--n-layers", "1", "--d-model", "16", "--n-heads", "2", "--d-ff", "16", "--threads", "1"]
LENGTH = ["--steps", "12", "--validate-every", "4", "--max-tokens", "32", "--keep", "3"]


class Broken(AssertionError):  # noqa: N818
    """A promise that was not kept; the message says what happened instead."""


class Untried(Exception):  # noqa: N818
    """What a probe needs is not on this machine: its cell is left as not tried."""


# Columns


def commands() -> dict[str, set[str]]:
    """Map each command to what its parameters are: see `traits`."""
    from transformer_lib.cli.commands import COMMANDS

    return {name: traits(command) for name, command in COMMANDS.items()}


def functions() -> dict[str, set[str]]:
    """Map each public function and method to what its arguments are: see `kinds`."""
    return {name: kinds(name, *found) for name, found in public_names().items()}


def public_names() -> dict[str, tuple[Any, str]]:
    """Map each public function, class and method to its owner, and its name there."""
    found: dict[str, tuple[Any, str]] = {}
    for module in ("transformer_lib", "transformer_lib.corpora", *DOORS):
        door = importlib.import_module(module)
        for name in getattr(door, "__all__", ()):
            value = getattr(door, name)
            if not callable(value) or not getattr(value, "__module__", "").startswith(
                "transformer"
            ):
                continue
            if not inspect.isclass(value):
                found[name] = importlib.import_module(value.__module__), name
                continue
            found[name] = value, "__init__"
            for method in vars(value):
                if method[0] != "_" and callable(getattr(value, method)):
                    found[f"{name}.{method}"] = value, method
    both = importlib.import_module("transformer_lib.cli.commands").COMMANDS
    return {  # `evaluate()` is the function, `evaluate` the command
        f"{name}()" if name in both else name: (owner, a)
        for name, (owner, a) in found.items()
        if a in vars(owner)
    }


DOORS = [f"transformer_lib.{room}" for room in ("data", "translate", "train", "lessons")]
TRAITS = {  # what a user of a command passes -> the parameters for it
    "writes": {"out", "folder", "result", "report", "hypotheses", "attention"},
    "model": {"model", "models", "init", "vocab_from"},
    "corpus": {"data"},
    "languages": {"languages"},
    "text": {"sentences", "sentence", "file", "train"},
    "text files": {"file", "train"},  # a sentence in the command line is no archive
    "sentences": {"sentences", "sentence"},
    "pairs of texts": {"train", "val"},
    "training": {"run", "rates", "resume"},
    "search": {"beam", "alpha"},
    "n best": {"n_best"},  # `evaluate` searches, too, and takes only the best
}


def traits(function: Callable[..., Any]) -> set[str]:
    """Return what kinds of arguments a command takes, by the names of its parameters."""
    names = set(inspect.signature(function).parameters)
    return {trait for trait, known in TRAITS.items() if names & known}


ARGUMENTS = (  # of functions: kind, name of the parameter, its annotation
    ("text", r"text|texts|sentences?|line|translation|train", r"\bstr\b|Text\b"),
    ("text files", r"(source_|target_)?path", r"str \| Path"),
    ("search", r"extra|beam_size", "int"),
    ("source ids", "extra", "int"),
    ("n best", "n_best", "int"),
    ("saved model", "model|name", r"^'?str \| Path"),
    ("bytes", "model|data", "bytes"),
    ("writes", "folder", "Path"),
    ("masks", "mask|pairs", "Tensor|IdPair|tuple"),
    ("downloads", "base_url", ""),
)
TAKES = {  # where the names of the parameters say too little, or are those of something else
    "check_folder": {"reads a folder"},
    "list_checkpoints": set(),  # looks at names only, so that what is damaged is not overlooked
    "Prepared": {"saved corpus", "reads a folder"},
    "Prepared.pairs": {"saved corpus"},
    "Prepared.line_numbers": {"saved corpus"},
    "Prepared.text": {"saved corpus"},
    "PairFiles": {"text files", "pairs of files"},
    "read_pairs": {"text files", "pairs of files"},
    "multi30k": {"published files"},
    "has_multi30k": set(),  # asks whether files are there; `multi30k` reads them
    "multi30k_folder": set(),
    "Translator.from_pretrained": {"model folder"},  # `open` looks for it again
    "Translator.write_files": {"fills", "a model to write"},  # `write_folder` guards the place
    "Translator.save": {"writes", "a model to write"},
    "Translator.translate": {"text", "search", "translates"},
    "Translator.hypotheses": {"text", "search", "translates", "n best"},
    "Translator.attention_maps": {"text", "inference", "maps"},
    "Explorer": {"text", "saved model", "translates"},
    "Vocab.load": {"bytes"},
    "Vocab.save": set(),  # a part of a folder, which `write_folder` guards
    "Vocab.decode": {"ids"},
    "ParallelText": {"pairs of lines"},
    "collate": {"masks"},
    "evaluate()": set(),  # sets a mode and puts it back: no other thread may train meanwhile
    "Transformer.forward": {"masks", "is a model"},
    "Transformer.encode": {"masks"},
    "Transformer.decode": {"masks"},
    "Transformer.attention_maps": {"masks"},
    "LengthFilter": {"settings"},
    "ModelConfig": {"settings", "is written"},
    "RunConfig": {"settings"},
    "TrainConfig": {"settings"},
    "train_step": {"steps"},
    "Trainer": {"writes", "training", "saved corpus"},
    "Trainer.start": {"checkpoints"},
    "Trainer.restore": {"checkpoints"},
    "Trainer.update": {"steps", "batch"},
    "Trainer.fit": {"updates"},
    "Trainer.validate": {"validates"},
    "Trainer.save": {"writes"},
}
OF_KINDS: dict[str, set[int]] = {  # the rows that apply to a function with such an argument
    "text": {13, 14, 15, 16, 17, 46},
    "translates": {19, 21, 43},
    "maps": {15, 19, 37},
    "search": {22, 23, 37, 38, 45, 46, 47},
    "source ids": {10, 18},
    "n best": {44},
    "inference": {47},
    "saved model": {4, 5, 32, 33, 36, 37, 46},
    "model folder": {4, 5, 33, 36, 37, 46},
    "saved corpus": {4, 5, 33, 36},
    "reads a folder": {4, 33},
    "bytes": {5, 36},
    "text files": {13, 15, 16, 25, 33},
    "pairs of lines": {11},
    "pairs of files": {11, 12},
    "published files": {24, 33},
    "writes": {3, 29, 31, 32, 34, 35},
    "fills": {3},
    "a model to write": {35, 37},
    "is written": {35},
    "downloads": {24},
    "masks": {10},
    "ids": {18, 46},
    "is a model": {49},
    "settings": {26, 38},
    "steps": {9, 28},
    "batch": {18},
    "checkpoints": {4, 5, 6, 33, 36},
    "validates": {19, 39},
    "updates": {6, 9, 20, 28, 39},
    "training": {1, 6, 7, 8, 9, 20, 28, 39, 48},  # 2 and 27 are about processes
}


def kinds(name: str, owner: Any, attribute: str) -> set[str]:
    """Return what kinds of arguments a function takes, by name and annotation of its parameters.

    Helpers of the notebooks take what the notebooks pass: faults.md is not about them. Layers are
    torch's modules, compiled and differentiated: their ids and numbers are checked before, where
    a batch is made, a search begins or settings are given.
    """
    function = getattr(owner, attribute)
    module = getattr(inspect.unwrap(function), "__module__", None) or owner.__module__
    if module.startswith("transformer_lib.lessons"):
        return set()
    if name in TAKES:
        return TAKES[name]
    parameters = inspect.signature(function).parameters.values()
    return {
        kind
        for kind, known, annotation in ARGUMENTS
        for p in parameters
        if re.fullmatch(known, p.name) and re.search(annotation, str(p.annotation))
    }


# Probes

PROBES: dict[tuple[int, str], list[Any]] = {}


def probe(row: int, *columns: str, **options: Any) -> Callable[[Callable], Callable]:
    """Register a probe of a row for these columns; it receives a sandbox and its column."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        for column in columns:
            part = functools.partial(function, column=column, **options)
            part.title = function.__name__
            PROBES.setdefault((row, column), []).append(part)
        return function

    return register


class Sandbox:
    """A folder with a small corpus, a run, a model and text files, fresh for every probe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.run, self.model = folder / "data", folder / "run", folder / "model"
        self.text = folder / "text"

    def build(self) -> Sandbox:
        """Write the originals, once."""
        from transformer_lib import Translator

        self.text.write_text("".join(f"{line}\n" for line in TEXT))
        self.must(*self.prepare(self.data))
        self.must("train", self.data, self.run, *SIZES, *LENGTH)
        Translator.open(self.run).save(self.model)
        return self

    def copy(self, folder: Path) -> Sandbox:
        """Return the same in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Sandbox(folder)

    def prepare(self, out: Path, *flags: object) -> list[object]:
        """Return the words of a `prepare` of the text."""
        pair = [self.text, self.text]
        files = ["--corpus", "files", "--source", "de", "--target", "en", "--vocab-size", "16"]
        return ["prepare", out, *files, "--train", *pair, "--val", *pair, *flags]

    def words(self, column: str, out: Path, *flags: object) -> list[object]:
        """Return the words of a command that writes to `out`."""
        return {
            "prepare": self.prepare(out),
            "train": ["train", self.data, out, *SIZES, *LENGTH],
            "average": ["average", out, self.run],
            "export": ["export", self.run, out, "--to", "ctranslate2"],
            "evaluate": [
                "evaluate",
                self.model,
                "--data",
                self.data,
                "--beam",
                "1",
                "--result",
                out,
            ],
            "translate": ["translate", self.model, "a b", "--beam", "1", "--attention", out],
            "info": ["info", self.model],
            "explore": ["explore", self.model, "--out", out],
            "fetch": ["fetch", "--folder", out],
        }[column] + [*flags]

    def newest(self) -> Path:
        """Return the newest checkpoint of the run."""
        from transformer_lib.data.files import list_checkpoints

        return list_checkpoints(self.run / "checkpoints")[-1]

    def call(self, *words: object) -> tuple[int, str, str]:
        """Run a command in this process; return exit status, output and errors."""
        from transformer_lib.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main([str(word) for word in words])
            except SystemExit as end:
                status = end.code
            except BaseException as error:  # a traceback for the user
                raise Broken(f"traceback: {type(error).__name__}: {error}") from error
        return status, out.getvalue(), err.getvalue()

    def must(self, *words: object) -> str:
        """Run a command that has to succeed and return its output."""
        status, out, err = self.call(*words)
        if "transformer-lib[export]" in err:
            raise Untried(err)
        if status:
            raise Broken(f"status {status}: {err}")
        return out

    def refused(
        self, *words: object, says: str = "", status: int | None = None, look: bool = True
    ) -> str:
        """Run a command that must end in one line and change nothing; return the line."""
        before = tree(self.folder) if look else {}
        found, _, err = self.call(*words)
        line = err.strip()
        if not found:
            raise Broken("accepted with status 0")
        if status is not None and found != status:
            raise Broken(f"status {found}, expected {status}: {line}")
        if err.count("\n") != 1 or not line.startswith("error: ") or len(line) < 12:
            raise Broken(f"not one line: {err!r}")
        if not re.search(says, line):
            raise Broken(f"says {line!r}, not {says!r}")
        after = tree(self.folder) if look else {}
        if changed := sorted(map(str, before.items() ^ after.items())):
            raise Broken(f"changed the disk: {changed[0][:120]}")
        return line

    def shell(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a line of bash in the sandbox, with `tl` for our command."""
        head = f'tl() {{ {sys.executable} -m transformer_lib "$@"; }}\n'
        paths = {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
        return subprocess.run(
            ["bash", "-c", head + line],
            cwd=self.folder,
            env=os.environ | paths | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


def tree(folder: Path) -> dict[str, bytes | str]:
    """Return all below a folder: bytes of files, targets of links, names of folders."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name, mode = str(path.relative_to(folder)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = os.readlink(path)
        elif stat.S_ISREG(mode):
            found[name] = path.read_bytes()
        else:
            found[name] = stat.filemode(mode)
    return found


def check(condition: object, message: str) -> None:
    """Raise `Broken` unless the condition holds."""
    if not condition:
        raise Broken(message)


# The table


def load_probes() -> None:
    """Import every module of probes beside this file."""
    for path in sorted(Path(__file__).parent.glob("faults_*.py")):
        if path.stem != "faults_table":
            importlib.import_module(path.stem)


def rows() -> dict[int, str]:
    """Return number and text of every row of docs/faults.md."""
    return {int(n): text for n, text in ROW.findall(LIST.read_text("utf-8"))}


def run_probes(only: str = "") -> dict[str, dict[str, str]]:
    """Run the probes; return, by row and column, the title of each and "" or what happened."""
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        original = Sandbox(Path(folder) / "original")
        original.folder.mkdir()
        original.build()
        for number, ((row, column), probes) in enumerate(sorted(PROBES.items())):
            for i, part in enumerate(probes):
                if only and not re.search(only, f"{row} {column} {part.title}"):
                    continue
                box = original.copy(Path(folder) / f"{number}-{i}")
                try:
                    part(box)
                    problem = ""
                except Untried:
                    shutil.rmtree(box.folder, ignore_errors=True)
                    continue
                except Broken as broken:
                    problem = str(broken)
                except Exception as error:
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    problem = f"{type(error).__name__}: {error} ({place.name})"
                problem = problem.replace(str(box.folder), "…").replace("\n", " ")[:300]
                found.setdefault(f"{row} {column}", {})[part.title] = problem
                shutil.rmtree(box.folder, ignore_errors=True)
    return found


def elsewhere(checkout: Path, only: str = "") -> dict[str, dict[str, str]]:
    """Run the same probes with the library of another checkout."""
    call = [sys.executable, str(Path(__file__).resolve()), "--json", "--only", only]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    with tempfile.TemporaryFile("w+") as out:  # a pipe could stay open in what a probe started
        done = subprocess.run(call, env=environment, stdout=out, check=False)
        out.seek(0)
        lines = out.read().splitlines()
    if done.returncode:
        raise SystemExit(f"the probes did not end on {checkout}")
    return json.loads(lines[-1])


def run_tests() -> dict[tuple[int, str], str]:
    """Run the tests that docs/faults.md names; return the cells whose function they call."""
    text = LIST.read_text("utf-8")
    tests = {
        int(n): NAMED.findall(row) for n, row in re.findall(r"^\| (\d+) \|(.*)\|$", text, re.M)
    }
    nodes = sorted({f"tests/{module}.py::{test}" for row in tests.values() for module, test in row})
    with tempfile.TemporaryDirectory() as folder:
        calls = Path(folder) / "calls.json"
        paths = f"{Path(__file__).parent}{os.pathsep}{ROOT}"
        environment = os.environ | {"CALLS": str(calls), "PYTHONPATH": paths}
        call = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "record_calls",
            "--timeout",
            "300",
            *nodes,
        ]
        subprocess.run(call, cwd=ROOT, env=environment, check=False, stdout=sys.stderr)
        passed = json.loads(calls.read_text())
    cells = {}
    for row, named in tests.items():
        for module, test in named:
            for column in passed.get(f"{module}.{test}", ()):
                cells[row, column] = "tested"
    return cells


NAMED = re.compile(r"`(test_\w+)\.(test_\w+)`")


def verdicts(now: dict, before: dict) -> dict[tuple[int, str], str]:
    """Return the entry of every cell that was probed: kept, mended or broken."""
    cells = {}
    for key, probes in now.items():
        row, column = key.split(" ", 1)
        mended = any(before.get(key, {}).get(title) for title in probes)
        word = "mended" if mended else "kept"
        cells[int(row), column] = "**broken**" if any(probes.values()) else word
    return cells


def applies(row: int, of: set[str], command: str = "") -> bool:
    """True if a row can apply to a command with such traits, or a function of such kinds."""
    if not command:
        return any(row in OF_KINDS[kind] for kind in of)
    return bool(NEEDS.get(row, set()) & of) and (row, command) not in CANNOT


# Traits of which a command needs one for a row to apply. Rows that are not here are about what
# only a program can do: 10, 45, 46, 47 and 49.
NEEDS: dict[int, set[str]] = {
    row: traits
    for numbers, traits in (
        ((1, 2, 6, 7, 8, 9, 20, 26, 27, 28, 39, 48), {"training"}),
        ((3, 29, 31, 34, 35), {"writes"}),
        ((4, 5, 33, 36), {"model", "corpus"}),
        ((37,), {"model"}),
        ((13, 14, 15, 16, 17), {"text"}),
        ((25,), {"text files"}),
        ((11, 12), {"pairs of texts"}),
        ((19, 21, 43), {"sentences"}),
        ((18,), {"corpus"}),
        ((22, 23), {"search"}),
        ((44,), {"n best"}),
        ((24,), {"languages"}),
        ((32,), {"writes", "model"}),
        ((38,), {"model", "writes"}),
    )
    for row in numbers
}
CANNOT = {  # what the parameters cannot tell
    (18, "evaluate"),  # scores the text that `prepare` kept, and encodes it itself: reads no id
    (37, "prepare"),  # takes the vocabularies of a model, and reads no weight
}


def entry(cell: str | None, applicable: bool) -> str:
    """Return what the table shows: that a test calls a function counts only where a row applies."""
    if cell and (applicable or cell != "tested"):
        return cell
    return "·" if applicable else "–"


def table(cells: dict[tuple[int, str], str]) -> str:
    """Return the table as Markdown: one for the commands, one for the functions."""
    parts = ["# Every fault on every command and public function", "", INTRODUCTION, ""]
    for title, columns in (("Commands", commands()), ("Public functions", functions())):
        parts += [f"## {title}", "", "| fault | " + " | ".join(columns) + " |"]
        parts.append("|---" * (len(columns) + 1) + "|")
        if title == "Public functions":  # one line each: there are too many for columns
            parts[-2:] = [
                "| function | kept | mended | tested | not tried |",
                "|---|---|---|---|---|",
            ]
        for row, text in rows().items() if title == "Commands" else ():
            entries = [
                entry(cells.get((row, name)), applies(row, of, command=name))
                for name, of in columns.items()
            ]
            parts.append(f"| {row}: {text} | " + " | ".join(entries) + " |")
        for name, of in columns.items() if title == "Public functions" else ():
            groups: dict[str, list[str]] = {
                "kept": [],
                "mended": [],
                "tested": [],
                "·": [],
                "**broken**": [],
            }
            for row in rows():
                word = entry(cells.get((row, name)), applies(row, of))
                if word != "–":
                    groups[word].append(str(row))
            kept, mended, tested, rest, broken = (", ".join(group) for group in groups.values())
            rest += broken and f" broken: {broken}"
            parts.append(f"| `{name.removesuffix('()')}` | {kept} | {mended} | {tested} | {rest} |")
        parts.append("")
    return "\n".join(parts)


INTRODUCTION = """\
Written by `python tools/faults_table.py --write --tests --before OLDER`, which tries each fault on
each command and function and looks at what happens. *kept*: the promise held in an older checkout,
too. *mended*: it failed there and holds now. *tested*: no probe, but a test that
[faults.md](faults.md) names for the row calls it, and passes. `·`: not tried here. `–`: not
applicable, as the command takes nothing that the fault could be in (computed from its parameters).
For functions, `–` also stands for faults that only a process can have; for ids passed to a layer,
which are checked earlier, when a batch is made or a search begins; and for functions that only the
notebooks call. The cells of `export` are tried where the packages of its engines are installed, and
what a page does with its sentence where Node.js is; this table was written with both. The older
checkout has no `explore` and no `Explorer`, so that all their entries are *mended*."""


def main() -> int:
    """Run the probes and print what is not kept, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="an older checkout, to tell kept from mended")
    parser.add_argument("--only", default="", help="a pattern for `row column title`")
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument(
        "--tests", action="store_true", help="run the tests that the list names, too"
    )
    arguments = parser.parse_args()
    load_probes()
    now = run_probes(arguments.only)
    if arguments.json:
        print(json.dumps(now))
        return 0
    before = elsewhere(arguments.before, arguments.only) if arguments.before else {}
    for key, probes in now.items():
        for title, problem in probes.items():
            was = before.get(key, {}).get(title, "")
            if problem or was:
                print(f"{'BROKEN' if problem else 'mended'} {key} {title}: {problem or was}")
    tested = run_tests() if arguments.tests else {}
    cells = tested | verdicts(now, before)
    print({word: [*cells.values()].count(word) for word in sorted({*cells.values()})})
    if arguments.write:
        TABLE.write_text(table(cells), "utf-8")
    return int("**broken**" in cells.values())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    if "PYTHONPATH" not in os.environ:
        sys.path.insert(1, str(ROOT))
    import faults_table  # the module into which the probes register, not this script

    sys.exit(faults_table.main())

"""What CONTRIBUTING.md promises about modules and notebooks, held over their text."""

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import jaxtyping
import nbformat
import pytest
import run_notebooks
import torch
from IPython.core.inputtransformer2 import TransformerManager

from transformer_lib.masks import padding_mask

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "transformer_lib"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECTIONS = [f"## {name}" for name in ("What you will build", "What you built", "Exercises")]
# Floor of every room; a room imports only from rooms below it. `lessons` and `translate`, on one
# floor, do not know each other. The package's own __init__ with its names in `api`, __main__ and
# the old path `corpora` are doors, not rooms: they hand on names and nothing imports them.
FLOORS = {"cli": 5, "train": 4, "translate": 3, "lessons": 3, "data": 2}
PAPER = 1
DOORS = {"__init__", "__main__", "api", "corpora"}
# What a student reads fits on a screen: most lines of code, without docstrings and comments.
LONGEST = {
    "MultiHeadAttention": 30,
    "EncoderLayer": 16,
    "DecoderLayer": 22,
    "Transformer": 40,
    "train_step": 15,
    "greedy_sentence": 15,
    "beam_sentence": 25,
}
# The last 2,000 came with scores by language, fine-tuning, devices,
# coverage, warnings, help without torch, figures of the core; 250 with the explorer's page,
# 300 with checks of settings, streams, arguments and files that lie,
# 470 with names that are held while they are written and outputs checked before the work,
# 480 with the workers of one machine and Muon in stacks,
# 115 with loops and comparisons that left the cores of notebooks 05 to 07 for `lessons`,
# 285 with the workshop, digits and figures of the appendices, 90 with the quiz,
# 90 with decoding in fewer and faster products, 90 with models that left 02 and 03,
# 250 with workers that share memory, oneDNN's products in training, and the cores of a notebook,
# 50 with models larger than the memory, the explorer in the book, rows of the matrix in 01,
# and what is no list or no name, 25 with a Figure 1 of one stack, 85 with decoding in batches of
# one size and a shorter look at the model, 50 with commands and functions that nothing had tried,
# 90 with beams that are copied only where they part, and memory that is kept.
LIBRARY_LINES = 15_340
# Beside the library: the exercises, course content with a right answer and the usual wrong ones.
EXERCISE_LINES = 2_270
HEADER = re.compile(r"# Written by notebooks/(\d\d)_\w+\.ipynb: edit there, then `make export`\.")
MACHINE_PATH = re.compile(r"(?<![\w.~/:<)\]])/[A-Za-z_][\w.-]*/[\w.-]+|\b[A-Z]:\\")

for_each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def room_of(module):
    """`transformer_lib.data.files` is in "data"; what a notebook writes is in "paper"."""
    name = module.split(".")[1] if "." in module else "__init__"
    return name if name in FLOORS or name in DOORS else "paper"


def modules_of_the_library():
    """Dotted name -> path, for every file of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(tree):
    """Yield the full name of everything that a tree imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path, known):
    """Yield the modules of the library that a file imports."""
    for name in imports(ast.parse(path.read_text("utf-8"))):
        if name.split(".")[0] == "transformer_lib":
            yield name if name in known else name.rpartition(".")[0]


def is_exported(path):
    return HEADER.match(path.read_text("utf-8")) is not None


@cache
def exports():
    """Public name -> (module, number of the notebook) over all exported modules."""
    found = {}
    for path in PACKAGE.glob("*.py"):
        text = path.read_text("utf-8")
        if header := HEADER.match(text):
            for name in public_names(ast.parse(text)):
                found[name] = (path.stem, int(header[1]))
    return found


def public_names(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


@cache
def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def trees(path):
    transform = TransformerManager().transform_cell  # magics become calls
    return [ast.parse(transform(cell.source)) for cell in code_cells(path)]


def outputs(path):
    return [output for cell in code_cells(path) for output in cell.outputs]


# Modules


def test_the_top_of_the_package_shows_the_paper_and_nothing_else():
    files = {path.stem: is_exported(path) for path in PACKAGE.glob("*.py")}
    assert {name for name, exported in files.items() if not exported} == DOORS
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == FLOORS.keys()
    assert not any(is_exported(path) for path in PACKAGE.glob("*/**/*.py"))


@pytest.mark.parametrize("name", modules_of_the_library())
def test_a_room_imports_only_from_rooms_below_it(name):
    known = modules_of_the_library()
    room = room_of(name)
    if room in DOORS:
        return
    for other in imported_modules(known[name], known):
        theirs = room_of(other)
        assert theirs not in DOORS, f"{name} imports {other}: name the module it comes from"
        if theirs != room:
            below = FLOORS.get(theirs, PAPER) < FLOORS.get(room, PAPER)
            assert below, f"{name} ({room}) imports {other} ({theirs}), which is not below it"


def test_no_file_imports_itself_over_others():
    known = modules_of_the_library()
    waiting = {
        name: {other for other in imported_modules(path, known) if other != name}
        for name, path in known.items()
        if room_of(name) not in DOORS
    }
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"a circle among {sorted(waiting)}"


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_has_a_door_that_says_what_it_is_for(room):
    docstring = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8")))
    assert docstring and len(docstring.splitlines()[0]) > 40


def lines_of_code(source):
    """Number of lines that hold code: no docstring, no comment, no blank line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    ignored.add(tokenize.ENDMARKER)
    lines, docstrings = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in ignored:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize("name", LONGEST)
def test_a_component_of_the_paper_fits_on_a_screen(name):
    source = (PACKAGE / f"{exports()[name][0]}.py").read_text("utf-8")
    (node,) = [node for node in ast.parse(source).body if getattr(node, "name", "") == name]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    found = lines_of_code("\n".join(source.splitlines()[first - 1 : node.end_lineno]))
    assert found <= LONGEST[name], f"{name} has {found} lines of code"


def test_the_library_stays_small():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    exercises = sum(n for path, n in lines.items() if path.parent.name == "exercises")
    found = sum(lines.values()) - exercises
    assert found <= LIBRARY_LINES, f"{found} lines; what can go?"
    assert exercises <= EXERCISE_LINES, f"{exercises} lines of exercises; what can go?"


def test_shapes_are_checked_at_run_time_in_the_tests():
    with pytest.raises(jaxtyping.TypeCheckError, match="padding_mask"):
        padding_mask(torch.zeros(3, dtype=torch.long))


# Notebooks


def test_seven_notebooks_and_three_appendices_are_there_and_no_other():
    numbers = [path.stem.removeprefix("appendix_").split("_")[0] for path in NOTEBOOKS]
    assert numbers == [*(f"{number:02}" for number in range(1, 8)), *"abc"]


@for_each_notebook
def test_all_cells_were_run_once_from_the_top_without_a_fault(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert read(path).metadata == run_notebooks.METADATA
    tagged = ["head" in cell.metadata.get("tags", []) for cell in read(path).cells]
    assert tagged[:2] == [True, True] and not any(tagged[2:])
    for output in outputs(path):
        assert output.get("name", output.output_type) not in ("error", "stderr"), output
        data = output.get("data", {})
        for text in (output.get("text"), data.get("text/plain"), data.get("text/html")):
            assert not MACHINE_PATH.search(text or ""), text
        if "image/png" in data:
            assert output.metadata.get("image/png", {}).get("alt"), data.get("text/plain")


def test_a_folder_of_the_machine_is_recognised():
    for text in ("in /home/me/x.py", "'/tmp/a.txt'", r"C:\Users", "(/usr/lib)"):
        assert MACHINE_PATH.search(text), text
    for text in ("B/H/T/d", "1/2/3", "https://a.org/b/c", "a 1/√d_k", "</b></i>"):
        assert not MACHINE_PATH.search(text), text


@for_each_notebook
def test_a_code_cell_fits_a_screen(path):
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        exported = lines[0].startswith("#|")  # those have docstrings, which explain and not burden
        length = lines_of_code(cell.source) if exported else len(lines)
        assert length <= 45, "\n".join(lines[:3])


@for_each_notebook
def test_a_notebook_imports_what_earlier_ones_wrote_and_defines_nothing_again(path):
    here = int(path.stem[:2]) if path.stem[0] == "0" else 8  # an appendix comes after all seven
    written = {module: number for module, number in exports().values()}
    for tree in trees(path):
        for name in imports(tree):
            package, _, rest = name.partition(".")
            if package == "transformer_lib":
                first = rest.split(".")[0]
                module = exports().get(first, (first,))[0]  # from transformer_lib import Name
                assert written.get(module, 0) <= here, f"{name} comes later"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in exports():
                module, number = exports()[node.name]
                assert number >= here, f"{node.name} is in {module}: import it"


@for_each_notebook
def test_the_sections_are_there_in_their_order(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    headings = [line.strip() for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS

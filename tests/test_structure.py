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
SEVEN = [
    "01_embeddings",
    "02_positional_encoding",
    "03_masks",
    "04_multi_head_attention",
    "05_feed_forward",
    "06_encoder_decoder",
    "07_training_copy_task_and_translation",
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECTIONS = [
    "## What you will build",
    "## The formula",
    "## Check it",
    "## Break it",
    "## The ledger",
    "## Exercises",
    "## Recap",
    "## Next",
]
# Floor of every room; a room imports only from rooms below it. `lessons` and `translate`, on one
# floor, do not know each other. The package's own __init__, __main__ and the old path `corpora`
# are doors, not rooms: they hand on names and nothing imports them.
FLOORS = {"cli": 5, "train": 4, "translate": 3, "lessons": 3, "data": 2}
PAPER = 1
DOORS = {"__init__", "__main__", "corpora"}
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
LIBRARY_LINES = 10_500
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


def imported_modules(path, known):
    """The modules of the library that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: imports name the package"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "transformer_lib":
                yield name if name in known else name.rpartition(".")[0]


def is_exported(path):
    return HEADER.match(path.read_text("utf-8")) is not None


def library_imports(tree):
    """(module of the library, name taken from it) for every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in found:
            parts = [*module.split("."), name]
            if parts[0] == "transformer_lib":
                yield (parts[1], parts[2] if len(parts) > 2 else "")


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


def test_lines_of_code_leave_out_what_explains():
    function = (
        'def f():\n    """Doc.\n\n    More.\n    """\n    return [  # a list\n        1,\n    ]'
    )
    assert lines_of_code(f'"""Doc."""\n\n# why\nx = 1\n\n\n{function}\n') == 5


@pytest.mark.parametrize("name", LONGEST)
def test_a_component_of_the_paper_fits_on_a_screen(name):
    source = (PACKAGE / f"{exports()[name][0]}.py").read_text("utf-8")
    (node,) = [node for node in ast.parse(source).body if getattr(node, "name", "") == name]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    found = lines_of_code("\n".join(source.splitlines()[first - 1 : node.end_lineno]))
    assert found <= LONGEST[name], f"{name} has {found} lines of code"


def test_the_library_stays_small():
    found = sum(len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))
    assert found <= LIBRARY_LINES, f"{found} lines; what can go?"


def test_shapes_are_checked_at_run_time_in_the_tests():
    with pytest.raises(jaxtyping.TypeCheckError, match="padding_mask"):
        padding_mask(torch.zeros(3, dtype=torch.long))


# Notebooks


def test_the_seven_notebooks_are_there_and_no_other():
    assert [path.stem for path in NOTEBOOKS] == SEVEN


@for_each_notebook
def test_all_cells_were_run_once_from_the_top(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert read(path).metadata == run_notebooks.METADATA


@for_each_notebook
def test_no_error_and_nothing_on_standard_error(path):
    kinds = {output.get("name", output.output_type) for output in outputs(path)}
    assert not kinds & {"error", "stderr"}


@for_each_notebook
def test_no_output_names_a_folder_of_the_machine(path):
    for output in outputs(path):
        texts = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        texts.append(output.get("data", {}).get("text/html", ""))
        assert not MACHINE_PATH.search("\n".join(texts)), texts


@pytest.mark.parametrize("text", ["in /home/me/x.py", "'/tmp/a.txt'", r"C:\Users", "(/usr/lib)"])
def test_a_folder_of_the_machine_is_recognised(text):
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["B/H/T/d", "1/2/3", "https://a.org/b/c", "a 1/√d_k", "</b></i>"])
def test_what_only_looks_like_a_folder_is_not(text):
    assert not MACHINE_PATH.search(text)


@for_each_notebook
def test_every_picture_has_an_alternative_text(path):
    for output in outputs(path):
        if "image/png" in output.get("data", {}):
            assert output.metadata.get("image/png", {}).get("alt"), output.data.get("text/plain")


@for_each_notebook
def test_a_code_cell_fits_a_screen(path):
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        exported = lines[0].startswith("#|")  # those have docstrings, which explain and not burden
        length = lines_of_code(cell.source) if exported else len(lines)
        assert length <= 45, "\n".join(lines[:3])


@for_each_notebook
def test_the_head_is_there(path):
    tagged = ["head" in cell.metadata.get("tags", []) for cell in read(path).cells]
    assert tagged[:2] == [True, True] and not any(tagged[2:])


@for_each_notebook
def test_a_notebook_imports_only_what_earlier_notebooks_wrote(path):
    written = {module: number for module, number in exports().values()}
    for tree in trees(path):
        for module, name in library_imports(tree):
            module = exports().get(module, (module,))[0]  # from transformer_lib import Name
            assert written.get(module, 0) < int(path.stem[:2]), f"{module}.{name} comes later"


@for_each_notebook
def test_a_notebook_never_defines_again_what_an_earlier_one_wrote(path):
    definitions = (ast.FunctionDef, ast.ClassDef)
    for tree in trees(path):
        for node in ast.walk(tree):
            if isinstance(node, definitions) and node in tree.body and node.name in exports():
                module, number = exports()[node.name]
                assert number >= int(path.stem[:2]), f"{node.name} is in {module}: import it"


@for_each_notebook
def test_the_sections_are_there_in_their_order(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    headings = [line.strip() for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS


def exercises(path):
    """The cells of each exercise: from one `###` heading below `## Exercises` to the next."""
    found, inside = [], False
    for cell in read(path).cells:
        if cell.cell_type == "markdown" and re.match(r"## \w", cell.source):
            inside = cell.source.startswith("## Exercises")
        if inside and cell.cell_type == "markdown" and re.search(r"^### ", cell.source, re.M):
            found.append([])
        if inside and found:
            found[-1].append(cell)
    return found


@for_each_notebook
def test_three_to_five_exercises_with_hint_solution_and_check(path):
    assert 3 <= len(exercises(path)) <= 5
    for cells in exercises(path):
        text = "\n".join(cell.source for cell in cells)
        title = text.splitlines()[0]
        for part in ("<details>", "### BEGIN SOLUTION", "### END SOLUTION", "lessons.check("):
            assert part in text, f"{title}: no {part}"
        for cell in cells:
            if "### BEGIN SOLUTION" in cell.source:
                assert cell.metadata.get("jupyter", {}).get("source_hidden"), f"{title}: not folded"

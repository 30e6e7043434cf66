"""What CONTRIBUTING.md promises about modules, notebooks and packages, held over their text."""

import ast
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import jaxtyping
import nbformat
import pytest
import run_notebooks
import torch
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

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
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
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
# The only imports inside one level of CONTRIBUTING.md's table.
SAME_LEVEL = {
    "layers": {"config"},
    "model": {"config", "layers"},
    "training": {"batching", "loss", "schedule"},
    "beam": {"decoding"},
    "corpora": {"download", "textfiles"},
    "loading": {"checkpoint"},
    "dry_run": {"memory", "trainer"},
    "lessons": {"grammar"},
}
HEADER = re.compile(r"# Written by notebooks/(\d\d)_\w+\.ipynb: edit there, then `make export`\.")
MACHINE_PATH = re.compile(r"(?<![\w.~/:<)\]])/[A-Za-z_][\w.-]*/[\w.-]+|\b[A-Z]:\\")

for_each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
for_each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@cache
def levels():
    """CONTRIBUTING.md's table: module -> (level, whether a notebook writes it)."""
    rows = re.findall(r"^\| (\d) \| (.*) \| ([\w-]+) \|$", contributing(), re.M)
    return {
        module: (int(level), kind == "exported")
        for level, modules, kind in rows
        for module in re.findall(r"`(\w+)`", modules)
    }


def contributing():
    return (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def module_name(path):
    """plots/look.py belongs to `plots`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


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


def test_every_module_stands_in_the_table_and_the_table_in_the_package():
    assert {module_name(path) for path in MODULES} == set(levels())


@for_each_module
def test_a_module_imports_from_lower_levels_only(path):
    me = module_name(path)
    level, exported = levels()[me]
    for module, name in library_imports(ast.parse(path.read_text("utf-8"))):
        assert module in levels(), f"{me} imports {module} {name}: name the module it comes from"
        if module != me:
            below, other_exported = levels()[module]
            assert below < level or module in SAME_LEVEL.get(me, ()), f"{me} imports {module}"
            assert other_exported or not exported, f"{me} is exported, {module} written by hand"


@for_each_module
def test_exactly_the_exported_modules_name_the_notebook_that_writes_them(path):
    _, exported = levels()[module_name(path)]
    names_a_notebook = HEADER.match(path.read_text("utf-8")) is not None
    assert names_a_notebook == exported


@for_each_module
def test_a_module_is_read_in_one_sitting(path):
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= 260


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
        assert len(lines) <= 45, "\n".join(lines[:3])


@for_each_notebook
def test_the_head_is_there(path):
    tagged = ["head" in cell.metadata.get("tags", []) for cell in read(path).cells]
    assert tagged[:2] == [True, True] and not any(tagged[2:])


@for_each_notebook
def test_a_notebook_imports_only_what_earlier_notebooks_wrote(path):
    written = {module: number for module, number in exports().values()}
    for tree in trees(path):
        for module, name in library_imports(tree):
            if module not in levels():  # from transformer_lib import Name
                module = exports().get(module, (module,))[0]
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


# Packages and build files


def conda_requirements():
    found = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    (pip,) = [entry["pip"] for entry in found if isinstance(entry, dict)]
    names = [entry for entry in found if isinstance(entry, str)] + pip
    return {re.sub(r"^pytorch\b", "torch", name) for name in names}


def requirements():
    extras = project()["optional-dependencies"]
    return {*project()["dependencies"], *extras["notebooks"], *extras["test"]}


def test_conda_gets_the_same_packages():
    python = f"python{project()['requires-python']}"
    assert conda_requirements() == requirements() | {python, "pip", "-e ."}


def test_every_requirement_is_pinned_inside_its_range():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    pins = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    for requirement in map(Requirement, requirements()):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_colab_keeps_its_own_packages():
    colab = {
        "torch": "2.11.0",
        "numpy": "2.1.3",
        "matplotlib": "3.10.0",
        "seaborn": "0.13.2",
        "spacy": "3.8.15",
    }
    ranges = {found.name: found.specifier for found in map(Requirement, project()["dependencies"])}
    for name, version in colab.items():
        assert ranges[name].contains(version), name


def test_the_workflow_runs_the_same_command_as_everybody():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert job["steps"][-1]["run"] == "make test"
    script = ROOT / ".ci" / "run"
    assert script.read_text("utf-8").splitlines()[-1] == "make test"


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_the_script_of_the_build_machine_is_valid():
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)

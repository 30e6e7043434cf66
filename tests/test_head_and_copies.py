"""What a reader opens: the first cells of a notebook, in Colab too, and copies to work in."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import notebook_head
import pytest
import student_notebooks
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = SETTINGS["project"]
ADDRESS = f"{PROJECT['urls']['Repository']}@v{PROJECT['version']}"

# The first cells


def test_links_to_colab_are_words_and_name_a_release():
    published = PROJECT | {"published": True}
    title = notebook_head.title_cell("01_a.ipynb", "# 01 · A", published)
    assert f"/blob/v{PROJECT['version']}/notebooks/01_a.ipynb)" in title and "![" not in title
    assert notebook_head.title_cell("01_a.ipynb", "# 01 · A", PROJECT | {"published": False}) == (
        "# 01 · A"
    )


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("colab", [True, False])
@pytest.mark.parametrize("outcome", ["there", "installs", "fails"])
def test_the_setup_cell_installs_or_stops_with_one_plain_line(
    monkeypatch, capsys, published, colab, outcome
):
    setup = notebook_head.setup_cell(PROJECT | {"published": published})
    assert all(len(line) <= 100 for line in setup.splitlines())
    shell, lines, specs = InteractiveShell(), [], {"transformer_lib": outcome == "there" or None}

    def pip(line):
        lines.append(line)
        specs["transformer_lib"] = outcome == "installs" or None

    shell.register_magic_function(pip, "line", "pip")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: specs.get(name, True))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", sys)
    stopped = not shell.run_cell(setup).success
    monkeypatch.undo()
    shown = capsys.readouterr()
    asked = colab and published and outcome != "there"
    assert stopped == (outcome != "there" and not (asked and outcome == "installs"))
    assert shown.out == ""
    assert lines == [f'install --quiet "transformer-lib[colab] @ git+{ADDRESS}"'] * asked
    if stopped:
        (message,) = shown.err.splitlines()
        remedy = ADDRESS if asked else "not published yet" if colab else 'install -e ".[lessons]"'
        assert message.startswith("UsageError: transformer_lib is not installed") and (
            remedy in message
        )


def test_the_address_is_written_in_one_place():
    """A fork changes pyproject.toml; before an address is published, nothing installs from it."""
    published, address = SETTINGS["tool"]["transformer-lib"]["published"], ADDRESS.split("@")[0]
    for page in ("README.md", "docs/install.md"):
        text = (ROOT / page).read_text("utf-8")
        assert ("**not published yet" in text.lower()) == (not published)
        assert set(re.findall(r"github\.com/[\w-]*transformer[\w-]*/[\w-]+", text)) <= {address[8:]}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert published or address[8:] not in path.read_text("utf-8"), path


# Copies


@pytest.fixture
def copy(tmp_path, capsys):
    """Write a notebook's text, make the copies, and return the copy's path and what was said."""
    (tmp_path / "notebooks").mkdir()

    def make(*codes, **metadata):
        if codes:
            cells = [new_markdown_cell("# 01 · A"), *(new_code_cell(c, **metadata) for c in codes)]
            nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "01_a.ipynb")
        folders = [f"--notebooks={tmp_path / 'notebooks'}", f"--to={tmp_path / 'student'}"]
        make.status = student_notebooks.main([*folders, *make.flags])
        shown = capsys.readouterr()
        return tmp_path / "student" / "01_a.ipynb", shown.out + shown.err

    make.flags = []
    return make


def save(path, change):
    """Save the copy as Jupyter does, after a change to its second cell."""
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells[1])
    nbformat.write(notebook, path)


def test_a_student_copy_has_no_outputs_and_no_solutions(copy):
    stream = nbformat.v4.new_output("stream", text="4")
    kept = {"outputs": [stream], "execution_count": 1}
    path, _ = copy("2 + 2", **kept)
    cell = nbformat.read(path, as_version=4).cells[1]
    assert (cell.source, cell.outputs, cell.execution_count) == ("2 + 2", [], None)
    path.unlink()
    solutions = path.parents[1] / "notebooks" / "solutions"
    solutions.mkdir()
    nbformat.write(new_notebook(cells=[new_code_cell("x = 4")]), solutions / "01_solutions.ipynb")
    copy()
    assert [found.name for found in path.parent.rglob("*.ipynb")] == [path.name]
    path.unlink()
    copy.flags = ["--solutions"]
    copy()
    assert nbformat.read(path, as_version=4).cells[1].outputs == [stream]
    assert (path.parent / "solutions" / "01_solutions.ipynb").exists()


@pytest.mark.parametrize("newer", [(), ("x = 2",)], ids=["same notebook", "newer notebook"])
def test_a_changed_copy_is_never_written_over(copy, newer):
    path, shown = copy("x = 1")
    assert f"wrote {path}" in shown
    save(path, lambda cell: cell.update(source="my answer"))
    for text in (None, "no notebook any more"):
        if text:
            path.write_text(text)
        before = path.read_bytes()
        for _ in range(2):
            assert f"kept {path}, which you have changed" in copy(*newer)[1]
        assert path.read_bytes() == before


def test_a_copy_that_was_only_run_gets_the_newer_notebook(copy):
    path, _ = copy("x = 1")
    save(path, lambda cell: cell.update(execution_count=1))
    before = path.read_bytes()
    assert f"kept {path}\n" in copy()[1] and path.read_bytes() == before
    assert "the notebook is newer" in copy("x = 2")[1]
    assert nbformat.read(path, as_version=4).cells[1].source == "x = 2"
    assert f"kept {path}\n" in copy()[1]


def test_make_cleans_what_was_built_and_leaves_what_readers_wrote(tmp_path):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    answers = [tmp_path / name / "01.ipynb" for name in ("student", "lab", "build/student")]
    for path in (*answers, built := tmp_path / "build" / "html" / "01.html"):
        path.parent.mkdir(parents=True)
        path.touch()
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    for _ in range(2):
        subprocess.run(["make", "clean"], cwd=tmp_path, env=environment, check=True)
    assert all(path.exists() for path in answers) and not built.exists()
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {"/student/", "/lab/"} <= set(ignored)
    recipe = re.search(r"^lab:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.M)[1]
    assert recipe.index("student_notebooks.py --solutions") < recipe.index("jupyterlab lab\n")

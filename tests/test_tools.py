"""The tools that write: modules from notebooks, executed notebooks, tables."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import ablations
import check_env
import export_notebooks
import nbformat
import pages
import pytest
import readme_results
import run_notebooks
import show_translations
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from transformer_lib.cli.train import ModelFlags, TrainFlags
from transformer_lib.train.settings import RunConfig

ROOT = Path(__file__).resolve().parents[1]

OPENING = '''#| default_exp alpha
"""What alpha is about."""

import math

from torch import Tensor, nn'''
DEFINITIONS = '''#| export
import torch
from torch.nn import functional as F

# The width of everything.
WIDTH = 4  # as in the paper
FIRST, SECOND = range(2)


# A comment above.
@torch.no_grad()
def double(x: Tensor) -> "Tensor":
    """Twice x."""
    # a comment inside
    return 2 * x + 0 * math.pi  # and one behind'''
MODULE = f'''# Written by notebooks/01_a.ipynb: edit there, then `make export`.
"""What alpha is about."""

import math

import torch
from torch import Tensor

__all__ = ["WIDTH", "FIRST", "SECOND", "double"]

{DEFINITIONS.partition("as F")[2].lstrip()}
'''


@pytest.fixture
def root(tmp_path):
    """A small project of the same shape as this one."""
    for folder in ("notebooks", "transformer_lib"):
        (tmp_path / folder).mkdir()
    (tmp_path / "transformer_lib" / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def write_notebook(root, name, *sources, title="# 01 · A", **metadata):
    cells = [new_markdown_cell(title), *(new_code_cell(s, metadata=metadata) for s in sources)]
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def export(root, *flags):
    return export_notebooks.main(["--root", str(root), *flags])


def module(root, name="alpha"):
    return (root / "transformer_lib" / f"{name}.py").read_text("utf-8")


def test_a_module_reads_as_if_written_by_hand(root):
    write_notebook(root, "01_a", OPENING, "print('not exported')", DEFINITIONS)
    assert export(root) == 0
    assert module(root) == MODULE


def test_modules_of_one_notebook_share_imports_and_import_each_other(root):
    beta = '#| default_exp beta\n"""Beta."""'
    layer = "#| export\nclass Layer(nn.Module):\n    size = double(WIDTH)"
    write_notebook(root, "01_a", OPENING, DEFINITIONS, beta, layer)
    assert export(root) == 0
    assert "from torch import nn\n\nfrom transformer_lib.alpha import WIDTH, double" in module(
        root, "beta"
    )


def test_a_module_never_imports_itself_whatever_came_before_in_the_notebook(root):
    early = '#| default_exp early\n"""Early."""\n\nfrom transformer_lib.alpha import double'
    use = "#| export\nFOUR = double(2)"
    write_notebook(root, "01_a", early, use, OPENING, DEFINITIONS, use.replace("FOUR", "ALSO_FOUR"))
    assert export(root) == 0
    assert "from transformer_lib.alpha import double" in module(root, "early")
    assert "transformer_lib" not in module(root)


def test_check_prints_the_drift_and_writes_nothing(root, capsys):
    write_notebook(root, "01_a", OPENING, DEFINITIONS)
    assert export(root) == 0
    assert export(root, "--check") == 0
    drifted = module(root).replace("2 * x", "3 * x")
    (root / "transformer_lib" / "alpha.py").write_text(drifted, "utf-8")
    assert export(root, "--check") == 1
    shown = capsys.readouterr().out
    assert "-    return 3 * x" in shown and "+    return 2 * x" in shown
    assert module(root) == drifted


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([OPENING, "#| export\nprint(1)"], "not `print(1)`"),
        ([OPENING, "#| export\nx.y = 1"], "not `x.y = 1`"),
        ([OPENING, "#| export\nfor i in range(3):\n    pass"], "not `for i in range(3):`"),
        ([OPENING, "#| export\nfrom math import *"], "imports are absolute"),
        ([OPENING, "#| export\nfrom .masks import causal"], "imports are absolute"),
        ([OPENING, "#| export\nimport os as math\nA = math"], "math is imported from two places"),
        ([OPENING, "#| export\nA = 1", "#| export\nA = 2"], "A is defined twice"),
        ([OPENING, "#| export\ndef f():\n    return unknown"], "alpha uses unknown without"),
        ([OPENING, "#| export\ndef f(:"], "cell 3: invalid syntax"),
        ([OPENING, "#| exprt\nA = 1"], "cannot follow `#| exprt`"),
        ([OPENING, OPENING], "not `'What alpha is about.'`"),
        (["#| export\nA = 1"], "cell 2: cannot follow `#| export`"),
        (["#| default_exp alpha\nimport math"], "docstring is missing"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_named(root, capsys, sources, message):
    write_notebook(root, "01_a", *sources)
    assert export(root) == 1
    error = capsys.readouterr().err
    assert error.startswith("01_a.ipynb: ") and message in error


@pytest.mark.parametrize("flags", [["--check"], []])
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("alpha", '"""By hand."""\n', "01_a.ipynb: transformer_lib/alpha.py is hand-written: "),
        ("beta", MODULE, "transformer_lib/beta.py: no notebook writes it any more, delete it"),
        ("other", MODULE.replace("01_a", "00_a"), "transformer_lib/other.py: no notebook writes"),
    ],
)
def test_a_module_of_another_origin_is_named_and_stays(root, capsys, name, text, message, flags):
    path = root / "transformer_lib" / f"{name}.py"
    path.write_text(text, "utf-8")
    write_notebook(root, "01_a", OPENING, DEFINITIONS)
    assert export(root, *flags) == 1
    assert message in capsys.readouterr().err
    assert path.read_text("utf-8") == text


def test_two_notebooks_do_not_write_one_module(root, capsys):
    write_notebook(root, "01_a", OPENING, DEFINITIONS)
    write_notebook(root, "02_b", OPENING)
    assert export(root) == 1
    assert "02_b.ipynb: alpha is already written by an earlier cell" in capsys.readouterr().err


def test_the_head_is_put_in_once_and_kept_up_to_date(root):
    path = write_notebook(root, "01_a", OPENING, title="# 01 · A\n\nAbout a.")
    assert export(root) == 0
    notebook = nbformat.read(path, as_version=4)
    title, setup, rest, _ = notebook.cells
    assert title.source.startswith("# 01 · A")
    assert title.metadata.tags == setup.metadata.tags == ["head"]
    assert rest.source == "About a."
    setup.source, setup.execution_count = "changed by hand", 1
    title.source = title.source.replace("· A", "· B")
    nbformat.write(notebook, path)
    assert export(root, "--check") == 1
    assert export(root) == 0
    title, setup, *others = nbformat.read(path, as_version=4).cells
    assert title.source.startswith("# 01 · B") and "google.colab" in setup.source
    assert setup.execution_count == 1 and len(others) == 2
    before = path.read_bytes()
    nbformat.write(nbformat.read(path, as_version=4), path)
    assert path.read_bytes() == before


def command(root, *flags):
    """The runner as `make` starts it."""
    paths = map(str, (root / "notebooks").glob("*.ipynb"))
    tool = str(ROOT / "tools" / "run_notebooks.py")
    return [sys.executable, tool, *flags, "--build", str(root / "build"), *paths]


def run(root, *flags):
    return subprocess.run(command(root, *flags), capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals")
def test_a_signal_stops_the_run_without_a_traceback(root):
    mark = root / "started"
    path = write_notebook(root, "01_a", f"import time\n\nopen({str(mark)!r}, 'w')\ntime.sleep(300)")
    before = path.read_bytes()
    process = subprocess.Popen(command(root, "--inplace"), stderr=subprocess.PIPE, text=True)
    while not mark.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (128 + signal.SIGTERM, "stopped\n")
    assert path.read_bytes() == before


def test_what_fails_is_named_in_one_line_and_the_page_is_written(root):
    path = write_notebook(root, "01_a", "import sys\n\nprint('hm', file=sys.stderr)", "x = 2")
    before = path.read_bytes()
    done = run(root, "--inplace")
    told = "01_a.ipynb, cell [1] `import sys`: on standard error: hm\n"
    assert (done.returncode, done.stderr) == (1, told)
    assert path.read_bytes() == before
    path = write_notebook(root, "01_a", "x = 1", "# halves\nx / 0", "x = 2")
    before = path.read_bytes()
    done = run(root)
    told = "01_a.ipynb, cell [2] `# halves`: ZeroDivisionError: division by zero\n"
    assert (done.returncode, done.stderr) == (1, told)
    assert "ZeroDivisionError" in (root / "build" / "html" / "01_a.html").read_text("utf-8")
    assert path.read_bytes() == before


def test_in_place_is_the_same_twice_and_the_scores_are_printed(root):
    figure = "import matplotlib.pyplot as plt\n\n_ = plt.plot([1, 2])\nplt.show()"
    scores = "print('BLEU 12.3')"
    path = write_notebook(root, "01_a", figure, scores, tags=["scores"], collapsed=True)
    done = run(root, "--inplace")
    assert done.returncode == 0, done.stderr
    assert "cell   2/2" in done.stdout and done.stdout.endswith("\nBLEU 12.3\n")
    first = path.read_bytes()
    run(root, "--inplace")
    assert path.read_bytes() == first
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.metadata == run_notebooks.METADATA
    assert notebook.cells[1].metadata == {"tags": ["scores"]}


# Pages

HINT = "<details><summary>Hint</summary>\n\nIt is $a^2 < b$.\n\n</details>"
ALIGNED = r"$$\begin{aligned}a &= b\\ c &= d\end{aligned} \qquad \frac{1}{2}$$ and $\nonsense{x}$"
LINKS = "[two](02_b.ipynb#x) [code](../transformer_lib/__init__.py) [gone](no.py)"
LINKS += " [away](https://a.example)"
OUTSIDE = "![a badge](https://a.example/b.svg)\n\n<img src='https://a.example/c.png' alt='a chart'>"
SCRIPT = '<script src="https://a.example/d.js"></script><b>shown</b>'


@pytest.fixture
def page(root):
    """The page of a notebook that holds one of everything, as parsed HTML."""
    sources = ["# Title $x$", HINT, ALIGNED, LINKS, OUTSIDE]
    hidden = {"jupyter": {"source_hidden": True}}
    codes = ["number = 1", "x + 1"]
    cells = [*map(new_markdown_cell, sources), *(new_code_cell(c, metadata=hidden) for c in codes)]
    cells.append(new_code_cell("open(1)"))
    data = {"text/html": SCRIPT}
    shown = nbformat.v4.new_output("display_data", data=data)
    picture = nbformat.v4.new_output("display_data", data={"image/png": "AAAA"})
    picture.metadata = {"image/png": {"alt": 'a "line" <rises>', "width": 90, "height": 50}}
    cells[-1].outputs = [shown, picture]
    path = root / "notebooks" / "01_a.ipynb"
    pages.write_page(new_notebook(cells=cells), path, root / "build" / "html")
    return BeautifulSoup((root / "build" / "html" / "01_a.html").read_text("utf-8"), "html.parser")


def test_a_page_folds_hints_and_hidden_code_and_shows_formulas(page):
    folded = page.select("details")
    assert [part.summary.text for part in folded] == ["Hint", "Code", "Code"]
    assert not page.select("details[open]") and all(len(part.text) > 12 for part in folded)
    assert "<" in folded[0].select_one("math").text and page.title.text == "Title x"
    assert len(page.select("math mtr")) == 2 and page.select_one(".formula math mfrac")
    assert [code.text for code in page.select("code")] == [r"\nonsense{x}"]
    assert "$" not in page.body.text


def test_a_page_loads_nothing_and_its_links_lead_somewhere(page):
    loaded = {tag.get("src") or tag.get("href") for tag in page.select("[src], link[href]")}
    assert loaded == {"data:image/png;base64,AAAA"} and page.select_one("meta[http-equiv]")
    picture = page.select_one("img")
    assert picture["alt"] == 'a "line" <rises>'
    assert (picture["width"], picture["height"]) == ("90", "50")  # half of its pixels
    assert all(text in page.body.text for text in ("a badge", "a chart", "shown", "gone"))
    links = [a["href"] for a in page.select("a[href]") if not a["href"].startswith("#")]
    inside = ["02_b.html#x", "../../transformer_lib/__init__.py"]
    assert links == ["index.html", *inside, "https://a.example"]


def test_the_index_lists_every_notebook_and_links_what_was_run(root):
    paths = [root / "notebooks" / name for name in ("01_a.ipynb", "02_b.ipynb")]
    notebooks = {p: new_notebook(cells=[new_markdown_cell(f"# {p.stem} < b")]) for p in paths}
    folder = root / "html"
    pages.write_page(notebooks[paths[0]], paths[0], folder)
    pages.write_index(notebooks, folder)
    index = BeautifulSoup((folder / "index.html").read_text("utf-8"), "html.parser")
    assert [a["href"] for a in index.select("a")] == ["01_a.html"]
    assert "Open the first one first" in index.text and "02_b < b (not run)" in index.text


# Ablations


def test_every_row_is_a_flag_of_train_and_has_a_file_of_its_own():
    known = {f.name for kind in (ModelFlags, TrainFlags, RunConfig) for f in fields(kind)}
    known |= {"preset", "threads", "vocab", "last"}
    for changes in (ablations.BASE, *ablations.ROWS.values()):
        assert {name.replace("-", "_") for name in changes} <= known
    names = [*ablations.ROWS, *ablations.SEARCHES]
    assert len({ablations.stem(name).lower() for name in names}) == len(names) > 25


def test_a_row_is_trained_averaged_scored_and_not_done_twice(
    tmp_path, monkeypatch, capsys, small_corpus
):
    about = {"source": "de", "target": "en"}
    small_corpus(tmp_path / "data" / "de-en-4000", n_val=8, about=about)
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "results")
    small = {"steps": 4, "validate-every": 2, "n-layers": 1, "d-model": 32}
    monkeypatch.setattr(ablations, "BASE", ablations.BASE | small)
    name, searched = "no cooldown, mean of the last 5", "beam 1, α 0"
    monkeypatch.setitem(ablations.ROWS, name, ablations.ROWS[name] | {"validate-every": 2})
    folders = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    for _ in range(2):
        ablations.main(["--only", name, searched, *folders])
    assert capsys.readouterr().out.count("sentences, beam") == 2  # each was scored once
    found = json.loads((tmp_path / "results" / f"{ablations.stem(name)}.json").read_text())
    assert found["training"]["averaged"] == ["step-000002", "step-000004"]
    assert found["training"]["settings"]["train"]["cooldown"] is None
    rows = readme_results.ablation_table(tmp_path / "results").splitlines()
    assert rows[2].startswith(f"| {name} | 0.0") and rows[3].startswith(f"| {searched} | 0.0")
    monkeypatch.setattr(ablations, "do", lambda *_: pytest.fail("a row was begun"))
    for wrong in (["--only", "heads 3"], ["--part", "3/2"], ["--part", "x"]):
        with pytest.raises(SystemExit):
            ablations.main(wrong)


# README's tables


def test_tables_are_of_one_recipe_and_change_nothing_else(tmp_path):
    for seed, bleu, steps in ((0, 40.0, 5), (1, 41.0, 5)):
        training = {"settings": {"run": {"seed": seed, "steps": steps}, "model": {}}}
        scores = {key: {"value": bleu} for key in readme_results.MEASURES.values()}
        found = {"name": "test", "search": {}, "scores": scores, "training": training}
        (tmp_path / f"en-de-{seed}.json").write_text(json.dumps(found))
    *_, mean = readme_results.seeds_table(tmp_path).splitlines()
    assert mean.startswith("| en-de | mean of 2 |  | **40.50** ± 0.71 |")
    start, end = "<!-- x: written by make results -->", "<!-- x: end -->"
    readme = f"before\n{start}\nold\n{end}\nafter\n"
    assert readme_results.with_tables(readme, {"x": "new"}) == readme.replace("old", "new")
    with pytest.raises(ValueError, match="markers of y"):
        readme_results.with_tables(readme, {"y": "new"})
    training["settings"]["run"] = {"seed": 2, "steps": 6}
    (tmp_path / "en-de-2.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="en-de are not of one recipe"):
        readme_results.seeds_table(tmp_path)


# The translations at the end of `make run`


def test_the_captions_that_are_shown_are_all_ten_and_a_stated_share_of_the_test_set(monkeypatch):
    def nowhere(*_):
        raise show_translations.MissingDataError("Multi30k is not here")

    monkeypatch.setattr(show_translations, "multi30k", nowhere)
    ((rule, pairs),) = show_translations.held_out("de", "en").items()
    assert "all ten" in rule and len(pairs) == 10
    assert show_translations.held_out("en", "de") == {rule: [pair[::-1] for pair in pairs]}
    test = [(f"a{n}", f"b{n}") for n in range(1000)]
    monkeypatch.setattr(show_translations, "multi30k", lambda *_: test)
    *_, (rule, pairs) = show_translations.held_out("de", "en").items()
    assert "every 200th" in rule and pairs == test[::200]


def test_a_translation_is_shown_with_the_persons_and_the_score(monkeypatch, capsys):
    pairs = [("Ein Hund.", "A dog."), ("Ein Kind.", "A child.")]
    monkeypatch.setattr(show_translations, "held_out", lambda *_: {"all two": pairs})
    model = SimpleNamespace(translate=lambda texts: ["A dog.", "Some child."][: len(texts)])
    monkeypatch.setattr(show_translations.Translator, "from_pretrained", lambda name: model)
    show_translations.main()
    shown = capsys.readouterr().out
    assert "know captions" in shown and "multi30k-de-en, all two:" in shown
    rows = "  German   Ein Kind.\n  model    Some child.\n  person   A child.\n"
    assert rows in shown and "chrF of these 2: " in shown


# Is this machine ready?


@pytest.mark.parametrize(("flags", "status"), [([], 0), (["-S"], 1)], ids=["ready", "bare"])
def test_a_class_is_told_what_is_missing_and_what_mends_it(flags, status):
    """With -S, Python finds nothing that was installed."""
    tool = ROOT / "tools" / "check_env.py"
    run = subprocess.run([sys.executable, *flags, tool], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert (run.returncode, run.stderr) == (status, ""), run.stdout
    wrong = [line for line in lines if line.startswith("MEND")]
    if status:
        assert len(wrong) == 1 and "torch is missing; numpy is missing" in wrong[0]
        assert wrong[0].endswith('-e ".[lessons,cli,test]"') and "device" not in run.stdout
    else:
        assert not wrong and any("first product" in line for line in lines)
    assert lines[-1].startswith("Mend what is" if status else "This machine is ready")


@pytest.mark.parametrize(
    ("version", "mark"), [((3, 10), False), ((3, 11), True), ((3, 14), True), ((3, 15), None)]
)
def test_pythons_that_are_too_old_or_too_new_are_told(version, mark, monkeypatch):
    monkeypatch.setattr(check_env.sys, "version_info", (*version, 0))
    found, _, remedy = check_env.check_python()
    assert found is mark and bool(remedy) is (mark is not True)

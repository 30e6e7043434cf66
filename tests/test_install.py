"""What gets installed: the core alone is enough, extras are named, pins and builds agree."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import check_pins
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def requirements(*extras):
    """Every requirement of the core and of the extras; an extra may name others."""
    found = set(PROJECT["dependencies"])
    for text in (text for extra in extras for text in PROJECT["optional-dependencies"][extra]):
        other = Requirement(text)
        found |= requirements(*other.extras) if other.name == PROJECT["name"] else {text}
    return found


# The core alone


def core_distributions():
    """Names of the core's packages and of all that they need."""
    found, waiting = set(), [Requirement(text) for text in requirements()]
    while waiting:
        requirement = waiting.pop()
        name = requirement.name.lower().replace("_", "-")
        if name not in found and (not requirement.marker or requirement.marker.evaluate()):
            found.add(name)
            waiting += map(Requirement, importlib.metadata.requires(name) or [])
    return found


# Hides all other packages, runs the README, and asks for what only an extra has.
CORE_ALONE = """
import contextlib, importlib, io, json, runpy, sys
from importlib.machinery import PathFinder

class Core(PathFinder):
    hidden = set(json.loads(sys.argv[2]))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = name.partition(".")[0] in cls.hidden
        return None if found else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Core
runpy.run_path(sys.argv[1], run_name="__main__")

from transformer_lib.cli import main
from transformer_lib.data.extras import MissingPackageError
from transformer_lib.training import TrainConfig
from transformer_lib.translate.scores import bleu
from transformer_lib.vocab import WordTokenizer, frequent_words

messages = []
for act in (lambda: WordTokenizer("de"), lambda: frequent_words({"a": 1}),
            lambda: bleu(["a b"], ["a b"]), lambda: importlib.import_module(
            "transformer_lib.lessons.figures")):
    try:
        act()
    except ImportError as error:
        messages.append(str(error))
shown = io.StringIO()
with contextlib.redirect_stderr(shown):
    status = main(["info", "multi30k-de-en"])
print(json.dumps([status, *messages, shown.getvalue()]))
"""


def test_the_core_alone_runs_the_readme_and_names_the_extra_that_is_missing():
    core = core_distributions()
    owners = importlib.metadata.packages_distributions()
    hidden = [
        name
        for name, packages in owners.items()
        if not {package.lower().replace("_", "-") for package in packages} & (core | {"pip"})
        and name != "transformer_lib"
    ]
    assert {"spacy", "torchtext", "matplotlib", "sacrebleu", "tyro", "tqdm"} <= set(hidden)
    snippets = str(ROOT / "tools" / "readme_snippets.py")
    command = [sys.executable, "-c", CORE_ALONE, snippets, json.dumps(hidden)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    *output, last = done.stdout.splitlines()
    assert "A dog runs through the deep snow." in "\n".join(output)
    status, *messages = json.loads(last)
    names = "spaCy", "torchtext", "sacrebleu", "matplotlib", "error: tyro"
    expected = [*zip(names, ("words", "words", "cli", "lessons", "cli"), strict=True)]
    assert status == 2 and len(messages) == len(expected)
    for message, (name, extra) in zip(messages, expected, strict=True):
        assert message.startswith(name) and message.count("\n") <= 1
        assert f'pip install "transformer-lib[{extra}]"' in message


# Pins and builds


def test_make_and_conda_install_what_lessons_command_line_and_tests_need():
    wanted = ",".join(check_pins.EXTRAS)
    assert f'-e ".[{wanted}]"' in (ROOT / "Makefile").read_text("utf-8")
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    names = [entry for entry in conda if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    others = {f"python{PROJECT['requires-python']}", "pip", "-e ."}
    found = {re.sub(r"^pytorch\b", "torch", name) for name in names + pip}
    assert found == requirements(*check_pins.EXTRAS) | others


def test_all_is_everything_but_the_tests_and_the_book():
    names = PROJECT["optional-dependencies"].keys() - {"all", "test", "book"}
    assert requirements("all") == requirements(*names)


def test_every_requirement_is_pinned_inside_its_range():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    pins = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    for requirement in map(Requirement, requirements(*check_pins.EXTRAS, "book")):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_colab_keeps_its_own_packages():
    """`make pins` resolves the extra next to them; here, no range may exclude one."""
    ranges = {found.name: found.specifier for found in map(Requirement, requirements("colab"))}
    assert {"torch", "numpy", "spacy", "matplotlib"} <= ranges.keys() & check_pins.COLAB.keys()
    assert "jupyterlab" not in ranges  # it would replace parts of Colab's own Jupyter
    for name in ranges.keys() & check_pins.COLAB.keys():
        assert ranges[name].contains(check_pins.COLAB[name]), name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source distribution of the repository, unpacked, and the wheel that it gives."""
    folder = tmp_path_factory.mktemp("built")
    files = folder / "dist"
    for build, where in (("sdist", folder / "source"), ("wheel", folder / "unpacked")):
        if build == "sdist":
            hidden = shutil.ignore_patterns(
                ".git", ".venv", "build", "runs", "multi30k", "*.egg-info", ".?*_*"
            )
            shutil.copytree(ROOT, where, ignore=hidden)
        else:
            packed = str(next(files.glob("*.tar.gz")))
            unpack = [sys.executable, "-W", "ignore", "-m", "tarfile", "-e", packed, str(where)]
            subprocess.run(unpack, check=True, capture_output=True)
            (where,) = where.iterdir()
        call = f"from setuptools import build_meta as b; b.build_{build}({str(files)!r})"
        subprocess.run([sys.executable, "-c", call], cwd=where, check=True, capture_output=True)
    return where, zipfile.ZipFile(next(files.glob("*.whl")))


def test_a_source_distribution_is_the_repository(built):
    source, _ = built
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\0")[:-1] if listed.returncode == 0 else ["tests/conftest.py"]
    missing = {n for n in names if (ROOT / n).is_file() and not (source / n).is_file()}
    assert not missing  # MANIFEST.in lists the folders


def test_a_wheel_holds_types_data_and_a_readme_that_is_whole_on_an_index(built):
    names = set(built[1].namelist())
    files = {f"transformer_lib/explorer/{path.name}" for path in (ROOT / "explorer").iterdir()}
    data = {"transformer_lib/grammar/train.de", "transformer_lib/digits/digits.csv.gz"}
    assert {"transformer_lib/py.typed", *data, *files} <= names
    assert all(re.match(r"transformer_lib[/-]", name) for name in names)
    metadata = next(name for name in names if name.endswith("METADATA"))
    readme = built[1].read(metadata).decode()
    links = re.findall(r'\]\(([^)\s]+)|(?:src|href)="([^"]+)"', readme)
    links = ["".join(found) for found in links]
    assert len(links) > 20 and all(link.startswith(("https://", "#")) for link in links)
    tag = f"/v{PROJECT['version']}/"
    pictures = {link for link in links if link.endswith(".png")}
    assert pictures == {link for link in links if "//raw.githubusercontent.com/" in link}
    slug = PROJECT["urls"]["Repository"].removeprefix("https://github.com")
    ours = [link for link in links if slug + "/" in link]
    assert len(ours) > 10 and all(tag in link and "/main/" not in link for link in ours)
    for link in ours:
        assert (ROOT / link.partition(tag)[2].partition("#")[0]).exists(), link


def test_commands_are_quoted_as_every_shell_understands():
    """Windows' cmd takes single quotes for a part of the name."""
    pages = ("*.md", "docs/*.md", "benchmarks/*.md", "notebooks/*.ipynb", "tools/*.py", "Makefile")
    paths = [path for pattern in pages for path in ROOT.glob(pattern)]
    for path in [*paths, *(ROOT / "transformer_lib").rglob("*.py")]:
        assert not re.search(r"pip install [^\n`]*'[\w.-]+\[", path.read_text("utf-8")), path


def test_messages_also_help_those_without_make():
    codes = {path: path.read_text("utf-8") for path in (ROOT / "transformer_lib").rglob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        codes[path] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    for path, code in codes.items():
        code = re.sub(r"# Written by .*", "", code)  # for authors
        assert not re.search(r"make (?:data|lab|run|student)\b(?!` or `)", code), path


def test_the_workflow_runs_the_same_command_as_everybody():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert job["steps"][-1]["run"] == "make test"
    script = ROOT / ".ci" / "run"
    assert script.read_text("utf-8").splitlines()[-1] == "make test"

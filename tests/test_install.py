"""What gets installed: the core alone is enough, extras are named, pins and builds agree."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import check_pins
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
        assert f"pip install 'transformer-lib[{extra}]'" in message


# Pins and builds


def test_make_and_conda_install_what_lessons_command_line_and_tests_need():
    wanted = ",".join(check_pins.EXTRAS)
    assert f"-e '.[{wanted}]'" in (ROOT / "Makefile").read_text("utf-8")
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    names = [entry for entry in conda if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    others = {f"python{PROJECT['requires-python']}", "pip", "-e ."}
    found = {re.sub(r"^pytorch\b", "torch", name) for name in names + pip}
    assert found == requirements(*check_pins.EXTRAS) | others


def test_all_is_everything_but_the_tests():
    names = PROJECT["optional-dependencies"].keys() - {"all", "test"}
    assert requirements("all") == requirements(*names)


def test_every_requirement_is_pinned_inside_its_range():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    pins = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    for requirement in map(Requirement, requirements(*check_pins.EXTRAS)):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_colab_keeps_its_own_packages():
    colab = {"torch": "2.11.0", "numpy": "2.1.3", "matplotlib": "3.10.0", "seaborn": "0.13.2"}
    colab["spacy"] = "3.8.15"
    ranges = {found.name: found.specifier for found in map(Requirement, requirements("lessons"))}
    for name, version in colab.items():
        assert ranges[name].contains(version), name


def test_the_workflow_runs_the_same_command_as_everybody():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert job["steps"][-1]["run"] == "make test"
    script = ROOT / ".ci" / "run"
    assert script.read_text("utf-8").splitlines()[-1] == "make test"

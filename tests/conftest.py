"""What every test shares: shapes checked at run time, one thread, a fixed seed, the seconds."""

import os
from collections import Counter
from itertools import chain
from pathlib import Path

import jaxtyping
import matplotlib
import pytest
import torch

# Before the first import of the library: from here on every function checks its jaxtyping shapes.
LIBRARY = Path(__file__).resolve().parents[1] / "transformer_lib"
MODULES = [f"transformer_lib.{path.stem}" for path in LIBRARY.iterdir() if path.stem[0] != "_"]
jaxtyping.install_import_hook(MODULES, "beartype.beartype")
matplotlib.use("agg")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_corpus():
    """Writes a prepared corpus of 60 sentences of the grammar into a folder, with 120 subwords."""
    from transformer_lib.data.corpora import ParallelText
    from transformer_lib.data.prepared import learn_vocabularies, prepare
    from transformer_lib.lessons.grammar import grammar_corpus

    def write(folder, n_val, about=None):
        pairs = grammar_corpus().train[:60]
        texts = {
            split: ParallelText(tuple(p.source for p in some), tuple(p.target for p in some), split)
            for split, some in {"train": pairs, "val": pairs[:n_val]}.items()
        }
        vocabularies = learn_vocabularies(texts["train"], "subwords", 120, ("de", "en"))
        return prepare(texts, vocabularies, folder, about=about, say=len)

    return write


def pytest_collection_modifyitems(items):
    """Cells of notebooks have their own time limit: --nbval-cell-timeout."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(0))


def pytest_terminal_summary(terminalreporter):
    """The seconds of each part, just above pytest's closing line."""
    seconds = Counter()
    if lint := os.environ.get("LINT_SECONDS"):
        seconds["lint"] = float(lint)
    for report in chain.from_iterable(terminalreporter.stats.values()):
        path = Path(getattr(report, "nodeid", "").partition("::")[0])
        seconds[path.stem if path.suffix == ".ipynb" else "tests"] += getattr(report, "duration", 0)
    terminalreporter.section("seconds")
    for name, value in seconds.items():
        terminalreporter.write_line(f"{name:<42} {value:7.1f}")

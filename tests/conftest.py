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
if device := os.environ.get("TRANSFORMER_LIB_TEST_DEVICE"):  # tools/gpu_check.py
    torch.set_default_device(device)


# Files that take longest, in this order; then the other notebooks, then all other tests.
LONGEST = ["07_training_copy_task_and_translation", "test_distributed", "test_faults"]
LONGEST += ["test_browser", "test_trainer"]


@pytest.fixture(autouse=True)
def fixed_seed():
    """Start every test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_corpus():
    """Write a prepared corpus of 60 sentences of the grammar into a folder, with 120 subwords."""
    from helpers import prepared  # after the hook above, which it needs

    from transformer_lib.data.text import ParallelText
    from transformer_lib.lessons.grammar import grammar_corpus

    def write(folder, n_val, about=None):
        pairs = grammar_corpus().train[:60]
        source, target = (tuple(getattr(p, side) for p in pairs) for side in ("source", "target"))
        val = ParallelText(source[:n_val], target[:n_val], "val")
        return prepared(folder, ParallelText(source, target, "train"), 120, val, about=about)

    return write


def pytest_collection_modifyitems(items):
    """Start the files that take longest first, so that two workers end at the same time.

    Cells of notebooks have their own time limit: --nbval-cell-timeout.
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    last = len(places)
    items.sort(key=lambda i: (places.get(i.path.stem, last), i.path.suffix != ".ipynb"))
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(0))


def pytest_terminal_summary(terminalreporter):
    """Print the seconds of each part, summed over the workers, above pytest's closing line."""
    seconds = Counter()
    if lint := os.environ.get("LINT_SECONDS"):
        seconds["lint"] = float(lint)
    for report in chain.from_iterable(terminalreporter.stats.values()):
        path = Path(getattr(report, "nodeid", "").partition("::")[0])
        seconds[path.stem if path.suffix == ".ipynb" else "tests"] += getattr(report, "duration", 0)
    terminalreporter.section("seconds")
    for name, value in seconds.items():
        terminalreporter.write_line(f"{name:<42} {value:7.1f}")

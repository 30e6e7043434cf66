"""The running sentence and the ledger of its shapes."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import nbformat
import pytest
import torch

from transformer_lib import beam_search, corpora, greedy_decode
from transformer_lib.data.text import ParallelText
from transformer_lib.lessons import PAIR, Ledger, figures, running, running_ids, vocabularies
from transformer_lib.lessons.grammar import grammar_corpus


@pytest.fixture(scope="module")
def last():
    """The ledger of notebook 07, with the rows of all others."""
    return Ledger(7)


def test_the_vocabularies_hold_the_words_of_training_and_no_others():
    train = grammar_corpus().train
    german = " ".join(pair.source for pair in train)
    english = " ".join(pair.target for pair in train)
    for vocab, text in zip(vocabularies(), (german, english), strict=True):
        assert {vocab.id_to_token(i) for i in range(4, len(vocab))} == set(text.split())
        assert len(vocab) == 4 + len(set(text.split()))  # <pad>, <unk>, <bos>, <eos> come first


def test_running_ids_are_the_words_framed():
    (german, english), (src, tgt) = vocabularies(), running_ids()
    assert src.dtype == tgt.dtype == torch.int64
    assert [german.id_to_token(i) for i in src[0].tolist()] == [*PAIR.source.split(), "<eos>"]
    framed = ["<bos>", *PAIR.target.split(), "<eos>"]
    assert [english.id_to_token(i) for i in tgt[0].tolist()] == framed
    assert src.shape == (1, 11) and tgt.shape == (1, 12)


@pytest.mark.parametrize("notebook", range(1, 8))
def test_a_ledger_begins_with_the_rows_of_the_notebooks_before(notebook, last):
    expected = torch.manual_seed(0).get_state()
    rows = Ledger(notebook).rows
    assert torch.equal(torch.get_rng_state(), expected)  # the reader's random numbers stay
    numbers = [number for number, *_ in rows]
    assert numbers == sorted(numbers) and set(numbers) == set(range(1, notebook))
    assert rows == [row for row in last.rows if row[0] < notebook]


def test_the_shapes_are_those_of_the_sentence_at_the_papers_sizes(last):
    words = len(PAIR.source.split()), len(PAIR.target.split())
    english = vocabularies()[1]
    sizes = {"B": 1, "S": words[0] + 1, "L": words[1] + 2, "T": words[1] + 1}
    sizes |= {"D": 512, "H": 8, "d_k": 64, "F": 2048, "V": len(english)}
    assert last.sizes == sizes
    for _, name, symbols, shape in last.rows:
        assert shape == tuple(sizes.get(s) or int(s) for s in symbols.split()), name


@pytest.mark.parametrize(
    ("symbols", "shape", "message"),
    [
        ("Q S D", (9, 11, 256), "D was 512, now it is 256"),
        ("Q Q", (3, 4), "Q was 3, now it is 4"),
        ("B 1 S", (1, 2, 11), "1 was 1, now it is 2"),
        ("B S", (1, 11, 512), "2 symbols for a tensor of shape (1, 11, 512)"),
    ],
)
def test_a_row_that_contradicts_is_refused(symbols, shape, message):
    ledger = Ledger(3)
    rows, sizes = list(ledger.rows), dict(ledger.sizes)
    with pytest.raises(ValueError, match="^mine: " + re.escape(message)):
        ledger.add("mine", symbols, torch.zeros(shape))
    assert (ledger.rows, ledger.sizes) == (rows, sizes)  # no letter is left behind


def test_the_table_marks_the_rows_of_this_notebook():
    ledger = Ledger(2)
    ledger.add("mine", "B S Q", torch.zeros(1, 11, 3))
    assert ledger.rows[-1] == (2, "mine", "B S Q", (1, 11, 3)) and ledger.sizes["Q"] == 3
    pair, empty, head, *rows = str(ledger).split("\n")
    assert pair == "Heute gibt der alte Mann dem Kind den Ball .  →  " + PAIR.target
    assert empty == "" and head.split() == ["notebook", "what", "dimensions", "shape"]
    assert [row.startswith("▶") for row in rows] == [False] * 3 + [True]
    assert re.split(r"\s{2,}", rows[-1]) == ["▶", "02", "mine", "B S Q", "(1, 11, 3)"]
    assert len({row.index("(") for row in rows}) == 1  # the columns are aligned
    assert all(line == line.rstrip() for line in str(ledger).split("\n"))


def test_the_earlier_notebooks_do_without_the_model(monkeypatch):
    monkeypatch.setattr(running, "_rows_of_the_model", lambda: pytest.fail("a model was built"))
    Ledger(6)


# Notebook 07 after the stop button

LAST = "07_training_copy_task_and_translation.ipynb"
# Slow, or an exercise, and of no training that can be stopped.
NO_TRAINING = "from_pretrained", "trained.", "FewWords", "### BEGIN SOLUTION", "lessons.check"


def cells_of_notebook_07():
    path = Path(__file__).resolve().parents[1] / "notebooks" / LAST
    codes = [cell.source for cell in nbformat.read(path, as_version=4).cells[2:]]
    kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells[2:]]
    return [code for code, kind in zip(codes, kinds, strict=True) if kind == "code"]


def test_every_cell_below_a_stopped_training_works_and_says_what_to_run_again(monkeypatch, capsys):
    small = grammar_corpus()
    small = replace(small, train=small.train[:600], val=small.val[:5], test=small.test[:5])
    source, target = (
        tuple(getattr(p, side) for p in small.train[:20]) for side in ("source", "target")
    )
    monkeypatch.setattr(corpora, "multi30k", lambda split: ParallelText(source, target, split))
    monkeypatch.setenv("TRANSFORMER_LIB_BUDGET", " Quick")
    names, steps = {}, iter([3, 0, 2, 3, 1])  # of each training, until it is stopped
    at_import = {"greedy_decode": partial(greedy_decode, extra=2)}
    at_import |= {"beam_search": partial(beam_search, extra=2), "grammar_corpus": lambda: small}
    at_import["figures"] = MagicMock()

    def stopped(fit, *args, **options):
        """Train, and stop as the button does."""
        left, real = next(steps), names["train_step"]
        results = iter(range(left))
        names["train_step"] = lambda *a: real(*a) if next(results, None) is not None else stop()
        try:
            return fit(*args, **options)
        finally:
            names["train_step"] = real

    def stop():
        raise KeyboardInterrupt

    for code in cells_of_notebook_07():
        if any(word in code for word in NO_TRAINING):
            continue
        exec(code.replace("size=4000", "size=120").replace("8000, 40", "400, 40"), names)
        if "import beam_search" in code:
            names |= at_import
        if "def fit(" in code:  # from here on, figures are drawn
            names |= {"fit": partial(stopped, names["fit"]), "figures": figures}
        if "copy_test = copy_test[:200]" in code:
            names["copy_test"] = names["copy_test"][:3]
    assert next(steps, None) is None
    shown = capsys.readouterr().out
    assert shown.count("run this one again") == 5
    assert "copy task: stopped at step 3, run its training cell for more" in shown


def test_a_budget_that_does_not_exist_is_refused_with_the_list(monkeypatch):
    (code,) = (code for code in cells_of_notebook_07() if "TRANSFORMER_LIB_BUDGET" in code)
    names = {"os": __import__("os"), "DEVICE": torch.device("cpu")}
    monkeypatch.setenv("TRANSFORMER_LIB_BUDGET", "fast")
    with pytest.raises(ValueError, match=r"^there is no budget 'fast', choose one of test, quick"):
        exec(code, names)
    for typed in ("CLASS", "class ", ""):
        monkeypatch.setenv("TRANSFORMER_LIB_BUDGET", typed)
        exec(code, names)
        assert names["BUDGET"] == (typed.strip().lower() or "quick")


def test_a_training_is_shown_from_its_first_step(capsys):
    curves = figures.LiveCurves(900, "Copy task")
    curves(3.0)
    curves(2.9)
    assert curves.shown and capsys.readouterr().out.count("Figure") == 1

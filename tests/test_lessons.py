"""The exercise check, the running sentence, and the ledger of its shapes."""

import re

import pytest
import torch

from transformer_lib.lessons import PAIR, Ledger, check, running, running_ids, vocabularies
from transformer_lib.lessons.grammar import grammar_corpus


@pytest.fixture(scope="module")
def last():
    """The ledger of notebook 07, with the rows of all others."""
    return Ledger(7)


def test_an_exercise_is_solved_or_gives_its_hint(capsys):
    with pytest.raises(AssertionError, match=r"^not yet: count again$"):
        check(2 + 2 == 5, passed="five it is", hint="count again")
    check(2 + 2 == 4, passed="four it is", hint="count again")
    assert capsys.readouterr().out == "✓ four it is\n"


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

"""The running sentence and the ledger of its shapes."""

import re
from contextlib import contextmanager

import pytest
import torch
from helpers import close, code_of_notebook_07, run_notebook_07, tiny
from torch import nn

from transformer_lib import TrainConfig, lessons
from transformer_lib.attention import attention
from transformer_lib.data.multi30k import DownloadError
from transformer_lib.data.text import ParallelText
from transformer_lib.lessons import (
    PAIR,
    Ledger,
    Run,
    figures,
    running,
    running_ids,
    training,
    vocabularies,
)
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

SLOW = ("best_translation", "short_run")  # nothing to stop there


def test_every_cell_below_a_stopped_training_works_and_says_what_to_run_again(monkeypatch, capsys):
    real, fit, steps = training.steps_on, lessons.fit, iter([3, 0, 2])  # of each, until stopped

    @contextmanager
    def stopping(*args):
        """Provide steps until the run is stopped as the button does."""
        left = iter(range(next(steps)))

        def step(*args):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return update(*args)

        with real(*args) as update:
            yield step

    def stopped(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(training, "steps_on", stopping)
            return fit(*args, **options)

    monkeypatch.setattr(lessons, "fit", stopped)
    run_notebook_07(monkeypatch, skip=SLOW)
    assert next(steps, None) is None
    shown = capsys.readouterr().out
    assert shown.count("run this one again") == 3
    assert "Copy task: stopped at step 3, run its training cell for more" in shown


def test_a_run_ends_with_its_best_weights_and_its_check_tells_a_bad_end_from_a_stop(capsys):
    model, pairs = tiny(12), [([5, 6, 3], [2, 5, 6, 3])] * 4
    config, seen = TrainConfig(peak_rate=0.02, warmup=1), {}

    def keep(step):
        seen[step] = {name: weight.clone() for name, weight in model.state_dict().items()}

    other = [([5, 6, 3], [2, 7, 8, 3])]  # what training makes less likely
    options = {"steps": 4, "max_tokens": 40, "val": other, "every": 1, "watch": keep}
    run = lessons.fit("a run", model, pairs, config, **options)
    assert len(run.losses) == 4 and run.validation.keys() == seen.keys() == {1, 2, 3, 4}
    best = seen[min(run.validation, key=run.validation.get)]
    assert min(run.validation, key=run.validation.get) != 4  # else the last would do
    torch.testing.assert_close(dict(model.state_dict()), best)
    run.check(True)
    with pytest.raises(AssertionError, match=r"^a run: trained to the end"):
        run.check(False)
    Run("other", 9, [1.0]).check(False)
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines == [
        "a run: as expected",
        "other: stopped at step 1, run its training cell for more",
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cores_share_each_batch_and_make_the_same_updates(dropout):
    """Also with fewer pairs than cores; dropout draws the same numbers again, whoever is first."""
    draw, config = torch.Generator().manual_seed(0), TrainConfig(peak_rate=0.02, warmup=1, eps=1e-6)
    ids = [torch.randint(4, 12, (n,), generator=draw).tolist() for n in (3, 5, 2, 6, 4, 7, 3)]
    pairs = [([*row, 3], [2, *row[::-1], 3]) for row in ids]
    found, n_threads = {}, torch.get_num_threads()
    for cores in (1, 3, 3):
        model = tiny(12, dropout=dropout).double()
        torch.manual_seed(1)
        options = {"steps": 9, "max_tokens": 17, "val": pairs[:1], "cores": cores}
        run = lessons.fit("a run", model, pairs, config, **options)
        weights = [weight.detach().clone() for weight in model.parameters()]
        found.setdefault(cores, []).append((run.losses, weights))
    (alone,), (threads, again) = found.values()
    assert threads[0] == again[0] and all(map(torch.equal, threads[1], again[1]))
    same = threads[0] == pytest.approx(alone[0], rel=1e-12)
    assert same == (dropout == 0)
    if same:
        close(threads[1], alone[1])
    assert torch.get_num_threads() == n_threads
    with pytest.raises(ValueError, match="cores must be at least 1, got 0"):
        lessons.fit("a run", model, pairs, config, steps=1, max_tokens=17, cores=0)


def test_captions_are_fetched_once_if_asked_for_and_a_missing_network_leaves_them_out(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("TRANSFORMER_LIB_DATA", str(tmp_path))
    asked = []

    def fetch(splits):
        asked.append(splits)
        raise DownloadError("no connection")

    monkeypatch.setattr(training, "fetch_multi30k", fetch)
    assert lessons.captions(fetch=False) is None and not asked
    assert lessons.captions() is None and asked == [("train", "val", "test_2016_flickr")]
    assert capsys.readouterr().out.endswith("this part is left out. no connection\n")
    monkeypatch.setattr(training, "has_multi30k", lambda split: True)
    monkeypatch.setattr(training, "multi30k", lambda split: ParallelText(("a",), ("b",), split))
    assert [*lessons.captions()] == ["train", "val", "test"] and len(asked) == 1


def test_a_budget_that_does_not_exist_is_refused_with_the_list(monkeypatch):
    (code,) = (code for code in code_of_notebook_07() if "TRANSFORMER_LIB_BUDGET" in code)
    names = {"os": __import__("os"), "DEVICE": torch.device("cpu")}
    monkeypatch.setenv("TRANSFORMER_LIB_BUDGET", "fast")
    with pytest.raises(ValueError, match=r"^there is no budget 'fast', choose one of test, quick"):
        exec(code, names)
    for typed in ("CLASS", "class ", ""):
        monkeypatch.setenv("TRANSFORMER_LIB_BUDGET", typed)
        exec(code, names)
        assert names["BUDGET"] == (typed.strip().lower() or "quick")


def test_a_training_is_shown_from_its_first_step(capsys):
    run = Run("Copy task", 900)
    curves = figures.LiveCurves(run)
    for loss in (3.0, 2.9):
        run.losses.append(loss)
        curves.draw_if_due()
    assert curves.shown and capsys.readouterr().out.count("Figure") == 1


class OneHead(nn.Module):
    """The least that `train_next_word` needs: an output and weights (B, 1, T, S)."""

    def forward(self, x, source, mask):
        output, weights = attention(x[:, None], source[:, None], source[:, None], mask)
        return output[:, 0], weights


def test_the_next_word_model_sees_neither_padding_nor_later_words():
    pairs = [PAIR, grammar_corpus().train[0]]
    model = lessons.train_next_word(OneHead(), 8, pairs, steps=2)
    src, tgt = lessons.to_ids(pairs)
    later = tgt.clone()
    later[:, 5:] = 7
    logits, weights = model(src, tgt)
    assert logits.shape == (*tgt.shape, len(vocabularies()[1]))
    assert (src == 0).any() and not weights[(src == 0)[:, None, None].expand_as(weights)].any()
    torch.testing.assert_close(model(src, later)[0][:, :5], logits[:, :5])

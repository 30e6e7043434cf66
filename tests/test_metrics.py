"""Scores against sacrebleu called directly, against hand-counted values, and their refusals."""

import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lib.translate.metrics import (
    SPECIAL_TOKENS,
    AlignmentScore,
    Score,
    alignment_recall_precision,
    attention_links,
    bleu,
    chrf,
    exact_match,
)

HYPOTHESES = [
    "A man in an Orange hat is looking at something.",
    "A Boston terrier runs on lush green grass, in front of a white fence!",
    "Five people wearing winter jackets and helmets stand in the snow.",
    "",
]
REFERENCES = [
    "A man in an orange hat starring at something.",
    "A Boston Terrier is running on lush green grass in front of a white fence.",
    "People with winter jackets and helmets stand in the snow, with snowmobiles.",
    "People are fixing the roof of a house.",
]


# --- BLEU and chrF ----------------------------------------------------------------------------


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenize", ["13a", "intl", "char", "none"])
def test_bleu_is_sacrebleus(lowercase, tokenize):
    ours = bleu(HYPOTHESES, REFERENCES, lowercase=lowercase, tokenize=tokenize)
    theirs = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], lowercase=lowercase, tokenize=tokenize)
    assert ours.value == theirs.score
    assert ours.detail == str(theirs)
    case = "lc" if lowercase else "mixed"
    version = sacrebleu.__version__
    assert (
        ours.signature == f"nrefs:1|case:{case}|eff:no|tok:{tokenize}|smooth:exp|version:{version}"
    )
    assert str(ours) == f"{theirs.score:.2f} ({ours.signature})"


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_is_sacrebleus(lowercase, word_order):
    ours = chrf(HYPOTHESES, REFERENCES, lowercase=lowercase, word_order=word_order)
    metric = sacrebleu.CHRF(lowercase=lowercase, word_order=word_order)
    theirs = metric.corpus_score(HYPOTHESES, [REFERENCES])
    assert ours.value == theirs.score
    assert ours.detail == str(theirs)
    assert f"nw:{word_order}" in ours.signature
    assert f"case:{'lc' if lowercase else 'mixed'}" in ours.signature


def n_grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu_by_hand(hypotheses, references):
    """BLEU as Papineni et al. define it, for texts with at least one right 4-gram."""
    pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
    mean_log = 0.0
    for n in range(1, 5):
        right = sum((n_grams(h, n) & n_grams(r, n)).total() for h, r in pairs)
        mean_log += math.log(Fraction(right, sum(n_grams(h, n).total() for h, _ in pairs))) / 4
    lengths = sum(len(h) for h, _ in pairs), sum(len(r) for _, r in pairs)
    return 100 * min(1.0, math.exp(1 - lengths[1] / lengths[0])) * math.exp(mean_log)


def test_bleu_by_hand():
    hypotheses = ["the cat sat on the mat", "the the dog"]
    references = ["the cat sat on the red mat", "the dog barks loudly"]
    # Right n-grams of all: 6+2 of 9, 4+1 of 7, 3+0 of 5, 2+0 of 3; 9 words for 11.
    expected = 100 * math.exp(1 - 11 / 9) * (8 / 9 * 5 / 7 * 3 / 5 * 2 / 3) ** 0.25
    assert bleu(hypotheses, references, tokenize="none").value == pytest.approx(expected, abs=1e-9)
    assert bleu_by_hand(hypotheses, references) == pytest.approx(expected, abs=1e-9)


WORDS = st.lists(st.sampled_from(["der", "Hund", "bellt", "laut", "die", "Katze"]), max_size=9)


@settings(database=None, deadline=None, derandomize=True)
@given(st.lists(st.tuples(WORDS, WORDS), max_size=5))
def test_bleu_of_any_text_is_the_hand_counted_one(pairs):
    pairs = [*pairs, (["a", "b", "c", "d"], ["a", "b", "c", "d", "e"])]  # one right 4-gram
    hypotheses, references = (
        [" ".join(words) for words in side] for side in zip(*pairs, strict=True)
    )
    ours = bleu(hypotheses, references, tokenize="none").value
    assert ours == pytest.approx(bleu_by_hand(hypotheses, references), abs=1e-9)


def test_perfect_text_has_the_highest_score():
    assert bleu(REFERENCES, REFERENCES).value == pytest.approx(100)
    assert chrf(REFERENCES, REFERENCES).value == pytest.approx(100)


def test_special_tokens_raise_bleu_and_so_are_refused():
    framed = [[f"<s> {text} </s>" for text in side] for side in (HYPOTHESES, REFERENCES)]
    plain, raised = (
        sacrebleu.corpus_bleu(h, [r]).score for h, r in ((HYPOTHESES, REFERENCES), framed)
    )
    assert raised > plain + 2
    for score in (bleu, chrf):
        with pytest.raises(ValueError, match=r"hypothesis 0 holds '<s>', which is not a word"):
            score(framed[0], REFERENCES)
        with pytest.raises(ValueError, match=r"reference 0 holds '<s>'"):
            score(HYPOTHESES, framed[1])
    assert bleu(*framed, special_tokens=()).value == raised


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, "<UNK>"])
def test_every_special_token_is_refused_wherever_it_stands(token):
    for text in (token, f"a {token} b", f"b{token}"):
        with pytest.raises(ValueError, match="hypothesis 1 holds"):
            bleu(["fine", text], ["fine", "a b"])


def test_the_vocabularys_special_tokens_are_among_the_refused():
    from transformer_lib.vocab import SPECIALS

    assert {*SPECIALS, "<s>", "</s>"} <= set(SPECIAL_TOKENS)


@pytest.mark.parametrize("score", [bleu, chrf, exact_match])
def test_unequal_counts_and_nothing_are_refused(score):
    with pytest.raises(ValueError, match="2 hypotheses, but 3 references"):
        score(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="no sentences"):
        score([], [])
    with pytest.raises(ValueError, match="not one string"):
        score("abc", "abc")


@pytest.mark.parametrize("tokenize", ["spacy", "flores200", ""])  # flores200 downloads a model
def test_other_tokenizers_are_refused(tokenize):
    with pytest.raises(ValueError, match="choose from 13a, intl, char, none"):
        bleu(["a"], ["a"], tokenize=tokenize)


def test_tokenised_text_is_warned_about_only_where_it_is_a_surprise(caplog):
    texts = ["a dog barks ."] * 100
    assert bleu(texts, texts, tokenize="none").value == pytest.approx(100)
    assert caplog.text == ""
    bleu(texts, texts)
    assert "forgot to detokenize" in caplog.text


def test_sacrebleu_is_imported_only_when_a_score_is_asked_for():
    """In a process of its own, where nothing checks types at run time either."""
    code = (
        "import sys; from transformer_lib.translate.metrics import bleu\n"
        "print('sacrebleu' in sys.modules)\n"
        "try: bleu(['a'], [['a']])  # references in sacrebleu's own nesting\n"
        "except ValueError as error: print(error)\n"
        "bleu(['a'], ['a']); print('sacrebleu' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = ["False", "reference 0 is a list, expected one string", "True"]
    assert result.stdout.splitlines() == expected, result.stderr


def test_exact_match_is_a_share():
    assert exact_match(["a b", "c", "d", "e"], ["a b", "C", "d", "e "]) == 0.5
    assert exact_match([[1, 2], (3,)], [[1, 2], (4,)]) == 0.5


# --- alignments -------------------------------------------------------------------------------


# Die rote Katze schläft nicht / The cat does not sleep; `does` belongs to no source word alone.
GOLD = {(0, 0), (2, 1), (4, 3), (3, 4), (3, 2), (4, 2)}
MAP = torch.tensor(
    [
        [0.7, 0.1, 0.1, 0.1, 0.0],  # The <- Die
        [0.1, 0.6, 0.2, 0.1, 0.0],  # cat <- rote: wrong
        [0.0, 0.0, 0.0, 0.6, 0.4],  # does <- schläft: one of its two
        [0.0, 0.0, 0.1, 0.1, 0.8],  # not <- nicht
        [0.3, 0.1, 0.1, 0.3, 0.2],  # sleep <- Die, a tie that the first column wins: wrong
    ]
)


def test_alignment_by_hand():
    assert attention_links(MAP) == {(0, 0), (1, 1), (3, 2), (4, 3), (0, 4)}
    score = alignment_recall_precision(MAP, GOLD)
    # Right: (0, 0), (3, 2), (4, 3). Hits also count (4, 2), as its row chose its other word.
    assert score == AlignmentScore(hits=4, correct=3, predicted=5, gold=6)
    assert score.found == pytest.approx(4 / 6)
    assert score.recall == pytest.approx(3 / 6)
    assert score.precision == pytest.approx(3 / 5)
    assert score.aer == pytest.approx(1 - 2 * 3 / (5 + 6))
    assert alignment_recall_precision(attention_links(MAP), sorted(GOLD)) == score


def test_sentences_are_added_by_counts_not_by_shares():
    good = alignment_recall_precision({(0, 0)}, {(0, 0)})
    bad = alignment_recall_precision({(i, i) for i in range(9)}, {(i, i + 1) for i in range(9)})
    total = sum([good, bad], start=AlignmentScore(0, 0, 0, 0))
    assert total == AlignmentScore(hits=1, correct=1, predicted=10, gold=10)
    assert (total.found, total.recall, total.precision, total.aer) == (0.1, 0.1, 0.1, 0.9)


def test_perfect_and_hopeless_alignments():
    perfect = alignment_recall_precision(torch.eye(4), {(i, i) for i in range(4)})
    assert (perfect.found, perfect.recall, perfect.precision, perfect.aer) == (1, 1, 1, 0)
    wrong = alignment_recall_precision(torch.eye(4), {(i, 3 - i) for i in range(4)})
    assert (wrong.found, wrong.recall, wrong.precision, wrong.aer) == (0, 0, 0, 1)


@pytest.mark.parametrize("T, S", [(5, 3), (4, 4)])
def test_a_transposed_map_is_refused(T, S):
    attention = torch.zeros(T, S)
    attention[:, 1] = 1.0  # everybody looks at source word 1
    assert attention_links(attention) == {(1, t) for t in range(T)}
    with pytest.raises(ValueError, match=r"row 1 adds up to \d\.00.*transposed"):
        attention_links(attention.T)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1])
def test_raw_scores_are_refused(bad):
    attention = MAP.clone()
    attention[2, 2] = bad
    with pytest.raises(ValueError, match="finite and not negative"):
        attention_links(attention)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3,), (3, 0)])
def test_only_a_map_with_two_axes_is_a_map(shape):
    with pytest.raises((ValueError, TypeError)):  # TypeError where types are checked at run time
        alignment_recall_precision(torch.zeros(shape), {(0, 0)})


def test_gold_links_outside_the_map_are_refused():
    attention = torch.full((3, 5), 0.2)
    for link in ((5, 0), (0, 3), (-1, 0), (0, -1)):
        with pytest.raises(
            ValueError, match=rf"= \({link[0]}, {link[1]}\) is outside the \(3, 5\)"
        ):
            alignment_recall_precision(attention, {(4, 2), link})
    assert alignment_recall_precision(attention, {(4, 2)}).gold == 1


def test_half_precision_cut_columns_and_masked_rows():
    torch.manual_seed(0)
    attention = torch.randn(20, 60).softmax(dim=1).bfloat16()
    assert len(attention_links(attention)) == 20
    assert len(attention_links(attention[:, :7])) == 20
    attention[4:6] = 0
    assert {t for _, t in attention_links(attention)} == set(range(20)) - {4, 5}


def test_shares_of_nothing_are_refused():
    nothing = alignment_recall_precision(set(), set())
    for share in ("found", "recall", "precision", "aer"):
        with pytest.raises(ValueError, match=r"no .*links to count"):
            getattr(nothing, share)


LINKS = st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)


@settings(database=None, deadline=None, derandomize=True)
@given(LINKS, LINKS)
def test_alignment_scores_agree_with_their_definitions(predicted, gold):
    score = alignment_recall_precision(predicted, gold)
    found = [any((s2, t) in gold for s2, t2 in predicted if t2 == t) for s, t in gold]
    assert score.found == sum(found) / len(found)
    assert score.recall == len([link for link in gold if link in predicted]) / len(gold)
    assert score.precision == len([link for link in predicted if link in gold]) / len(predicted)
    assert 0 <= score.recall <= score.found <= 1
    if score.correct:
        f1 = 2 / (1 / score.precision + 1 / score.recall)
        assert score.aer == pytest.approx(1 - f1, abs=1e-12)


def test_a_score_is_printed_with_its_signature():
    assert str(Score(41.0249, "nrefs:1|case:lc", "…")) == "41.02 (nrefs:1|case:lc)"

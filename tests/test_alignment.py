"""Alignment scores: hand-counted values, definitions checked by hypothesis, and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lib.lessons.alignment import AlignmentScore, alignment_score, attention_links

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
    score = alignment_score(MAP, GOLD)
    # Correct: (0, 0), (3, 2), (4, 3). (4, 2) is a hit too, as its row chose its other word.
    assert score == AlignmentScore(hits=4, gold=6) and score.hit_rate == pytest.approx(4 / 6)


def test_sentences_are_added_by_counts_not_by_shares():
    good = alignment_score(torch.eye(1), {(0, 0)})
    bad = alignment_score(torch.eye(10), {(i, i + 1) for i in range(9)})
    total = sum([good, bad], start=AlignmentScore(0, 0))
    assert total == AlignmentScore(hits=1, gold=10) and total.hit_rate == 0.1
    with pytest.raises(ValueError, match="no gold links to count"):
        _ = AlignmentScore(0, 0).hit_rate


def test_a_transposed_map_is_refused():
    attention = torch.eye(4)[[1, 1, 1, 1]]  # every row attends to source word 1
    assert attention_links(attention) == {(1, t) for t in range(4)}
    with pytest.raises(ValueError, match=r"row 1 sums to 4\.00.*transposed"):
        attention_links(attention.T)


def test_raw_scores_and_other_shapes_are_refused():
    for bad in (float("nan"), float("inf"), -0.1):
        with pytest.raises(ValueError, match="finite and not negative"):
            attention_links(torch.where(MAP == 0.7, bad, MAP))
    for shape in ((2, 3, 4), (3,), (3, 0)):
        with pytest.raises((ValueError, TypeError)):  # TypeError where types are checked
            alignment_score(torch.zeros(shape), {(0, 0)})


def test_gold_links_outside_the_map_are_refused():
    attention = torch.full((3, 5), 0.2)
    for link in ((5, 0), (0, 3), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"is outside the \(3, 5\) map"):
            alignment_score(attention, {(4, 2), link})
    assert alignment_score(attention, {(4, 2)}).gold == 1


def test_half_precision_cut_columns_and_masked_rows():
    torch.manual_seed(0)
    attention = torch.randn(20, 60).softmax(dim=1).bfloat16()
    assert len(attention_links(attention)) == 20
    assert len(attention_links(attention[:, :7])) == 20
    attention[4:6] = 0
    assert {t for _, t in attention_links(attention)} == set(range(20)) - {4, 5}


LINKS = st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)


@settings(database=None, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=5), LINKS)
def test_the_hit_rate_agrees_with_its_definition(most_attended, gold):
    score = alignment_score(torch.eye(5)[most_attended], gold)
    hits = [(most_attended[t], t) in gold for _, t in gold]
    assert score.hit_rate == sum(hits) / len(hits)

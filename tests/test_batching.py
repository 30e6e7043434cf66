"""Batches: every pair once, under the budget, in an order that (seed, epoch) alone decides."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformer_lib import Batch, collate, epoch_batches, token_batches
from transformer_lib.batching import pad

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=60)


@given(LENGTHS, st.integers(1, 100), st.integers(0, 5), st.integers(0, 5))
def test_every_pair_comes_once_and_no_batch_is_over_the_budget(lengths, budget, seed, epoch):
    batches = token_batches(lengths, budget, seed=seed, epoch=epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) * max(max(lengths[i]) for i in batch) <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 100), st.integers(2, 4))
def test_ranks_get_disjoint_shares_of_equal_number(lengths, budget, world_size):
    whole = token_batches(lengths, budget, seed=3)
    shares = [
        token_batches(lengths, budget, seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    taken = [batch for share in shares for batch in share]
    assert all(batch in whole for batch in taken)
    assert len(whole) - world_size < len(taken) == len({tuple(batch) for batch in taken})


def test_order_is_a_function_of_seed_and_epoch():
    lengths = [(i % 7 + 1, i % 5 + 1) for i in range(200)]
    draws = [(1, 0), (1, 0), (1, 1), (2, 1)]
    one, same, *others = (token_batches(lengths, 40, seed=s, epoch=e) for s, e in draws)
    assert one == same and one not in others and others[0] != others[1]


def test_similar_lengths_stand_together():
    lengths = [(n, n) for n in range(1, 101)]
    batches = [[i + 1 for i in batch] for batch in token_batches(lengths, 400)]
    assert sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches) > 0.9


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"rank": 2, "world_size": 2}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="impossible"):
        token_batches([(1, 1)], **({"max_tokens": 10} | options))


def test_collate_pads_both_sides_at_the_end():
    batch = collate([([5, 6], [2, 7, 3]), ([5], [2, 8, 9, 3])])
    assert batch.src.tolist() == [[5, 6], [5, 0]]
    assert batch.tgt.tolist() == [[2, 7, 3, 0], [2, 8, 9, 3]]
    assert isinstance(batch.to("cpu"), Batch)


@pytest.mark.parametrize("bad", [([], [2, 3]), ([4], []), ([0, 0], [2, 3]), ([4], [0])])
def test_a_side_without_a_token_is_refused(bad):
    with pytest.raises(ValueError, match="pair 1 of the batch"):
        collate([([4], [2, 3]), bad])


def test_nothing_cannot_be_padded():
    with pytest.raises(ValueError, match="at least one id"):
        pad([[], []])


def test_one_epoch_covers_the_pairs():
    pairs = [([4] * (i % 6 + 1), [2, 5 + i, 3]) for i in range(50)]
    rows = torch.cat([batch.tgt for batch in epoch_batches(pairs, 30, seed=0, epoch=0)])
    assert sorted(rows[:, 1].tolist()) == list(range(5, 55))

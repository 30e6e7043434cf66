"""The order of a large corpus: every pair once, the same for every process, memory that is flat."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from transformer_lib.batching import epoch_batches
from transformer_lib.data import prepared as module
from transformer_lib.data.coverage import Coverage
from transformer_lib.data.encoding import Encoded, write_split
from transformer_lib.data.prepared import IdPairs, count_shards, shards

DRAW = {"seed": 3, "epoch": 2}


def corpus(folder, n_pairs):
    """Pairs of 1 to 12 ids; the first source id is the number of the pair, so it names it."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 13, (2, n_pairs))
    ids = [draw.integers(4, 9, side.sum()) for side in lengths]
    ids[0][np.cumsum([0, *lengths[0][:-1]])] = np.arange(n_pairs) + 100
    blocks = [Encoded(ids, list(lengths), [], [Coverage(0, 0, 0)] * 2, Counter(), [])]
    write_split(folder, "train", blocks, keep_text=False)
    return IdPairs(folder, "train")


def set_sizes(monkeypatch, shard, block):
    monkeypatch.setattr(module, "SHARD_PAIRS", shard)
    monkeypatch.setattr(module, "BLOCK_PAIRS", block)


@pytest.fixture
def large(tmp_path, monkeypatch):
    set_sizes(monkeypatch, 1000, 32)
    return corpus(tmp_path, 4321)


def names(batches):
    return [batch.src[:, 0].tolist() for batch in batches]


def assert_same(batches, others):
    for a, b in zip(batches, others, strict=True):
        assert a.src.equal(b.src) and a.tgt.equal(b.tgt)


def test_a_corpus_that_fits_into_one_shard_has_the_lessons_batches(tmp_path):
    pairs = corpus(tmp_path, 1000)
    for draw in ({}, DRAW, DRAW | {"rank": 1, "world_size": 3}):
        assert_same(pairs.batches(60, **draw), epoch_batches(list(pairs), 60, **draw))


def resident(folder):
    """Kilobytes of a folder's files that are mapped and in memory."""
    sizes, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = str(folder) in line
        elif ours and line.startswith("Rss:"):
            sizes += int(line.split()[1])
    return sizes


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_what_was_read_does_not_stay_in_memory(tmp_path, monkeypatch):
    set_sizes(monkeypatch, 1000, 1000)
    pairs = corpus(tmp_path, 40_000)
    for _ in pairs:
        pass
    everything = resident(tmp_path)
    assert everything > 1000
    next(pairs.batches(60))  # of the first of forty shards
    assert resident(tmp_path) < everything / 2
    assert pairs.longest == (12, 12)
    assert resident(tmp_path) == 0


def test_a_corpus_that_is_prepared_anew_meanwhile_stays_what_it_was(tmp_path):
    folder, other = tmp_path / "data", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    pairs = corpus(folder, 1000)
    before, lengths = list(pairs.batches(60)), pairs.lengths
    corpus(other, 2000)
    for file in other.iterdir():
        file.replace(folder / file.name)
    assert pairs.lengths == lengths and pairs.longest == (12, 12)
    assert_same(pairs.batches(60), before)


@pytest.mark.parametrize("n_pairs", [1, 999, 1000, 1001, 4321, 40_000])
def test_every_pair_is_in_one_shard_and_shards_are_of_one_size(n_pairs):
    found = list(shards(n_pairs, **DRAW, size=1000, block=32))
    assert len(found) == count_shards(n_pairs, 1000)
    assert sorted(i for blocks in found for block in blocks for i in block) == [*range(n_pairs)]
    sizes = [sum(map(len, blocks)) for blocks in found]
    assert max(sizes) <= 1000 + 32 and max(sizes) - min(sizes) <= 64
    starts = [[block.start for block in blocks] for blocks in found]
    assert starts == [sorted(numbers) for numbers in starts]


def test_shards_are_drawn_from_seed_and_epoch_alone():
    def draw(**order):
        return list(shards(10_000, **order, size=1000, block=32))

    assert draw(**DRAW) == draw(**DRAW)
    assert len({str(draw(seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    first = [block.start for block in draw(**DRAW)[0]]
    assert min(first) < 2000 and max(first) > 8000  # a mixture from everywhere


def test_a_pass_has_every_pair_once_and_is_resumed_anywhere(large):
    batches = list(large.batches(60, **DRAW))
    assert all(batch.src.numel() <= 60 and batch.tgt.numel() <= 60 for batch in batches)
    whole = names(batches)
    assert sorted(i for batch in whole for i in batch) == [i + 100 for i in range(4321)]
    assert len(whole) > 500 and whole != names(large.batches(60, seed=3, epoch=3))
    for start in (1, 150, 500):
        assert names(large.batches(60, start=start, **DRAW)) == whole[start:]


def test_no_two_shards_use_the_same_draw(large, monkeypatch):
    used, real = [], module.token_batches

    def token_batches(*args, **draw):
        used.append(tuple(draw.items()))
        return real(*args, **draw)

    monkeypatch.setattr(module, "token_batches", token_batches)
    for epoch in range(3):
        list(large.batches(60, seed=3, epoch=epoch))
    assert len(used) == len(set(used)) == 3 * 5


def test_ranks_share_every_shard_and_read_the_ids_of_their_own_batches_only(large, monkeypatch):
    whole = {tuple(batch) for batch in names(large.batches(60, **DRAW))}
    read, real = [], IdPairs.__getitem__
    monkeypatch.setattr(IdPairs, "__getitem__", lambda self, i: read.append(i) or real(self, i))
    ranks = []
    for rank in range(3):
        read.clear()
        ranks.append(names(large.batches(60, **DRAW, rank=rank, world_size=3)))
        assert sorted(read) == sorted(i - 100 for batch in ranks[-1] for i in batch)
    assert len({len(batches) for batches in ranks}) == 1
    shared = [tuple(batch) for batches in ranks for batch in batches]
    assert len(shared) == len(set(shared)) and set(shared) <= whole
    assert len(whole) - len(shared) <= 2 * 5  # at most two of every shard are left out


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    set_sizes(monkeypatch, 300, 100)

    def peak(n_pairs):
        pairs = corpus(tmp_path, n_pairs)
        tracemalloc.start()
        try:
            assert sum(len(batch.src) for batch in pairs.batches(600, **DRAW)) == n_pairs
            assert pairs.longest == (12, 12)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small = peak(3600)  # twelve shards: enough that the garbage of some waits to be collected
    assert peak(14400) < 1.5 * small  # a list of all pairs would make it four times as much

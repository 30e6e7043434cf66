"""Reading a prepared corpus: pairs that stay on disk, in an order that no memory has to hold whole.

The order is drawn anew for every (seed, epoch). A corpus too large for one list of all pairs is put
in order shard by shard.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from transformer_lib.batching import Batch, IdPair, collate, token_batches
from transformer_lib.data.encoding import SIDES
from transformer_lib.data.reading import load_sentences
from transformer_lib.train.subword_dropout import SubwordDropout

__all__ = ["SHARD_PAIRS", "IdPairs", "count_shards", "shards"]

SHARD_PAIRS = 2**18  # pairs that are put in order together: some 50 MB of Python lists
BLOCK_PAIRS = 2**10  # pairs that stay together on disk, so that a read is long enough


def count_shards(n_pairs: int, size: int = SHARD_PAIRS) -> int:
    """How many shards a corpus has: one as long as it fits into one."""
    return -(-n_pairs // size)


def shards(
    n_pairs: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    size: int = SHARD_PAIRS,
    block: int = BLOCK_PAIRS,
) -> Iterator[list[range]]:
    """Cuts a corpus into shards of about equal size, each a mixture of blocks from everywhere.

    Every pair is in exactly one shard. Which blocks meet in a shard is drawn from (seed, epoch)
    alone, so every process finds the same shards without a word. What is held in memory is one
    number per block, not per pair.

    Args:
        n_pairs: number of pairs in the corpus.
        size: most pairs of a shard, about: blocks are not cut.
        block: pairs that follow each other in the corpus and stay together.

    Returns:
        For every shard, ranges of pair numbers, in the order in which they lie on the disk.
    """
    n_shards = count_shards(n_pairs, size)
    if n_shards <= 1:
        yield [range(n_pairs)]
        return
    starts = list(range(0, n_pairs, block))
    random.Random(f"{seed} {epoch} shards").shuffle(starts)
    for number in range(n_shards):
        part = starts[number * len(starts) // n_shards : (number + 1) * len(starts) // n_shards]
        yield [range(start, min(start + block, n_pairs)) for start in sorted(part)]


class IdPairs(Sequence[IdPair]):
    """Sentence pairs as ids that stay on disk until they are asked for.

    Args:
        folder: a prepared folder.
        split: name of the split.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self._ids, self._ends = {}, {}
        for side in SIDES:
            self._ids[side], self._ends[side] = load_sentences(Path(folder) / f"{split}.{side}")
        if len(self._ends["src"]) != len(self._ends["tgt"]):
            raise ValueError(f"{folder}: {split} has more sentences on one side than on the other")
        self._let_go()

    def _let_go(self) -> None:
        """What was read takes no memory any more. The files stay those that were opened first, even
        where somebody prepares the folder anew during a training."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            for array in (*self._ids.values(), *self._ends.values()):
                array.base.madvise(mmap.MADV_DONTNEED)

    def __len__(self) -> int:
        return len(self._ends["src"]) - 1

    def __getitem__(self, i: int) -> IdPair:
        if not 0 <= i < len(self):
            raise IndexError(f"no pair {i}: there are {len(self)}")
        return self._side("src", i), self._side("tgt", i)

    def _side(self, side: str, i: int) -> list[int]:
        start, end = self._ends[side][i : i + 2]
        return self._ids[side][start:end].tolist()

    def _lengths(self, side: str, pairs: range) -> np.ndarray:
        return np.diff(self._ends[side][pairs.start : pairs.stop + 1])

    def _lengths_of(self, blocks: Sequence[range]) -> list[tuple[int, int]]:
        src, tgt = (
            np.concatenate([self._lengths(side, pairs) for pairs in blocks]).tolist()
            for side in SIDES
        )
        return list(zip(src, tgt, strict=True))

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Source and target length of every pair, in tokens, without reading the ids.

        A list of all of them: not for a corpus larger than the memory, see `longest`.
        """
        return self._lengths_of([range(len(self))])

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest source and of the longest target."""
        starts = range(0, len(self), SHARD_PAIRS)
        parts = [range(start, min(start + SHARD_PAIRS, len(self))) for start in starts]
        longest = [0, 0]
        for part in parts:
            for i, side in enumerate(SIDES):
                longest[i] = max(longest[i], int(self._lengths(side, part).max()))
            self._let_go()
        return longest[0], longest[1]

    def batches(
        self, max_tokens: int, *, start: int = 0, vary: SubwordDropout | None = None, **draw: int
    ) -> Iterator[Batch]:
        """One pass over all pairs in batches, as `epoch_batches` gives them.

        A corpus of more than `SHARD_PAIRS` pairs is put in order shard by shard, see
        `shards`, so that memory does not grow with it; a smaller one is one shard.

        Args:
            start: how many batches are left out at the beginning.
            vary: cuts the sentences of a batch into other pieces. The batches are made before
                that, so they come out larger than max_tokens as the sentences get longer.
            draw: seed, epoch, rank and world_size, as in `token_batches`. Every rank gets the
                same number of batches, and reads the ids of its own only.
        """
        for number, indices in enumerate(self._batch_indices(max_tokens, draw)):
            if number >= start:
                pairs = [self[i] for i in indices]
                yield collate(vary(pairs, f"{sorted(draw.items())} {number}") if vary else pairs)

    def _shards(self, **order: int) -> Iterator[list[range]]:
        return shards(len(self), size=SHARD_PAIRS, block=BLOCK_PAIRS, **order)

    def _batch_indices(self, max_tokens: int, draw: Mapping[str, int]) -> Iterator[list[int]]:
        order = {key: draw[key] for key in ("seed", "epoch") if key in draw}
        for number, blocks in enumerate(self._shards(**order)):
            self._let_go()
            indices = [i for block in blocks for i in block]
            # a draw of its own for every shard; with one shard it is that of the epoch
            own = draw.get("epoch", 0) * count_shards(len(self), SHARD_PAIRS) + number
            draws = {**draw, "epoch": own}
            for batch in token_batches(self._lengths_of(blocks), max_tokens, **draws):
                yield [indices[i] for i in batch]

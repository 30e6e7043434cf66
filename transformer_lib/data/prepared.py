"""Prepared corpora: ids on disk, mapped into memory, in batches whose order needs little of it.

A prepared folder holds `corpus.json`, the two vocabularies, and for every split the ids of all
sentences, one after the other, with the positions where each ends. The text of the smaller splits
is kept too, because scores compare with text that a person wrote, never with ids.

The order of the pairs is drawn anew for every (seed, epoch), for large corpora shard by shard.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from transformer_lib.batching import Batch, IdPair, collate, token_batches
from transformer_lib.config import is_whole, wrong_kinds
from transformer_lib.data.coverage import Coverage
from transformer_lib.data.files import check_folder, contents_sha256
from transformer_lib.data.reading import blame_file, load_sentences, load_vocab, read_json
from transformer_lib.data.text import ParallelText

__all__ = ["SHARD_PAIRS", "SIDES", "IdPairs", "Prepared", "count_shards", "shards"]

SIDES = ("src", "tgt")
SHARD_PAIRS = 2**18  # pairs that are shuffled together: some 50 MB of Python lists
BLOCK_PAIRS = 2**10  # pairs that stay together on disk, so that a read is long enough


class Prepared:
    """A folder that `prepare` wrote, open for reading.

    Raises:
        FileNotFoundError: it is not a prepared folder.
        ValueError: a file is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_folder(folder, ["corpus.json", "source.vocab", "target.vocab"])
        self.sha256 = contents_sha256(self.folder)
        self.about = read_json(self.folder / "corpus.json", {"name": str, "splits": dict})
        with blame_file(self.folder / "corpus.json"):
            _check_splits(self.about)
        self.src_vocab, self.tgt_vocab = (
            load_vocab(self.folder / f"{side}.vocab") for side in ("source", "target")
        )

    @property
    def splits(self) -> list[str]:
        """Names of the splits; the first is the one to train on."""
        return list(self.about["splits"])

    def pairs(self, split: str) -> IdPairs:
        """Open the ids of a split; ValueError if there is no such split."""
        if split not in self.splits:
            raise ValueError(f"no split {split!r} here; there are {', '.join(self.splits)}")
        return IdPairs(self.folder, split)

    def text(self, split: str) -> ParallelText:
        """Read all sentences of a split as people wrote them.

        Raises:
            ValueError: it is the training split, of which only the ids are kept.
        """
        self.pairs(split)
        paths = [self.folder / f"{split}.{side}.txt" for side in SIDES]
        if not all(path.is_file() for path in paths):
            raise ValueError(
                f"the text of split {split!r} is not kept, only its ids, and scores compare with "
                "text that people wrote: prepare these sentences as --val or --test, too"
            )
        sides = (path.read_text("utf-8").split("\n")[:-1] for path in paths)
        return ParallelText(*map(tuple, sides), f"{self.about['name']} {split}")

    def line_numbers(self, split: str) -> list[int]:
        """Return the line of every pair, from 1, in the text files that were prepared.

        Lines that were left out count where the corpus records them.
        """
        n_pairs = len(self.pairs(split))
        with blame_file(self.folder / "corpus.json"):
            left_out = {*self.about["splits"][split].get("left_out", ())}
        lines = range(1, n_pairs + len(left_out) + 1)
        return [line for line in lines if line not in left_out][:n_pairs]


def _check_splits(about: dict[str, Any]) -> None:
    """Raise unless the splits, their records and the languages are as `prepare` writes them."""
    if not about["splits"]:
        raise ValueError("it names no split")
    for split, record in about["splits"].items():
        if not split or Path(split).name != split:  # it is a part of file names
            raise ValueError(f"{split!r:.50} is no name of a split")
        left_out, dropped = record.get("left_out", []), record.get("dropped", {})
        if not all(is_whole(n) and n > 0 for n in [*left_out, *(n + 1 for n in dropped.values())]):
            raise ValueError(f"impossible numbers in {split}: {left_out!r:.50}, {dropped!r:.50}")
        for counts in record.get("coverage", {}).values():
            if wrong := wrong_kinds(Coverage(**counts)):
                raise ValueError("; ".join(wrong))
    for side in ("source", "target"):
        if not isinstance(about.get(side), str | None):
            raise ValueError(f"{side} is {about[side]!r:.50}")


def count_shards(n_pairs: int, size: int = SHARD_PAIRS) -> int:
    """Return the number of shards of a corpus: one if it fits into one."""
    return -(-n_pairs // size)


def shards(
    n_pairs: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    size: int = SHARD_PAIRS,
    block: int = BLOCK_PAIRS,
) -> Iterator[list[range]]:
    """Split a corpus into shards of about equal size, each a mixture of blocks from everywhere.

    Every pair is in exactly one shard. Which blocks meet in a shard is drawn from (seed, epoch)
    alone, so every process computes the same shards. Memory holds one number per block.

    Args:
        size: most pairs of a shard, approximately: blocks are not split.
        block: number of consecutive pairs that stay together.

    Returns:
        For every shard, ranges of pair numbers, in their order on the disk.
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
    """The pairs of a split as ids, which stay on disk until they are read."""

    def __init__(self, folder: str | Path, split: str) -> None:
        self._ids, self._ends = {}, {}
        for side in SIDES:
            self._ids[side], self._ends[side] = load_sentences(Path(folder) / f"{split}.{side}")
        if len(self._ends["src"]) != len(self._ends["tgt"]):
            raise ValueError(f"{folder}: {split} has more sentences on one side than on the other")
        self._release()

    def _release(self) -> None:
        """Free the memory of what was read; the files stay open even if they are replaced."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            for array in (*self._ids.values(), *self._ends.values()):
                array.base.madvise(mmap.MADV_DONTNEED)

    def __len__(self) -> int:
        return len(self._ends["src"]) - 1

    def __getitem__(self, i: int) -> IdPair:
        if not 0 <= i < len(self):
            raise IndexError(f"no pair {i}: there are {len(self)}")
        spans = {side: slice(*self._ends[side][i : i + 2]) for side in SIDES}
        src, tgt = (self._ids[side][span].tolist() for side, span in spans.items())
        return src, tgt

    def _lengths(self, blocks: Sequence[range]) -> np.ndarray:
        """Return the number of source and of target tokens of every pair (2, pairs)."""
        ends = [[self._ends[side][b.start : b.stop + 1] for b in blocks] for side in SIDES]
        return np.stack([np.concatenate([*map(np.diff, parts)]) for parts in ends])

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Source and target length of every pair, in tokens: one list, not for huge corpora."""
        return _as_pairs(self._lengths([range(len(self))]))

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest source and of the longest target."""
        longest = np.zeros(2, dtype=np.int64)
        for start in range(0, len(self), SHARD_PAIRS):
            part = range(start, min(start + SHARD_PAIRS, len(self)))
            longest = np.maximum(longest, self._lengths([part]).max(axis=1))
            self._release()
        return int(longest[0]), int(longest[1])

    def batches(self, max_tokens: int, *, start: int = 0, **draw: int) -> Iterator[Batch]:
        """Yield all pairs once, in batches as `epoch_batches` gives them.

        A corpus of more than `SHARD_PAIRS` pairs is shuffled shard by shard, see `shards`.

        Args:
            start: number of batches to skip.
            draw: seed, epoch, rank and world_size, as in `token_batches`. Every rank gets the
                same number of batches, and reads the ids of its own only.
        """
        for indices in islice(self.batch_indices(max_tokens, **draw), start, None):
            yield collate([self[i] for i in indices])

    def batch_indices(self, max_tokens: int, **draw: int) -> Iterator[list[int]]:
        """Yield the numbers of the pairs of each batch, without reading their ids."""
        order = {key: draw[key] for key in ("seed", "epoch") if key in draw}
        sharded = shards(len(self), size=SHARD_PAIRS, block=BLOCK_PAIRS, **order)
        for number, blocks in enumerate(sharded):
            self._release()
            indices = [i for block in blocks for i in block]
            # a draw of its own for every shard; with one shard it is that of the epoch
            own = draw.get("epoch", 0) * count_shards(len(self), SHARD_PAIRS) + number
            draws = {**draw, "epoch": own}
            for batch in token_batches(_as_pairs(self._lengths(blocks)), max_tokens, **draws):
                yield [indices[i] for i in batch]


def _as_pairs(lengths: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(*lengths.tolist(), strict=True))

"""Sentences to arrays of ids on disk, block by block and on several processes.

However many processes there are, the blocks come back in their order, so the files are the same.
No more than a few blocks are in memory at any time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from transformer_lib.batching import IdPair
from transformer_lib.vocab import Vocab

__all__ = ["Encoded", "Encoders", "GrowingArray", "Limits", "SplitWriter"]

SIDES = ("src", "tgt")


@dataclass(frozen=True)
class Limits:
    """Which pairs are fit to learn from.

    Args:
        max_length: most tokens on a side, `<eos>` included.
        max_ratio: how many times longer one side may be than the other.
    """

    max_length: int = 256
    max_ratio: float = 9.0

    def __post_init__(self) -> None:
        if self.max_length < 2 or not self.max_ratio >= 1:
            raise ValueError(f"impossible limits: {self.max_length=}, {self.max_ratio=}")

    def reason(self, pair: IdPair) -> str | None:
        """Why a pair is left out; None when it stays."""
        shorter, longer = sorted(map(len, pair))
        if longer > self.max_length:
            return f"longer than {self.max_length} tokens"
        if longer > self.max_ratio * shorter:
            return f"one side over {self.max_ratio:g} times longer"
        return None


@dataclass
class Encoded:
    """What became of a block of pairs.

    Attributes:
        ids: for both sides, the ids of all sentences that stay, one behind the other.
        lengths: for both sides, the number of ids of every sentence.
        text: for both sides, the sentences; nothing where the text is not kept.
        dropped: how many pairs were left out, by reason.
    """

    ids: list[np.ndarray]
    lengths: list[np.ndarray]
    text: list[list[str]]
    dropped: Counter[str]


def encode_block(
    vocabularies: Sequence[Vocab], limits: Limits | None, pairs: Iterable[tuple[str, str]]
) -> Encoded:
    """Encodes the pairs; without limits all that are not empty stay, and their text is kept."""
    src_vocab, tgt_vocab = vocabularies
    dropped: Counter[str] = Counter()
    kept: list[IdPair] = []
    text: list[list[str]] = [[], []]
    for source, target in pairs:
        if not (source and target):
            dropped["empty line"] += 1
            continue
        pair = src_vocab.encode(source, eos=True), tgt_vocab.encode(target, bos=True, eos=True)
        if reason := limits.reason(pair) if limits else None:
            dropped[reason] += 1
            continue
        kept.append(pair)
        if limits is None:
            text[0].append(source)
            text[1].append(target)
    sides = [[pair[side] for pair in kept] for side in (0, 1)]
    lengths = [np.array([len(ids) for ids in side], dtype=np.int64) for side in sides]
    ids = [np.array([id for ids in side for id in ids], dtype=np.int32) for side in sides]
    return Encoded(ids, lengths, text, dropped)


class Encoders:
    """Encodes blocks of pairs, on processes of its own where more than one is asked for.

    Args:
        vocabularies: of source and target.
        workers: how many processes encode; with 1 it is this one.
    """

    def __init__(self, vocabularies: Sequence[Vocab], workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._vocabularies, self._workers = vocabularies, workers
        self._stack = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Encoders:
        if self._workers > 1:
            models = [vocab.to_bytes() for vocab in self._vocabularies]
            # "spawn": a fork would copy threads of torch and sentencepiece in the middle of work
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(self._workers, context, _start_worker, (models,))
            self._pool = self._stack.enter_context(pool)
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool and error[0]:
            self._pool.shutdown(cancel_futures=True)
        self._stack.close()

    def __call__(
        self, blocks: Iterable[Iterable[tuple[str, str]]], limits: Limits | None
    ) -> Iterator[Encoded]:
        """The blocks, encoded, in their order. Takes few more of them than it has given back."""
        if self._pool is None:
            yield from (encode_block(self._vocabularies, limits, block) for block in blocks)
            return
        waiting: deque[Any] = deque()
        for block in blocks:
            with _ctrl_c_later():  # a submit may start a process
                waiting.append(self._pool.submit(_work, limits, block))
            if len(waiting) > 2 * self._workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Holds Ctrl-C back; a process that starts meanwhile never hears it: its parent ends it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: dict[str, Sequence[Vocab]] = {}  # of a process that encodes: its vocabularies


def _start_worker(models: Sequence[bytes]) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _worker["vocabularies"] = [Vocab.from_bytes(model) for model in models]


def _leave_with_parent() -> None:
    """A parent that is killed cannot send its workers home."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _work(limits: Limits | None, block: Iterable[tuple[str, str]]) -> Encoded:
    return encode_block(_worker["vocabularies"], limits, block)


class GrowingArray:
    """A one-dimensional `.npy` file written piece by piece: the bytes that `np.save` would write.

    The place of the length is at the beginning, so it is filled in at the end.
    """

    def __init__(self, path: Path, dtype: type) -> None:
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        self.size = 0
        self._write_head()

    def _write_head(self) -> None:
        shape = {"shape": (self.size,), "fortran_order": False}
        head = shape | {"descr": np.lib.format.dtype_to_descr(self._dtype)}
        np.lib.format.write_array_header_1_0(self._file, head)  # leaves room for 20 digits

    def append(self, values: np.ndarray) -> None:
        """Adds the values at the end."""
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.size += len(values)

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            if not error[0]:
                self._file.seek(0)
                self._write_head()


class SplitWriter:
    """The files of one split, open for more pairs: ids, where each sentence ends, and text.

    Args:
        folder: where they go.
        split: how their names begin.
        keep_text: whether the sentences are written too.
    """

    def __init__(self, folder: Path, split: str, keep_text: bool) -> None:
        self._stack = ExitStack()
        self.pairs, self.dropped = 0, Counter[str]()
        stems = [folder / f"{split}.{side}" for side in SIDES]
        keep = self._stack.enter_context
        self._ids = [keep(GrowingArray(Path(f"{s}.ids.npy"), np.int32)) for s in stems]
        self._ends = [keep(GrowingArray(Path(f"{s}.ends.npy"), np.int64)) for s in stems]
        text = [Path(f"{stem}.txt") for stem in stems if keep_text]
        self._text = [
            self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            for path in text
        ]
        for ends in self._ends:
            ends.append(np.zeros(1, dtype=np.int64))

    def add(self, block: Encoded) -> None:
        """Writes the pairs of a block behind those that are there."""
        for ids, ends, more, lengths in zip(
            self._ids, self._ends, block.ids, block.lengths, strict=True
        ):
            ends.append(ids.size + np.cumsum(lengths))
            ids.append(more)
        for file, sentences in zip(self._text, block.text, strict=False):
            file.writelines(f"{sentence}\n" for sentence in sentences)
        self.pairs += len(block.lengths[0])
        self.dropped.update(block.dropped)

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def summary(self) -> dict[str, Any]:
        """What `corpus.json` notes of this split; empty lines come first among the dropped."""
        counts = {f"{side}_tokens": ids.size for side, ids in zip(SIDES, self._ids, strict=True)}
        empty = {"empty line": self.dropped["empty line"]} if self.dropped["empty line"] else {}
        return {"pairs": self.pairs, **counts, "dropped": empty | dict(self.dropped)}

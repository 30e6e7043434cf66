"""Prepare a corpus: sentences to arrays of ids on disk, block by block, on several processes.

However many processes there are, the blocks keep their order, so the files are the same. Only a few
blocks are in memory at any time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from transformer_lib.batching import IdPair
from transformer_lib.data.files import write_folder
from transformer_lib.data.prepared import SIDES, Prepared
from transformer_lib.data.progress import progress_bar
from transformer_lib.data.text import PairFiles, ParallelText, Text
from transformer_lib.vocab import SubwordVocab, Vocab, WordVocab

__all__ = ["SAMPLE_PAIRS", "LengthFilter", "learn_vocabularies", "prepare"]

SAMPLE_PAIRS = 200_000  # enough to learn a vocabulary: its frequent subwords settle


@dataclass(frozen=True)
class LengthFilter:
    """Limits on the length of the pairs that are fit to learn from.

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
        """Return why a pair is left out; None when it stays."""
        shorter, longer = sorted(map(len, pair))
        if longer > self.max_length:
            return f"longer than {self.max_length} tokens"
        if longer > self.max_ratio * shorter:
            return f"one side over {self.max_ratio:g} times longer"
        return None


def learn_vocabularies(
    train: ParallelText | PairFiles,
    kind: str,
    size: int,
    languages: tuple[str, str],
    *,
    sample: int = SAMPLE_PAIRS,
) -> tuple[Vocab, Vocab]:
    """Learn the source and target vocabulary from the training text alone.

    Args:
        kind: "subwords" for one joint vocabulary of `size` subwords, or "words" for two of whole
            words, at most `size` each, seen twice or more.
        languages: ISO codes, for the words' tokenizer.
        sample: number of pairs to draw from larger files, always the same ones; a letter that is
            only in the others will be unknown.

    Raises:
        ValueError: another kind, a size that the text cannot give, or no pair of sentences.
    """
    if kind not in ("subwords", "words"):
        raise ValueError(f"a vocabulary has subwords or words, not {kind!r}")
    pairs = train.sample(sample) if isinstance(train, PairFiles) else list(train)
    if not pairs:
        raise ValueError(f"{train.name}: there is no pair of two sentences to learn from")
    texts = [[pair[side] for pair in pairs] for side in (0, 1)]
    if kind == "subwords":
        joint = SubwordVocab.train(chain(*texts), size=size)
        return joint, joint
    words = zip(texts, languages, strict=True)
    src, tgt = (WordVocab.train(text, code, max_size=size) for text, code in words)
    return src, tgt


def prepare(
    texts: Mapping[str, Text],
    vocabularies: tuple[Vocab, Vocab],
    folder: str | Path,
    *,
    length_filter: LengthFilter | None = None,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    replace: bool = True,
    workers: int = 1,
) -> Prepared:
    """Encode parallel text and write a prepared folder, the same for any number of workers.

    Args:
        texts: split to text; the first is the one to train on, and the only one whose pairs are
            dropped by the filter: a test set is scored whole.
        about: what else to record in `corpus.json`.
        say: receives a line for every split, with what was dropped and why.
        replace: allow replacing an earlier prepared folder of this name.
        workers: processes that encode; a script that asks for more than one needs
            `if __name__ == "__main__":`, as with all of Python's processes.

    Raises:
        ValueError: a text is not as it has to be, or no pair of a split is left.
        OSError: the disk is full or read-only; the message names the path.
    """
    length_filter = length_filter or LengthFilter()
    training = next(iter(texts))

    def fill(temporary: Path) -> None:
        for vocab, side in zip(vocabularies, ("source", "target"), strict=True):
            vocab.save(temporary / f"{side}.vocab")
        splits = {}
        with Encoders(vocabularies, workers) as encode:
            for split, text in texts.items():
                chosen = length_filter if split == training else None
                with SplitWriter(temporary, split, keep_text=chosen is None) as writer:
                    blocks = encode(text.blocks(), chosen)
                    splits[split] = _write_split(writer, split, text, blocks)
                say(_summary(split, splits[split]))
        corpus = {"name": texts[training].name, **(about or {}), "splits": splits}
        (temporary / "corpus.json").write_text(json.dumps(corpus, indent=2) + "\n")

    return Prepared(write_folder(folder, fill, kind="corpus", replace=replace))


def _write_split(
    writer: SplitWriter, split: str, text: Text, blocks: Iterable[Encoded]
) -> dict[str, Any]:
    with progress_bar(f"{split}: encoding", total=len(text), delay=3.0) as bar:
        for block in blocks:
            writer.add(block)
            bar.update(len(block.lengths[0]) + block.dropped.total())
    before = getattr(text, "dropped", {})  # when the text was read
    writer.dropped.update({reason: n for reason, n in before.items() if n})
    if not writer.pairs:
        raise ValueError(f"{split}: every pair was dropped: {dict(writer.dropped)}")
    return writer.summary()


def _summary(split: str, counts: Mapping[str, Any]) -> str:
    line = f"{split}: {counts['pairs']:,} pairs, {counts['src_tokens']:,} source tokens"
    line += f", {counts['tgt_tokens']:,} target tokens"
    reasons = "; ".join(f"{n:,} {reason}" for reason, n in counts["dropped"].items())
    return f"{line}; dropped: {reasons}" if reasons else line


@dataclass
class Encoded:
    """A block of pairs after encoding.

    Attributes:
        ids: for both sides, the ids of all sentences that stay, one after the other.
        lengths: for both sides, the number of ids of every sentence.
        text: for both sides, the sentences; empty where the text is not kept.
        dropped: number of pairs that were left out, by reason.
    """

    ids: list[np.ndarray]
    lengths: list[np.ndarray]
    text: list[list[str]]
    dropped: Counter[str]


def encode_block(
    vocabularies: Sequence[Vocab],
    length_filter: LengthFilter | None,
    pairs: Iterable[tuple[str, str]],
) -> Encoded:
    """Encode pairs; without a filter all that are not empty stay, and their text is kept."""
    src_vocab, tgt_vocab = vocabularies
    dropped: Counter[str] = Counter()
    kept: list[IdPair] = []
    text: list[list[str]] = [[], []]
    for source, target in pairs:
        if not (source and target):
            dropped["empty line"] += 1
            continue
        pair = src_vocab.encode(source, eos=True), tgt_vocab.encode(target, bos=True, eos=True)
        if reason := length_filter.reason(pair) if length_filter else None:
            dropped[reason] += 1
            continue
        kept.append(pair)
        if length_filter is None:
            text[0].append(source)
            text[1].append(target)
    sides = [[pair[side] for pair in kept] for side in (0, 1)]
    lengths = [np.array([len(ids) for ids in side], dtype=np.int64) for side in sides]
    ids = [np.array([id for ids in side for id in ids], dtype=np.int32) for side in sides]
    return Encoded(ids, lengths, text, dropped)


class Encoders:
    """Encode blocks of pairs, with more than one worker on processes of its own.

    Args:
        vocabularies: of source and target.
        workers: number of processes that encode; with 1 it is this one.
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
        self, blocks: Iterable[Iterable[tuple[str, str]]], length_filter: LengthFilter | None
    ) -> Iterator[Encoded]:
        """Yield the blocks, encoded, in their order, and read few of them ahead."""
        if self._pool is None:
            yield from (encode_block(self._vocabularies, length_filter, block) for block in blocks)
            return
        waiting: deque[Any] = deque()
        for block in blocks:
            with _ctrl_c_later():  # a submit may start a process
                waiting.append(self._pool.submit(_work, length_filter, block))
            if len(waiting) > 2 * self._workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold Ctrl-C back; a process that starts meanwhile never gets it: its parent ends it."""
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
    """Exit when the parent has gone: one that is killed cannot stop its workers."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _work(length_filter: LengthFilter | None, block: Iterable[tuple[str, str]]) -> Encoded:
    return encode_block(_worker["vocabularies"], length_filter, block)


class GrowingArray:
    """A one-dimensional `.npy` file written in parts: the bytes that `np.save` would write.

    The header holds the length, so it is written again at the end.
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
        """Add values at the end."""
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
    """The files of one split, open for more pairs: ids, the end of each sentence, and text.

    Args:
        folder: the folder to write to.
        split: prefix of their names.
        keep_text: write the sentences too.
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
        """Append the pairs of a block."""
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
        """Return the record of this split for `corpus.json`; empty lines come first."""
        counts = {f"{side}_tokens": ids.size for side, ids in zip(SIDES, self._ids, strict=True)}
        empty = {"empty line": self.dropped["empty line"]} if self.dropped["empty line"] else {}
        return {"pairs": self.pairs, **counts, "dropped": empty | dict(self.dropped)}

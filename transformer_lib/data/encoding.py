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
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from transformer_lib.batching import IdPair
from transformer_lib.config import wrong_kinds
from transformer_lib.data.coverage import Coverage, count
from transformer_lib.data.files import write_folder
from transformer_lib.data.prepared import SIDES, Prepared
from transformer_lib.data.progress import progress_bar
from transformer_lib.data.text import SAMPLE_PAIRS, PairFiles, ParallelText, Text
from transformer_lib.vocab import SubwordVocab, Vocab, WordVocab

__all__ = ["SAMPLE_PAIRS", "LengthFilter", "learn_vocabularies", "prepare"]

Pairs = Iterable[tuple[str, str]]
Encode = Callable[[Iterable[Pairs], "LengthFilter | None"], Iterator["Encoded"]]


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
        problems = wrong_kinds(self)
        if not problems and self.max_length < 2:
            problems.append(
                f"max_length must be at least 2, a token and <eos>; got {self.max_length}"
            )
        if not problems and not self.max_ratio >= 1:
            problems.append(f"max_ratio must be at least 1, got {self.max_ratio}")
        if problems:
            raise ValueError("impossible limits: " + "; ".join(problems))

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
    sources, targets = zip(*pairs, strict=True)
    if kind == "subwords":
        joint = SubwordVocab.train([*sources, *targets], size=size)
        return joint, joint
    texts = zip((sources, targets), languages, strict=True)
    src, tgt = (WordVocab.train(text, code, max_size=size) for text, code in texts)
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
    about = _check_about({"name": _check_splits(texts), **(about or {})})
    training = next(iter(texts))

    def fill(temporary: Path) -> None:
        for vocab, side in zip(vocabularies, ("source", "target"), strict=True):
            vocab.save(temporary / f"{side}.vocab")
        splits: dict[str, dict[str, Any]] = {}
        with encoder(vocabularies, workers) as encode:
            for split, text in texts.items():
                chosen = length_filter if split == training else None
                blocks = _with_bar(split, text, encode(text.blocks(), chosen))
                record = write_split(temporary, split, blocks, chosen is None)
                record["dropped"] = Counter(getattr(text, "dropped", {})) + record["dropped"]
                splits[split] = record
                if not record["pairs"]:
                    raise ValueError(f"{split}: every pair was dropped: {dict(record['dropped'])}")
                say(_summary(split, **record))
                for warning in _warnings(split, record["coverage"], splits[training]["coverage"]):
                    say(f"warning: {warning}")
        corpus = {**about, "splits": splits}
        (temporary / "corpus.json").write_text(json.dumps(corpus, indent=2) + "\n")

    return Prepared(write_folder(folder, fill, kind="corpus", replace=replace))


def _check_splits(texts: Mapping[str, Text]) -> str:
    """Return the name of the first text; ValueError if a split could not be a file's name."""
    wrong = [s for s in texts if not (isinstance(s, str) and s.isprintable() and Path(s).name == s)]
    if wrong or not texts:
        raise ValueError(f"a split needs a name that a file can have, got {wrong or 'no split'}")
    return next(iter(texts.values())).name


def _check_about(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `corpus.json` as they will be read; ValueError if they cannot be."""
    try:
        about = json.loads(json.dumps(about))
    except TypeError as error:
        raise ValueError(f"what is recorded about a corpus: {error}") from error
    if not isinstance(about["name"], str):
        raise ValueError(f"the name of a corpus is a text, got {about['name']!r:.50}")
    return about


def _with_bar(split: str, text: Text, blocks: Iterable[Encoded]) -> Iterator[Encoded]:
    with progress_bar(f"{split}: encoding", total=len(text), delay=3.0) as bar:
        for block in blocks:
            yield block
            bar.update(len(block.lengths[0]) + block.dropped.total())


def _summary(
    split: str,
    pairs: int,
    src_tokens: int,
    tgt_tokens: int,
    coverage: Mapping[str, Mapping[str, int]],
    dropped: Mapping[str, int],
    left_out: Sequence[int] = (),
) -> str:
    src, tgt = (Coverage(**coverage[side]) for side in SIDES)
    line = f"{split}: {pairs:,} pairs, {src_tokens:,} source tokens ({src}), {tgt_tokens:,} target"
    line += f" tokens ({tgt})"
    reasons = "; ".join(f"{n:,} {reason}" for reason, n in dropped.items())
    if left_out:
        reasons += f" (line {', '.join(map(str, left_out[:5]))}{', …' * (len(left_out) > 5)})"
    return f"{line}; dropped: {reasons}" if reasons else line


def _warnings(
    split: str, coverage: Mapping[str, Mapping[str, int]], training: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    """Yield a line for each side that is unlike the text that the vocabulary was learned from."""
    for side, name in zip(SIDES, ("source", "target"), strict=True):
        if warning := Coverage(**coverage[side]).warning(Coverage(**training[side])):
            yield f"{split}, {name}: {warning}; is it the right language?"


@dataclass
class Encoded:
    """A block of pairs after encoding.

    Attributes:
        ids: for both sides, the ids of all sentences that stay, one after the other.
        lengths: for both sides, the number of ids of every sentence.
        text: the pairs themselves, where the text is kept.
        coverage: for both sides, the tokens, unknown tokens and words of what stays.
        dropped: number of pairs that were left out, by reason.
        left_out: their positions in the block, where the text is kept.
    """

    ids: list[np.ndarray]
    lengths: list[np.ndarray]
    text: list[tuple[str, str]]
    coverage: list[Coverage]
    dropped: Counter[str]
    left_out: list[int]


def encode_block(
    vocabularies: Sequence[Vocab], length_filter: LengthFilter | None, pairs: Pairs
) -> Encoded:
    """Encode pairs; without a filter all that are not empty stay, and their text is kept."""
    src_vocab, tgt_vocab = vocabularies
    dropped: Counter[str] = Counter()
    kept: list[IdPair] = []
    text, left_out = [], []
    coverage = [Coverage(), Coverage()]
    for i, (source, target) in enumerate(pairs):
        pair = src_vocab.encode(source, eos=True), tgt_vocab.encode(target, bos=True, eos=True)
        if not (source and target):
            dropped["empty line"] += 1
            if length_filter is None:
                left_out.append(i)
        elif reason := length_filter.reason(pair) if length_filter else None:
            dropped[reason] += 1
        else:
            kept.append(pair)
            counts = map(count, vocabularies, (source, target), pair)
            coverage = [a + b for a, b in zip(coverage, counts, strict=True)]
            if length_filter is None:
                text.append((source, target))
    sides = [[pair[side] for pair in kept] for side in (0, 1)]
    lengths = [np.array([len(ids) for ids in side], dtype=np.int64) for side in sides]
    ids = [np.array([id for ids in side for id in ids], dtype=np.int32) for side in sides]
    return Encoded(ids, lengths, text, coverage, dropped, left_out)


@contextmanager
def encoder(vocabularies: Sequence[Vocab], workers: int = 1) -> Iterator[Encode]:
    """Provide a function that encodes blocks of pairs in their order, on so many processes."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if workers == 1:
        yield lambda blocks, chosen: (encode_block(vocabularies, chosen, b) for b in blocks)
        return
    models = [vocab.to_bytes() for vocab in vocabularies]
    # "spawn": a fork would copy threads of torch and sentencepiece in the middle of work
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (models,)) as pool:
        try:
            yield partial(_encode_in_pool, pool, 2 * workers)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _encode_in_pool(
    pool: ProcessPoolExecutor, ahead: int, blocks: Iterable[Pairs], chosen: LengthFilter | None
) -> Iterator[Encoded]:
    """Yield the encoded blocks in their order, and read only a few of them ahead."""
    waiting: deque[Any] = deque()
    for block in blocks:
        with _ctrl_c_later():  # a submit may start a process
            waiting.append(pool.submit(_work, chosen, block))
        if len(waiting) > ahead:
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


_vocabularies: list[Vocab] = []  # of a process that encodes


def _start_worker(models: Sequence[bytes]) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _vocabularies.extend(map(Vocab.from_bytes, models))


def _leave_with_parent() -> None:
    """Exit when the parent has gone: one that is killed cannot stop its workers."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _work(chosen: LengthFilter | None, block: Pairs) -> Encoded:
    return encode_block(_vocabularies, chosen, block)


class GrowingArray:
    """A one-dimensional `.npy` file written in parts: the bytes that `np.save` would write.

    The header holds the length, so it is written again at the end.
    """

    def __init__(self, path: Path, dtype: type) -> None:
        self._file, self._dtype, self.size = path.open("wb"), np.dtype(dtype), 0
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


def write_split(
    folder: Path, split: str, blocks: Iterable[Encoded], keep_text: bool
) -> dict[str, Any]:
    """Write ids, the end of each sentence, and the text if that is kept.

    Returns:
        The counts, and the lines that were left out of a text that is kept (numbers from 1).
    """
    n_pairs, dropped, left_out = 0, Counter[str](), list[int]()
    coverage = [Coverage(), Coverage()]
    stems = [folder / f"{split}.{side}" for side in SIDES]
    with ExitStack() as stack:
        keep = stack.enter_context
        ids = [keep(GrowingArray(Path(f"{stem}.ids.npy"), np.int32)) for stem in stems]
        ends = [keep(GrowingArray(Path(f"{stem}.ends.npy"), np.int64)) for stem in stems]
        paths = [Path(f"{stem}.txt") for stem in stems if keep_text]
        text = [keep(path.open("w", encoding="utf-8", newline="\n")) for path in paths]
        for array in ends:
            array.append(np.zeros(1, dtype=np.int64))
        for block in blocks:
            for i in (0, 1):
                ends[i].append(ids[i].size + np.cumsum(block.lengths[i]))
                ids[i].append(block.ids[i])
            for i, file in enumerate(text):
                file.writelines(f"{pair[i]}\n" for pair in block.text)
            before = n_pairs + dropped.total()
            left_out += [before + i + 1 for i in block.left_out]
            n_pairs += len(block.lengths[0])
            dropped += block.dropped
            coverage = [a + b for a, b in zip(coverage, block.coverage, strict=True)]
    counts = {f"{side}_tokens": array.size for side, array in zip(SIDES, ids, strict=True)}
    covered = {side: asdict(found) for side, found in zip(SIDES, coverage, strict=True)}
    record = {"pairs": n_pairs, **counts, "coverage": covered, "dropped": dropped}
    return record | ({"left_out": left_out} if left_out else {})

"""A parallel corpus as a training wants it: filtered pairs as ids on disk, mapped into memory.

A prepared folder holds `corpus.json`, the two vocabularies, and for every split the ids of all
sentences one behind the other with the places where each ends. The text of the smaller splits is
kept too, because a score is counted on text that a person wrote, never on ids.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_lib.batching import Batch, IdPair, collate, token_batches
from transformer_lib.checkpoint import MANIFEST, check_folder, write_folder
from transformer_lib.corpora import ParallelText
from transformer_lib.loading import load_sentences, load_vocab, read_json
from transformer_lib.subword_dropout import SubwordDropout
from transformer_lib.vocab import SubwordVocab, Vocab, WordVocab

__all__ = ["IdPairs", "Limits", "Prepared", "learn_vocabularies", "prepare"]

Say = Callable[[str], None]


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


class IdPairs(Sequence[IdPair]):
    """Sentence pairs as ids that stay on disk until they are asked for.

    Args:
        folder: a prepared folder.
        split: name of the split.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self._ids, self._ends = {}, {}
        for side in ("src", "tgt"):
            self._ids[side], self._ends[side] = load_sentences(folder, f"{split}.{side}")
        if len(self._ends["src"]) != len(self._ends["tgt"]):
            raise ValueError(f"{folder}: {split} has more sentences on one side than on the other")

    def __len__(self) -> int:
        return len(self._ends["src"]) - 1

    def __getitem__(self, i: int) -> IdPair:
        if not 0 <= i < len(self):
            raise IndexError(f"no pair {i}: there are {len(self)}")
        return self._side("src", i), self._side("tgt", i)

    def _side(self, side: str, i: int) -> list[int]:
        start, end = self._ends[side][i : i + 2]
        return self._ids[side][start:end].tolist()

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Source and target length of every pair, in tokens, without reading the ids."""
        src, tgt = (np.diff(self._ends[side]).tolist() for side in ("src", "tgt"))
        return list(zip(src, tgt, strict=True))

    def batches(
        self, max_tokens: int, *, start: int = 0, vary: SubwordDropout | None = None, **draw: int
    ) -> Iterator[Batch]:
        """One pass over all pairs in batches, as `epoch_batches` gives them.

        Args:
            start: how many batches are left out at the beginning.
            vary: cuts the sentences of a batch into other pieces. The batches are made before
                that, so they come out larger than max_tokens as the sentences get longer.
        """
        batches = token_batches(self.lengths, max_tokens, **draw)
        for number, indices in enumerate(batches[start:], start):
            pairs = [self[i] for i in indices]
            yield collate(vary(pairs, f"{sorted(draw.items())} {number}") if vary else pairs)


class Prepared:
    """A prepared corpus, opened.

    Args:
        folder: where `prepare` wrote it.

    Raises:
        FileNotFoundError: it is not a prepared folder.
        ValueError: a file is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_folder(folder, ["corpus.json", "source.vocab", "target.vocab"])
        self.sha256 = hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()
        self.about = read_json(self.folder / "corpus.json", {"name": str, "splits": dict})
        self.src_vocab, self.tgt_vocab = (
            load_vocab(self.folder / f"{side}.vocab") for side in ("source", "target")
        )

    @property
    def splits(self) -> list[str]:
        """Names of the splits; the first is the one to train on."""
        return list(self.about["splits"])

    def pairs(self, split: str) -> IdPairs:
        """The ids of a split.

        Raises:
            ValueError: there is no such split.
        """
        self._check(split)
        return IdPairs(self.folder, split)

    def text(self, split: str) -> ParallelText:
        """The sentences of a split that is not the training split, all of them, in order."""
        self._check(split)
        if split == self.splits[0]:
            raise ValueError(f"the text of {split!r}, the training split, is not kept")
        sides = (self.folder / f"{split}.{side}.txt" for side in ("src", "tgt"))
        source, target = (tuple(path.read_text("utf-8").split("\n")[:-1]) for path in sides)
        return ParallelText(source, target, f"{self.about['name']} {split}")

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise ValueError(f"no split {split!r} here; there are {', '.join(self.splits)}")


def learn_vocabularies(
    train: ParallelText, kind: str, size: int, languages: tuple[str, str]
) -> tuple[Vocab, Vocab]:
    """Source and target vocabulary from the training text alone.

    Args:
        kind: "subwords" for one joint vocabulary of `size` pieces, or "words" for two of whole
            words, at most `size` each, seen twice or more.
        languages: ISO codes, for the words' tokenizer.

    Raises:
        ValueError: another kind, or a size that the text cannot give.
    """
    if kind == "subwords":
        joint = SubwordVocab.train((*train.source, *train.target), size=size)
        return joint, joint
    if kind == "words":
        texts = zip((train.source, train.target), languages, strict=True)
        src, tgt = (WordVocab.train(text, code, max_size=size) for text, code in texts)
        return src, tgt
    raise ValueError(f"a vocabulary has subwords or words, not {kind!r}")


def prepare(
    texts: Mapping[str, ParallelText],
    vocabularies: tuple[Vocab, Vocab],
    folder: str | Path,
    *,
    limits: Limits | None = None,
    about: Mapping[str, Any] | None = None,
    say: Say = print,
    replace: bool = True,
) -> Prepared:
    """Writes a prepared folder.

    Args:
        texts: split to text; the first is the one to train on, and the only one whose pairs are
            dropped where they break the limits: a test set is scored whole.
        about: what else to note in `corpus.json`.
        say: gets a line for every split, with what was dropped and why.
        replace: whether an earlier prepared folder of this name may go.
    """
    limits = limits or Limits()
    training = next(iter(texts))

    def fill(temporary: Path) -> None:
        for vocab, side in zip(vocabularies, ("source", "target"), strict=True):
            vocab.save(temporary / f"{side}.vocab")
        splits = {}
        for split, text in texts.items():
            chosen = limits if split == training else None
            splits[split] = _write_split(temporary, split, text, vocabularies, chosen)
            say(_summary(split, splits[split]))
        corpus = {"name": texts[training].name, **(about or {}), "splits": splits}
        (temporary / "corpus.json").write_text(json.dumps(corpus, indent=2) + "\n")

    return Prepared(write_folder(folder, fill, replace=replace))


def _write_split(
    folder: Path,
    split: str,
    text: ParallelText,
    vocabularies: tuple[Vocab, Vocab],
    limits: Limits | None,
) -> dict[str, Any]:
    src_vocab, tgt_vocab = vocabularies
    dropped = Counter({reason: n for reason, n in text.dropped.items() if n})
    kept: list[IdPair] = []
    for source, target in text:
        pair = src_vocab.encode(source, eos=True), tgt_vocab.encode(target, bos=True, eos=True)
        reason = limits.reason(pair) if limits else None
        if reason:
            dropped[reason] += 1
        else:
            kept.append(pair)
    if not kept:
        raise ValueError(f"{split}: every pair was dropped: {dict(dropped)}")
    counts = {}
    for side, sentences in zip(("src", "tgt"), zip(*kept, strict=True), strict=True):
        ends = np.cumsum([0, *map(len, sentences)], dtype=np.int64)
        ids = np.fromiter((i for s in sentences for i in s), dtype=np.int32, count=int(ends[-1]))
        np.save(folder / f"{split}.{side}.ids.npy", ids)
        np.save(folder / f"{split}.{side}.ends.npy", ends)
        counts[f"{side}_tokens"] = len(ids)
    if limits is None:
        for side, lines in (("src", text.source), ("tgt", text.target)):
            (folder / f"{split}.{side}.txt").write_text("".join(f"{s}\n" for s in lines), "utf-8")
    return {"pairs": len(kept), **counts, "dropped": dict(dropped)}


def _summary(split: str, found: Mapping[str, Any]) -> str:
    line = f"{split}: {found['pairs']:,} pairs, {found['src_tokens']:,} source tokens"
    line += f", {found['tgt_tokens']:,} target tokens"
    reasons = "; ".join(f"{n:,} {reason}" for reason, n in found["dropped"].items())
    return f"{line}; dropped: {reasons}" if reasons else line

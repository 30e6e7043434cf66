"""A parallel corpus as a training wants it: filtered pairs as ids on disk, mapped into memory.

A prepared folder holds `corpus.json`, the two vocabularies, and for every split the ids of all
sentences one behind the other with the places where each ends. The text of the smaller splits is
kept too, because a score is counted on text that a person wrote, never on ids.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from transformer_lib.data.corpora import ParallelText
from transformer_lib.data.encoding import Encoders, Limits, SplitWriter
from transformer_lib.data.files import MANIFEST, check_folder, write_folder
from transformer_lib.data.reading import load_vocab, read_json
from transformer_lib.data.shards import IdPairs
from transformer_lib.data.textfiles import PairFiles, progress
from transformer_lib.vocab import SubwordVocab, Vocab, WordVocab

__all__ = ["Extended", "IdPairs", "Limits", "Prepared", "learn_vocabularies", "prepare"]

Say = Callable[[str], None]
SAMPLE_PAIRS = 200_000  # a vocabulary is learned from so many pairs; its frequent pieces settle


class Extended:
    """A text and more behind it: of the others, each pair that is not there yet.

    What was seen is remembered as a number for every pair, about 60 bytes.

    Attributes:
        dropped: after `blocks`, how many pairs were left out, by reason.
    """

    def __init__(self, first: ParallelText | PairFiles, others: Sequence[PairFiles]) -> None:
        self.texts, self.name = (first, *others), first.name
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self.texts))

    def blocks(self) -> Iterator[Iterable[tuple[str, str]]]:
        """All of the first text, then what is new in the others, some thousand pairs at a time."""
        first, *others = self.texts
        self.dropped = Counter(getattr(first, "dropped", {}))
        seen: set[int] = set()
        for block in first.blocks():
            seen.update(map(hash, block))
            yield block
        for block in chain.from_iterable(text.blocks() for text in others):
            new = {hash(pair): pair for pair in block}
            self.dropped["already there"] += len(block) - len(new.keys() - seen)
            yield [pair for number, pair in new.items() if number not in seen]
            seen.update(new)


Text = ParallelText | PairFiles | Extended


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
        """The sentences of a split, all of them, in order.

        Of the training split only ids are kept: they are turned back into text, without what the
        vocabulary does not know.
        """
        self._check(split)
        if split == self.splits[0]:
            return self._text_of_ids(split)
        sides = (self.folder / f"{split}.{side}.txt" for side in ("src", "tgt"))
        source, target = (tuple(path.read_text("utf-8").split("\n")[:-1]) for path in sides)
        return ParallelText(source, target, f"{self.about['name']} {split}")

    def _text_of_ids(self, split: str) -> ParallelText:
        decoded = (
            (self.src_vocab.decode(src), self.tgt_vocab.decode(tgt))
            for src, tgt in self.pairs(split)
        )
        return ParallelText(*zip(*decoded, strict=True), f"{self.about['name']} {split}")

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise ValueError(f"no split {split!r} here; there are {', '.join(self.splits)}")


def learn_vocabularies(
    train: ParallelText | PairFiles,
    kind: str,
    size: int,
    languages: tuple[str, str],
    *,
    sample: int = SAMPLE_PAIRS,
) -> tuple[Vocab, Vocab]:
    """Source and target vocabulary from the training text alone.

    Args:
        kind: "subwords" for one joint vocabulary of `size` pieces, or "words" for two of whole
            words, at most `size` each, seen twice or more.
        languages: ISO codes, for the words' tokenizer.
        sample: from files with more pairs than that, so many are drawn and learned from, always
            the same; a letter that is only in the others will be unknown.

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
    limits: Limits | None = None,
    about: Mapping[str, Any] | None = None,
    say: Say = print,
    replace: bool = True,
    workers: int = 1,
) -> Prepared:
    """Writes a prepared folder: the same bytes, whatever the number of workers.

    Args:
        texts: split to text; the first is the one to train on, and the only one whose pairs are
            dropped where they break the limits: a test set is scored whole.
        about: what else to note in `corpus.json`.
        say: gets a line for every split, with what was dropped and why.
        replace: whether an earlier prepared folder of this name may go.
        workers: processes that encode; a script that asks for more than one needs
            `if __name__ == "__main__":`, as with all of Python's processes.

    Raises:
        ValueError: a text is not as it has to be, or no pair of a split is left.
        OSError: the disk is full or read-only; the message names the path.
    """
    limits = limits or Limits()
    training = next(iter(texts))

    def fill(temporary: Path) -> None:
        for vocab, side in zip(vocabularies, ("source", "target"), strict=True):
            vocab.save(temporary / f"{side}.vocab")
        splits = {}
        with Encoders(vocabularies, workers) as encode:
            for split, text in texts.items():
                chosen = limits if split == training else None
                with SplitWriter(temporary, split, keep_text=chosen is None) as writer:
                    splits[split] = _write_split(writer, split, text, encode, chosen)
                say(_summary(split, splits[split]))
        corpus = {"name": texts[training].name, **(about or {}), "splits": splits}
        (temporary / "corpus.json").write_text(json.dumps(corpus, indent=2) + "\n")

    return Prepared(write_folder(folder, fill, replace=replace))


def _write_split(
    writer: SplitWriter, split: str, text: Text, encode: Encoders, limits: Limits | None
) -> dict[str, Any]:
    with progress(f"{split}: encoding", total=len(text)) as bar:
        for block in encode(text.blocks(), limits):
            writer.add(block)
            bar.update(len(block.lengths[0]) + block.dropped.total())
    before = getattr(text, "dropped", {})  # by whoever read it
    writer.dropped.update({reason: n for reason, n in before.items() if n})
    if not writer.pairs:
        raise ValueError(f"{split}: every pair was dropped: {dict(writer.dropped)}")
    return writer.summary()


def _summary(split: str, found: Mapping[str, Any]) -> str:
    line = f"{split}: {found['pairs']:,} pairs, {found['src_tokens']:,} source tokens"
    line += f", {found['tgt_tokens']:,} target tokens"
    reasons = "; ".join(f"{n:,} {reason}" for reason, n in found["dropped"].items())
    return f"{line}; dropped: {reasons}" if reasons else line

"""Parallel text, line by line: every line is checked, and large files are never held whole.

Line i of one file is the translation of line i of the other, so no line may be split or lost on
one side only. Only a line feed ends a line.
"""

from __future__ import annotations

import gzip
import random
import sys
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedIOBase
from itertools import chain, zip_longest
from pathlib import Path

from transformer_lib.data.progress import progress_bar
from transformer_lib.vocab import normalize_text

__all__ = [
    "SAMPLE_PAIRS",
    "ConcatenatedText",
    "PairFiles",
    "ParallelText",
    "Text",
    "is_list",
    "lines_of_file",
    "read_lines",
    "read_pairs",
    "stream_lines",
]

MAX_TEXT_BYTES = 2**30  # of one file read at once, unpacked: a gzip file of 1 MB can hold 1 GB
MAX_LINE_BYTES = 2**24  # of one line: what is longer is no sentence, and would fill the memory
SAMPLE_PAIRS = 200_000  # enough to learn a vocabulary: its frequent subwords settle
BLOCK_PAIRS = 4096  # pairs that are encoded together
BLOCK_BYTES = 2**22  # and most bytes of them, about: long lines make smaller blocks


def is_list(texts: object) -> bool:
    """True for what has items in an order, and is no text or mapping; numpy's numbers are none."""
    try:
        len(texts)  # type: ignore[arg-type]
    except TypeError:
        return False
    return hasattr(texts, "__getitem__") and not isinstance(texts, str | bytes | Mapping)


def raw_lines(path: str | Path, max_bytes: int = sys.maxsize) -> Iterator[bytes]:
    """Yield the lines of a file (`.gz`: unpacked) as bytes; errors as in `read_lines`."""
    try:
        with (gzip.open if Path(path).suffix == ".gz" else open)(path, "rb") as file:
            yield from _lines_of(file, path, max_bytes)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error


def _lines_of(file: BufferedIOBase, name: str | Path, max_bytes: int) -> Iterator[bytes]:
    left, number = max_bytes, 0
    while line := file.readline(min(MAX_LINE_BYTES, left) + 1):
        number += 1
        left -= len(line)
        if left < 0:
            raise ValueError(f"{name} holds more than {max_bytes} bytes of text")
        text = line.removesuffix(b"\n")
        if len(text) > MAX_LINE_BYTES:
            raise ValueError(
                f"{name}, line {number} has more than {MAX_LINE_BYTES} bytes: is this "
                "text, one sentence per line?"
            )
        yield text


def stream_lines(file: BufferedIOBase, name: str) -> Iterator[str]:
    """Yield the normalized lines of an endless stream as they come; errors as in `read_lines`."""
    for number, line in enumerate(_lines_of(file, name, sys.maxsize), start=1):
        yield _decode(line, name, number)


def read_lines(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> list[str]:
    """Read the lines of a UTF-8 text file (`.gz`: unpacked first), each normalized.

    Only a line feed ends a line: U+2028, U+0085, a vertical tab or a lone carriage return
    inside a sentence become a space. The last line may end without one.

    Raises:
        ValueError: bytes that are not UTF-8 (file, line and byte are named), a broken gzip
            file, a line over 16 MiB, or more than `max_bytes` bytes of text.
    """
    return [*lines_of_file(path, max_bytes)]


def lines_of_file(path: str | Path, max_bytes: int = sys.maxsize) -> Iterator[str]:
    """Yield the same lines one by one, so that they need no memory."""
    for number, line in enumerate(raw_lines(path, max_bytes), start=1):
        yield _decode(line, path, number)


def _decode(line: bytes, path: str | Path, number: int) -> str:
    """Decode and normalize a line; ValueError with file, line and byte if it is not UTF-8."""
    try:
        return normalize_text(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}, byte {error.start + 1}: 0x{line[error.start]:02x} is not "
            "UTF-8; save the file as UTF-8"
        ) from error


@dataclass(frozen=True)
class ParallelText:
    """Sentences and their translations in memory; `source[i]` belongs to `target[i]`.

    Attributes:
        source: normalized sentences, none of them empty.
        target: their translations, the same number.
        name: what to call this text in a report.
        dropped: number of pairs that were left out, by reason.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    name: str
    dropped: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            raise ValueError(
                f"{self.name}: {len(self.source)} source sentences, but {len(self.target)} "
                "target sentences"
            )

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.source, self.target, strict=True)

    def blocks(self) -> Iterator[Sequence[tuple[str, str]]]:
        """Yield the pairs in order, some thousand at a time."""
        pairs = list(self)
        for start in range(0, len(pairs), BLOCK_PAIRS):
            yield pairs[start : start + BLOCK_PAIRS]


def read_pairs(
    source_path: str | Path,
    target_path: str | Path,
    *,
    name: str | None = None,
    max_bytes: int = MAX_TEXT_BYTES,
) -> ParallelText:
    """Read two text files whose lines belong together into memory, see `read_lines`.

    A pair with an empty side is dropped as a pair and counted, so its neighbors stay aligned.

    Raises:
        ValueError: the files differ in their number of lines, no pair is left, or what
            `read_lines` raises.
    """
    paths = (Path(source_path), Path(target_path))
    pairs = [pair for block in _read_blocks(paths, max_bytes) for pair in block]
    kept = [pair for pair in pairs if all(pair)]
    if not kept:
        raise ValueError(f"{source_path} and {target_path} hold no pair of two sentences")
    source, target = zip(*kept, strict=True)
    dropped = {"empty line": len(pairs) - len(kept)}
    return ParallelText(source, target, name or f"{source_path} | {target_path}", dropped)


@dataclass(frozen=True)
class Block:
    """Consecutive pairs of lines as they are in two files; the first line has number 1."""

    first: int
    lines: list[tuple[bytes, bytes]]
    paths: tuple[Path, Path]

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs of normalized sentences, empty ones too; ValueError if not UTF-8."""
        return self.pairs(range(self.first, self.first + len(self)))

    def pairs(self, chosen: Container[int]) -> Iterator[tuple[str, str]]:
        """Yield only the pairs of the lines with these numbers."""
        for number, pair in enumerate(self.lines, self.first):
            if number in chosen:
                source, target = map(_decode, pair, self.paths, (number, number))
                yield source, target

    def check(self) -> None:
        """Raise ValueError with file, line and byte if anything is not UTF-8."""
        try:
            b"\n".join(chain(*self.lines)).decode("utf-8")  # much faster than line by line
        except UnicodeDecodeError:
            list(self)  # names the line


def _read_blocks(paths: tuple[Path, Path], max_bytes: int = sys.maxsize) -> Iterator[Block]:
    """Yield all pairs of lines of two files; ValueError where the numbers of lines differ."""
    first, size, block = 1, 0, []
    lines = zip_longest(*(raw_lines(path, max_bytes) for path in paths))
    for pair in lines:
        if None in pair:
            shorter = first - 1 + len(block)
            longer = shorter + 1 + sum(1 for _ in lines)
            counts = [shorter if line is None else longer for line in pair]
            raise ValueError(
                f"{paths[0]} has {counts[0]} lines, but {paths[1]} has {counts[1]}; "
                "line i of one must be the translation of line i of the other"
            )
        block.append(pair)
        size += sum(map(len, pair))
        if len(block) == BLOCK_PAIRS or size > BLOCK_BYTES:
            yield Block(first, block, paths)
            first, size, block = first + len(block), 0, []
    if block:
        yield Block(first, block, paths)


class PairFiles:
    """Two text files of any size whose lines belong together, read again for every pass.

    Args:
        source, target: the files, plain or `.gz`.
        name: what to call this text in a report.

    Raises:
        ValueError: a file that can be read only once, such as a pipe.
    """

    def __init__(self, source: str | Path, target: str | Path, name: str) -> None:
        self.paths, self.name = (Path(source), Path(target)), name
        for path in self.paths:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise ValueError(f"{path} is read more than once: write it to a file first")

    def blocks(self) -> Iterator[Block]:
        """Yield all pairs of lines in order, some thousand at a time."""
        return _read_blocks(self.paths)

    def __len__(self) -> int:
        """Return the number of pairs of lines. The first call checks both files (ValueError)."""
        return self._count

    @cached_property
    def _count(self) -> int:
        count = 0
        with progress_bar(f"{self.name}: checking", delay=3.0) as bar:
            for block in self.blocks():
                block.check()
                count += len(block)
                bar.update(len(block))
        return count

    def sample(self, size: int) -> list[tuple[str, str]]:
        """Draw at most `size` of the pairs, in their order: always the same ones.

        Each pair has the same chance; those with an empty side are left out afterwards.
        """
        numbers = range(1, len(self) + 1)
        chosen = frozenset(random.Random(0).sample(numbers, min(size, len(self))))
        return [pair for block in self.blocks() for pair in block.pairs(chosen) if all(pair)]


class ConcatenatedText:
    """A text followed by others, of which each pair is taken that did not appear before.

    A pair that was seen is remembered as a number, about 60 bytes.

    Attributes:
        dropped: after `blocks`, the number of pairs that were left out, by reason.
    """

    def __init__(self, first: ParallelText | PairFiles, others: Sequence[PairFiles]) -> None:
        self.texts, self.name = (first, *others), first.name
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self.texts))

    def blocks(self) -> Iterator[Iterable[tuple[str, str]]]:
        """Yield the first text, then what is new in the others, some thousand pairs at a time."""
        first, *others = self.texts
        self.dropped = Counter(getattr(first, "dropped", {}))
        seen: set[int] = set()
        for block in first.blocks():
            seen.update(map(hash, block))
            yield block
        for block in chain.from_iterable(text.blocks() for text in others):
            pairs = [pair for pair in block if all(pair)]
            new = {number: pair for pair in pairs if (number := hash(pair)) not in seen}
            self.dropped["empty line"] += len(block) - len(pairs)
            self.dropped["already there"] += len(pairs) - len(new)
            seen.update(new)
            yield list(new.values())


Text = ParallelText | PairFiles | ConcatenatedText

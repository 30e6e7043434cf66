"""Text files of any size, line by line: every line is checked, and no file is ever held whole.

Only a line feed ends a line, so that line i of one file stays beside line i of the other.
"""

from __future__ import annotations

import gzip
import random
import sys
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from itertools import zip_longest
from pathlib import Path

from tqdm import tqdm

from transformer_lib.vocab import normalize_text

__all__ = ["Block", "PairFiles", "decode_line", "progress", "raw_lines", "read_lines"]

MAX_TEXT_BYTES = 2**30  # of one file read at once, unpacked: a gzip file of 1 MB can hold 1 GB
MAX_LINE_BYTES = 2**24  # of one line: what is longer is no sentence, and would fill the memory
BLOCK_PAIRS = 4096  # pairs that are encoded together
BLOCK_BYTES = 2**22  # and most bytes of them, about: long lines make smaller blocks


def raw_lines(path: str | Path, max_bytes: int | None = None) -> Iterator[bytes]:
    """The lines of a file (`.gz`: unpacked) as bytes, without the line feed that ends each.

    Args:
        max_bytes: most bytes of the whole text; as many as there are when None.

    Raises:
        ValueError: a broken gzip file, a line over 16 MiB, or more than `max_bytes` bytes.
        OSError: the file cannot be opened.
    """
    left = sys.maxsize if max_bytes is None else max_bytes
    number = 0
    try:
        with _open(Path(path)) as file:
            while line := file.readline(min(MAX_LINE_BYTES, left) + 1):
                number += 1
                left -= len(line)
                if left < 0:
                    raise ValueError(f"{path} holds more than {max_bytes} bytes of text")
                text = line.removesuffix(b"\n")
                if len(text) > MAX_LINE_BYTES:
                    raise ValueError(
                        f"{path}, line {number} has more than {MAX_LINE_BYTES} bytes: is this "
                        "text, one sentence per line?"
                    )
                yield text
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error


def read_lines(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> list[str]:
    """The lines of a UTF-8 text file (`.gz`: unpacked first), each through `normalize_text`.

    Only a line feed ends a line: U+2028, U+0085, a vertical tab or a lone carriage return
    inside a sentence become a space. The last line may end without one.

    Raises:
        ValueError: bytes that are not UTF-8 (file, line and byte are named), a broken gzip
            file, a line over 16 MiB, or more than `max_bytes` bytes of text.
        OSError: the file cannot be opened.
    """
    lines = enumerate(raw_lines(path, max_bytes), start=1)
    return [normalize_text(decode_line(line, path, number)) for number, line in lines]


def decode_line(line: bytes, path: str | Path, number: int) -> str:
    """The text of a line; ValueError with file, line and byte where it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}, byte {error.start + 1}: 0x{line[error.start]:02x} is not "
            "UTF-8; save the file as UTF-8"
        ) from error


@dataclass(frozen=True)
class Block:
    """Some pairs of lines that follow each other, as they stand in the files.

    Attributes:
        first: number of the first line, from 1.
        source, target: the lines, just as many.
        paths: the files they are from.
    """

    first: int
    source: list[bytes]
    target: list[bytes]
    paths: tuple[Path, Path]

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The pairs of sentences as `normalize_text` leaves them, empty ones too.

        Raises:
            ValueError: a line is not UTF-8.
        """
        return self.pairs(range(self.first, self.first + len(self)))

    def pairs(self, chosen: Container[int]) -> Iterator[tuple[str, str]]:
        """As above, of the lines with these numbers only."""
        for number, pair in enumerate(zip(self.source, self.target, strict=True), self.first):
            if number in chosen:
                source, target = map(decode_line, pair, self.paths, (number, number))
                yield normalize_text(source), normalize_text(target)

    def check(self) -> None:
        """ValueError with file, line and byte if anything is not UTF-8."""
        try:
            for lines in (self.source, self.target):
                b"\n".join(lines).decode("utf-8")  # much faster than line by line
        except UnicodeDecodeError:
            list(self)  # says which line it is


class PairFiles:
    """Two text files whose lines belong together, opened anew for every pass over them.

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
        """All pairs of lines in order, some thousand at a time.

        Raises:
            ValueError: the files differ in their number of lines, or what `raw_lines` raises.
        """
        first, size = 1, 0
        source: list[bytes] = []
        target: list[bytes] = []
        lines = zip_longest(*map(raw_lines, self.paths))
        for pair in lines:
            if None in pair:
                shorter = first - 1 + len(source)
                raise self._uneven(pair, shorter, shorter + 1 + sum(1 for _ in lines))
            source.append(pair[0])
            target.append(pair[1])
            size += len(pair[0]) + len(pair[1])
            if len(source) == BLOCK_PAIRS or size > BLOCK_BYTES:
                yield Block(first, source, target, self.paths)
                first += len(source)
                source, target, size = [], [], 0
        if source:
            yield Block(first, source, target, self.paths)

    def _uneven(self, last: tuple[bytes | None, ...], shorter: int, longer: int) -> ValueError:
        counts = [shorter if line is None else longer for line in last]
        return ValueError(
            f"{self.paths[0]} has {counts[0]} lines, but {self.paths[1]} has {counts[1]}; "
            "line i of one must be the translation of line i of the other"
        )

    def __len__(self) -> int:
        """How many pairs of lines there are; the files are read when this is asked first.

        Raises:
            ValueError: what is wrong with the files, said before any work is done.
        """
        return self._count

    @cached_property
    def _count(self) -> int:
        count = 0
        with progress(f"{self.name}: checking") as bar:
            for block in self.blocks():
                block.check()
                count += len(block)
                bar.update(len(block))
        return count

    def sample(self, size: int) -> list[tuple[str, str]]:
        """At most `size` of the pairs, in their order: always the same ones.

        Each pair has the same chance; those with an empty side are left out afterwards.
        """
        numbers = range(1, len(self) + 1)
        chosen = frozenset(random.Random(0).sample(numbers, min(size, len(self))))
        return [pair for block in self.blocks() for pair in block.pairs(chosen) if all(pair)]


def progress(what: str, total: int | None = None) -> tqdm:
    """A progress bar in pairs for what takes longer than some seconds; in a log a line at times."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        desc=what, total=total, unit=" pairs", unit_scale=True, delay=3.0, mininterval=interval,
        dynamic_ncols=True,
    )  # fmt: skip


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")

"""The grammar corpus: German to English sentence pairs, each with its gold word alignment.

The files are in `data/grammar`, made by the project's own generator; its README describes them.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["RUNNING_PAIR", "GrammarCorpus", "SentencePair", "grammar_corpus"]

Alignment = tuple[tuple[int, int], ...]
_ENDINGS = ("de", "en", "align")


@dataclass(frozen=True)
class SentencePair:
    """A German sentence, its English translation, and which word translates which.

    Tokens are separated by spaces, punctuation included. `alignment` holds the sorted pairs
    (position in the source, position in the target), both counted from 0.
    """

    source: str
    target: str
    alignment: Alignment

    @property
    def pharaoh(self) -> str:
        """The alignment in the Pharaoh format of alignment tools: `0-0 1-4 2-1`."""
        return " ".join(f"{i}-{j}" for i, j in self.alignment)


@dataclass(frozen=True)
class GrammarCorpus:
    """Three splits. Every sentence of `test` has a combination of words that is not in `train`."""

    train: tuple[SentencePair, ...]
    val: tuple[SentencePair, ...]
    test: tuple[SentencePair, ...]


RUNNING_PAIR = SentencePair(
    source="Heute gibt der alte Mann dem Kind den Ball .",
    target="Today the old man gives the child the ball .",
    alignment=((0, 0), (1, 4), (2, 1), (3, 2), (4, 3), (5, 5), (6, 6), (7, 7), (8, 8), (9, 9)),
)


@cache
def grammar_corpus() -> GrammarCorpus:
    """Return 12,000 pairs to train on, 500 new ones like them, 500 with held-out combinations.

    The running sentence is the first of `test`. Every word of `val` and `test` occurs at least
    five times in `train`.

    Raises:
        FileNotFoundError: the files are missing.
        ValueError: they are damaged.
    """
    package = Path(__file__).resolve().parents[1]
    shipped, repository = package / "grammar", package.parent / "data" / "grammar"
    return read_grammar_corpus(shipped if shipped.is_dir() else repository)


def read_grammar_corpus(folder: Path) -> GrammarCorpus:
    """Read `train.de`, `train.en`, `train.align` and so on from a folder."""
    return GrammarCorpus(*(_read_split(folder, split) for split in ("train", "val", "test")))


def _read_split(folder: Path, split: str) -> tuple[SentencePair, ...]:
    source, target, alignment = (_read_lines(folder / f"{split}.{end}") for end in _ENDINGS)
    if not len(source) == len(target) == len(alignment):
        counts = f"{len(source)}, {len(target)} and {len(alignment)} lines"
        raise ValueError(f"{folder / split}.*: {counts}, expected as many in each file")
    pairs = []
    for number, (german, english, links) in enumerate(
        zip(source, target, alignment, strict=True), start=1
    ):
        try:
            pairs.append(SentencePair(german, english, _parse(links, german, english)))
        except ValueError as error:
            raise ValueError(f"{folder / split}.align, line {number}: {error}") from None
    return tuple(pairs)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: install the package again, or restore data/grammar"
        ) from None


def _parse(links: str, source: str, target: str) -> Alignment:
    """Return the links of a line in Pharaoh format, `0-0 1-4`, as `((0, 0), (1, 4))`."""
    sizes = len(source.split()), len(target.split())
    alignment = []
    for link in links.split():
        i, dash, j = link.partition("-")
        if not (dash and i.isdecimal() and j.isdecimal()):
            raise ValueError(f"{link!r} is not a link such as 3-2")
        if int(i) >= sizes[0] or int(j) >= sizes[1]:
            raise ValueError(f"link {link} is outside a pair of {sizes[0]} and {sizes[1]} tokens")
        alignment.append((int(i), int(j)))
    return tuple(alignment)

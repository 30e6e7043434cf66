"""The corpus: sentence pairs with gold alignments, a split by combination, and its files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from transformer_lib.lessons.grammar.english import english
from transformer_lib.lessons.grammar.german import german
from transformer_lib.lessons.grammar.kinds import combinations, sentence
from transformer_lib.lessons.grammar.lexicon import ADJECTIVES, ADVERBIALS, HELD_OUT, NOUNS, VERBS
from transformer_lib.lessons.grammar.sampling import Dice
from transformer_lib.lessons.grammar.syntax import Clause, NounPhrase, Sentence, links

TRAIN, VAL, TEST = 12_000, 500, 500
SPARE = 100
FAMILIAR = 5
SHORTEST, LONGEST = 3, 16

Alignment = tuple[tuple[int, int], ...]


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
        """The alignment as alignment tools write it: `0-0 1-4 2-1`."""
        return " ".join(f"{i}-{j}" for i, j in self.alignment)


@dataclass(frozen=True)
class GrammarCorpus:
    """Three splits. Every sentence of `test` has a combination of words that `train` has not."""

    train: tuple[SentencePair, ...]
    val: tuple[SentencePair, ...]
    test: tuple[SentencePair, ...]


RUNNING_PAIR = SentencePair(
    source="Heute gibt der alte Mann dem Kind den Ball .",
    target="Today the old man gives the child the ball .",
    alignment=((0, 0), (1, 4), (2, 1), (3, 2), (4, 3), (5, 5), (6, 6), (7, 7), (8, 8), (9, 9)),
)


def parse_pharaoh(line: str) -> Alignment:
    """`0-0 1-4` to `((0, 0), (1, 4))`."""
    return tuple((int(i), int(j)) for i, j in (link.split("-") for link in line.split()))


def realised(made: Sentence) -> SentencePair:
    """The words of both languages and the links between them."""
    source, target = german(made), english(made)
    return SentencePair(
        " ".join(word.text for word in source),
        " ".join(word.text for word in target),
        links(source, target),
    )


def running_sentence() -> Sentence:
    """The structure of the sentence that the notebooks follow, `RUNNING_PAIR`."""
    noun = {noun.german: noun for noun in NOUNS}
    alt = next(adjective for adjective in ADJECTIVES if adjective.german == "alt")
    geben = next(verb for verb in VERBS if verb.infinitive == "geben")
    return Sentence(
        Clause(
            NounPhrase(noun["Mann"], adjective=alt),
            geben,
            dative=NounPhrase(noun["Kind"]),
            accusative=NounPhrase(noun["Ball"]),
            time=ADVERBIALS[0],
            front="time",
        )
    )


def distinct(seed: int) -> Iterator[tuple[SentencePair, bool]]:
    """The running sentence, then random ones, none twice, and whether each is held out."""
    dice, seen, made = Dice(seed), set(), running_sentence()
    while True:
        pair = realised(made)
        lengths = len(pair.source.split()), len(pair.target.split())
        if pair.source not in seen and min(lengths) >= SHORTEST and max(lengths) <= LONGEST:
            seen.add(pair.source)
            yield pair, not HELD_OUT.isdisjoint(combinations(made))
        made = sentence(dice)


@cache
def grammar_corpus(seed: int = 0) -> GrammarCorpus:
    """12,000 sentence pairs to train on, 500 new ones like them, 500 with held-out combinations.

    A pure function of `seed`, the same in every version of Python. The running sentence is the
    first of `test`. Every word of `val` and `test` occurs at least five times in `train`.
    """
    familiar, held_out = [], []
    for pair, unseen in distinct(seed):
        (held_out if unseen else familiar).append(pair)
        if len(familiar) >= TRAIN + VAL + SPARE and len(held_out) >= TEST + SPARE:
            break
    train = tuple(familiar[:TRAIN])
    count = Counter(word for pair in train for word in tokens(pair))

    def known(pairs: list[SentencePair], size: int) -> tuple[SentencePair, ...]:
        learnable = (p for p in pairs if all(count[word] >= FAMILIAR for word in tokens(p)))
        return tuple(islice(learnable, size))

    return GrammarCorpus(train, known(familiar[TRAIN:], VAL), known(held_out, TEST))


def tokens(pair: SentencePair) -> list[str]:
    return f"{pair.source} {pair.target}".split()


def write_grammar_corpus(folder: Path | str, seed: int = 0) -> None:
    """Write `train.de`, `train.en`, `train.align` and so on: one sentence per line, UTF-8, LF."""
    corpus, folder = grammar_corpus(seed), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, pairs in vars(corpus).items():
        for suffix, field in (("de", "source"), ("en", "target"), ("align", "pharaoh")):
            lines = "".join(f"{getattr(pair, field)}\n" for pair in pairs)
            (folder / f"{split}.{suffix}").write_bytes(lines.encode())

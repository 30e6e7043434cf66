"""The corpus: sentence pairs with gold alignments, a split by combination, and its files."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from grammar.english import english
from grammar.german import german
from grammar.kinds import combinations, sentence
from grammar.lexicon import ADJECTIVES, ADVERBIALS, HELD_OUT, NOUNS, VERBS
from grammar.sampling import Dice
from grammar.syntax import Clause, NounPhrase, Sentence, links
from transformer_lib.lessons.grammar import GrammarCorpus, SentencePair

TRAIN, VAL, TEST = 12_000, 500, 500
SPARE = 100
FAMILIAR = 5
SHORTEST, LONGEST = 3, 16


def realised(made: Sentence) -> SentencePair:
    """Return the words of both languages and the links between them."""
    source, target = german(made), english(made)
    return SentencePair(
        " ".join(word.text for word in source),
        " ".join(word.text for word in target),
        links(source, target),
    )


def running_sentence() -> Sentence:
    """Return the structure of the sentence that the notebooks follow, `RUNNING_PAIR`."""
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
    """Yield the running sentence, then random ones, none twice, and whether each is held out."""
    dice, seen, made = Dice(seed), set(), running_sentence()
    while True:
        pair = realised(made)
        lengths = len(pair.source.split()), len(pair.target.split())
        if pair.source not in seen and min(lengths) >= SHORTEST and max(lengths) <= LONGEST:
            seen.add(pair.source)
            yield pair, not HELD_OUT.isdisjoint(combinations(made))
        made = sentence(dice)


def generate_corpus(seed: int = 0) -> GrammarCorpus:
    """Generate 12,000 pairs to train on, 500 new ones like them, 500 with held-out combinations.

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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, pairs in vars(generate_corpus(seed)).items():
        for suffix, field in (("de", "source"), ("en", "target"), ("align", "pharaoh")):
            lines = "".join(f"{getattr(pair, field)}\n" for pair in pairs)
            (folder / f"{split}.{suffix}").write_bytes(lines.encode())

"""The structure of a sentence, before it is German or English.

Every word carries what it stands for, its *meanings*: `gibt` and `gives` both carry `main/verb`,
`keinen` carries an article and a `not`. Two words are linked in the gold alignment when they
share a meaning, so the alignment is never computed afterwards: it falls out of construction.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from grammar.lexicon import (
    Adjective,
    Adverbial,
    Modal,
    Noun,
    Preposition,
    Verb,
)


@dataclass(frozen=True)
class NounPhrase:
    """`der alte Mann`: determiner `der`, `ein`, `kein` or `mein`, perhaps an adjective, a noun."""

    noun: Noun
    determiner: str = "der"
    adjective: Adjective | None = None
    plural: bool = False

    @property
    def agreement(self) -> str:
        """The gender that other words agree with, or `p` for the plural, which has none."""
        return "p" if self.plural else self.noun.gender

    @property
    def definite(self) -> bool:
        return self.determiner in ("der", "mein")

    @property
    def bare(self) -> bool:
        """Without an article: indefinite plurals and masses, in English too (`Kinder`, `Tee`)."""
        return self.determiner == "ein" and (self.plural or self.noun.mass)

    @property
    def human(self) -> bool:
        return self.noun.human


@dataclass(frozen=True)
class Pronoun:
    """`er`, `sie`, `es`: agrees with its noun in German; English asks whether that is human."""

    agreement: str
    human: bool = True
    definite: ClassVar[bool] = True

    @property
    def plural(self) -> bool:
        return self.agreement == "p"


Phrase = NounPhrase | Pronoun
Place = tuple[Preposition, NounPhrase]


@dataclass(frozen=True)
class Clause:
    """A clause: who does what, to whom, where and when. `front` names its first part."""

    subject: Phrase
    verb: Verb
    modal: Modal | None = None
    dative: Phrase | None = None
    accusative: NounPhrase | None = None
    place: Place | None = None
    predicate: Adjective | None = None
    time: Adverbial | None = None
    nicht: bool = False
    front: str = "subject"

    @property
    def negative(self) -> bool:
        """Negated by `nicht`, or by `kein` before the direct object."""
        return self.nicht or (self.accusative is not None and self.accusative.determiner == "kein")

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """Its noun phrases and pronouns."""
        place = self.place[1] if self.place else None
        return tuple(p for p in (self.subject, self.dative, self.accusative, place) if p)


@dataclass(frozen=True)
class Sentence:
    """A clause, and perhaps a second one that `dass`, `weil`, `wenn` or `aber` joins to it."""

    main: Clause
    conjunction: str = ""
    second: Clause | None = None
    second_first: bool = False


class Word(NamedTuple):
    """One token and the meanings it carries."""

    text: str
    meanings: tuple[str, ...]


Words = tuple[Word, ...]


def words(text: str, *meanings: str) -> Words:
    """`text` split at spaces; each of its words carries all the meanings."""
    return tuple([Word(part, meanings) for part in text.split()])


def within(scope: str, inner: Words) -> Words:
    """The same words with their meanings made local to a clause: `verb` becomes `main/verb`."""
    return tuple([Word(text, tuple([f"{scope}/{m}" for m in ms])) for text, ms in inner])


def finished(sentence: Words) -> Words:
    """Add a capital letter at the beginning and a full stop at the end."""
    first, *rest = sentence
    capital = Word(first.text[0].upper() + first.text[1:], first.meanings)
    return (capital, *rest, *words(".", "stop"))


def links(source: Words, target: Words) -> tuple[tuple[int, int], ...]:
    """The pairs of positions whose words share a meaning, in order."""
    positions = defaultdict(list)
    for j, word in enumerate(target):
        for meaning in word.meanings:
            positions[meaning].append(j)
    pairs = {(i, j) for i, word in enumerate(source) for m in word.meanings for j in positions[m]}
    return tuple(sorted(pairs))

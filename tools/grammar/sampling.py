"""Random sentences that make sense, with seeded dice. Which words go together is in the lexicon."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

from grammar.lexicon import (
    ADJECTIVES,
    ADVERBIALS,
    BE,
    MODALS,
    MUST,
    NOUNS,
    VERBS,
    Adjective,
    Adverbial,
    Modal,
    Noun,
    Verb,
)
from grammar.syntax import Clause, NounPhrase, Phrase, Place, Pronoun

T = TypeVar("T")

ANIMATE = "person animal"
ANY = ("der", "der", "der", "ein", "ein", "mein")
DEFINITE = ("der", "der", "der", "mein")
STATEFUL = "person animal thing flower wear room tree road food drink"


class Dice(random.Random):
    """A seeded generator whose choices are the same in every version of Python."""

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def choose(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]


# --- What goes with what


def fits(wanted: str, tags: str) -> bool:
    """True if the two strings of tags have one in common."""
    return not set(wanted.split()).isdisjoint(tags.split())


@cache
def nouns(tags: str) -> tuple[Noun, ...]:
    return tuple(noun for noun in NOUNS if fits(tags, noun.tags))


@cache
def adjectives(tags: str) -> tuple[Adjective, ...]:
    """Return the adjectives that may precede a noun with these tags."""
    return tuple(adjective for adjective in ADJECTIVES if fits(tags, adjective.tags))


@cache
def states(tags: str) -> tuple[Adjective, ...]:
    """Return the adjectives that may be said of a noun with these tags."""
    return tuple(adjective for adjective in ADJECTIVES if fits(tags, adjective.states))


@cache
def activities(tags: str) -> tuple[Verb, ...]:
    """Return the verbs that a noun with these tags may be the subject of."""
    return tuple(verb for verb in VERBS if fits(tags, verb.subject))


EASY = tuple(v for v in activities(ANIMATE) if not v.accusative and not v.dative)


# --- The parts of a clause


def noun_phrase(dice: Dice, tags: str, determiners: tuple[str, ...] = ANY) -> NounPhrase:
    noun = dice.choose(nouns(tags))
    allowed = [word for word in determiners if word in noun.determiners.split()]
    plural = noun.plural != "" and dice.chance(0.25)
    adjective = dice.choose(adjectives(noun.tags) or (None,)) if dice.chance(0.35) else None
    return NounPhrase(noun, dice.choose(allowed), adjective, plural)


def someone(dice: Dice, tags: str, pronouns: bool, determiners: tuple[str, ...] = ANY) -> Phrase:
    """Return a noun phrase or, for persons, sometimes a pronoun."""
    if pronouns and "person" in tags and dice.chance(0.15):
        return Pronoun(dice.choose("mfp"))
    return noun_phrase(dice, tags, determiners)


def place(dice: Dice, verb: Verb, determiners: tuple[str, ...]) -> Place | None:
    preposition = dice.choose(verb.places)
    return preposition and (preposition, noun_phrase(dice, preposition.tags, determiners))


def modal(dice: Dice, verb: Verb, negative: bool) -> Modal | None:
    """Return a modal or None; never `müssen` if negated, as `muss nicht` is not `must not`."""
    if not fits(ANIMATE, verb.subject) or not dice.chance(0.15):
        return None
    return dice.choose([m for m in MODALS if m is not MUST or not negative])


def time(dice: Dice, negative: bool) -> Adverbial | None:
    if not dice.chance(0.3):
        return None
    return dice.choose([a for a in ADVERBIALS if a.negatable or not negative])


def clause(
    dice: Dice, who: Phrase, verb: Verb, pronouns: bool = False, timed: bool = False
) -> Clause:
    """Return a clause with all parts that the verb requires."""
    negative = dice.chance(0.2)
    others = DEFINITE if negative else ANY
    complete = Clause(
        who,
        verb,
        modal=modal(dice, verb, negative),
        dative=someone(dice, verb.dative, pronouns, others) if verb.dative else None,
        accusative=noun_phrase(dice, verb.accusative) if verb.accusative else None,
        place=place(dice, verb, others),
        time=time(dice, negative) if timed else None,
    )
    return negated(complete) if negative else complete


def negated(positive: Clause) -> Clause:
    """Negate a clause: `ein` before the object becomes `kein`, otherwise add `nicht`."""
    who, what = positive.subject, positive.accusative
    if not who.definite:
        who = replace(who, determiner="der")
    if what and what.determiner == "ein":
        return replace(positive, subject=who, accusative=replace(what, determiner="kein"))
    return replace(positive, subject=who, nicht=True)


def fronted(dice: Dice, plain: Clause) -> Clause:
    """Perhaps move the time to the front, or an object whose form shows that it is one."""
    who, whom, what = plain.subject, plain.dative, plain.accusative
    if plain.time and dice.chance(0.6):
        return replace(plain, front="time")
    if isinstance(whom, Pronoun) or not who.definite or not dice.chance(0.15):
        return plain
    if whom and whom.definite:
        return replace(plain, front="dative")
    if what and what.definite and what.agreement == "m":
        return replace(plain, front="accusative")
    return plain


def event(dice: Dice, pronouns: bool = True) -> Clause:
    """Return a clause that can be a sentence of its own, or be reported."""
    verb = dice.choose(VERBS)
    return clause(dice, someone(dice, verb.subject, pronouns), verb, pronouns, timed=True)


def incident(dice: Dice, verbs: Sequence[Verb]) -> Clause:
    """Return a clause to join to another: with a definite subject and without a time."""
    verb = dice.choose(verbs)
    return clause(dice, noun_phrase(dice, verb.subject, DEFINITE), verb)


def state(dice: Dice, tags: str, timed: bool = False) -> Clause:
    """Return a state (tired, new, fresh); only states of living things may have a time."""
    who = replace(noun_phrase(dice, tags, DEFINITE), adjective=None)
    negative = dice.chance(0.2)
    when = time(dice, negative) if timed and animate(who) else None
    how = dice.choose(states(who.noun.tags))
    return Clause(who, BE, predicate=how, time=when, nicht=negative)


def animate(phrase: Phrase) -> bool:
    return isinstance(phrase, Pronoun) or fits(ANIMATE, phrase.noun.tags)


# --- Pronouns that point back


def pointing_back(phrase: Phrase, said: Clause) -> Pronoun | None:
    """Return the pronoun for a phrase of `said`, if nothing else there agrees with it.

    `Das Tier überquert die Straße nicht, weil es müde ist`, `… weil sie breit ist`: agreement
    says which one is meant. A child is no `it`, and `kein Mann` is nobody to point at.
    """
    if isinstance(phrase, NounPhrase) and phrase.determiner == "kein":
        return None
    alike = [other for other in said.phrases if other.agreement == phrase.agreement]
    if len(alike) > 1 or (phrase.human and phrase.agreement == "n"):
        return None
    return Pronoun(phrase.agreement, phrase.human)


def carried_on(dice: Dice, said: Clause) -> Clause | None:
    """Return what the subject of `said` does next: `schläft er`, `aber sie arbeitet nicht`."""
    back = pointing_back(said.subject, said)
    if back is None:
        return None
    return clause(dice, back, dice.choose(activities("person" if back.human else "animal")))

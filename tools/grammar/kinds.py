"""The kinds of sentence, each with an example, and the choice among them.

A function returns None when the dice led nowhere; `sentence` throws them again.
"""

from dataclasses import replace

from grammar.lexicon import BE, KNOW, REPORTING
from grammar.sampling import (
    ANIMATE,
    DEFINITE,
    EASY,
    STATEFUL,
    Dice,
    activities,
    animate,
    carried_on,
    event,
    fronted,
    incident,
    pointing_back,
    someone,
    state,
    states,
)
from grammar.syntax import Clause, NounPhrase, Phrase, Pronoun, Sentence


def simple(dice: Dice) -> Sentence:
    """Return a main clause, such as `Heute gibt der alte Mann dem Kind den Ball .`"""
    plain = event(dice)
    who = plain.subject
    if plain.negative or plain.modal or plain.time or who.definite or dice.chance(0.6):
        return Sentence(fronted(dice, plain))
    return Sentence(replace(plain, subject=replace(who, determiner="kein", adjective=None)))


def description(dice: Dice) -> Sentence:
    """Return a clause such as `Die Straße ist nicht breit .`"""
    return Sentence(fronted(dice, state(dice, STATEFUL, timed=True)))


def report(dice: Dice) -> Sentence:
    """Return `Der Lehrer weiß nicht , dass das Kind schläft .`"""
    verb = dice.choose(REPORTING)
    who = someone(dice, verb.subject, True, DEFINITE)
    what = event(dice, pronouns=False) if dice.chance(0.8) else state(dice, STATEFUL)
    return Sentence(Clause(who, verb, nicht=verb is KNOW and dice.chance(0.3)), "dass", what)


def reason(dice: Dice) -> Sentence | None:
    """Return `Er lacht , weil das Kind spielt .` or `Er kauft sie nicht , weil sie alt ist .`"""
    main = fronted(dice, event(dice))
    if dice.chance(0.4):
        return Sentence(main, "weil", incident(dice, EASY))
    by_object = main.verb.chosen and dice.chance(0.5)
    because = state_as_reason(dice, main, main.accusative if by_object else main.subject)
    return because and Sentence(main, "weil", because)


def condition(dice: Dice) -> Sentence | None:
    """Return `Wenn der Hund müde ist , schläft er .`"""
    first = state(dice, ANIMATE) if dice.chance(0.3) else incident(dice, activities(ANIMATE))
    then = carried_on(dice, first) if dice.chance(0.5) else incident(dice, activities(ANIMATE))
    if first.verb is BE or dice.chance(0.5):
        return then and Sentence(then, "wenn", first, second_first=True)
    return then and Sentence(first, "wenn", then)


def contrast(dice: Dice) -> Sentence | None:
    """Return a contrast such as `Der Vater ist müde , aber er schläft nicht .`"""
    if dice.chance(0.5):
        main = state(dice, ANIMATE)
        then = carried_on(dice, main)
    else:
        main, then = incident(dice, EASY), incident(dice, EASY)
    return then and Sentence(main, "aber", then)


def state_as_reason(dice: Dice, main: Clause, phrase: Phrase) -> Clause | None:
    """Return a reason such as `because he is tired`, negated if it would be a reason against."""
    back = pointing_back(phrase, main)
    described = isinstance(phrase, NounPhrase) and phrase.adjective
    if back is None or described or (phrase is main.subject and not animate(phrase)):
        return None
    how = dice.choose(states(ANIMATE if isinstance(phrase, Pronoun) else phrase.noun.tags))
    deters = how.deters != (main.verb.restful and phrase is main.subject)
    return Clause(back, BE, predicate=how, nicht=deters != main.negative)


KINDS = (
    *[simple] * 10,
    *[description] * 2,
    *[report] * 2,
    *[reason] * 3,
    *[condition] * 2,
    contrast,
)


def sentence(dice: Dice) -> Sentence:
    """Return one random sentence, in which no noun and no verb occurs twice."""
    while True:
        made = dice.choose(KINDS)(dice)
        if made and no_repetition(made):
            return made


def no_repetition(made: Sentence) -> bool:
    content = nouns_of(made) + [part.verb.infinitive for part in clauses(made)]
    return len(content) == len(set(content))


def clauses(made: Sentence) -> tuple[Clause, ...]:
    return tuple(clause for clause in (made.main, made.second) if clause)


def nouns_of(made: Sentence) -> list[str]:
    phrases = [phrase for part in clauses(made) for phrase in part.phrases]
    return [phrase.noun.german for phrase in phrases if isinstance(phrase, NounPhrase)]


def combinations(made: Sentence) -> set[tuple[str, str]]:
    """Return the pairs (adjective, noun) and (verb, object noun), in dictionary form."""
    pairs = set()
    for part in clauses(made):
        for phrase in part.phrases:
            if isinstance(phrase, NounPhrase) and phrase.adjective:
                pairs.add((phrase.adjective.german, phrase.noun.german))
        for phrase in (part.dative, part.accusative):
            if isinstance(phrase, NounPhrase):
                pairs.add((part.verb.infinitive, phrase.noun.german))
        if part.predicate and isinstance(part.subject, NounPhrase):
            pairs.add((part.predicate.german, part.subject.noun.german))
    return pairs

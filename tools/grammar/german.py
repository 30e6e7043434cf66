"""A sentence in German: endings that agree, the verbal bracket, and the order of the parts."""

from grammar.lexicon import BE, Adverbial
from grammar.syntax import (
    Clause,
    NounPhrase,
    Phrase,
    Place,
    Pronoun,
    Sentence,
    Word,
    Words,
    finished,
    within,
    words,
)

# In every table: a row for the case, a column for the gender, and a last one for the plural.
COLUMNS = "mfnp"
DER = {
    "nom": ("der", "die", "das", "die"),
    "acc": ("den", "die", "das", "die"),
    "dat": ("dem", "der", "dem", "den"),
}
EIN = {
    "nom": ("", "e", "", "e"),
    "acc": ("en", "e", "", "e"),
    "dat": ("em", "er", "em", "en"),
}
WEAK = {
    "nom": ("e", "e", "e", "en"),
    "acc": ("en", "e", "e", "en"),
    "dat": ("en", "en", "en", "en"),
}
MIXED = {
    "nom": ("er", "e", "es", "en"),
    "acc": ("en", "e", "es", "en"),
    "dat": ("en", "en", "en", "en"),
}
STRONG = {
    "nom": ("er", "e", "es", "e"),
    "acc": ("en", "e", "es", "e"),
    "dat": ("em", "er", "em", "en"),
}
PRONOUNS = {
    "nom": ("er", "sie", "es", "sie"),
    "dat": ("ihm", "ihr", "ihm", "ihnen"),
}
CONTRACTIONS = {("in", "dem"): "im", ("in", "das"): "ins"}


def determiner(phrase: NounPhrase, case: str) -> str:
    """Return `dem`, `keinen`, `eine`; nothing for an indefinite plural or mass noun."""
    column = COLUMNS.index(phrase.agreement)
    if phrase.determiner == "der":
        return DER[case][column]
    return "" if phrase.bare else phrase.determiner + EIN[case][column]


def adjective(phrase: NounPhrase, case: str) -> str:
    """Return the ending: weak after `der`, mixed after `ein`, `kein`, `mein`, else strong."""
    if phrase.adjective is None:
        return ""
    endings = WEAK if phrase.determiner == "der" else STRONG if phrase.bare else MIXED
    stem = phrase.adjective.german.removesuffix("e")
    return stem + endings[case][COLUMNS.index(phrase.agreement)]


def noun(phrase: NounPhrase, case: str) -> str:
    """Return the form of a noun; the dative plural ends in -n: `den Kindern`, `den Frauen`."""
    if not phrase.plural:
        return phrase.noun.german
    dative_n = "n" if case == "dat" and not phrase.noun.plural.endswith("n") else ""
    return phrase.noun.plural + dative_n


def noun_phrase(phrase: Phrase | None, case: str, role: str) -> Words:
    """Return `dem alten Mann`, `ihm`, or nothing."""
    if phrase is None:
        return ()
    if isinstance(phrase, Pronoun):
        return words(PRONOUNS[case][COLUMNS.index(phrase.agreement)], f"{role}.noun")
    negation = ("not",) if phrase.determiner == "kein" else ()
    return (
        words(determiner(phrase, case), f"{role}.article", *negation)
        + words(adjective(phrase, case), f"{role}.adjective")
        + words(noun(phrase, case), f"{role}.noun")
    )


def place_phrase(place: Place | None) -> Words:
    """Return `auf dem Tisch`; preposition and article merge in `im Garten`, `ins Haus`."""
    if place is None:
        return ()
    preposition, phrase = place
    first, *rest = noun_phrase(phrase, preposition.case, "place")
    short = CONTRACTIONS.get((preposition.german, first.text))
    if short:
        return (*words(short, "place.preposition", "place.article"), *rest)
    return (*words(preposition.german, "place.preposition"), first, *rest)


def time_phrase(time: Adverbial | None) -> Words:
    """Return `heute` or `am Abend`."""
    pairs = time.pairs if time else ()
    return tuple(Word(german, (f"time.{i}",)) for i, (german, _) in enumerate(pairs))


def parts(clause: Clause) -> dict[str, Words]:
    """Return all parts of the clause except its verb, by name."""
    return {
        "subject": noun_phrase(clause.subject, "nom", "subject"),
        "dative": noun_phrase(clause.dative, "dat", "dative"),
        "accusative": noun_phrase(clause.accusative, "acc", "accusative"),
        "place": place_phrase(clause.place),
        "predicate": words(clause.predicate.german, "predicate") if clause.predicate else (),
        "time": time_phrase(clause.time),
        "nicht": words("nicht" if clause.nicht else "", "not"),
    }


def finite_verb(clause: Clause) -> str:
    """Return the verb that agrees with the subject: `gibt`, `geben`, `kann`, `sind`."""
    verb = clause.modal or clause.verb
    if not clause.subject.plural:
        return verb.third
    return "sind" if verb is BE else verb.plural


def bracket(clause: Clause) -> tuple[Words, Words]:
    """Return the finite verb and what closes a main clause: `macht … auf`, `kann … geben`."""
    if clause.modal:
        return words(finite_verb(clause), "modal"), words(clause.verb.infinitive, "verb")
    return words(finite_verb(clause), "verb"), words(clause.verb.prefix, "verb")


def cluster(clause: Clause) -> Words:
    """Return the verbs at the end of a subordinate clause: `aufmacht`, `geben kann`."""
    if clause.modal is None:
        return words(clause.verb.prefix + finite_verb(clause), "verb")
    finite, infinitive = bracket(clause)
    return infinitive + finite


def order(clause: Clause) -> tuple[str, ...]:
    """Order the parts: known objects, time, new objects, then `nicht`."""
    objects = ("dative", "accusative")
    known = 2 if clause.nicht else 1 if clause.dative and clause.dative.definite else 0
    return ("subject", *objects[:known], "time", *objects[known:], "nicht", "place", "predicate")


def verb_second(clause: Clause) -> Words:
    """Return a main clause: one part, the finite verb, everything else."""
    by_name, (finite, closing) = parts(clause), bracket(clause)
    first = by_name.pop(clause.front)
    return first + finite + middle(clause, by_name) + closing


def verb_first(clause: Clause) -> Words:
    """Return a main clause that follows a subordinate clause: the finite verb comes first."""
    finite, closing = bracket(clause)
    return finite + middle(clause, parts(clause)) + closing


def verb_final(clause: Clause) -> Words:
    """Return a subordinate clause."""
    return middle(clause, parts(clause)) + cluster(clause)


def middle(clause: Clause, by_name: dict[str, Words]) -> Words:
    """Return the parts between the two verbs, in order."""
    return tuple(word for name in order(clause) for word in by_name.get(name, ()))


def german(sentence: Sentence) -> Words:
    """Return all words of the sentence, with capital letter, commas and full stop."""
    main, second = sentence.main, sentence.second
    if second is None:
        return finished(within("main", verb_second(main)))
    clause = verb_second(second) if sentence.conjunction == "aber" else verb_final(second)
    joined = words(sentence.conjunction, "conjunction") + within("second", clause)
    comma = words(",", "comma")
    if sentence.second_first:
        return finished(joined + comma + within("main", verb_first(main)))
    return finished(within("main", verb_second(main)) + comma + joined)

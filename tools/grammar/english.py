"""The same sentence in English: fixed word order, `-s`, `does not`, `a` or `an`."""

from grammar.lexicon import BE, CAN, MUST, Adverbial
from grammar.syntax import (
    Clause,
    NounPhrase,
    Phrase,
    Place,
    Pronoun,
    Sentence,
    Words,
    finished,
    within,
    words,
)

DETERMINERS = {"der": "the", "mein": "my", "kein": "no"}
SUBJECT_PRONOUNS = {"m": "he", "f": "she", "n": "it", "p": "they"}
OBJECT_PRONOUNS = {"m": "him", "f": "her", "n": "it", "p": "them"}
CONJUNCTIONS = {"dass": "that", "weil": "because", "wenn": "when", "aber": "but"}


def third_person(base: str) -> str:
    """Turn `open` into `opens`, `put on` into `puts on`, `cross` into `crosses`."""
    verb, *particles = base.split()
    return " ".join([verb + ("es" if verb.endswith(("s", "sh", "ch", "o")) else "s"), *particles])


def indefinite_article(phrase: NounPhrase) -> str:
    """Return `a` or `an`, by the word that follows."""
    following = phrase.adjective.english if phrase.adjective else phrase.noun.english
    return "an" if following[0] in "aeiou" else "a"


def determiner(phrase: NounPhrase, role: str) -> str:
    """Return the article; an object's `kein` leaves its `not` to the verb: `not … any books`."""
    if phrase.bare:
        return ""
    if phrase.determiner == "kein" and role == "accusative":
        return "any" if phrase.plural or phrase.noun.mass else indefinite_article(phrase)
    return DETERMINERS.get(phrase.determiner) or indefinite_article(phrase)


def noun_phrase(phrase: Phrase | None, role: str) -> Words:
    """Return `the old man`, `him`, or nothing."""
    if phrase is None:
        return ()
    if isinstance(phrase, Pronoun):
        gender = phrase.agreement if phrase.human or phrase.plural else "n"
        forms = SUBJECT_PRONOUNS if role == "subject" else OBJECT_PRONOUNS
        return words(forms[gender], f"{role}.noun")
    noun = phrase.noun.english_plural if phrase.plural else phrase.noun.english
    return (
        words(determiner(phrase, role), f"{role}.article")
        + words(phrase.adjective.english if phrase.adjective else "", f"{role}.adjective")
        + words(noun, f"{role}.noun")
    )


def place_phrase(place: Place | None) -> Words:
    """Return a phrase such as `in front of the house`."""
    if place is None:
        return ()
    preposition, phrase = place
    return words(preposition.english, "place.preposition") + noun_phrase(phrase, "place")


def time_phrase(time: Adverbial | None) -> Words:
    """Return `today`, `in the evening`; German word i is linked to English group i."""
    pairs = time.pairs if time else ()
    return tuple(w for i, (_, english) in enumerate(pairs) for w in words(english, f"time.{i}"))


def finite(base: str, meaning: str, plural: bool, negation: Words) -> Words:
    """Return `opens`, `open`, `does not open`; the auxiliary `does` belongs to the verb."""
    if negation:
        return words("do" if plural else "does", meaning) + negation + words(base, meaning)
    return words(base if plural else third_person(base), meaning)


def verbs(clause: Clause) -> Words:
    """Return the verb group: `gives`, `is not`, `can not open`, `does not want to sleep`."""
    plural, modal, base = clause.subject.plural, clause.modal, clause.verb.english
    negation = words("not", "not") if clause.negative else ()
    if clause.verb is BE:
        return words("are" if plural else "is", "verb") + negation
    if modal is None:
        return finite(base, "verb", plural, negation)
    if modal in (CAN, MUST):  # "can not": tokens, so the two words of "cannot" stand apart
        return words(modal.english, "modal") + negation + words(base, "verb")
    return finite(modal.english, "modal", plural, negation) + words(base, "verb")


def english_clause(clause: Clause) -> Words:
    """Return subject, verb and objects in this order, whatever German puts first; time may lead."""
    time = time_phrase(clause.time)
    rest = (
        noun_phrase(clause.subject, "subject")
        + verbs(clause)
        + words(clause.predicate.english if clause.predicate else "", "predicate")
        + noun_phrase(clause.dative, "dative")
        + noun_phrase(clause.accusative, "accusative")
        + place_phrase(clause.place)
    )
    return time + rest if clause.front == "time" else rest + time


def english(sentence: Sentence) -> Words:
    """Return all words of the sentence, without a comma before `that`, `because` and `when`."""
    main = within("main", english_clause(sentence.main))
    if sentence.second is None:
        return finished(main)
    second = within("second", english_clause(sentence.second))
    joined = words(CONJUNCTIONS[sentence.conjunction], "conjunction") + second
    comma = words(",", "comma")
    if sentence.second_first:
        return finished(joined + comma + main)
    return finished(main + (comma if sentence.conjunction == "aber" else ()) + joined)

"""The words of the grammar corpus: what each one looks like, means, and goes with.

Tags keep the sentences sensible. A noun says what it is (`person`, `food`, …); adjectives and
verbs say which tags they go with. Several tags in one string mean "any of these".
Endings and word order are in the modules `german` and `english`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A noun with its gender (`m`, `f`, `n`), both plurals, and the determiners it is used with.

    Without a plural it is used in the singular only; `mass` nouns have no article when indefinite.
    """

    german: str
    gender: str
    plural: str
    english: str
    english_plural: str
    tags: str
    determiners: str = "der ein mein"

    @property
    def mass(self) -> bool:
        return "mass" in self.tags

    @property
    def human(self) -> bool:
        return "person" in self.tags


@dataclass(frozen=True)
class Adjective:
    """An adjective, the nouns it may stand before (`tags`) and those it may be said of (`states`).

    `deters`: as a reason it keeps somebody from doing something ("does not work because he is
    tired"); otherwise it is a reason to do it ("buys the lamp because it is new").
    """

    german: str
    english: str
    tags: str
    states: str = ""
    deters: bool = False


@dataclass(frozen=True)
class Preposition:
    """A preposition with its case and the nouns that follow it."""

    german: str
    case: str
    english: str
    tags: str


@dataclass(frozen=True)
class Verb:
    """A verb: `Verb("machen", "macht", "open", "person", prefix="auf", accusative="open")`.

    The German forms are those of *they* and *he*, without the separable prefix. `subject`,
    `dative`, `accusative` are the tags of its noun phrases, empty for none. One of `places` is
    chosen; None among them means that the verb can do without.
    `chosen`: what the object is like can be the reason. `restful`: tiredness is a reason for it.
    """

    plural: str
    third: str
    english: str
    subject: str
    prefix: str = ""
    dative: str = ""
    accusative: str = ""
    places: tuple[Preposition | None, ...] = (None,)
    chosen: bool = False
    restful: bool = False

    @property
    def infinitive(self) -> str:
        return self.prefix + self.plural


@dataclass(frozen=True)
class Modal:
    """A modal verb; English `wants to` has an infinitive of its own, `can` and `must` have none."""

    plural: str
    third: str
    english: str


@dataclass(frozen=True)
class Adverbial:
    """When it happens, as pairs of German and English words that translate each other."""

    pairs: tuple[tuple[str, str], ...]
    negatable: bool = True


NOUNS = (
    Noun("Mann", "m", "Männer", "man", "men", "person grown sized", "der ein"),
    Noun("Vater", "m", "", "father", "", "person grown", "der mein"),
    Noun("Lehrer", "m", "Lehrer", "teacher", "teachers", "person grown sized"),
    Noun("Frau", "f", "Frauen", "woman", "women", "person grown sized", "der ein"),
    Noun("Mutter", "f", "", "mother", "", "person grown", "der mein"),
    Noun("Lehrerin", "f", "Lehrerinnen", "teacher", "teachers", "person grown sized"),
    Noun("Kind", "n", "Kinder", "child", "children", "person sized"),
    Noun("Hund", "m", "Hunde", "dog", "dogs", "animal sized"),
    Noun("Katze", "f", "Katzen", "cat", "cats", "animal sized"),
    Noun("Tier", "n", "Tiere", "animal", "animals", "animal sized", "der ein"),
    Noun("Apfel", "m", "Äpfel", "apple", "apples", "food piece small"),
    Noun("Ei", "n", "Eier", "egg", "eggs", "food piece small", "der ein"),
    Noun("Brot", "n", "", "bread", "", "food mass"),
    Noun("Tee", "m", "", "tea", "", "drink mass"),
    Noun("Milch", "f", "", "milk", "", "drink mass"),
    Noun("Wasser", "n", "", "water", "", "drink mass", "der ein"),
    Noun("Ball", "m", "Bälle", "ball", "balls", "thing small toy"),
    Noun("Brief", "m", "Briefe", "letter", "letters", "thing small text"),
    Noun("Schlüssel", "m", "Schlüssel", "key", "keys", "thing small"),
    Noun("Blume", "f", "Blumen", "flower", "flowers", "flower small"),
    Noun("Lampe", "f", "Lampen", "lamp", "lamps", "thing switch"),
    Noun("Buch", "n", "Bücher", "book", "books", "thing small text open"),
    Noun("Bild", "n", "Bilder", "picture", "pictures", "thing small"),
    Noun("Tür", "f", "Türen", "door", "doors", "open"),
    Noun("Fenster", "n", "Fenster", "window", "windows", "open"),
    Noun("Licht", "n", "", "light", "", "switch", "der"),
    Noun("Mantel", "m", "", "coat", "", "wear"),
    Noun("Jacke", "f", "", "jacket", "", "wear"),
    Noun("Garten", "m", "", "garden", "", "room"),
    Noun("Küche", "f", "", "kitchen", "", "room"),
    Noun("Schule", "f", "", "school", "", "room building"),
    Noun("Haus", "n", "", "house", "", "room building"),
    Noun("Stuhl", "m", "", "chair", "", "seat"),
    Noun("Tisch", "m", "", "table", "", "table"),
    Noun("Bank", "f", "", "bench", "", "seat", "der ein"),
    Noun("Bett", "n", "", "bed", "", "seat table"),
    Noun("Baum", "m", "", "tree", "", "tree", "der ein"),
    Noun("Straße", "f", "", "street", "", "road", "der ein"),
    Noun("Brücke", "f", "", "bridge", "", "road", "der ein"),
)

ADJECTIVES = (
    Adjective(
        "alt", "old", "grown animal thing open wear room seat table tree", "thing wear", True
    ),
    Adjective("jung", "young", "person animal tree"),
    Adjective("klein", "small", "sized thing piece flower open room table tree"),
    Adjective("groß", "big", "sized thing piece flower open room table tree", "room tree"),
    Adjective("neu", "new", "thing open wear room seat table road", "thing wear"),
    Adjective("schön", "beautiful", "thing flower wear room road", "thing flower wear room"),
    Adjective("rot", "red", "thing flower wear seat"),
    Adjective("frisch", "fresh", "food drink flower", "food drink flower"),
    Adjective("breit", "wide", "road", "road", True),
    Adjective("müde", "tired", "person animal", "person animal", True),
    Adjective("krank", "sick", "person animal", "person animal", True),
    Adjective("hungrig", "hungry", "person animal", "person animal"),
)

IN = Preposition("in", "dat", "in", "room")
INTO = Preposition("in", "acc", "into", "room")
ON_SEAT = Preposition("auf", "dat", "on", "seat")
ON_TABLE = Preposition("auf", "dat", "on", "table")
ONTO_TABLE = Preposition("auf", "acc", "on", "table")
UNDER_TREE = Preposition("unter", "dat", "under", "tree")
UNDER_TABLE = Preposition("unter", "dat", "under", "table")
BEHIND = Preposition("hinter", "dat", "behind", "building tree")
IN_FRONT = Preposition("vor", "dat", "in front of", "building")
FOR = Preposition("auf", "acc", "for", "person animal")
WITH = Preposition("mit", "dat", "with", "person animal toy")

BE = Verb("sind", "ist", "be", "")
KNOW = Verb("wissen", "weiß", "know", "person")

VERBS = (
    Verb("schlafen", "schläft", "sleep", "person animal", restful=True),
    Verb("schlafen", "schläft", "sleep", "person animal", places=(IN, UNDER_TREE), restful=True),
    Verb("lachen", "lacht", "laugh", "person"),
    Verb("arbeiten", "arbeitet", "work", "person", places=(None, IN)),
    Verb("stehen", "steht", "get up", "person", prefix="auf"),
    Verb("kaufen", "kauft", "go shopping", "person", prefix="ein"),
    Verb("sitzen", "sitzt", "sit", "person animal", places=(ON_SEAT, UNDER_TREE, BEHIND, IN_FRONT)),
    Verb("liegen", "liegt", "lie", "small", places=(ON_TABLE, UNDER_TABLE)),
    Verb("liegen", "liegt", "lie", "small", places=(ON_TABLE, UNDER_TREE)),
    Verb("laufen", "läuft", "run", "person animal", places=(IN, INTO)),
    Verb("laufen", "läuft", "run", "person animal", places=(INTO, BEHIND)),
    Verb("warten", "wartet", "wait", "person", places=(FOR, FOR, IN_FRONT)),
    Verb("spielen", "spielt", "play", "person animal", places=(WITH, WITH, IN)),
    Verb("sehen", "sieht", "see", "person animal", accusative="person animal thing room"),
    Verb("suchen", "sucht", "look for", "person", accusative="person animal small"),
    Verb("suchen", "sucht", "look for", "animal", accusative="person animal"),
    Verb(
        "kaufen", "kauft", "buy", "person", accusative="thing food drink wear flower", chosen=True
    ),
    Verb("essen", "isst", "eat", "person", accusative="food", chosen=True),
    Verb("fressen", "frisst", "eat", "animal", accusative="food", chosen=True),
    Verb("trinken", "trinkt", "drink", "person", accusative="drink", chosen=True),
    Verb("lesen", "liest", "read", "person", accusative="text", chosen=True),
    Verb("überqueren", "überquert", "cross", "person animal", accusative="road", chosen=True),
    Verb("machen", "macht", "open", "person", prefix="auf", accusative="open"),
    Verb("machen", "macht", "close", "person", prefix="zu", accusative="open"),
    Verb("machen", "macht", "turn on", "person", prefix="an", accusative="switch"),
    Verb("machen", "macht", "turn off", "person", prefix="aus", accusative="switch"),
    Verb("ziehen", "zieht", "put on", "person", prefix="an", accusative="wear", chosen=True),
    Verb("rufen", "ruft", "call", "person", prefix="an", accusative="person"),
    Verb("bringen", "bringt", "bring", "person", prefix="mit", accusative="small food drink"),
    Verb("legen", "legt", "put", "person", accusative="small", places=(ONTO_TABLE,)),
    Verb("helfen", "hilft", "help", "person", dative="person animal"),
    Verb("danken", "dankt", "thank", "person", dative="person"),
    Verb("geben", "gibt", "give", "person", dative="person animal", accusative="food toy"),
    Verb("geben", "gibt", "give", "person", dative="person", accusative="small drink wear"),
    Verb("zeigen", "zeigt", "show", "person", dative="person", accusative="thing animal"),
    Verb(
        "bringen",
        "bringt",
        "bring",
        "person",
        dative="person",
        accusative="thing food drink flower",
    ),
)

REPORTING = (
    KNOW,
    Verb("sagen", "sagt", "say", "person"),
    Verb("hoffen", "hofft", "hope", "person"),
)

CAN = Modal("können", "kann", "can")
WANT = Modal("wollen", "will", "want to")
MUST = Modal("müssen", "muss", "must")
MODALS = (CAN, WANT, MUST)

ADVERBIALS = (
    Adverbial((("heute", "today"),)),
    Adverbial((("jetzt", "now"),)),
    Adverbial((("am", "in the"), ("Abend", "evening"))),
    Adverbial((("im", "in"), ("Winter", "winter"))),
    Adverbial((("jeden", "every"), ("Morgen", "morning")), negatable=False),
    Adverbial((("manchmal", "sometimes"),), negatable=False),
)

# Adjective and noun, verb and object that the training split never brings together.
HELD_OUT = frozenset(
    tuple(pair.split())
    for pair in (
        *("alt Mann", "jung Frau", "klein Hund", "krank Katze", "müde Kind", "krank Lehrerin"),
        *("hungrig Tier", "neu Buch", "rot Ball", "schön Blume", "frisch Apfel", "breit Brücke"),
        *("geben Ball", "zeigen Bild", "danken Mutter", "lesen Brief", "trinken Tee"),
        *("fressen Apfel", "helfen Frau", "aufmachen Tür", "essen Ei"),
    )
)

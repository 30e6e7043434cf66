"""The grammar corpus: the generator still writes its files, and the files keep their promises."""

import hashlib
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from grammar.corpus import realised, running_sentence, write_grammar_corpus
from grammar.lexicon import HELD_OUT

from transformer_lib.lessons.grammar import (
    RUNNING_PAIR,
    SentencePair,
    grammar_corpus,
    read_grammar_corpus,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "data" / "grammar"
NAMES = [f"{split}.{end}" for split in ("train", "val", "test") for end in ("de", "en", "align")]
SHA256 = "953c2f74296541263d840a3791691889e41a97acfb92827102f28415c876c325"

# Held-out pairs as a reader would look for them: adjective and noun side by side in German, the
# verb and its object in the language in which word order or the verb tells them apart.
ADJECTIVE_AND_NOUN = (
    *("alt Mann", "jung Frau", "klein Hund", "krank Katze", "müde Kind", "krank Lehrerin"),
    *("hungrig Tier", "neu B[uü]ch", "rot B[aä]ll", "schön Blume", "frisch [AÄ]pfel"),
    "breit Brücke",
)
NOUN_PHRASE = r"(?:(?:the|an?|my|any|no) )?(?:(?:old|young|small|big|new|beautiful|red|fresh) )?"
OBJECTS = r"(?:(?!because|that|when|but|in|into|on|onto|with|for|under|behind)\w+ ){0,6}"
VERB_AND_OBJECT = {
    "en": (
        *(rf"gives? {OBJECTS}ball", rf"shows? {OBJECTS}picture", rf"reads? {NOUN_PHRASE}letter"),
        *(rf"thanks? {NOUN_PHRASE}mother", rf"helps? {NOUN_PHRASE}wom[ae]n"),
        *(rf"drinks? {NOUN_PHRASE}tea", rf"opens? {NOUN_PHRASE}door"),
    ),
    "de": (  # in one clause, the verb second or last
        r"fr(?:iss|ess)\w+ [^,.]*[AÄ]pfel|[AÄ]pfel [^,.]*fr(?:iss|ess)",
        r"\b(?:isst|essen) [^,.]*Ei(?:er)?\b|\bEi(?:er)? [^,.]*\b(?:isst|essen)\b",
    ),
}


def everything():
    return [pair for split in vars(grammar_corpus()).values() for pair in split]


def test_the_generator_writes_the_files_byte_for_byte(tmp_path):
    write_grammar_corpus(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
    content = b"".join((tmp_path / name).read_bytes() for name in NAMES)
    assert hashlib.sha256(content).hexdigest() == SHA256
    assert b"\r" not in content and content.endswith(b"\n")
    for split, pairs in vars(grammar_corpus()).items():  # and the reader returns what they say
        for end, field in (("de", "source"), ("en", "target"), ("align", "pharaoh")):
            text = "".join(f"{getattr(pair, field)}\n" for pair in pairs)
            assert text == (FOLDER / f"{split}.{end}").read_text("utf-8")


def test_the_command_needs_a_folder(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grammar"])
    with pytest.raises(SystemExit, match="usage"):
        runpy.run_path(str(ROOT / "tools" / "grammar"), run_name="__main__")


def test_the_running_pair_is_the_first_of_test_and_no_sentence_occurs_twice():
    assert realised(running_sentence()) == RUNNING_PAIR == grammar_corpus().test[0]
    assert RUNNING_PAIR.pharaoh == "0-0 1-4 2-1 3-2 4-3 5-5 6-6 7-7 8-8 9-9"
    assert [len(split) for split in vars(grammar_corpus()).values()] == [12_000, 500, 500]
    assert len({pair.source for pair in everything()}) == 13_000


def test_every_word_is_linked_with_its_translations_except_commas_that_english_omits():
    links = defaultdict(set)
    for pair in everything():
        source, target = pair.source.split(), pair.target.split()
        assert {j for _, j in pair.alignment} == {*range(len(target))}, pair
        linked = {i for i, _ in pair.alignment}
        alone = [word for i, word in enumerate(source) if i not in linked]
        assert alone == [","] * (source.count(",") - target.count(",")), pair
        assert list(pair.alignment) == sorted(set(pair.alignment)), pair
        for i, j in pair.alignment:
            links[source[i].lower()].add(target[j].lower())
    one = {"hund": "dog", "kinder": "children", "nicht": "not", ".": ".", "weil": "because"}
    assert {german: links[german] for german in one} == {de: {en} for de, en in one.items()}
    assert links["gibt"] <= {"gives", "give", "does"} and links["im"] == {"in", "the"}
    assert links["keinen"] <= {"not", "a", "an", "any", "no"}


def test_the_test_split_holds_out_whole_combinations():
    assert len(HELD_OUT) == 21
    patterns = [("de", pair.replace(" ", r"\w* ")) for pair in ADJECTIVE_AND_NOUN]
    patterns += [(end, one) for end, several in VERB_AND_OBJECT.items() for one in several]
    assert len(patterns) == len(HELD_OUT)
    texts = {name: (FOLDER / name).read_text("utf-8") for name in NAMES}
    for end, pattern in patterns:
        assert re.search(pattern, texts[f"test.{end}"]), pattern
        for split in ("train", "val"):
            assert not re.search(pattern, texts[f"{split}.{end}"]), pattern


def test_every_word_of_val_and_test_is_familiar():
    corpus = grammar_corpus()
    for side in ("source", "target"):
        count = Counter(word for pair in corpus.train for word in getattr(pair, side).split())
        for pair in corpus.val + corpus.test:
            assert min(count[word] for word in getattr(pair, side).split()) >= 5, pair


def test_the_readme_counts_right():
    readme = (FOLDER / "README.md").read_text("utf-8")
    splits = vars(grammar_corpus()).values()
    assert "| sentence pairs | {:,} | {} | {} |".format(*map(len, splits)) in readme
    counts = []
    for language, side in (("German", "source"), ("English", "target")):
        texts = [[getattr(pair, side).split() for pair in pairs] for pairs in splits]
        means = [f"{sum(map(len, text)) / len(text):.1f}" for text in texts]
        lengths = {len(tokens) for text in texts for tokens in text}
        row = f"{language} tokens per sentence, mean ({min(lengths)} to {max(lengths)})"
        assert f"| {row} | {' | '.join(means)} |" in readme
        words = {word for tokens in texts[0] for word in tokens}
        counts += [len(words), len({word.lower() for word in words})]
    words = "{0} different German words and {2} English ones, {1} and {3} when".format(*counts)
    assert words in readme


def write_small(folder, align="0-0 1-1\n"):
    for split in ("train", "val", "test"):
        (folder / f"{split}.de").write_text("Hund .\n", "utf-8")
        (folder / f"{split}.en").write_text("dog .\n", "utf-8")
        (folder / f"{split}.align").write_text(align, "utf-8")


@pytest.mark.parametrize(
    ("align", "message"),
    [
        ("0-0 1\n", r"train\.align, line 1: '1' is not a link"),
        ("0--1\n", "is not a link"),
        ("0-2\n", "link 0-2 is outside a pair of 2 and 2 tokens"),
        ("2-0\n", "link 2-0 is outside a pair of 2 and 2 tokens"),
        ("0-0\n1-1\n", "1, 1 and 2 lines"),
    ],
)
def test_damaged_files_are_refused(tmp_path, align, message):
    write_small(tmp_path)
    assert read_grammar_corpus(tmp_path).val == (SentencePair("Hund .", "dog .", ((0, 0), (1, 1))),)
    write_small(tmp_path, align)
    with pytest.raises(ValueError, match=message):
        read_grammar_corpus(tmp_path)
    (tmp_path / "train.de").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.de is missing: install"):
        read_grammar_corpus(tmp_path)


def test_an_installed_package_contains_the_corpus(tmp_path):
    """Read from a copy of the package outside the repository, as pip would install it."""
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path / "built"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    shutil.move(tmp_path / "built" / "transformer_lib", tmp_path / "transformer_lib")
    code = "from transformer_lib.lessons import grammar as g; print(g.__file__, g.grammar_corpus())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith(str(tmp_path)) and RUNNING_PAIR.source in result.stdout
    assert "graft data/grammar\n" in (ROOT / "MANIFEST.in").read_text()

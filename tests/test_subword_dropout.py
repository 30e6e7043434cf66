"""Sentences in other pieces: sentencepiece's own without dropout, and the same text always."""

import random
import subprocess
import sys

import pytest

from transformer_lib import SubwordVocab, WordVocab
from transformer_lib.lessons.grammar import grammar_corpus
from transformer_lib.train.subword_dropout import SubwordDropout, WordCutter

PAIRS = [(pair.source, pair.target) for pair in grammar_corpus().train[:300]]
TEXTS = [text for pair in PAIRS for text in pair]
VOCAB = SubwordVocab.train(TEXTS, size=300)
IDS = [
    (VOCAB.encode(source, eos=True), VOCAB.encode(target, bos=True, eos=True))
    for source, target in PAIRS
]


def dropout(rate=0.3, max_len=5000):
    return SubwordDropout(VOCAB, VOCAB, rate, max_len)


def test_without_dropout_the_pieces_are_sentencepieces():
    assert dropout(0.0)(IDS, "any") == IDS
    words = {word for text in TEXTS for word in text.split()}
    cutter = WordCutter(VOCAB, 0.0)
    for word in [*words, "Unwahrscheinlichkeit", "interdependent"]:
        assert cutter.cut(f"▁{word}", random.Random(0)) == VOCAB.tokenize(word)


def test_other_pieces_are_the_same_text():
    found = dropout()(IDS, "0 1 2")
    assert found != IDS
    for (src, tgt), (source, target) in zip(found, PAIRS, strict=True):
        assert VOCAB.decode(src) == source and VOCAB.decode(tgt) == target
        assert src[-1] == tgt[-1] == VOCAB.eos_id and tgt[0] == VOCAB.bos_id
        assert VOCAB.unk_id not in (*src, *tgt) and src.count(VOCAB.eos_id) == 1


def test_the_share_of_merges_left_out_is_the_rate():
    """A word of two letters has one merge, which is tried once."""
    merge = next(VOCAB.id_to_token(id) for id in range(4, 300) if len(VOCAB.id_to_token(id)) == 2)
    cutter, draw = WordCutter(VOCAB, 0.25), random.Random(0)
    split = sum(len(cutter.cut(merge, draw)) == 2 for _ in range(4000)) / 4000
    assert split == pytest.approx(0.25, abs=0.03)  # four standard deviations


def test_a_sentence_is_seen_in_many_cuts():
    vary = dropout()
    cuts = {tuple(vary(IDS[:1], str(n))[0][0]) for n in range(50)}
    assert len(cuts) > 25


def test_the_key_alone_decides_what_is_drawn():
    one, other = dropout(), dropout()
    assert one(IDS, "a") != one(IDS, "b")
    other(IDS[50:], "c")  # whatever was cut before
    assert one(IDS, "a") == other(IDS, "a")


def test_another_process_draws_the_same():
    """Sentencepiece's own sampling does not: that is why the cutting is ours."""
    code = "from tests.test_subword_dropout import *; print(dropout()(IDS[:20], 'a'))"
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert told[0].stdout == told[1].stdout == f"{dropout()(IDS[:20], 'a')}\n"


def test_what_gets_too_long_keeps_its_pieces():
    longest = max(len(side) for pair in IDS for side in pair)
    found = dropout(0.9, max_len=longest)(IDS, "a")
    assert max(len(side) for pair in found for side in pair) <= longest
    assert any(src == usual for (src, _), (usual, _) in zip(found, IDS, strict=True))


def test_a_sentence_with_an_unknown_letter_stays_as_it_is():
    ids = VOCAB.encode("der Ж Hund", eos=True)
    assert VOCAB.unk_id in ids
    assert dropout(0.9)([(ids, IDS[0][1])], "a")[0][0] == ids


def test_words_have_no_pieces():
    words = WordVocab.train(["a dog", "a dog"], "en")
    with pytest.raises(ValueError, match="needs subwords: prepare with --vocab subwords"):
        SubwordDropout(words, VOCAB, 0.1, 100)

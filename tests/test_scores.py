"""BLEU and chrF against sacrebleu called directly, against hand counts, and their refusals."""

import math

import pytest
import sacrebleu

from transformer_lib.translate.evaluation import literature_bleu, words_bleu
from transformer_lib.translate.scores import (
    SPECIAL_TOKENS,
    bleu,
    choose_tokenizer,
    chrf,
    is_countable,
)
from transformer_lib.vocab import SPECIALS

HYPOTHESES = [
    "A man in an Orange hat is looking at something.",
    "A Boston terrier runs on lush green grass, in front of a white fence!",
    "Five people wearing winter jackets and helmets stand in the snow.",
    "",
]
REFERENCES = [
    "A man in an orange hat starring at something.",
    "A Boston Terrier is running on lush green grass in front of a white fence.",
    "People with winter jackets and helmets stand in the snow, with snowmobiles.",
    "People are fixing the roof of a house.",
]


@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_are_sacrebleus(lowercase):
    def check(score, metric, *parts):
        theirs = metric.corpus_score(HYPOTHESES, [REFERENCES])
        assert score.value == theirs.score and str(score).startswith(f"{theirs.score:.2f} (nrefs:1")
        for part in (*parts, f"case:{'lc' if lowercase else 'mixed'}", sacrebleu.__version__):
            assert part in score.signature

    for tokenize in ("13a", "intl", "char", "none", "zh"):
        ours = bleu(HYPOTHESES, REFERENCES, lowercase=lowercase, tokenize=tokenize)
        check(ours, sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize), f"tok:{tokenize}")
    for order in (0, 2):
        ours = chrf(HYPOTHESES, REFERENCES, lowercase=lowercase, word_order=order)
        check(ours, sacrebleu.CHRF(lowercase=lowercase, word_order=order), f"nw:{order}")


def test_bleu_by_hand():
    hypotheses = ["the cat sat on the mat", "the the dog"]
    references = ["the cat sat on the red mat", "the dog barks loudly"]
    # Right n-grams of all: 6+2 of 9, 4+1 of 7, 3+0 of 5, 2+0 of 3; 9 words for 11.
    expected = 100 * math.exp(1 - 11 / 9) * (8 / 9 * 5 / 7 * 3 / 5 * 2 / 3) ** 0.25
    assert bleu(hypotheses, references, tokenize="none").value == pytest.approx(expected, abs=1e-9)


def test_special_tokens_raise_bleu_and_so_are_refused():
    framed = [[f"<s> {text} </s>" for text in side] for side in (HYPOTHESES, REFERENCES)]
    plain, raised = (
        sacrebleu.corpus_bleu(h, [r]).score for h, r in ((HYPOTHESES, REFERENCES), framed)
    )
    assert raised > plain + 2
    for score in (bleu, chrf):
        with pytest.raises(ValueError, match=r"hypothesis 0 holds '<s>', which is not a word"):
            score(framed[0], REFERENCES)
        with pytest.raises(ValueError, match=r"reference 0 holds '<s>'"):
            score(HYPOTHESES, framed[1])
    assert bleu(*framed, special_tokens=()).value == raised


def test_every_special_token_is_refused_wherever_it_is():
    assert set(SPECIALS) <= set(SPECIAL_TOKENS)
    for token in (*SPECIAL_TOKENS, "<UNK>"):
        for text in (token, f"a {token} b", f"b{token}"):
            with pytest.raises(ValueError, match="hypothesis 1 holds"):
                bleu(["fine", text], ["fine", "a b"])


@pytest.mark.parametrize("score", [bleu, chrf])
def test_unequal_counts_and_nothing_are_refused(score):
    with pytest.raises(ValueError, match="2 hypotheses, but 3 references"):
        score(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="no sentences"):
        score([], [])
    with pytest.raises(ValueError, match="not one string"):
        score("abc", "abc")
    with pytest.raises((ValueError, TypeError)):  # sacrebleu's own nesting of references
        score(["a"], [["a"]])
    with pytest.raises(ValueError, match="choose from 13a, intl, char, none"):
        bleu(["a"], ["a"], tokenize="flores200")  # which downloads a model


CHINESE = ["一个男人在雪地里跑步。", "两只狗在草地上睡觉。"]
THAI = ["ผู้ชายวิ่งบนหิมะ", "สุนัขสองตัวนอนหลับ"]


@pytest.mark.parametrize(
    ("language", "references", "tokenize"),
    [
        ("de", REFERENCES, "13a"),
        ("zh", CHINESE, "zh"),
        ("zh-TW", CHINESE, "zh"),
        ("th", THAI, "char"),
        (None, THAI, "char"),
        ("target", CHINESE, "char"),  # whatever the language is called
    ],
)
def test_text_is_tokenised_by_its_language_so_that_right_words_count(
    language, references, tokenize
):
    assert choose_tokenizer(language, references) == tokenize
    nearly = [references[0][:-2], *references[1:]]
    assert bleu(references, references, tokenize=tokenize).value == pytest.approx(100)
    assert 20 < bleu(nearly, references, tokenize=tokenize).value < 100


def test_without_mecab_japanese_is_counted_by_characters(monkeypatch):
    def fail(**_):
        raise RuntimeError("Japanese tokenization requires extra dependencies")

    assert choose_tokenizer("ja", ["男の子"]) in ("ja-mecab", "char")
    monkeypatch.setattr("sacrebleu.metrics.BLEU", fail)
    assert choose_tokenizer("ja", ["男の子"]) == choose_tokenizer("ko", ["소년"]) == "char"
    with pytest.raises(ValueError, match=r'pip install "sacrebleu\[ja\]"'):
        bleu(["a"], ["a"], tokenize="ja-mecab")


def test_bleu_cannot_count_texts_that_are_too_short_for_it():
    assert bleu(["yes", "dog bed"], ["yes", "dog bed"]).value == 0  # though all is right
    assert not is_countable(["yes", "dog bed"])
    assert is_countable(REFERENCES)


@pytest.mark.parametrize("score", [words_bleu, literature_bleu])
def test_one_string_is_not_a_list_of_sentences(score):
    with pytest.raises(ValueError, match="not one string"):
        score("abc", "abc", "en")


def test_tokenised_text_is_warned_about_only_where_it_is_a_surprise(caplog):
    texts = ["a dog barks ."] * 100
    assert bleu(texts, texts, tokenize="none").value == pytest.approx(100)
    assert caplog.text == ""
    bleu(texts, texts)
    assert "forgot to detokenize" in caplog.text

"""Text to ids and back, without a sentence that reads like another or ends where it should not."""

import json
import re
import unicodedata
from collections import Counter
from functools import cache, partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformer_lib.vocab import (
    SPECIALS,
    SubwordVocab,
    Vocab,
    WordTokenizer,
    WordVocab,
    frequent_words,
    normalize_text,
)

TEXTS = [
    "Der alte Mann gibt dem Kind den Ball.",
    "Das Kind sieht den schönen Garten, aber der Mann sieht ihn nicht.",
    "Die Frau öffnet die Tür und das Fenster.",
    "Der Mann kauft einen Apfel; die Frau kauft zwei Äpfel.",
    "Übrigens schläft der Hund unter dem großen Baum!",
    "Schläft der Hund?",
]
HOSTILE = [*TEXTS, "<pad> <unk> <bos> <eos>", "<eos><eos> a<pad>b <s> </s>"] * 3
LETTERS = sorted(set("".join(TEXTS)))

CORPORA = {
    "de": [*TEXTS, "Er sagte: „Das ist z. B. ein Vater-Kind-Treffen (3,5 km)“ ...", "# ##"],
    "en": ["A father-figure doesn't pay $3.50.", "He said: \"Rock 'n' roll!\"", "A ; b .", "A_b"],
    "fr": ["L'herbe est verte aujourd'hui.", "Où va-t-il ? « Là-bas » !", "Qu’est-ce que c’est ?"],
    "zh": ["一个男孩在雪地里和狗玩。", "他有 2 部 iPhone,你呢?", "“你好!” 她说"],
    "ja": [
        "男の子が雪の中で犬と遊んでいます。",
        "彼は「こんにちは」と言った 3 回",
        "私は Tom です。",
    ],
}

quick = settings(max_examples=60, deadline=None)
sentences = st.lists(st.sampled_from([*"".join(LETTERS), "der", "Kind", "schön"]), max_size=25).map(
    "".join
)


@pytest.fixture(scope="module")
def words():
    return WordVocab.train(TEXTS, "de", min_freq=1)


@pytest.fixture(scope="module")
def pieces():
    return SubwordVocab.train(TEXTS, size=90)


@pytest.fixture(scope="module", params=["words", "pieces"])
def vocab(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module", params=["words", "pieces"])
def hostile(request):
    """Trained on texts in which somebody has typed our special tokens."""
    if request.param == "words":
        return WordVocab.train(HOSTILE, "de", min_freq=1)
    return SubwordVocab.train(HOSTILE, size=95)


# --- one spelling


@quick
@given(st.text())
@example("e\ufeff\u0301 \u2028x")
@example("&am\u00adp\u037e&amp;#173;x")
@example("\u2764\ufe0f\u200d\U0001f525")
def test_normalising_twice_changes_nothing_more(text):
    once = normalize_text(text)
    assert normalize_text(once) == once
    assert once == " ".join(once.split()) and "\ufeff" not in once
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    "written, meant",
    [
        ("A man &amp; a woman", "A man & a woman"),
        ("&amp;amp;quot;Hi&amp;#39;&quot;", '"Hi\'"'),
        ("5 &lt; 6 &#x26; 7&nbsp;km", "5 < 6 & 7 km"),
        ("&a&#109;p;lt;", "<"),
        ("Q&A; AT&T &copycat &nothing; R&amp D", "Q&A; AT&T &copycat &nothing; R&amp D"),
        ("Ein\u00adgang\u200b und\u200e Aus\u2060gang\ufe0f", "Eingang und Ausgang"),
        ("zero\u200dwidth\u200c", "zerowidth"),
        ("a\u2581b &#9601;", "a_b _"),  # sentencepiece's own sign for a space
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("&" + "AMP;#38;amp;" * 20_000, "&"),  # in a moment
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
    ],
)
def test_text_is_what_a_person_would_write(written, meant):
    assert normalize_text(written) == meant


VARIANTS = {
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "no-break space": lambda text: text.replace(" ", "\u00a0"),
    "tab": lambda text: text.replace(" ", "\t"),
    "line separator": lambda text: text.replace(" ", "\u2028"),
    "next line": lambda text: text.replace(" ", "\u0085"),
    "two spaces": lambda text: text.replace(" ", "  "),
    "spaces around": lambda text: f" {text} \n",
    "byte order mark": lambda text: f"\ufeff{text}",
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_what_looks_the_same_gets_the_same_ids(vocab, change):
    changed = [change(text) for text in TEXTS]
    assert changed != TEXTS
    assert [*map(vocab.encode, changed)] == [*map(vocab.encode, TEXTS)]


def test_training_texts_are_normalised_too():
    changed = [unicodedata.normalize("NFD", text).replace(" ", "\u00a0") for text in TEXTS]
    for train in (lambda t: WordVocab.train(t, "de"), lambda t: SubwordVocab.train(t, size=90)):
        assert train(changed).to_bytes() == train(TEXTS).to_bytes()


# --- words


def test_words_and_punctuation_marks_are_cut():
    cut = WordTokenizer("de")("Er gibt,  z.B. dem Kind, 3,5 Euro.")
    assert cut == ["Er", "gibt", ",", "z.B.", "dem", "Kind", ",", "3,5", "Euro", "."]
    assert WordTokenizer("en")("He doesn't.") == ["He", "does", "n't", "."]
    assert WordTokenizer("en")("") == []


empty = cache(partial(WordVocab, SPECIALS))


@quick
@given(st.text(st.sampled_from("ab.,-'\"()#&<>_ é«»’漢"), max_size=20))
@example("## # ##a l'herbe (3,5)")
def test_words_with_their_marks_hold_every_space(text):
    for language in ("de", "en", "fr", "zh"):
        vocab = empty(language)
        assert vocab.join(vocab.tokenize(text)) == normalize_text(text)


def test_an_unknown_language_is_named():
    with pytest.raises(ValueError, match="'qq'"):
        WordTokenizer("qq")


@quick
@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 4)))
@example({"<pad>": 4, "b": 2, "a": 2, "c": 3})
def test_frequent_words_are_counted_as_by_hand(counts):
    by_hand = sorted(set(counts) - set(SPECIALS), key=lambda word: (-counts[word], word))
    assert frequent_words(counts) == by_hand
    assert frequent_words(counts, min_freq=3) == [w for w in by_hand if counts[w] >= 3]
    assert frequent_words(counts, max_size=2) == by_hand[:2]


@pytest.mark.parametrize(("min_freq", "max_size"), [(1, None), (2, None), (1, 5)])
def test_word_ids_go_by_frequency_and_then_by_the_alphabet(words, min_freq, max_size):
    counts = Counter(token for text in TEXTS for token in words.tokenize(text))
    kept = [word for word in counts if counts[word] >= min_freq]
    kept = sorted(kept, key=lambda word: (-counts[word], word))[:max_size]
    limits = {"min_freq": min_freq, "max_size": max_size}
    vocab = WordVocab.train(reversed(TEXTS), "de", **limits)
    assert [vocab.id_to_token(i) for i in range(len(vocab))] == [*SPECIALS, *kept]
    assert all((vocab.token_to_id(word) == vocab.unk_id) == (word not in kept) for word in counts)
    assert (WordVocab.train(TEXTS, "de").to_bytes() == vocab.to_bytes()) == (min_freq == 2)


def test_an_unknown_word_becomes_unk_and_is_seen_again(words):
    assert words.encode("Der Zebra gibt dem Kind den Ball.").count(words.unk_id) == 1
    assert words.decode(words.encode("Der Zebra schläft.")) == "Der <unk> schläft."


def test_a_word_known_with_another_spacing_is_known():
    vocab = WordVocab.train(["Der Hund , der ( Hund."], "de", min_freq=1)
    assert vocab.tokenize("Der, (Hund .") == ["Der", ",", "(", "Hund", "##."]
    assert vocab.unk_id not in vocab.encode("Der, (Hund .")
    assert vocab.decode(vocab.encode("Der Katze.")) == "Der <unk>."


OLD = '{"language": "de", "tokens": ["<pad>", "<unk>", "<bos>", "<eos>", "Ball", ".", "(", ";-)"]}'


@pytest.mark.parametrize("text", ["Ball.", "( Ball . Ball ;-)", "Ball Katze ( .", ". Ball"])
def test_a_file_from_before_the_marks_reads_as_before(text):
    vocab, tokens = Vocab.from_bytes(OLD.encode()), WordTokenizer("de")(text)
    old = json.loads(OLD)["tokens"]
    assert vocab.encode(text) == [old.index(t) if t in old else 1 for t in tokens]
    shown = " ".join(t if t in old else "<unk>" for t in tokens)
    assert vocab.decode(vocab.encode(text)) == re.sub(" ([.,!?;:])", r"\1", shown)
    again = Vocab.from_bytes(vocab.to_bytes())
    assert again.to_bytes() == vocab.to_bytes() and again.decode([4, 5]) == "Ball."


@pytest.mark.parametrize("tokens", [[], ["a", "b"], ["<unk>", "<pad>", "<bos>", "<eos>", "a"]])
def test_a_word_vocabulary_starts_with_the_special_tokens(tokens):
    with pytest.raises(ValueError, match="starts with"):
        WordVocab(tokens, "de")


# --- subwords


@quick
@given(sentences)
def test_subwords_give_any_text_with_known_letters_back(pieces, text):
    ids = pieces.encode(text)
    assert pieces.unk_id not in ids
    assert pieces.decode(ids) == normalize_text(text)


def test_subwords_know_new_words_and_not_new_letters(pieces):
    assert pieces.unk_id not in pieces.encode("Gartentür")
    assert pieces.unk_id in pieces.encode("Garten日")
    assert len(pieces.encode("der")) == 1 < len(pieces.encode("Garten"))
    assert len(pieces) == 90


@pytest.mark.parametrize("size", [10, 5000])
def test_a_size_that_does_not_fit_the_texts_is_refused(size):
    with pytest.raises(ValueError, match=f"{size} subwords"):
        SubwordVocab.train(TEXTS, size=size)


# --- both


@pytest.mark.parametrize("language", CORPORA)
@pytest.mark.parametrize("kind", ["words", "pieces"])
def test_text_to_ids_to_text_scores_100(language, kind, tmp_path):
    texts = CORPORA[language]
    if kind == "words":
        if language == "ja":
            pytest.importorskip("sudachipy", reason="spaCy's Japanese tokenizer needs it")
        vocab = WordVocab.train(texts, language, min_freq=1)
    else:
        vocab = SubwordVocab.train(texts * 3, size=len(set("".join(texts))) + 8)
    vocab.save(tmp_path / "vocab")
    for text in texts:
        ids = Vocab.load(tmp_path / "vocab").encode(text)
        assert vocab.unk_id not in ids and vocab.decode(ids) == text


def test_the_special_tokens_have_the_same_ids_everywhere(vocab):
    assert (vocab.pad_id, vocab.unk_id, vocab.bos_id, vocab.eos_id) == (0, 1, 2, 3)
    assert [vocab.id_to_token(i) for i in range(4)] == list(SPECIALS)


def test_encode_frames_on_request_only(vocab):
    plain = vocab.encode(TEXTS[0])
    assert not {vocab.pad_id, vocab.bos_id, vocab.eos_id} & set(plain)
    assert vocab.encode(TEXTS[0], bos=True) == [2, *plain]
    assert vocab.encode(TEXTS[0], eos=True) == [*plain, 3]
    assert vocab.encode("", bos=True, eos=True) == [2, 3]


def test_decode_leaves_frame_and_padding_out(vocab):
    for text in (*TEXTS, ""):
        assert vocab.decode([2, *vocab.encode(text), 3, 0, 0]) == text


@quick
@given(st.lists(st.sampled_from([*SPECIALS, " ", "a", "<", ">", "pad", "Der"]), max_size=12))
@example(list(SPECIALS))
@example(["<", "eos", ">"])
def test_literal_special_tokens_never_become_special_ids(hostile, parts):
    ids = hostile.encode("".join(parts))
    assert not {hostile.pad_id, hostile.bos_id, hostile.eos_id} & set(ids)
    assert {hostile.token_to_id(special) for special in SPECIALS} == {hostile.unk_id}


def test_a_special_token_that_a_tokenizer_keeps_whole_is_unknown(hostile, monkeypatch):
    monkeypatch.setattr(type(hostile), "tokenize", lambda self, text: text.split())
    assert hostile.encode("<eos> <pad> <bos> <unk>") == [hostile.unk_id] * 4


def test_bytes_and_files_give_the_same_vocabulary_back(vocab, tmp_path):
    vocab.save(tmp_path / "a.vocab")
    for again in (Vocab.from_bytes(vocab.to_bytes()), Vocab.load(tmp_path / "a.vocab")):
        assert type(again) is type(vocab) and len(again) == len(vocab)
        for text in [*TEXTS, "Der Zebra 日!"]:
            assert again.encode(text) == vocab.encode(text)
            assert again.decode(again.encode(text)) == vocab.decode(vocab.encode(text))
        assert again.to_bytes() == vocab.to_bytes()


@pytest.mark.parametrize("data", [b"", b"no model", b'{"tokens": ['], ids=["empty", "text", "half"])
def test_what_is_no_vocabulary_is_refused(data):
    with pytest.raises(ValueError):
        Vocab.from_bytes(data)


@pytest.mark.parametrize("train", [lambda text: WordVocab.train(text, "de"), SubwordVocab.train])
def test_one_text_is_not_a_list_of_its_letters(train):
    with pytest.raises(ValueError, match="give several texts"):
        train("Ein Hund läuft durch den Schnee.")

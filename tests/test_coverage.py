"""Coverage of a text by a vocabulary: unknown tokens, and tokens per word, in any script."""

import pytest

from transformer_lib import SubwordVocab, WordVocab
from transformer_lib.data.coverage import Coverage, coverage

LINES = ["der Hund sieht den Ball .", "die Katze sieht den Hund ."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["der Hund sieht den Ball ."], Coverage(6, 0, 6)),
        (["der <eos> schläft", "die\u00a0Katze"], Coverage(7, 4, 5)),
        (["男孩在雪地里。"], Coverage(7, 7, 7)),  # spaCy: one token a character for zh
        (["", " "], Coverage()),
        ([], Coverage()),
    ],
)
def test_unknown_tokens_and_words_are_counted(text, expected):
    language = "zh" if "男" in "".join(text) else "de"
    assert coverage(WordVocab.train(LINES, language, min_freq=1), text) == expected


def test_text_unlike_the_training_text_gets_a_warning():
    vocab = SubwordVocab.train(LINES, size=45)
    training = coverage(vocab, LINES)
    assert training.warning(training) is training.warning() is None
    assert "of the tokens are unknown" in coverage(vocab, ["Мальчик играет"]).warning()
    rare = coverage(vocab, ["hindert leider Blatt Kerze"])  # known letters, unknown words
    assert rare.unknown == 0 and rare.tokens_per_word > 3
    assert "words are split into" in rare.warning(training) and rare.warning()

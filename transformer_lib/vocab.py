# Written by notebooks/01_embeddings.ipynb: edit there, then `make export`.
"""Text to tokens to ids and back, with spaCy, torchtext and sentencepiece."""

import html
import html.entities
import io
import json
import re
import textwrap
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = [
    "SURROGATE",
    "INVISIBLE",
    "ENTITY",
    "plain_character",
    "normalize_text",
    "GLUE",
    "MOST_WORDS",
    "WordTokenizer",
    "SPECIALS",
    "PAD_ID",
    "UNK_ID",
    "BOS_ID",
    "EOS_ID",
    "check_texts",
    "frequent_words",
    "TokenTable",
    "Vocab",
    "WordVocab",
    "learnable",
    "train_subwords",
    "SubwordVocab",
]

SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are not UTF-8
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    # the two joiners are kept where they matter: in scripts that join letters, and in emoji
    "(?<![\u0600-\u1cff\ua800-\uabff\ufe0f\U00010a00-\U00011fff\u2190-\u2bff\U0001f000-\U0001faff]"
    "[\u200c\u200d])"
)
ENTITY = re.compile(
    "&(?:(?:amp|AMP|#0*38|#[xX]0*26);)*"  # "&amp;lt;" is "&lt;" is "<"
    "([A-Za-z][A-Za-z0-9]*;|#[0-9]{1,8};|#[xX][0-9a-fA-F]{1,8};)"
)


def plain_character(entity: re.Match[str]) -> str:
    """Return the character of an entity such as `&amp;` or `&#38;`; keep unknown names."""
    name = entity[1]
    if name[0] == "#":
        return html.unescape("&" + name)
    return html.entities.html5.get(name, "&" + name)


def normalize_text(line: str) -> str:
    """Return a sentence in one spelling: NFC, no invisible characters or entities, single spaces.

    Characters that Unicode calls default-ignorable (soft hyphen, zero-width space, byte order
    mark, …) are dropped. Entities of XML and HTML are decoded: `&amp;` becomes `&`.
    The `▁` that sentencepiece uses for a space becomes an ordinary `_`.
    `str.split` splits at every Unicode space (tab, no-break space, U+2028, U+0085, …), so the
    result is one line, whatever separated the words.

    Raises:
        ValueError: it is no text, or one with surrogates, which no file can hold.
    """
    if not isinstance(line, str) or SURROGATE.search(line):
        raise ValueError(f"not a text: {line!r:.60}")
    before = None
    while line != before:  # again: one step can create work for another, "&amp;#173;"
        before = line
        plain = ENTITY.sub(plain_character, INVISIBLE.sub("", line)).replace("▁", "_")
        line = " ".join(unicodedata.normalize("NFC", plain).split())
    return line


def _spacy_tokenizer(language: str):
    """Return spaCy's tokenizer for a language."""
    try:
        import spacy
    except ImportError as error:
        raise ImportError('spaCy is missing: pip install "transformer-lib[words]"') from error
    try:
        return spacy.blank(language).tokenizer
    except (ImportError, AttributeError, TypeError) as error:
        reason = f"spaCy's tokenizer for {language!r} needs another package: {error}"
        if not isinstance(error, ImportError) or "Can't import language" in str(error):
            reason = f"spaCy has no tokenizer for language {language!r}"
        raise ValueError(reason) from error


GLUE = "##"  # written before a token that follows without a space
MOST_WORDS = 200_000  # of which spaCy keeps a record, about 400 bytes each


class WordTokenizer:
    """Split sentences into words and punctuation by spaCy's rules for a language ("de", "en", …).

    `spacy.blank` has rules only and no trained model, so nothing is downloaded.

    Raises:
        ImportError: spaCy is not installed.
        ValueError: spaCy has no rules for the language, or they need another package.
    """

    def __init__(self, language: str) -> None:
        self._tokenizer = _spacy_tokenizer(language)
        self.language = language

    def __call__(self, text: str) -> list[str]:
        """Return the tokens in order, without the spaces."""
        return [token.text for token in self._split(text)]

    def _split(self, text: str):
        """Return spaCy's tokens; the records of past words are dropped from time to time."""
        if len(self._tokenizer.vocab) > MOST_WORDS:
            self._tokenizer = _spacy_tokenizer(self.language)
        return self._tokenizer(normalize_text(text))

    def marked(self, text: str) -> list[str]:
        """Return the tokens in order, with `##` before each one that follows without a space."""
        tokens, after_space = [], True
        for token in self._split(text):
            tokens.append(token.text if after_space else GLUE + token.text)
            after_space = bool(token.whitespace_)
        return tokens


SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)


def check_texts(texts: Iterable[str]) -> Iterable[str]:
    """Return the texts; ValueError for a single string, a list of its characters."""
    if isinstance(texts, str):
        raise ValueError("give several texts, or [text]")
    return texts


def frequent_words(
    counts: Mapping[str, int], min_freq: int = 1, max_size: int | None = None
) -> list[str]:
    """Return the words, most frequent first; ties are in alphabetical order.

    Words that occur fewer than `min_freq` times are left out, and all after the first `max_size`.

    Raises:
        ImportError: torchtext is not installed.
    """
    try:
        from torchtext.vocab import Vocab as TorchtextVocab
    except ImportError as error:
        raise ImportError('torchtext is missing: pip install "transformer-lib[words]"') from error

    # a literal "<pad>" in a text is not our <pad>
    ours = Counter({word: count for word, count in counts.items() if word not in SPECIALS})
    return TorchtextVocab(ours, max_size, min_freq, specials=[]).itos


class TokenTable(ABC):
    """The interface that `Vocab` needs; ids 0 to 3 are `<pad>`, `<unk>`, `<bos>` and `<eos>`."""

    pad_id, unk_id, bos_id, eos_id = PAD_ID, UNK_ID, BOS_ID, EOS_ID

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of ids, including the four special ones."""

    @abstractmethod
    def tokenize(self, text: str) -> list[str]:
        """Split a sentence into tokens, known or not."""

    @abstractmethod
    def token_to_id(self, token: str) -> int:
        """Return the token's id, or `unk_id` if it is not in the vocabulary."""

    @abstractmethod
    def id_to_token(self, id: int) -> str:
        """Return the token of an id, including the special ones."""

    @abstractmethod
    def join(self, tokens: Sequence[str]) -> str:
        """Join tokens to a readable sentence."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Return the bytes from which `Vocab.from_bytes` rebuilds the vocabulary."""


class Vocab(TokenTable):
    """Sentences to ids and back, by whole words (`WordVocab`) or by subwords (`SubwordVocab`)."""

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Encode a sentence as ids, with `<bos>` and `<eos>` on request.

        A literal "<eos>" in the text never becomes the special id.
        """
        ids = [self.token_to_id(token) for token in self.tokenize(text)]
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to a sentence, without padding, `<bos>` and `<eos>`.

        Raises:
            ValueError: an id is out of range.
        """
        ids, size = [*map(int, ids)], len(self)
        if wrong := [id for id in ids if not 0 <= id < size]:
            raise ValueError(f"id {wrong[0]} is out of range: the vocabulary has {size} ids")
        hidden = {self.pad_id, self.bos_id, self.eos_id}
        return self.join([self.id_to_token(id) for id in ids if id not in hidden])

    def save(self, path: str | Path) -> None:
        """Write the vocabulary to a file."""
        Path(path).write_bytes(self.to_bytes())

    @staticmethod
    def load(path: str | Path) -> "Vocab":
        """Read a vocabulary that `save` wrote."""
        return Vocab.from_bytes(Path(path).read_bytes())

    @staticmethod
    def from_bytes(data: bytes) -> "Vocab":
        """Rebuild a `WordVocab` (JSON) or a `SubwordVocab` (a sentencepiece model)."""
        return _words_from_json(data) if data.startswith(b"{") else SubwordVocab(data)


def _words_from_json(data: bytes) -> "WordVocab":
    """Rebuild a `WordVocab` from what its `to_bytes` returned."""
    fields = json.loads(data)
    tokens = fields["tokens"]
    if "glue" not in fields:  # an older file: then only these marks came without a space
        no_space = tuple(".,!?;:")
        tokens = [GLUE + token if token.startswith(no_space) else token for token in tokens]
    return WordVocab(tokens, fields["language"])


class WordVocab(Vocab):
    """A vocabulary of whole words, split by spaCy, counted and sorted by torchtext.

    A token that follows without a space starts with `##`.

    Args:
        tokens: all tokens in the order of their ids, the four special ones first.
        language: ISO code for the tokenizer.
    """

    def __init__(self, tokens: Sequence[str], language: str) -> None:
        if tuple(tokens[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"a vocabulary starts with {SPECIALS}, got {tuple(tokens[:4])}")
        self._tokens = list(tokens)
        self._ids = {token: id for id, token in enumerate(tokens) if id >= len(SPECIALS)}
        self._tokenizer = WordTokenizer(language)
        self.language = language

    @classmethod
    def train(
        cls, texts: Iterable[str], language: str, *, min_freq: int = 2, max_size: int | None = None
    ) -> "WordVocab":
        """Learn the words of the *training* texts; limits as in `frequent_words`."""
        split = WordTokenizer(language).marked
        counts = Counter(word for text in check_texts(texts) for word in split(text))
        return cls([*SPECIALS, *frequent_words(counts, min_freq, max_size)], language)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokenize(self, text: str) -> list[str]:
        return [self._known_form(token) for token in self._tokenizer.marked(text)]

    def _known_form(self, token: str) -> str:
        """Return the token, or its form with the other spacing if only that one is known."""
        other = token.removeprefix(GLUE) if token.startswith(GLUE) else GLUE + token
        return other if token not in self._ids and other in self._ids else token

    def token_to_id(self, token: str) -> int:
        return self._ids.get(token, self.unk_id)

    def id_to_token(self, id: int) -> str:
        return self._tokens[id]

    def join(self, tokens: Sequence[str]) -> str:
        return " ".join(["", *tokens]).replace(f" {GLUE}", "").strip()

    def to_bytes(self) -> bytes:
        fields = {"language": self.language, "glue": GLUE, "tokens": self._tokens}
        return json.dumps(fields, ensure_ascii=False).encode()


def learnable(text: str) -> list[str]:
    """Return the text in parts that sentencepiece does not skip: short ones without its marker."""
    text = text.replace("▅", " ")
    return [text] if len(text.encode()) < 4000 else textwrap.wrap(text, 1000)  # 4 bytes a letter


def train_subwords(texts: Iterable[str], size: int) -> bytes:
    """Learn a sentencepiece model of `size` subwords, including the special ones, by BPE.

    Raises:
        ValueError: the texts have too few words for this size, or too many letters.
    """
    from sentencepiece import SentencePieceTrainer

    texts, model = check_texts(texts), io.BytesIO()
    names = ("pad", "unk", "bos", "eos")
    try:
        SentencePieceTrainer.train(
            sentence_iterator=(part for text in texts for part in learnable(normalize_text(text))),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            normalization_rule_name="identity",  # normalize_text has done this
            **{f"{name}_id": id for id, name in enumerate(names)},
            **{f"{name}_piece": SPECIALS[id] for id, name in enumerate(names)},
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"cannot learn {size} subwords from these texts: {error}") from error
    return model.getvalue()


class SubwordVocab(Vocab):
    """A vocabulary of subwords: byte-pair encoding by sentencepiece, from the bytes of a model.

    A word is never unknown if its letters are known. Spaces are part of the subwords (written
    as ▁), so joining them restores the sentence.
    """

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            # without any bytes, sentencepiece would wait for a model to be loaded later
            self._pieces = SentencePieceProcessor(model_proto=model or b"empty")
        except RuntimeError as error:
            raise ValueError("not a sentencepiece model") from error
        self._model = model
        self._tokens = [self._pieces.id_to_piece(id) for id in range(len(self._pieces))]
        self._ids = {token: id for id, token in enumerate(self._tokens) if id >= len(SPECIALS)}

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 8000) -> "SubwordVocab":
        """Learn `size` subwords from the *training* texts, of both languages if they share them."""
        return cls(train_subwords(texts, size))

    def __len__(self) -> int:
        return len(self._tokens)

    def tokenize(self, text: str) -> list[str]:
        return self._pieces.encode(normalize_text(text), out_type=str)

    def token_to_id(self, token: str) -> int:
        return self._ids.get(token, self.unk_id)

    def id_to_token(self, id: int) -> str:
        return self._tokens[id]

    def join(self, tokens: Sequence[str]) -> str:
        return "".join(tokens).replace("▁", " ").strip()

    def to_bytes(self) -> bytes:
        return self._model

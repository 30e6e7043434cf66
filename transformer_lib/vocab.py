"""Text to tokens to ids, and back: the only door to spaCy, torchtext and sentencepiece."""

from __future__ import annotations

import io
import json
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)


def normalize_text(line: str) -> str:
    """One spelling for one sentence: NFC, no byte order mark, single spaces.

    `str.split` knows every Unicode space (tab, no-break space, U+2028, U+0085, …), so a
    sentence becomes one line whatever separates its words.
    """
    return " ".join(unicodedata.normalize("NFC", line.replace("\ufeff", "")).split())


class WordTokenizer:
    """Sentence to words and punctuation marks with spaCy's rules for one language.

    `spacy.blank` holds rules only, no trained model, so nothing is downloaded.

    Args:
        language: ISO code such as "de" or "en".

    Raises:
        ValueError: spaCy has no rules for the language.
    """

    def __init__(self, language: str) -> None:
        import spacy

        try:
            self._tokenizer = spacy.blank(language).tokenizer
        except ImportError as error:
            raise ValueError(f"spaCy has no tokenizer for language {language!r}") from error
        self.language = language

    def __call__(self, text: str) -> list[str]:
        """Tokens in order. Spaces are not tokens."""
        return [token.text for token in self._tokenizer(normalize_text(text))]


class Vocab(ABC):
    """Tokens and their ids: 0 `<pad>`, 1 `<unk>`, 2 `<bos>`, 3 `<eos>`, then the rest.

    Two ways to cut a sentence share this interface: `WordVocab` and `SubwordVocab`.
    """

    pad_id, unk_id, bos_id, eos_id = PAD_ID, UNK_ID, BOS_ID, EOS_ID

    @abstractmethod
    def __len__(self) -> int:
        """Number of ids, the four special ones included."""

    @abstractmethod
    def tokenize(self, text: str) -> list[str]:
        """Cuts a sentence into tokens, known or not."""

    @abstractmethod
    def token_to_id(self, token: str) -> int:
        """The token's id; `unk_id` for a token that is not in the vocabulary."""

    @abstractmethod
    def id_to_token(self, id: int) -> str:
        """The token of an id, special ones included."""

    @abstractmethod
    def join(self, tokens: Sequence[str]) -> str:
        """Tokens back to a readable sentence."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """What `Vocab.from_bytes` needs to build the same vocabulary again."""

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Sentence to ids, framed by `<bos>` and `<eos>` on request.

        A literal "<eos>" in the text never becomes the special id.
        """
        ids = [self.token_to_id(token) for token in self.tokenize(text)]
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to a sentence; padding, `<bos>` and `<eos>` are left out."""
        hidden = {self.pad_id, self.bos_id, self.eos_id}
        return self.join([self.id_to_token(int(i)) for i in ids if int(i) not in hidden])

    def save(self, path: str | Path) -> None:
        """Writes the vocabulary to one file."""
        Path(path).write_bytes(self.to_bytes())

    @staticmethod
    def load(path: str | Path) -> Vocab:
        """Reads what `save` wrote."""
        return Vocab.from_bytes(Path(path).read_bytes())

    @staticmethod
    def from_bytes(data: bytes) -> Vocab:
        """Rebuilds a `WordVocab` (JSON) or a `SubwordVocab` (a sentencepiece model)."""
        if not data.startswith(b"{"):
            return SubwordVocab(data)
        fields = json.loads(data)
        return WordVocab(fields["tokens"], fields["language"])


class WordVocab(Vocab):
    """Whole words, cut by spaCy, counted and numbered by torchtext.

    Args:
        tokens: every token in the order of its id, the four special ones first.
        language: ISO code for the tokenizer.
    """

    def __init__(self, tokens: Sequence[str], language: str) -> None:
        if tuple(tokens[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"a vocabulary starts with {SPECIALS}, got {tuple(tokens[:4])}")
        self._tokens = list(tokens)
        self._ids = {token: id for id, token in enumerate(tokens) if id >= len(SPECIALS)}
        self.language = language
        self._tokenizer = WordTokenizer(language)

    @classmethod
    def train(
        cls, texts: Iterable[str], language: str, *, min_freq: int = 2, max_size: int | None = None
    ) -> WordVocab:
        """Numbers the words of the *training* texts, the most frequent first.

        Args:
            texts: training sentences. Validation and test sentences never belong here.
            min_freq: rarer words become `<unk>`.
            max_size: most words to keep, special tokens not counted.
        """
        from torchtext.vocab import Vocab as TorchtextVocab

        tokenize = WordTokenizer(language)
        counts = Counter(token for text in texts for token in tokenize(text))
        for special in SPECIALS:  # a literal "<pad>" in a text is not our <pad>
            counts.pop(special, None)
        table = TorchtextVocab(counts, max_size, min_freq, specials=list(SPECIALS))
        return cls(table.itos, language)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokenize(self, text: str) -> list[str]:
        return self._tokenizer(text)

    def token_to_id(self, token: str) -> int:
        return self._ids.get(token, self.unk_id)

    def id_to_token(self, id: int) -> str:
        return self._tokens[id]

    def join(self, tokens: Sequence[str]) -> str:
        text = " ".join(tokens)
        for mark in ".,!?;:":
            text = text.replace(f" {mark}", mark)
        return text

    def to_bytes(self) -> bytes:
        fields = {"language": self.language, "tokens": self._tokens}
        return json.dumps(fields, ensure_ascii=False).encode()


class SubwordVocab(Vocab):
    """Frequent pieces of words: byte-pair encoding by sentencepiece.

    No word is unknown as long as its letters are known; spaces are part of the pieces
    (drawn as ▁), so joining them gives the sentence back exactly.

    Args:
        model: the bytes of a sentencepiece model.
    """

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = model
        try:
            self._pieces = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError("not a sentencepiece model") from error

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 8000) -> SubwordVocab:
        """Learns the pieces from the *training* texts; for two languages, give both.

        Args:
            texts: training sentences of every language that shares the vocabulary.
            size: number of ids, special ones included.

        Raises:
            ValueError: the texts are too few for that many pieces.
        """
        from sentencepiece import SentencePieceTrainer

        model = io.BytesIO()
        try:
            SentencePieceTrainer.train(
                sentence_iterator=(normalize_text(text) for text in texts),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                normalization_rule_name="identity",  # normalize_text is our one rule
                pad_id=PAD_ID,
                unk_id=UNK_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                pad_piece=SPECIALS[PAD_ID],
                unk_piece=SPECIALS[UNK_ID],
                bos_piece=SPECIALS[BOS_ID],
                eos_piece=SPECIALS[EOS_ID],
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(f"cannot learn {size} subwords from these texts: {error}") from error
        return cls(model.getvalue())

    def __len__(self) -> int:
        return self._pieces.get_piece_size()

    def tokenize(self, text: str) -> list[str]:
        return self._pieces.encode(normalize_text(text), out_type=str)

    def token_to_id(self, token: str) -> int:
        id = self._pieces.piece_to_id(token)
        return self.unk_id if id < len(SPECIALS) else id

    def id_to_token(self, id: int) -> str:
        return self._pieces.id_to_piece(id)

    def join(self, tokens: Sequence[str]) -> str:
        return "".join(tokens).replace("▁", " ").strip()

    def to_bytes(self) -> bytes:
        return self._model

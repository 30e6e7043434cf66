"""`normalize_text` as rules inside a sentencepiece model, for engines that read only that file.

Each rule replaces a string; the longest one at a position is taken, once. What needs a second look
is left: an entity inside an entity (but `&amp;lt;` and its like), an invisible character between a
letter and its accent. Numeric entities of rare characters are left, too.
"""

from __future__ import annotations

import html.entities
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from transformer_lib.vocab import INVISIBLE, SubwordVocab, normalize_text

__all__ = ["spelling_rules", "with_spelling_rules"]

NUMBERS = (*range(32, 0x180), *range(0x2010, 0x2045), 0x20AC)  # Latin, punctuation, the euro sign
NAMES = ("amp", "lt", "gt", "quot", "apos", "nbsp", "#39")
JOINERS = "\u200c\u200d"


def with_spelling_rules(vocab: SubwordVocab) -> bytes:
    """Return the vocabulary's sentencepiece model, which then also normalizes what it encodes."""
    import sentencepiece

    pieces = (vocab.id_to_token(id) for id in range(len(vocab)))
    keep = JOINERS if any(set(JOINERS) & set(piece) for piece in pieces) else ""
    rules = [(old, new) for old, new in spelling_rules().items() if old not in keep]
    if hasattr(sentencepiece, "set_min_log_level"):
        sentencepiece.set_min_log_level(2)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        table.write_text("".join(f"{_hex(old)}\t{_hex(new)}\n" for old, new in rules))
        normalizer = sentencepiece.SentencePieceNormalizer(rule_tsv=str(table))
    return vocab.to_bytes() + normalizer.serialized_model_proto()  # messages of protobuf merge


def spelling_rules() -> dict[str, str]:
    """Return strings and what `normalize_text` makes of each inside a word."""
    strings = [*_characters(), *(f"&{name}" for name in html.entities.html5 if name[-1] == ";")]
    strings += [f"&amp;{name};" for name in NAMES]
    for number in NUMBERS:
        strings += {f"&#{number};", f"&#x{number:x};", f"&#x{number:X};"}
    normal = {string: normalize_text(f"x{string}x")[1:-1] for string in strings}
    return {old: new for old, new in normal.items() if new != old}


def _characters() -> Iterator[str]:
    """Yield the characters that change, and the spellings of those that can be composed."""
    for character in map(chr, range(sys.maxunicode + 1)):
        if character.isspace() or character == "▁" or INVISIBLE.match(character):
            yield character
        elif parts := unicodedata.decomposition(character):
            if parts[0] != "<":  # not a compatibility form, which stays as it is
                yield character
                yield unicodedata.normalize("NFD", character)
                yield "".join(chr(int(code, 16)) for code in parts.split())
        elif "가" <= character <= "힣":
            yield unicodedata.normalize("NFD", character)


def _hex(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)

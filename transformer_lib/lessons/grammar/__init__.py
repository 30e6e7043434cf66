"""German to English sentence pairs from a small grammar, each with its gold word alignment.

`lexicon` has the words, `sampling` chooses what is said, `syntax` holds its structure, `german`
and `english` put it into words, `corpus` splits the pairs and writes the files.
"""

from transformer_lib.lessons.grammar.corpus import (
    RUNNING_PAIR,
    GrammarCorpus,
    SentencePair,
    grammar_corpus,
    parse_pharaoh,
    write_grammar_corpus,
)

__all__ = [
    "RUNNING_PAIR",
    "GrammarCorpus",
    "SentencePair",
    "grammar_corpus",
    "parse_pharaoh",
    "write_grammar_corpus",
]

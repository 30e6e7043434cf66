"""`python -m transformer_lib.lessons.grammar data/grammar` writes the files of the corpus."""

import sys

from transformer_lib.lessons.grammar import write_grammar_corpus

if len(sys.argv) != 2:
    sys.exit("usage: python -m transformer_lib.lessons.grammar FOLDER")
write_grammar_corpus(sys.argv[1])

"""Write the grammar corpus: `python tools/grammar data/grammar`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/grammar FOLDER")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from grammar.corpus import write_grammar_corpus

    write_grammar_corpus(sys.argv[1])

"""Ablations, one change at a time, in the manner of the paper's Table 3.

Trains every row, scores it on the validation split, and writes a file per row.

    python tools/ablations.py                  # every row that has no file yet, one by one
    python tools/ablations.py --part 1/2       # half of them, beside another process with 2/2
    python tools/ablations.py --only base "heads 1"

All rows have one seed and the same small number of steps, so they say what learns fast, and not
what would be best after a long training. A row that is interrupted goes on where it was.
"""

import argparse
import re
import sys
from pathlib import Path

from transformer_lib import cli

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "ablations"
VOCAB = 4000

BASE = {
    "preset": "tiny",
    "norm-first": True,
    "dropout": 0.1,
    "optimizer": "muon",
    "peak-rate": 4e-3,
    "warmup": 200,
    "cooldown": 0.8,
    "max-tokens": 2048,
    "steps": 1000,
    "validate-every": 500,
    "keep": 5,
    "precision": "bf16",
    "threads": 1,
}
# What each row changes; "vocab" goes to `prepare`, "last" to `average`, the rest to `train`.
ROWS = {
    "base": {},
    "heads 1": {"n-heads": 1},
    "heads 2": {"n-heads": 2},
    "heads 8": {"n-heads": 8},
    "heads 16": {"n-heads": 16},
    "layers 2": {"n-layers": 2},
    "layers 6": {"n-layers": 6},
    "d_model 64": {"d-model": 64},
    "d_model 256": {"d-model": 256},
    "d_ff 128": {"d-ff": 128},
    "d_ff 1024": {"d-ff": 1024},
    "dropout 0": {"dropout": 0.0},
    "dropout 0.3": {"dropout": 0.3},
    "label smoothing 0": {"smoothing": 0.0},
    "label smoothing 0.2": {"smoothing": 0.2},
    "learned positions": {"positions": "learned"},
    "no positions": {"positions": "none"},
    "post-norm": {"norm-first": False},
    "embeddings not tied": {"tie-embeddings": False},
    "2,000 subwords": {"vocab": 2000},
    "8,000 subwords": {"vocab": 8000},
    "whole words": {"vocab": "words"},
    "Adam": {"optimizer": "adam", "peak-rate": 3e-3},
    "no cooldown": {"cooldown": 0.0},
    "no cooldown, mean of the last 5": {"cooldown": 0.0, "last": 5, "validate-every": 40},
}
# decoding of the base row
SEARCHES = {"beam 1, α 0": (1, 0.0), "beam 5, α 0": (5, 0.0), "beam 5, α 0.6": (5, 0.6)}
SEARCHES |= {"beam 5, α 1.5": (5, 1.5), "beam 20, α 1": (20, 1.0)}
BEAM, ALPHA = 5, 1.0


def run(*arguments):
    """Run a `transformer-lib` command; end this program if it fails or is stopped."""
    if status := cli.main(list(map(str, arguments))):
        sys.exit(status)


def flags(settings):
    """Turn {"n-heads": 2} into --n-heads 2."""
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def stem(name):
    """Return the row's name as a file name."""
    return "-".join(
        "".join(c if (c.isascii() and c.isalnum()) or c == "." else " " for c in name).split()
    )


def prepared(vocab, data):
    """Return the corpus with these subwords, prepared on first use."""
    folder = data / f"de-en-{vocab}"
    if not (folder / "corpus.json").is_file():
        kind = ["--vocab", "words"] if vocab == "words" else ["--vocab-size", vocab]
        run("prepare", folder, "--source", "de", "--target", "en", *kind)
    return folder


def score(model, corpus, beam, alpha, result):
    """Score on the validation split; the test split is for the models that ship."""
    search = ["--beam", beam, "--alpha", alpha, "--threads", 1]
    run("evaluate", model, "--data", corpus, "--split", "val", *search, "--result", result)


def train(changes, corpus, folder):
    """Train a row to its end, unless that is done, and return the model to score."""
    last = folder.with_name(f"{folder.name}-averaged")
    own = {"vocab", "last"}
    settings = BASE | {name: value for name, value in changes.items() if name not in own}
    run("train", corpus, folder, *flags(settings), "--resume", "auto")
    run("average", last, folder, "--last", changes.get("last", 1), "--force")
    return last


def do(name, options):
    """Train and score one row, unless its file exists."""
    result = RESULTS / f"{stem(name)}.json"
    if result.is_file():
        return
    changes = ROWS.get(name, {})
    corpus = prepared(changes.get("vocab", VOCAB), options.data)
    trained_as = "base" if name in SEARCHES else name
    model = train(changes, corpus, options.runs / stem(trained_as))
    score(model, corpus, *SEARCHES.get(name, (BEAM, ALPHA)), result)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows alone")
    parser.add_argument(
        "--part", default="1/1", metavar="K/N", help="every N-th row, from the K-th"
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ablations")
    options = parser.parse_args(arguments)
    options.data, options.runs = options.data.resolve(), options.runs.resolve()
    names = [*ROWS, *SEARCHES]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    found = re.fullmatch(r"(\d+)/(\d+)", options.part)
    k, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= k <= n:
        parser.error(f"--part takes K/N, a part K from 1 to N, not {options.part}")
    for name in (options.only or names)[k - 1 :: n]:
        print(f"== {name}", flush=True)
        do(name, options)


if __name__ == "__main__":
    main()

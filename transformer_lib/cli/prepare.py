"""`transformer-lib fetch` and `prepare`: from nothing to a corpus that `train` reads."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from transformer_lib.cli.common import command_line
from transformer_lib.data import encoding
from transformer_lib.data.coverage import Coverage
from transformer_lib.data.devices import n_cores
from transformer_lib.data.encoding import LengthFilter
from transformer_lib.data.files import check_folder, reserve
from transformer_lib.data.multi30k import SPLITS, fetch_multi30k, has_multi30k, multi30k
from transformer_lib.data.reading import blame_file, load_vocab, read_json
from transformer_lib.data.text import ConcatenatedText, PairFiles, Text
from transformer_lib.translate.translator import FILES, read_model
from transformer_lib.vocab import SubwordVocab, Vocab

__all__ = ["fetch", "prepare"]

LARGE = 100_000  # pairs; smaller corpora take seconds


def fetch(folder: Path | None, languages: tuple[str, ...], splits: tuple[str, ...]) -> int:
    """Run the command; `commands.fetch` has its arguments."""
    say = partial(print, flush=True)  # progress is of use now, through a pipe too
    try:
        say(f"Multi30k is in {fetch_multi30k(folder, languages, splits, say=say)}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; run it again to fetch the rest") from None
    return 0


def prepare(
    out: Path,
    corpus: str,
    source: str | None,
    target: str | None,
    train: tuple[Path, Path] | None,
    val: tuple[Path, Path] | None,
    test: tuple[Path, Path] | None,
    also: tuple[tuple[Path, Path], ...],
    vocab: str | None,
    vocab_size: int | None,
    vocab_from: str | None,
    max_length: int,
    max_ratio: float,
    sample: int,
    workers: int | None,
    force: bool,
) -> int:
    """Run the command; `commands.prepare` has its arguments."""
    for name, value in (("sample", sample), ("workers", workers), ("vocab-size", vocab_size)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if vocab_size and vocab_size >= 2**31:  # which sentencepiece cannot count to
        raise ValueError(f"--vocab-size must be below {2**31:,}, got {vocab_size:.6g}")
    if vocab_from and (vocab or vocab_size):
        raise ValueError("--vocab and --vocab-size are those of the model with --vocab-from")
    with reserve(out, "corpus", replace=force):
        texts: dict[str, Text]
        if corpus == "files":
            if not (source and target):
                raise ValueError("--corpus files needs --source and --target, the two languages")
            texts = _from_files({"train": train, "val": val, "test": test})
        else:
            if train or val or test:
                raise ValueError("--train, --val and --test go with --corpus files")
            source, target = source or "de", target or "en"
            present = [split for split in SPLITS if has_multi30k(split, source, target)]
            splits = dict.fromkeys(["train", "val", *present])  # the first two are required
            texts = {split: multi30k(split, source, target) for split in splits}
        n_pairs = {split: len(text) for split, text in texts.items()}  # checks files
        if vocab_from:
            vocabularies = _vocabularies_of(vocab_from, source, target)
            vocab = "subwords" if isinstance(vocabularies[0], SubwordVocab) else "words"
        else:
            vocab = vocab or "subwords"
            if n_pairs["train"] > LARGE:
                learned = min(sample, n_pairs["train"])
                of = f"{learned:,} of {n_pairs['train']:,} pairs"
                print(f"learning {vocab} from {of}", flush=True)
            vocabularies = encoding.learn_vocabularies(
                texts["train"], vocab, vocab_size or 8000, (source, target), sample=sample
            )
        if also:
            more = [PairFiles(*files, name=" and ".join(map(str, files))) for files in also]
            texts["train"] = ConcatenatedText(texts["train"], more)
        if workers is None:  # starting them takes seconds
            workers = n_cores() if len(texts["train"]) > LARGE else 1
        length_filter = LengthFilter(max_length, max_ratio)
        name = f"{corpus} {source}-{target}"
        about = {"name": name, "source": source, "target": target, "vocab": vocab}
        if vocab_from:
            about["vocab_from"] = vocab_from
        prepared = encoding.prepare(
            texts,
            vocabularies,
            out,
            length_filter=length_filter,
            about=about,
            replace=force,
            workers=workers,
        )
        if vocab_from:  # the others were compared with the training text
            for side, counts in prepared.about["splits"]["train"]["coverage"].items():
                if warning := Coverage(**counts).warning():
                    print(f"warning: train, {side}: {warning}; does {vocab_from} suit it?")
        print(f"{len(vocabularies[0]):,} and {len(vocabularies[1]):,} ids; written to {out}")
        start = ("--init", vocab_from) if vocab_from else ()
        print(f"to train on it: {command_line('train', out, Path('runs') / out.name, *start)}")
        return 0


def _vocabularies_of(model: str, source: str, target: str) -> tuple[Vocab, Vocab]:
    """Load the vocabularies of a model; warn if it translates between other languages."""
    return read_model(model, lambda folder: _read_vocabularies(folder, model, source, target))


def _read_vocabularies(folder: Path, model: str, source: str, target: str) -> tuple[Vocab, Vocab]:
    check_folder(folder, FILES)
    if (path := folder / "training.json").is_file():
        with blame_file(path):
            data = read_json(path, {}).get("settings", {}).get("data", {})
            theirs = data.get("source"), data.get("target")
        if all(theirs) and theirs != (source, target):
            print(
                f"warning: {model} translates {' to '.join(theirs)}, this corpus is {source} to "
                f"{target}",
                file=sys.stderr,
            )
    return load_vocab(folder / "source.vocab"), load_vocab(folder / "target.vocab")


def _from_files(files: dict[str, tuple[Path, Path] | None]) -> dict[str, Text]:
    if not files["train"] or not files["val"]:
        raise ValueError("--corpus files needs --train SOURCE TARGET and --val SOURCE TARGET")
    return {split: PairFiles(*paths, name=split) for split, paths in files.items() if paths}

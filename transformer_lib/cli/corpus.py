"""`transformer-lib prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from transformer_lib import prepared
from transformer_lib.checkpoint import check_free
from transformer_lib.corpora import SPLITS, ParallelText, has_multi30k, multi30k, read_pairs

__all__ = ["prepare"]


def prepare(
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    corpus: Literal["multi30k", "files"] = "multi30k",
    source: str | None = None,
    target: str | None = None,
    train: Annotated[tuple[Path, Path] | None, arg(metavar="SOURCE TARGET")] = None,
    val: Annotated[tuple[Path, Path] | None, arg(metavar="SOURCE TARGET")] = None,
    test: Annotated[tuple[Path, Path] | None, arg(metavar="SOURCE TARGET")] = None,
    vocab: Literal["subwords", "words"] = "subwords",
    vocab_size: int = 8000,
    max_length: int = 256,
    max_ratio: float = 9.0,
    force: bool = False,
) -> int:
    """Text in, a folder that a training can read out. Says what it dropped and why.

    Args:
        out: the folder to write.
        corpus: multi30k (fetched before by `make data`), or two text files per split, line by line.
        source: language of the source, an ISO code (Multi30k: de when left out).
        target: language of the target (Multi30k: en).
        train: the training files, with --corpus files.
        val: the files to validate on.
        test: the files to score on in the end.
        vocab: one joint vocabulary of subwords, or whole words for each language.
        vocab_size: number of subwords, or most words of each language.
        max_length: training pairs with more tokens on a side are left out.
        max_ratio: so are pairs where one side is this many times longer.
        force: replace a prepared folder of that name.
    """
    check_free(out, replace=force)
    if corpus == "files":
        if not (source and target):
            raise ValueError("--corpus files needs --source and --target, the two languages")
        texts = _from_files({"train": train, "val": val, "test": test})
    else:
        if train or val or test:
            raise ValueError("--train, --val and --test go with --corpus files")
        source, target = source or "de", target or "en"
        there = [split for split in SPLITS if has_multi30k(split, source, target)]
        splits = dict.fromkeys(["train", "val", *there])  # the first two have to be there
        texts = {split: multi30k(split, source, target) for split in splits}
    name = f"{corpus} {source}-{target}"
    languages = (source, target)
    vocabularies = prepared.learn_vocabularies(texts["train"], vocab, vocab_size, languages)
    limits = prepared.Limits(max_length, max_ratio)
    about = {"name": name, "source": source, "target": target, "vocab": vocab}
    prepared.prepare(texts, vocabularies, out, limits=limits, about=about, replace=force)
    print(f"{len(vocabularies[0]):,} and {len(vocabularies[1]):,} ids; written to {out}")
    return 0


def _from_files(files: dict[str, tuple[Path, Path] | None]) -> dict[str, ParallelText]:
    if not files["train"] or not files["val"]:
        raise ValueError("--corpus files needs --train SOURCE TARGET and --val SOURCE TARGET")
    return {split: read_pairs(*paths, name=split) for split, paths in files.items() if paths}

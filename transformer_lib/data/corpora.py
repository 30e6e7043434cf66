"""Parallel text: any two aligned files, and Multi30k, with every pair checked.

Line i of one file is the translation of line i of the other, so the one thing that must never
happen is that a line is split or lost on one side only. Multi30k is fetched on request
(`python -m transformer_lib.data.corpora fetch`, which is what `make data` runs), never silently.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformer_lib.data.download import (
    LANGUAGES,
    MULTI30K_MAX_BYTES,
    MULTI30K_SHA256,
    MULTI30K_URL,
    SPLITS,
    DownloadError,
    check_names,
    fetch_multi30k,
    file_sha256,
    multi30k_folder,
)
from transformer_lib.data.textfiles import BLOCK_PAIRS, MAX_TEXT_BYTES, read_lines

__all__ = [
    "LANGUAGES",
    "SPLITS",
    "MissingDataError",
    "ParallelText",
    "fetch_multi30k",
    "has_multi30k",
    "multi30k",
    "multi30k_folder",
    "read_lines",
    "read_pairs",
]


class MissingDataError(FileNotFoundError):
    """A data set is not on this machine; the message says how to get it."""


@dataclass(frozen=True)
class ParallelText:
    """Sentences and their translations; `source[i]` belongs to `target[i]`.

    Attributes:
        source: sentences as `normalize_text` leaves them, none of them empty.
        target: their translations, just as many.
        name: what to call this text in a report.
        dropped: how many pairs were left out, by reason.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    name: str
    dropped: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            raise ValueError(
                f"{self.name}: {len(self.source)} source sentences, but {len(self.target)} "
                "target sentences"
            )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The pairs (source, target) in order."""
        return zip(self.source, self.target, strict=True)

    def blocks(self, size: int = BLOCK_PAIRS) -> "Iterator[ParallelText]":
        """The pairs in order, some thousand at a time."""
        for start in range(0, len(self), size):
            sides = (side[start : start + size] for side in (self.source, self.target))
            yield ParallelText(*sides, self.name)


def read_pairs(
    source_path: str | Path,
    target_path: str | Path,
    *,
    name: str | None = None,
    max_bytes: int = MAX_TEXT_BYTES,
) -> ParallelText:
    """Two text files whose lines belong together, see `read_lines`.

    A pair with an empty side is dropped as a pair and counted, so its neighbours stay aligned.

    Raises:
        ValueError: the files differ in their number of lines, no pair is left, or what
            `read_lines` raises.
    """
    source = read_lines(source_path, max_bytes=max_bytes)
    target = read_lines(target_path, max_bytes=max_bytes)
    if len(source) != len(target):
        raise ValueError(
            f"{source_path} has {len(source)} lines, but {target_path} has {len(target)}; "
            "line i of one must be the translation of line i of the other"
        )
    kept = [(s, t) for s, t in zip(source, target, strict=True) if s and t]
    if not kept:
        raise ValueError(f"{source_path} and {target_path} hold no pair of two sentences")
    return ParallelText(
        source=tuple(s for s, _ in kept),
        target=tuple(t for _, t in kept),
        name=name or f"{source_path} | {target_path}",
        dropped={"empty line": len(source) - len(kept)},
    )


def multi30k(
    split: str, source: str = "de", target: str = "en", folder: str | Path | None = None
) -> ParallelText:
    """One split of Multi30k (Elliott et al., 2016): captions of photographs and translations.

    Args:
        split: one of `SPLITS`.
        source: one of `LANGUAGES`.
        target: another one.
        folder: where the files are; `multi30k_folder()` when not given.

    Raises:
        MissingDataError: the files are not there; the message says what to do.
        ValueError: no such split or language, or a file that is not the published one.
    """
    paths = _multi30k_paths(split, source, target, folder)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MissingDataError(
            f"Multi30k is not here: run `make data`, or put {' and '.join(p.name for p in missing)}"
            f" from {MULTI30K_URL} into {missing[0].parent} by hand, or set TRANSFORMER_LIB_DATA "
            "to a folder that has multi30k/ in it"
        )
    for path in paths:
        expected, found = MULTI30K_SHA256[path.name.removesuffix(".gz")], file_sha256(path)
        if found != expected:
            raise ValueError(
                f"{path} is not the published file (sha256 expected {expected}, found {found}); "
                "delete it and run `make data`"
            )
    name = f"multi30k {split} {source}-{target}"
    return read_pairs(*paths, name=name, max_bytes=MULTI30K_MAX_BYTES)


def has_multi30k(
    split: str = "train", source: str = "de", target: str = "en", folder: str | Path | None = None
) -> bool:
    """Whether both files of a split are there. They are checked when `multi30k` reads them."""
    return all(path.is_file() for path in _multi30k_paths(split, source, target, folder))


def _multi30k_paths(
    split: str, source: str, target: str, folder: str | Path | None
) -> tuple[Path, Path]:
    if source == target:
        raise ValueError(f"source and target are both {source!r}; give two languages")
    check_names([split], [source, target])
    for language in (source, target):
        if f"{split}.{language}" not in MULTI30K_SHA256:
            there = [known for known in LANGUAGES if f"{split}.{known}" in MULTI30K_SHA256]
            raise ValueError(f"{split} has no {language!r}; it has {', '.join(there)}")
    folder = Path(folder) if folder is not None else multi30k_folder()
    return folder / f"{split}.{source}.gz", folder / f"{split}.{target}.gz"


def main(arguments: Sequence[str] | None = None, *, base_url: str = MULTI30K_URL) -> int:
    """`… corpora fetch`; the exit status (0, 1 failed, 2 bad input)."""
    parser = argparse.ArgumentParser(prog="python -m transformer_lib.data.corpora")
    commands = parser.add_subparsers(required=True, metavar="fetch")
    fetch = commands.add_parser("fetch", help="fetch Multi30k (research and education only)")
    fetch.add_argument("--folder", help="default: where the library looks, data/multi30k")
    fetch.add_argument("--languages", nargs="+", default=["de", "en"], metavar="LANGUAGE")
    fetch.add_argument("--splits", nargs="+", default=list(SPLITS), metavar="SPLIT")
    options = parser.parse_args(arguments)
    try:
        folder = fetch_multi30k(
            options.folder, options.languages, options.splits, base_url=base_url, say=_say
        )
        _say(f"Multi30k is in {folder}")
        return 0
    except BrokenPipeError:  # whoever read our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DownloadError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("interrupted; run it again to fetch the rest", file=sys.stderr)
        return 130


def _say(line: str) -> None:
    print(line, flush=True)  # progress is of use now, through a pipe too


if __name__ == "__main__":
    sys.exit(main())

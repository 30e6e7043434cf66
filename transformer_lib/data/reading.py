"""Files of a model or a run, read with suspicion: a value comes out, or one line naming the file.

A manifest proves that a file is what somebody wrote, not that it makes sense: whoever can write
the file can write its sum. What is checked here is what the bytes mean. Nothing is ever unpickled
but tensors and plain values (`weights_only=True`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transformer_lib.batching import Batch
from transformer_lib.config import ModelConfig
from transformer_lib.data.files import CheckpointError
from transformer_lib.model import Transformer
from transformer_lib.vocab import SPECIALS, Vocab, WordVocab

__all__ = [
    "check_ids",
    "check_version",
    "load_sentences",
    "load_state",
    "load_vocab",
    "load_weights",
    "read_config",
    "read_json",
    "read_progress",
    "understood",
]

FLOATS = {"F64", "F32", "F16", "BF16"}
MOST_POSITIONS = 2**28  # numbers in the table of positions: 1 GiB; no file bounds its length
# What says nothing about a file: the disk, the memory, a GPU, or a library that is not there.
OF_THE_MACHINE = (OSError, MemoryError, ImportError, torch.OutOfMemoryError, torch.AcceleratorError)
NO_MEMORY = ("cannot allocate memory", "can't allocate memory", "out of memory")


@contextmanager
def understood(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong inside, other than with the machine, is the file's fault.

    Raises:
        CheckpointError: the file is named, with the first line of the reason.
        MemoryError: there was no room for it, which says nothing about the file.
    """
    try:
        yield
    except (*OF_THE_MACHINE, CheckpointError):
        raise
    except Exception as error:  # parsers raise some ten kinds, according to where they stumble
        raise _blame(path, "cannot be used", error) from error


def _blame(path: str | Path, fault: str, error: Exception) -> Exception:
    """The file's error; or the machine's, where a parser puts a lack of memory into its own."""
    reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
    first = (reason or type(error).__name__).splitlines()[0]
    if any(words in first.lower() for words in NO_MEMORY):
        return MemoryError(f"{path}: {first}")
    return CheckpointError(f"{path} {fault}: {first}")


def read_json(path: str | Path, kinds: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """A JSON object that has these entries, each of its kind, and perhaps more.

    Raises:
        CheckpointError: it is something else.
    """
    with understood(path):
        noted = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(noted, dict):
            raise ValueError(f"an object was expected, found {type(noted).__name__}")
        wrong = [
            f"{name} {'is missing' if name not in noted else f'is {noted[name]!r:.50}'}"
            for name, kind in kinds.items()
            if not isinstance(noted.get(name), kind) or (noted[name] is True and kind is int)
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
    return noted


def read_progress(path: str | Path) -> dict[str, Any]:
    """Where a run was when it saved a checkpoint, with its settings.

    Raises:
        CheckpointError: entries are missing or of another kind.
    """
    kinds = dict.fromkeys(("step", "epoch", "index", "n_tokens"), int) | {"seconds": (int, float)}
    noted = read_json(path, {**kinds, "settings": dict, "best": dict})
    with understood(path):  # older checkpoints have neither of these two
        noted["per_update"] = int(noted.get("per_update", noted["settings"]["run"]["accumulate"]))
        loss, n_tokens = noted.get("recent", (0.0, 0))  # a loss that was no number became null
        noted["recent"] = [float("nan" if loss is None else loss), int(n_tokens)]
        if min(*map(noted.get, kinds), noted["per_update"] - 1, noted["recent"][1]) < 0:
            raise ValueError("a number is too small")
        step, bleu = noted["best"]["step"], noted["best"]["bleu"]
        if not isinstance(step, int) or not isinstance(bleu, int | float | None):
            raise ValueError(f"best is step {step!r:.50}, BLEU {bleu!r:.50}")
    return noted


def check_version(noted: dict[str, Any], wanted: dict[str, Any], free: Collection[str]) -> None:
    """Compares the names of a run's settings: others are of another version of this library.

    Args:
        free: names that do not matter.

    Raises:
        ValueError: the names that are missing or unknown are listed.
    """
    parts = ("model", "train", "run")
    if not all(isinstance(noted.get(part), dict) for part in (*parts, "data")):
        raise ValueError("the checkpoint's settings are not those of a run of this library")
    for old, new, version, what in (
        (noted, wanted, "an earlier", "did not have"),
        (wanted, noted, "a later", "has"),
    ):
        added = (f"{p}.{name}" for p in parts for name in new[p].keys() - old[p].keys() - {*free})
        if names := ", ".join(sorted(added)):
            raise ValueError(
                f"the checkpoint was saved by {version} version of this library, which {what} "
                f"{names}: go on with that version, or start a new run; translate, evaluate and "
                "average read it all the same"
            )


def read_config(path: str | Path) -> ModelConfig:
    """The sizes of a model.

    Raises:
        CheckpointError: entries are missing or unknown, or make no model; all of them are listed.
    """
    noted, known = read_json(path, {}), {field.name for field in fields(ModelConfig)}
    with understood(path):
        if noted.keys() != known:
            missing, unknown = sorted(known - noted.keys()), sorted(noted.keys() - known)
            raise ValueError(f"it is of another version: missing {missing}, unknown {unknown}")
        for name in ("norm_first", "tie_embeddings"):
            if not isinstance(noted[name], bool):
                raise ValueError(f"{name} must be true or false, got {noted[name]!r}")
        config = ModelConfig(**noted)
        if config.max_len * config.d_model > MOST_POSITIONS:
            raise ValueError(f"max_len={config.max_len} is more than this library reads")
    return config


def load_state(path: str | Path) -> dict[str, Any]:
    """A file of tensors and plain values; one that holds anything callable is refused.

    Raises:
        CheckpointError: the file is damaged, or would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OF_THE_MACHINE:
        raise
    except Exception as error:  # torch raises four kinds, according to where the bytes are wrong
        raise _blame(path, "is damaged or holds more than tensors", error) from error


def load_vocab(path: str | Path) -> Vocab:
    """A vocabulary with our special ids.

    Raises:
        CheckpointError: it is none.
    """
    with understood(path):
        vocab = Vocab.load(path)
        found = tuple(vocab.id_to_token(i) for i in range(min(len(vocab), len(SPECIALS))))
        if found != SPECIALS:
            raise ValueError(f"a vocabulary starts with {SPECIALS}, got {found}")
        words = range(len(vocab)) if isinstance(vocab, WordVocab) else ()
        if not all(isinstance(vocab.id_to_token(i), str) for i in words):
            raise ValueError("a token is not a text")
        vocab.decode(vocab.encode("a"))  # some damage shows only at work
    return vocab


def load_sentences(stem: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all sentences one behind the other, mapped, and the places where each ends.

    Raises:
        CheckpointError: they are no such arrays.
    """
    paths = [Path(f"{stem}.{kind}.npy") for kind in ("ids", "ends")]
    arrays = []
    for path in paths:
        with understood(path):
            arrays.append(np.load(path, mmap_mode="r"))  # which unpickles nothing
    ids, ends = arrays
    with understood(paths[1]):
        whole = all(array.ndim == 1 and array.dtype.kind == "i" for array in arrays)
        if not (whole and len(ends) > 1 and ends[0] == 0 and ends[-1] == len(ids)):
            raise ValueError("it does not fit the ids")
        parts = range(0, len(ends), 2**12)  # there may be more of them than fit into memory
        if any(np.any(np.diff(ends[start : start + 2**12 + 1]) < 0) for start in parts):
            raise ValueError("a sentence ends before it begins")
    return ids, ends


def load_weights(config: ModelConfig, path: str | Path) -> Transformer:
    """A model with these weights. Names and shapes are compared before anything is allocated.

    Raises:
        CheckpointError: they are not those of the configuration; each difference is listed.
    """
    from safetensors import safe_open
    from safetensors.torch import load_model

    with understood(path):
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (part.get_shape(), part.get_dtype()) for name, part in parts.items()}
        if config.n_layers > len(found):  # even without memory, each layer takes time to make
            raise ValueError(f"n_layers={config.n_layers}, but there are {len(found)} tensors")
        with torch.device("meta"):
            expected = {name: list(p.shape) for name, p in Transformer(config).named_parameters()}
        if differences := _differences(expected, found):
            raise ValueError(f"the weights do not fit config.json: {'; '.join(differences)}")
        model = Transformer(config)
        load_model(model, str(path))
    return model


def _differences(expected: dict[str, list[int]], found: dict[str, tuple[list[int], str]]) -> list:
    told = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    told += [f"{name} is unknown" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        shape, dtype = found[name]
        if shape != expected[name] or dtype not in FLOATS:
            told.append(f"{name}: expected {expected[name]} of floats, found {shape} of {dtype}")
    return told


def check_ids(batch: Batch, config: ModelConfig) -> Batch:
    """The batch itself, whose ids all have a row in the embedding.

    Raises:
        ValueError: an id is out of range. On a GPU the lookup would end the process instead.
    """
    sizes = config.src_vocab_size, config.tgt_vocab_size
    for ids, size, side in zip(batch, sizes, ("source", "target"), strict=True):
        for id in (int(ids.min()), int(ids.max())):
            if not 0 <= id < size:
                raise ValueError(f"{side} id {id} is out of range: the vocabulary has {size} ids")
    return batch

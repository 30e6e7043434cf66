"""Suspicious readers for the files of a model or a run: a value, or one line that names the file.

A manifest proves that a file is what somebody wrote, not that it makes sense: whoever can write
the file can write its sum. What is checked here is what the bytes mean. Nothing is ever unpickled
but tensors and plain values (`weights_only=True`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformer_lib.batching import Batch
from transformer_lib.config import ModelConfig
from transformer_lib.data.files import CheckpointError
from transformer_lib.model import Transformer
from transformer_lib.vocab import SPECIALS, Vocab, WordVocab

__all__ = [
    "NotFiniteError",
    "blame_file",
    "check_finite",
    "check_ids",
    "load_sentences",
    "load_state",
    "load_vocab",
    "load_weights",
    "read_config",
    "read_json",
    "weight_problems",
]

# In safetensors' words and in torch's.
FLOATS = {"F64", "F32", "F16", "BF16"}
FLOATS |= {torch.float64, torch.float32, torch.float16, torch.bfloat16}
# What says nothing about a file: the disk, the memory, a GPU, or a library that is not there.
OF_THE_MACHINE = (OSError, MemoryError, ImportError, torch.OutOfMemoryError, torch.AcceleratorError)
NO_MEMORY = ("cannot allocate memory", "can't allocate memory", "out of memory")


class NotFiniteError(CheckpointError, FloatingPointError):
    """A model holds NaN or infinity, or computes them; for the command line, a failed run."""


@contextmanager
def blame_file(path: str | Path, fault: str = "cannot be used") -> Iterator[None]:
    """Blame the file for every error inside (CheckpointError), except for those of the machine."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (*OF_THE_MACHINE, CheckpointError):
        raise
    except Exception as error:  # parsers raise some ten kinds, according to where they stumble
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        first = (reason or type(error).__name__).splitlines()[0]
        if any(words in first.lower() for words in NO_MEMORY):  # hidden in an error of a parser
            raise MemoryError(f"{path}: {first}") from error
        raise CheckpointError(f"{path} {fault}: {first}") from error


def read_json(path: str | Path, kinds: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Read a JSON object with at least these entries, each of its kind, or CheckpointError."""
    with blame_file(path):
        record = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(record, dict):
            raise ValueError(f"an object was expected, found {type(record).__name__}")
        wrong = [
            f"{name} {'is missing' if name not in record else f'is {record[name]!r:.50}'}"
            for name, kind in kinds.items()
            if not isinstance(record.get(name), kind) or (record[name] is True and kind is int)
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
    return record


def read_config(path: str | Path) -> ModelConfig:
    """Read the sizes of a model; a CheckpointError lists all entries that are wrong."""
    record, known = read_json(path, {}), {field.name for field in fields(ModelConfig)}
    with blame_file(path):
        # Before this entry existed, all embeddings were one matrix where the sizes agreed.
        one_size = record.get("src_vocab_size") == record.get("tgt_vocab_size")
        record.setdefault("shared_vocabulary", record.get("tie_embeddings") is True and one_size)
        if record.keys() != known:
            missing, unknown = sorted(known - record.keys()), sorted(record.keys() - known)
            raise ValueError(f"it is of another version: missing {missing}, unknown {unknown}")
        return ModelConfig(**record)


def load_state(path: str | Path) -> dict[str, Any]:
    """Load tensors and plain values; CheckpointError if the file is damaged or would run code."""
    with blame_file(path, "is damaged or holds more than tensors"):
        with zipfile.ZipFile(path) as archive:  # as `torch.save` writes it: nothing is packed
            packed = any(part.compress_type for part in archive.infolist())
            size = sum(part.file_size for part in archive.infolist())
        if packed or size > Path(path).stat().st_size:
            raise ValueError("its parts are larger than the file")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"an object was expected, found {type(state).__name__}")
        return state


def load_vocab(path: str | Path) -> Vocab:
    """Load a vocabulary that starts with our special tokens; CheckpointError if it is none."""
    with blame_file(path):
        vocab = Vocab.load(path)
        first = tuple(vocab.id_to_token(i) for i in range(min(len(vocab), len(SPECIALS))))
        if first != SPECIALS:
            raise ValueError(f"a vocabulary starts with {SPECIALS}, got {first}")
        words = range(len(vocab)) if isinstance(vocab, WordVocab) else ()
        if not all(isinstance(vocab.id_to_token(i), str) for i in words):
            raise ValueError("a token is not a text")
        vocab.decode(vocab.encode("a"))  # some damage shows only at work
    return vocab


def load_sentences(stem: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Map the ids of all sentences, one after the other, and the positions where each ends."""
    paths = [Path(f"{stem}.{kind}.npy") for kind in ("ids", "ends")]
    arrays = []
    for path in paths:
        with blame_file(path):
            arrays.append(np.load(path, mmap_mode="r"))  # which unpickles nothing
    ids, ends = arrays
    with blame_file(paths[1]):
        whole = all(array.ndim == 1 and array.dtype.kind == "i" for array in arrays)
        if not (whole and len(ends) > 1 and ends[0] == 0 and ends[-1] == len(ids)):
            raise ValueError("it does not fit the ids")
        parts = range(0, len(ends), 2**12)  # there may be more of them than fit into memory
        if any(np.any(np.diff(ends[start : start + 2**12 + 1]) < 0) for start in parts):
            raise ValueError("a sentence ends before it begins")
    return ids, ends


def load_weights(config: ModelConfig, path: str | Path) -> Transformer:
    """Load a model. Names and shapes are compared before anything is allocated.

    Raises:
        CheckpointError: the weights do not fit the configuration; each difference is listed.
    """
    from safetensors import safe_open
    from safetensors.torch import load_model

    with blame_file(path):
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in sorted(file.keys())}
            found = {name: (part.get_shape(), part.get_dtype()) for name, part in parts.items()}
        if config.n_layers > len(found):  # even without memory, each layer takes time to make
            raise ValueError(f"n_layers={config.n_layers}, but there are {len(found)} tensors")
        if differences := weight_problems(config, found):
            raise ValueError(f"the weights do not fit config.json: {'; '.join(differences)}")
        model = Transformer(config)
        if {dtype for _, dtype in found.values()} != {"F64"}:
            model.float()  # whatever the default type of tensors is
        load_model(model, str(path))
    check_finite(dict(model.named_parameters()), path)
    return model


def weight_problems(
    config: ModelConfig, found: Mapping[str, tuple[list[int], str | torch.dtype]]
) -> list[str]:
    """List what differs between a model's weights and those that its configuration has.

    Args:
        found: shape and dtype by name, shared weights once.
    """
    with torch.device("meta"):
        expected = {name: list(p.shape) for name, p in Transformer(config).named_parameters()}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    for name, (shape, dtype) in found.items():
        if name not in expected:
            problems.append(f"{name} is unknown")
        elif shape != expected[name] or dtype not in FLOATS:
            problem = f"expected {expected[name]} of floats, found {shape} of {dtype}"
            problems.append(f"{name}: {problem}")
    return problems


def check_finite(weights: Mapping[str, Tensor], where: str | Path) -> None:
    """Raise NotFiniteError with the name of the first tensor that holds NaN or infinity."""
    for name, tensor in weights.items():
        # where the sum is finite, all numbers are; a sum of large numbers may overflow by itself
        if not tensor.sum().isfinite() and (n := int((~tensor.isfinite()).sum())):
            raise NotFiniteError(
                f"{where}: {n:,} of {tensor.numel():,} numbers of {name} are NaN or infinite"
            )


def check_ids(batch: Batch, config: ModelConfig) -> Batch:
    """Return the batch if all its ids have a row in the embedding, or raise ValueError.

    On a GPU, looking up an id that is out of range would end the process.
    """
    sizes = config.src_vocab_size, config.tgt_vocab_size
    for ids, size, side in zip(batch, sizes, ("source", "target"), strict=True):
        for id in (int(ids.min()), int(ids.max())):
            if not 0 <= id < size:
                raise ValueError(f"{side} id {id} is out of range: the vocabulary has {size} ids")
    return batch

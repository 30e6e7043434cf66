"""Make the material of a run with the library: corpus, batches, first weights, test sentences."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.material import Material
from transformer_lib import ModelConfig, Transformer, Translator, normalize_text
from transformer_lib.cli import main as command
from transformer_lib.data.prepared import Prepared
from transformer_lib.translate.translator import find_pretrained

__all__ = ["collect", "prepared_corpus"]

TEST = "test_2016_flickr"


def prepared_corpus(folder: Path, vocab_size: int) -> Path:
    """Prepare Multi30k, German to English, with joint subwords, and return its folder.

    Raises:
        ValueError: Multi30k is not there (the command has said why).
    """
    out = folder / f"corpus-{vocab_size}"
    flags = ["--source", "de", "--target", "en", "--vocab-size", str(vocab_size)]
    if not out.is_dir() and command(["prepare", str(out), *flags]):
        raise ValueError("the benchmark needs Multi30k: `make data` or `transformer-lib fetch`")
    return out


def collect(
    folder: Path, *, model: str, preset: str, vocab_size: int, max_tokens: int, n_batches: int
):
    """Write everything that the peers share below the folder.

    Args:
        model: the trained model that decodes: a folder, or a name that ships.
        preset, vocab_size: size and subwords of the model that is trained.
        max_tokens: token budget of a batch.
        n_batches: batches that are kept; they are used again and again.
    """
    corpus = Prepared(prepared_corpus(folder, vocab_size))
    config = getattr(ModelConfig, preset)(vocab_size, dropout=0.0)
    torch.manual_seed(0)
    start = Transformer(config).state_dict()
    drawn = corpus.pairs("train").batches(max_tokens, seed=0, epoch=0)
    batches = [tuple(batch) for batch, _ in zip(drawn, range(n_batches), strict=False)]
    trained = Translator.from_pretrained(model)
    lines = [normalize_text(line) for line in corpus.text(TEST).source]
    found = Material(
        folder=folder,
        corpus=corpus.folder,
        sizes=asdict(config),
        start=dict(start),
        batches=batches,
        model=find_pretrained(model),
        model_sizes=asdict(trained.model.config),
        model_weights=dict(trained.model.state_dict()),
        sentences=sorted(lines, key=lambda line: len(trained.src_vocab.encode(line))),
    )
    found.save()
    return found

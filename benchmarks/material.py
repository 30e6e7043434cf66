"""Input of every peer: sizes, first weights, batches, rates, sentences, a trained model.

It is written once (`collect.py`) and read in every environment, so this module needs torch and
sentencepiece only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["BOS_ID", "EOS_ID", "EXTRA", "PAD_ID", "Material", "Pieces", "rate_at"]

PAD_ID, BOS_ID, EOS_ID = 0, 2, 3
EXTRA = 50  # a translation may be this many tokens longer than its source
PEAK_RATE, WARMUP = 1e-3, 100


def rate_at(step: int) -> float:
    """The learning rate of every peer, and of a `TrainConfig` of this peak and warm-up."""
    return PEAK_RATE * min(step / WARMUP, (WARMUP / step) ** 0.5)


@dataclass
class Material:
    """Everything that the peers share.

    Attributes:
        folder: where it lies; peers may write below it.
        corpus: the prepared corpus, for our own `Trainer`.
        sizes: of the model that is trained, the fields of a `ModelConfig`.
        start: its first weights, by our names.
        batches: source (B, S) and target ids (B, T), framed.
        model: folder of the trained model that decodes.
        model_sizes, model_weights: of that one.
        sentences: source text of the test set.
    """

    folder: Path
    corpus: Path
    sizes: dict[str, Any]
    start: dict[str, Tensor]
    batches: list[tuple[Tensor, Tensor]]
    model: Path
    model_sizes: dict[str, Any]
    model_weights: dict[str, Tensor]
    sentences: list[str]

    def save(self) -> None:
        """Write `material.pt` into the folder."""
        values = vars(self) | {name: str(getattr(self, name)) for name in PATHS}
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(values, self.folder / "material.pt")

    @classmethod
    def open(cls, folder: Path) -> Material:
        """Read what `save` wrote."""
        values = torch.load(folder / "material.pt", weights_only=True)
        return cls(**(values | {name: Path(values[name]) for name in PATHS}))

    @property
    def device(self) -> torch.device:
        """Device of the tensors, on which peers compute."""
        return self.batches[0][0].device

    def to(self, device: str) -> Material:
        """Return a copy on another device."""
        moved = {
            name: {key: tensor.to(device) for key, tensor in getattr(self, name).items()}
            for name in ("start", "model_weights")
        }
        batches = [(src.to(device), tgt.to(device)) for src, tgt in self.batches]
        return replace(self, batches=batches, **moved)

    def pieces(self) -> Pieces:
        """The trained model's subwords."""
        return Pieces(self.model / "source.vocab")


PATHS = ("folder", "corpus", "model")


class Pieces:
    """Text to ids and back, the same for every peer."""

    def __init__(self, model: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self.processor = SentencePieceProcessor(model_proto=model.read_bytes())

    def tokens(self, lines: Sequence[str]) -> list[list[str]]:
        """Pieces of every line."""
        return self.processor.encode(list(lines), out_type=str)

    def batch(self, lines: Sequence[str]) -> Tensor:
        """Source ids (B, S), each closed by <eos>, padded at the end."""
        rows = [[*ids, EOS_ID] for ids in self.processor.encode(list(lines))]
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in rows])

    def text(self, tokens: Sequence[str]) -> str:
        """Pieces to a sentence."""
        return "".join(tokens).replace("▁", " ").strip()

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Ids of every row, up to its <eos>, to sentences."""
        return [self.text([self.processor.id_to_piece(id) for id in _cut(row)]) for row in rows]


def _cut(row: Sequence[int]) -> Iterator[int]:
    for id in row:
        if id == EOS_ID:
            return
        if id not in (PAD_ID, BOS_ID):
            yield id

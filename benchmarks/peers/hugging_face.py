"""Hugging Face transformers: MarianMT in training, `generate` in decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.loop import Loop
from benchmarks.material import EXTRA, PAD_ID, Material
from transformer_lib.config import ModelConfig
from transformer_lib.model import Transformer
from transformer_lib.translate.export import as_transformers, export
from transformer_lib.translate.translator import Translator

__all__ = ["decoder", "training"]


class Logits(nn.Module):
    """Their model with the interface that the loop expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        found = self.model(
            input_ids=src, attention_mask=src != PAD_ID, decoder_input_ids=tgt, use_cache=False
        )
        return found.logits


def training(material: Material, dropout: float, precision: str = "fp32") -> Loop:
    """The reference loop around MarianMT."""
    ours = Transformer(ModelConfig(**(material.sizes | {"dropout": dropout})))
    ours.load_state_dict(material.start)
    return Loop(Logits(as_transformers(ours)).to(material.device), precision)


def decoder(material: Material):
    """Text to text, from a folder that `transformer-lib export --to transformers` wrote."""
    from transformers import AutoModelForSeq2SeqLM

    folder = material.folder / "exported" / "transformers"
    export(Translator.from_pretrained(material.model), folder, "transformers", replace=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(str(folder)).eval().to(material.device)
    pieces = material.pieces()

    @torch.inference_mode()
    def translate(lines: Sequence[str], beam: int) -> list[str]:
        src = pieces.batch(lines).to(material.device)
        found = model.generate(
            input_ids=src,
            attention_mask=src != PAD_ID,
            num_beams=beam,
            early_stopping=beam > 1,
            length_penalty=0.0,
            max_new_tokens=src.size(1) + EXTRA,
        )
        return pieces.texts(found[:, 1:].tolist())

    return translate

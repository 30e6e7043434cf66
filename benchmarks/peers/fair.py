"""fairseq 0.12.2, the last release: its model and loss in training, its generator in decoding.

It is older than Python 3.11, which refuses the defaults of its dataclasses; `_tolerant` lets them
through while it is imported. Nothing that is measured is changed by that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.loop import SMOOTHING, Loop
from benchmarks.material import BOS_ID, EOS_ID, EXTRA, PAD_ID, Material
from transformer_lib.config import ModelConfig
from transformer_lib.model import Transformer
from transformer_lib.translate.export import transformers_weights

__all__ = ["decoder", "training"]


@contextmanager
def _tolerant():
    """Allow dataclass defaults that cannot be hashed, which Python 3.11 refuses as mutable."""
    strict = dataclasses.dataclass

    def hashable(cls=None, /, **options):
        def wrap(cls):
            old = cls.__module__.partition(".")[0] in ("fairseq", "hydra")
            return strict(cls, **(options | {"unsafe_hash": True} if old else options))

        return wrap if cls is None else wrap(cls)

    dataclasses.dataclass = hashable
    try:
        yield
    finally:
        dataclasses.dataclass = strict


with _tolerant():
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
    from fairseq.models.transformer import TransformerModelBase
    from fairseq.models.transformer.transformer_config import (
        DecoderConfig,
        EncDecBaseConfig,
        TransformerConfig,
    )
    from fairseq.sequence_generator import SequenceGenerator


class OurIds:
    """A dictionary with fairseq's interface and our ids."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def pad(self) -> int:
        """The id of padding."""
        return PAD_ID

    def unk(self) -> int:
        """The id of unknown words."""
        return 1

    def eos(self) -> int:
        """The id of the end."""
        return EOS_ID


def from_ours(sizes: Mapping[str, Any], weights: Mapping[str, Tensor], dropout: float):
    """Their model with our weights, and their dictionary.

    Their sinusoids have other wavelengths than the paper's; the table is replaced.
    """
    side = {
        "embed_dim": sizes["d_model"],
        "ffn_embed_dim": sizes["d_ff"],
        "layers": sizes["n_layers"],
        "attention_heads": sizes["n_heads"],
        "normalize_before": sizes["norm_first"],
    }
    config = TransformerConfig(
        encoder=EncDecBaseConfig(**side),
        decoder=DecoderConfig(**side),
        dropout=dropout,
        share_all_embeddings=True,
    )
    ids = OurIds(sizes["tgt_vocab_size"])
    task = SimpleNamespace(source_dictionary=ids, target_dictionary=ids)
    model = TransformerModelBase.build_model(config, task)
    ours = Transformer(ModelConfig(**sizes))
    ours.load_state_dict(weights)
    renamed = {name.removeprefix("model."): t for name, t in transformers_weights(ours).items()}
    renamed["encoder.embed_tokens.weight"] = renamed.pop("shared.weight")
    for stack in ("encoder", "decoder"):  # else it takes them for old ones, without last norms
        renamed[f"{stack}.version"] = torch.tensor([3.0])
    missing, unknown = model.load_state_dict(renamed, strict=False)
    fixed = ("version", "_float_tensor", "decoder.embed_tokens.weight", "output_projection.weight")
    if unknown or not all(name.endswith(fixed) for name in missing):
        raise ValueError(f"weights do not fit: missing {missing}, unknown {unknown}")
    table = ours.positions.table[:1024]
    table = torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)  # all sines, then all cosines
    table = torch.cat([torch.zeros(1, table.size(1)), table])  # the row of padding
    for stack in (model.encoder, model.decoder):
        stack.embed_positions.weights = table.clone()
    return model, ids


class Logits(nn.Module):
    """Their model with the interface that the loop expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.model(src, (src != PAD_ID).sum(1), tgt)[0]

    def own_loss(self, src: Tensor, tgt_in: Tensor, tgt_out: Tensor) -> Tensor:
        """Return the loss of their criterion."""
        logs = F.log_softmax(self(src, tgt_in).float(), dim=-1)
        flat = logs.flatten(0, 1), tgt_out.flatten()
        return label_smoothed_nll_loss(*flat, SMOOTHING, ignore_index=PAD_ID)[0]


def training(material: Material, dropout: float) -> Loop:
    """The loop around their model; with dropout (when the time counts) also their own loss."""
    model, _ = from_ours(material.sizes, material.start, dropout)
    logits = Logits(model)
    return Loop(logits, loss_of=logits.own_loss if dropout else None)


def decoder(material: Material):
    """Text to text with their generator."""
    model, ids = from_ours(material.model_sizes, material.model_weights, 0.0)
    model.eval().make_generation_fast_(beamable_mm_beam_size=None, need_attn=False)
    pieces, generators = material.pieces(), {}

    def translate(lines: Sequence[str], beam: int) -> list[str]:
        if beam not in generators:
            length = {"max_len_a": 1, "max_len_b": EXTRA}
            generators[beam] = SequenceGenerator(
                [model], ids, beam_size=beam, normalize_scores=False, **length
            )
        src = pieces.batch(lines)
        given = {"src_tokens": src, "src_lengths": (src != PAD_ID).sum(1)}
        found = generators[beam].generate([model], {"net_input": given}, bos_token=BOS_ID)
        return pieces.texts([best[0]["tokens"].tolist() for best in found])

    return translate

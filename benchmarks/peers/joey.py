"""JoeyNMT 2.3: its model and its loss in training, its searches in decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from joeynmt.model import Model, build_model
from joeynmt.search import beam_search, greedy
from joeynmt.vocabulary import Vocabulary
from torch import Tensor, nn

from benchmarks.loop import SMOOTHING, Loop
from benchmarks.material import BOS_ID, EOS_ID, EXTRA, PAD_ID, Material

__all__ = ["decoder", "training"]

NAMES = {
    "query.": "q_layer.",
    "key.": "k_layer.",
    "value.": "v_layer.",
    "output.": "output_layer.",
    "feed_forward.expand.": "feed_forward.pwff_layer.0.",
    "feed_forward.contract.": "feed_forward.pwff_layer.3.",
    "encoder.norm.": "encoder.layer_norm.",
    "decoder.norm.": "decoder.layer_norm.",
}
IN_LAYERS = {
    "encoder": {
        "self_attention.": "src_src_att.",
        "residuals.0.norm.": "layer_norm.",
        "residuals.1.norm.": "feed_forward.layer_norm.",
    },
    "decoder": {
        "self_attention.": "trg_trg_att.",
        "cross_attention.": "src_trg_att.",
        "residuals.0.norm.": "x_layer_norm.",
        "residuals.1.norm.": "dec_layer_norm.",
        "residuals.2.norm.": "feed_forward.layer_norm.",
    },
}


class OurIds(Vocabulary):
    """A vocabulary of theirs with our ids: only its size and special ids matter here."""

    def __init__(self, size: int) -> None:
        self.specials, self.lang_tags = ["<pad>", "<unk>", "<bos>", "<eos>"], []
        self._itos = self.specials + [str(id) for id in range(4, size)]
        self._stoi = {token: id for id, token in enumerate(self._itos)}
        self.pad_index, self.unk_index, self.sep_index = PAD_ID, 1, None
        self.bos_index, self.eos_index = BOS_ID, EOS_ID


def from_ours(sizes: Mapping[str, Any], weights: Mapping[str, Tensor], dropout: float) -> Model:
    """Their model with our weights. Its LayerNorms get our ε."""
    side = {
        "type": "transformer",
        "num_layers": sizes["n_layers"],
        "num_heads": sizes["n_heads"],
        "hidden_size": sizes["d_model"],
        "ff_size": sizes["d_ff"],
        "embeddings": {"embedding_dim": sizes["d_model"], "scale": True, "dropout": dropout},
        "dropout": dropout,
        "layer_norm": "pre" if sizes["norm_first"] else "post",
    }
    config = {"encoder": side, "decoder": side, "tied_embeddings": True, "tied_softmax": True}
    vocab = OurIds(sizes["tgt_vocab_size"])
    model = build_model(config, vocab, vocab)
    missing, unknown = model.load_state_dict(as_joeys(weights), strict=False)
    if unknown or not all(
        name.endswith((".pe", "decoder.output_layer.weight")) or name.startswith("trg_embed")
        for name in missing
    ):
        raise ValueError(f"weights do not fit: missing {missing}, unknown {unknown}")
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    return model


def as_joeys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by their names."""
    renamed = {}
    for name, tensor in weights.items():
        if "embedding" in name or name.startswith("output_projection"):
            renamed["src_embed.lut.weight"] = tensor
            continue
        side = name.partition(".")[0]
        for ours, theirs in (NAMES | IN_LAYERS[side]).items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def training(material: Material, dropout: float) -> Loop:
    """The loop around their model; with dropout (when the time counts) also their own loss.

    Their loss spreads ε over two ids less than ours does, so it cannot be compared to the digit.
    """
    model = from_ours(material.sizes, material.start, dropout)
    model.loss_function = ("crossentropy", SMOOTHING)
    logits = Logits(model)
    return Loop(logits, loss_of=logits.own_loss if dropout else None)


class Logits(nn.Module):
    """Their model with the interface that the loop expects."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def _inputs(self, src: Tensor, tgt: Tensor) -> dict[str, Tensor]:
        seen = src != PAD_ID
        masks = {"src_mask": seen[:, None], "trg_mask": (tgt != PAD_ID)[:, None]}
        return {"src": src, "src_length": seen.sum(1), "trg_input": tgt, **masks}

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.model._encode_decode(**self._inputs(src, tgt))[0]

    def own_loss(self, src: Tensor, tgt_in: Tensor, tgt_out: Tensor) -> Tensor:
        """Return the loss of their training, which also counts the right tokens."""
        inputs = self._inputs(src, tgt_in) | {"trg": tgt_out}
        inputs["trg_mask"] = (tgt_out != PAD_ID)[:, None]
        return self.model(return_type="loss", **inputs)[0]


def decoder(material: Material):
    """Text to text with their greedy and beam search."""
    model = from_ours(material.model_sizes, material.model_weights, 0.0).eval()
    pieces = material.pieces()

    @torch.no_grad()
    def translate(lines: Sequence[str], beam: int) -> list[str]:
        src = pieces.batch(lines)
        mask, limit = (src != PAD_ID)[:, None], src.size(1) + EXTRA
        lengths = mask.sum((1, 2))
        memory, hidden, _, _ = model("encode", src=src, src_length=lengths, src_mask=mask)
        given = {
            "model": model,
            "encoder_output": memory,
            "encoder_hidden": hidden,
            "src_mask": mask,
            "max_output_length": limit,
        }
        found = greedy(**given) if beam == 1 else beam_search(**given, beam_size=beam, alpha=-1.0)
        return pieces.texts(found[0].tolist())

    return translate

"""`torch.nn.Transformer`: the training loop that is the reference, and two ways to decode."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.loop import Loop
from benchmarks.material import BOS_ID, EOS_ID, EXTRA, PAD_ID, Material
from benchmarks.peers import NotOfferedError

__all__ = [
    "CachedGreedy",
    "TorchModel",
    "as_torchs",
    "counted_flops",
    "decoder",
    "dropout_as_ours",
    "greedy",
    "training",
]

NAMES = {
    "self_attention.": "self_attn.",
    "cross_attention.": "multihead_attn.",
    "attn.query.": "attn.in_proj_",  # these three, in this order, are one tensor there
    "attn.key.": "attn.in_proj_",
    "attn.value.": "attn.in_proj_",
    "attn.output.": "attn.out_proj.",
    "feed_forward.expand.": "linear1.",
    "feed_forward.contract.": "linear2.",
    "residuals.0.norm.": "norm1.",
    "residuals.1.norm.": "norm2.",
    "residuals.2.norm.": "norm3.",
}


class TorchModel(nn.Module):
    """Embedding, sinusoids, `nn.Transformer`, and the embedding again as output layer."""

    def __init__(self, sizes: Mapping[str, Any], dropout: float) -> None:
        super().__init__()
        width, n_layers = sizes["d_model"], sizes["n_layers"]
        self.embedding = nn.Embedding(sizes["src_vocab_size"], width, padding_idx=PAD_ID)
        self.scale, self.dropout = math.sqrt(width), nn.Dropout(dropout)
        places = width, sizes["n_heads"], n_layers, n_layers, sizes["d_ff"], dropout
        with warnings.catch_warnings():  # pre-norm has no nested tensors, it tells everybody
            warnings.simplefilter("ignore", UserWarning)
            self.body = nn.Transformer(*places, batch_first=True, norm_first=sizes["norm_first"])
        if not sizes["norm_first"]:  # torch adds last LayerNorms that the paper does not have
            self.body.encoder.norm = self.body.decoder.norm = None
        self.register_buffer("table", sinusoids(1024, width), persistent=False)

    def embed(self, ids: Tensor, offset: int = 0) -> Tensor:
        """Ids (B, T) to vectors (B, T, D)."""
        rows = self.table[offset : offset + ids.size(1)]
        return self.dropout(self.embedding(ids) * self.scale + rows)

    def encode(self, src: Tensor) -> Tensor:
        """Source ids (B, S) to memory (B, S, D)."""
        return self.body.encoder(self.embed(src), src_key_padding_mask=src == PAD_ID)

    def decode(self, tgt: Tensor, memory: Tensor, src: Tensor) -> Tensor:
        """Target ids (B, T) to hidden vectors (B, T, D)."""
        n = tgt.size(1)
        return self.body.decoder(
            self.embed(tgt),
            memory,
            tgt_mask=torch.ones(n, n, dtype=torch.bool, device=tgt.device).triu(1),
            tgt_is_causal=True,
            memory_key_padding_mask=src == PAD_ID,
        )

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return F.linear(self.decode(tgt, self.encode(src), src), self.embedding.weight)

    @classmethod
    def from_ours(
        cls, sizes: Mapping[str, Any], weights: Mapping[str, Tensor], dropout: float
    ) -> TorchModel:
        """The same model from the library's weights."""
        model = cls(sizes, dropout)
        missing, unknown = model.load_state_dict(as_torchs(weights), strict=False)
        if missing or unknown:
            raise ValueError(f"weights do not fit: missing {missing}, unknown {unknown}")
        return model


def sinusoids(n_positions: int, width: int) -> Tensor:
    """Section 3.5 of the paper."""
    place = torch.arange(n_positions, dtype=torch.float64)[:, None]
    even = torch.arange(0, width, 2, dtype=torch.float64)
    angle = place * torch.exp(even * (-math.log(10_000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def as_torchs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The library's weights by torch's names; query, key and value become one tensor."""
    renamed: dict[str, list[Tensor]] = {}
    for name, tensor in weights.items():
        if "embedding" in name:
            name = "embedding.weight"
        elif name.startswith("output_projection"):
            continue  # the embedding once more
        else:
            for ours, theirs in NAMES.items():
                name = name.replace(ours, theirs)
            name = f"body.{name}"
        parts = renamed.setdefault(name, [])
        if name != "embedding.weight" or not parts:
            parts.append(tensor)
    return {name: torch.cat(parts) for name, parts in renamed.items()}


def dropout_as_ours(model: TorchModel) -> TorchModel:
    """Remove torch's extra dropout on attention weights and inside the feed-forward network."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            module.dropout.p = 0.0
    return model


def training(
    material: Material, dropout: float, precision: str = "fp32", same_dropout: bool = False
) -> Loop:
    """The reference loop."""
    model = TorchModel.from_ours(material.sizes, material.start, dropout).to(material.device)
    return Loop(dropout_as_ours(model) if same_dropout else model, precision)


def counted_flops(material: Material) -> float:
    """Operations of one step of the reference per real target token, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    step = training(material, 0.1)
    src, tgt = material.batches[0]
    with FlopCounterMode(display=False) as counter:
        step(src, tgt)
    return counter.get_total_flops() / int((tgt[:, 1:] != PAD_ID).sum())


def decoder(material: Material, cached: bool = False):
    """Text to text: (lines, beam) to translations. It has no beam search: `NotOfferedError`."""
    model = TorchModel.from_ours(material.model_sizes, material.model_weights, 0.0)
    model = model.eval().to(material.device)
    search = CachedGreedy(model) if cached else partial(greedy, model)
    pieces = material.pieces()

    def translate(lines: Sequence[str], beam: int) -> list[str]:
        if beam != 1:
            raise NotOfferedError("greedy only")
        return pieces.texts(search(pieces.batch(lines).to(material.device)))

    return translate


@torch.no_grad()
def greedy(model: TorchModel, src: Tensor) -> list[list[int]]:
    """Greedy decoding without a cache: the whole prefix is computed again for every token."""
    memory, limits = model.encode(src), (src != PAD_ID).sum(1) + EXTRA
    ids = src.new_full((len(src), 1), BOS_ID)
    going_on = torch.ones_like(src[:, 0], dtype=torch.bool)
    while going_on.any():
        hidden = model.decode(ids, memory, src)[:, -1]
        token = F.linear(hidden, model.embedding.weight).argmax(-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        going_on &= (token != EOS_ID) & (limits >= ids.size(1))
    return cut(ids, limits)


def cut(ids: Tensor, limits: Tensor) -> list[list[int]]:
    """The ids of every row up to its end."""
    rows = [row[1 : n + 1] for row, n in zip(ids.tolist(), limits.tolist(), strict=True)]
    return [row[: row.index(EOS_ID)] if EOS_ID in row else row for row in rows]


class CachedGreedy:
    """Greedy decoding from the same weights with cached keys and values, in plain torch."""

    def __init__(self, model: TorchModel) -> None:
        self.model, self.layers = model.eval(), model.body.decoder.layers

    @torch.no_grad()
    def __call__(self, src: Tensor) -> list[list[int]]:
        """Decode greedily."""
        model, limits = self.model, (src != PAD_ID).sum(1) + EXTRA
        memory, seen = model.encode(src), (src != PAD_ID)[:, None, None, :]
        cross = [self._keys(layer.multihead_attn, memory) for layer in self.layers]
        own: list[list[Tensor] | None] = [None] * len(self.layers)
        ids = src.new_full((len(src), 1), BOS_ID)
        going_on = torch.ones_like(src[:, 0], dtype=torch.bool)
        while going_on.any():
            x = model.embed(ids[:, -1:], ids.size(1) - 1)
            for i, layer in enumerate(self.layers):
                x, own[i] = self._layer(layer, x, own[i], cross[i], seen)
            hidden = model.body.decoder.norm(x) if model.body.decoder.norm else x
            token = F.linear(hidden[:, 0], model.embedding.weight).argmax(-1)
            ids = torch.cat([ids, token[:, None]], dim=1)
            going_on &= (token != EOS_ID) & (limits >= ids.size(1))
        return cut(ids, limits)

    def _keys(self, attention: nn.MultiheadAttention, x: Tensor) -> list[Tensor]:
        width = attention.embed_dim
        both = F.linear(x, attention.in_proj_weight[width:], attention.in_proj_bias[width:])
        return [self._split(part, attention.num_heads) for part in both.chunk(2, dim=-1)]

    @staticmethod
    def _split(x: Tensor, n_heads: int) -> Tensor:
        return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)

    def _attend(self, attention: nn.MultiheadAttention, x: Tensor, kept, mask) -> Tensor:
        width = attention.embed_dim
        query = F.linear(x, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
        query = self._split(query, attention.num_heads)
        found = F.scaled_dot_product_attention(query, *kept, attn_mask=mask)
        return attention.out_proj(found.transpose(1, 2).flatten(2))

    def _layer(self, layer: nn.TransformerDecoderLayer, x: Tensor, own, cross, seen):
        before = layer.norm1(x) if layer.norm_first else x
        new = self._keys(layer.self_attn, before)
        own = new if own is None else [torch.cat(two, dim=2) for two in zip(own, new, strict=True)]
        x = x + self._attend(layer.self_attn, before, own, None)
        x, before = (x, layer.norm2(x)) if layer.norm_first else (layer.norm1(x),) * 2
        x = x + self._attend(layer.multihead_attn, before, cross, seen)
        x, before = (x, layer.norm3(x)) if layer.norm_first else (layer.norm2(x),) * 2
        x = x + layer.linear2(F.relu(layer.linear1(before)))
        return (x if layer.norm_first else layer.norm3(x)), own

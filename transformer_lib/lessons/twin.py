"""Torch's own Transformer with the weights of ours, so that the two can be compared."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from transformer_lib.masks import causal_mask
from transformer_lib.model import Transformer

__all__ = ["as_torchs", "same_as_torch", "torch_twin"]

TORCHS_NAMES = {
    "self_attention.": "self_attn.",
    "cross_attention.": "multihead_attn.",
    "query.": "in_proj_",  # in this order in one tensor
    "key.": "in_proj_",
    "value.": "in_proj_",
    "output.": "out_proj.",
    "feed_forward.expand.": "linear1.",
    "feed_forward.contract.": "linear2.",
    **{f"residuals.{k}.norm.": f"norm{k + 1}." for k in range(3)},
}


def as_torchs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name our weights, or their gradients, as torch does; query, key and value become one."""
    renamed: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        for ours, theirs in TORCHS_NAMES.items():
            name = name.replace(ours, theirs)
        renamed.setdefault(name, []).append(tensor)
    return {name: torch.cat(parts) for name, parts in renamed.items()}


def torch_twin(model: Transformer) -> nn.Transformer:
    """Build torch's encoder and decoder stacks with copies of the model's weights.

    By default torch adds a LayerNorm after each stack, also in post-norm, where the paper has
    none; here only pre-norm has it.
    """
    config = model.config
    sizes = config.d_model, config.n_heads, config.d_ff, config.dropout
    options = {"batch_first": True, "norm_first": config.norm_first}
    norms = [nn.LayerNorm(config.d_model) if config.norm_first else None for _ in range(2)]
    encoder = nn.TransformerEncoderLayer(*sizes, **options)
    decoder = nn.TransformerDecoderLayer(*sizes, **options)
    twin = nn.Transformer(
        *sizes[:2],
        batch_first=True,
        custom_encoder=nn.TransformerEncoder(
            encoder, config.n_layers, norms[0], enable_nested_tensor=False
        ),
        custom_decoder=nn.TransformerDecoder(decoder, config.n_layers, norms[1]),
    )
    weights = model.state_dict()
    stacks = {name: weights[name] for name in weights if name.startswith(("encoder.", "decoder."))}
    twin.to(next(model.parameters()))  # the model's precision and device
    twin.load_state_dict(as_torchs(stacks))  # strict: no weight is left out
    return twin.train(model.training)


def same_as_torch(model: Transformer, src: Tensor, tgt: Tensor) -> str:
    """Compare a model in float64 with torch's, which gets copies of its weights.

    Torch's masks have the opposite meaning: True means ignore. The gradients are those of the
    sum of squared outputs at real target tokens.
    """
    pad_id, twin = model.config.pad_id, torch_twin(model)
    x = model.embed(src, model.src_embedding).detach()
    y = model.embed(tgt, model.tgt_embedding).detach()
    theirs = twin(
        x,
        y,
        tgt_mask=~causal_mask(tgt.size(1), device=tgt.device),
        src_key_padding_mask=src == pad_id,
        memory_key_padding_mask=src == pad_id,
        tgt_key_padding_mask=tgt == pad_id,
    )[tgt != pad_id]
    ours = model.decode(tgt, model.encode(src), src)[tgt != pad_id]
    model.zero_grad()
    ours.square().sum().backward()
    theirs.square().sum().backward()
    mine = as_torchs({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    gaps = [(mine[name] - p.grad).abs().max() for name, p in twin.named_parameters()]
    outputs = bool((ours - theirs).abs().max() < 1e-10)
    return f"outputs equal: {outputs}, {len(gaps)} gradients equal: {bool(max(gaps) < 1e-9)}"

"""Torch's own Transformer with the weights of ours, so that the two can be compared."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from transformer_lib.model import Transformer

__all__ = ["as_torchs", "torch_twin"]

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

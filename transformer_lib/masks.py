# Written by notebooks/03_masks.ipynb: edit there, then `make export`.
"""Padding, causal and combined masks: True = may attend (section 3.2.3)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["padding_mask", "teacher_forcing", "causal_mask", "target_mask"]


def padding_mask(ids: Int[Tensor, "B S"], pad_id: int = 0) -> Bool[Tensor, "B 1 1 S"]:
    """Mask padding: True where a key is a real token.

    Broadcasts over heads and queries.

    Source: not in the paper; a padded batch needs it. Built in notebook 03.
    """
    return (ids != pad_id)[:, None, None, :]


def teacher_forcing(
    ids: Int[Tensor, "B L"],
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Split `<bos> a b <eos>` into the decoder's input and its targets.

    The input is `<bos> a b`, the targets are `a b <eos>`: the shift by one that makes position t
    predict the token at position t + 1.

    Returns:
        Decoder input and targets, both one shorter than `ids`: T = L - 1.

    Source: Figure 1, "outputs (shifted right)", and section 3.1. Built in notebook 03.
    """
    return ids[:, :-1], ids[:, 1:]


def causal_mask(
    n_queries: int, n_keys: int | None = None, device: torch.device | str | None = None
) -> Bool[Tensor, "T S"]:
    """Mask the future: True where a key does not come after the query.

    Aligned at the end: the last query sees every key. So one new query over five cached
    keys sees all five, where a mask aligned at the start would show only the first.

    Args:
        n_queries: number of queries T.
        n_keys: number of keys S; equal to the number of queries by default.

    Raises:
        ValueError: there are fewer keys than queries.

    Source: section 3.2.3. Built in notebook 03.
    """
    n_keys = n_queries if n_keys is None else n_keys
    if n_keys < n_queries:
        raise ValueError(f"a query sees at least itself: {n_queries} queries, {n_keys} keys")
    everything = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return everything.tril(diagonal=n_keys - n_queries)


def target_mask(ids: Int[Tensor, "B T"], pad_id: int = 0) -> Bool[Tensor, "B 1 T T"]:
    """Mask padding and the future, as the decoder's self-attention needs it.

    True where a key is a real token and does not come after the query.

    Source: section 3.2.3, with `padding_mask`. Built in notebook 03.
    """
    return padding_mask(ids, pad_id) & causal_mask(ids.size(1), device=ids.device)

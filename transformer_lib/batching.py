# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""Batches of similar length under a token budget: a pure function of (seed, epoch, rank)."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["IdPair", "Batch", "pad", "collate", "token_batches", "epoch_batches"]

IdPair = tuple[Sequence[int], Sequence[int]]


class Batch(NamedTuple):
    """Padded ids of several sentence pairs; the target is framed by `<bos>` and `<eos>`."""

    src: Int[Tensor, "B S"]
    tgt: Int[Tensor, "B L"]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch on another device."""
        return Batch(self.src.to(device), self.tgt.to(device))


def pad(sequences: Sequence[Sequence[int]], pad_id: int = 0) -> Int[Tensor, "B L"]:
    """Pad rows of unequal length at the end and stack them into one tensor.

    Raises:
        ValueError: there is no row, or none has an id.
    """
    if not any(map(len, sequences)):
        raise ValueError("a batch needs at least one id")
    length = max(map(len, sequences))
    return torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in sequences])


def collate(pairs: Sequence[IdPair], pad_id: int = 0) -> Batch:
    """Pad sentence pairs into one batch.

    Raises:
        ValueError: a side of a pair is empty or holds only padding.
    """
    for number, pair in enumerate(pairs):
        if any(all(id == pad_id for id in side) for side in pair):
            raise ValueError(f"pair {number} of the batch has a side without a single token")
    return Batch(pad([src for src, _ in pairs], pad_id), pad([tgt for _, tgt in pairs], pad_id))


def token_batches(
    lengths: Sequence[tuple[int, int]],
    max_tokens: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> list[list[int]]:
    """Group pairs of similar length, each group as large as the budget allows.

    The order depends only on (seed, epoch), so a run that was interrupted resumes at the same
    batch.

    Args:
        lengths: source and target length of every pair, in tokens.
        max_tokens: maximum ids per batch on its longer side, padding included. A pair that is
            longer than that gets a batch of its own.
        rank, world_size: this process's share; every rank gets the same number of batches, for
            which up to world_size - 1 batches are left out.

    Returns:
        Indices into `lengths`, batch by batch.

    Raises:
        ValueError: max_tokens is below 1 or the rank does not exist.

    Source: section 5.1, "approximate sequence length". Built in notebook 07.
    """
    if max_tokens < 1 or not 0 <= rank < world_size:
        raise ValueError(f"impossible: {max_tokens=}, {rank=}, {world_size=}")
    draw = random.Random(f"{seed} {epoch}")
    order = list(range(len(lengths)))
    draw.shuffle(order)  # the sort below is stable: equal lengths stay in this random order
    order.sort(key=lambda i: max(lengths[i]))
    batches: list[list[int]] = [[]]
    for i in order:  # sorted: the newest pair is the longest of its batch
        if batches[-1] and (len(batches[-1]) + 1) * max(lengths[i]) > max_tokens:
            batches.append([])
        batches[-1].append(i)
    draw.shuffle(batches)
    even = len(batches) - len(batches) % world_size
    return [batch for batch in batches[rank:even:world_size] if batch]


def epoch_batches(
    pairs: Sequence[IdPair], max_tokens: int, *, pad_id: int = 0, **draw: int
) -> Iterator[Batch]:
    """Yield the batches of one epoch; `draw` as in `token_batches`."""
    lengths = [(len(src), len(tgt)) for src, tgt in pairs]
    for indices in token_batches(lengths, max_tokens, **draw):
        yield collate([pairs[i] for i in indices], pad_id)

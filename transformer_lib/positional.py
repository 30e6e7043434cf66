# Written by notebooks/02_positional_encoding.ipynb: edit there, then `make export`.
"""Positional encodings: sinusoids of many wavelengths, or a learned table (section 3.5)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "sinusoidal_table",
    "position_rows",
    "SinusoidalPositionalEncoding",
    "LearnedPositionalEncoding",
]


def sinusoidal_table(
    n_positions: int, d_model: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "P D"]:
    """Table of sinusoids: columns 2m and 2m + 1 hold sin and cos of t / 10000^(2m/d_model).

    Computed in float64 and rounded once: in float32 the angles of far positions lose digits.

    Raises:
        ValueError: d_model is odd, so the last sine has no matching cosine.

    Source: section 3.5. Built in notebook 02.
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, got {d_model}")
    position = torch.arange(n_positions, dtype=torch.float64)[:, None]  # (P, 1)
    even = torch.arange(0, d_model, 2, dtype=torch.float64)  # (D/2,): 2m
    angle = position * torch.exp(even * (-math.log(10_000.0) / d_model))  # (P, D/2)
    table = torch.stack([angle.sin(), angle.cos()], dim=-1)  # (P, D/2, 2)
    return table.flatten(1).to(dtype)  # (P, D): sine, cosine, sine, cosine, …


def position_rows(table: Float[Tensor, "P D"], offset: int, length: int) -> Float[Tensor, "T D"]:
    """Return rows offset … offset + length - 1 of the table.

    Raises:
        ValueError: the table has fewer than offset + length rows.
    """
    if offset + length > len(table):
        raise ValueError(
            f"sequence of {offset + length} positions, but max_len is {len(table)}: "
            "shorten it or build the model with a larger max_len"
        )
    return table[offset : offset + length]


class SinusoidalPositionalEncoding(nn.Module):
    """Sinusoids, added to a sequence. Nothing is learned.

    Args:
        d_model: width D, even.
        max_len: number of positions in the table.

    Source: section 3.5. Built in notebook 02.
    """

    def __init__(self, d_model: int, max_len: int = 5000) -> None:
        super().__init__()
        # Not persistent: it is a formula, so a checkpoint need not carry it.
        table = sinusoidal_table(max_len, d_model, torch.get_default_dtype())
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Float[Tensor, "B T D"], offset: int = 0) -> Float[Tensor, "B T D"]:
        """Add rows `offset … offset + T - 1` to x.

        Args:
            offset: position of the first token, for a decoder that is fed step by step.

        Raises:
            ValueError: the sequence is longer than max_len.
        """
        return x + position_rows(self.table, offset, x.size(1))


class LearnedPositionalEncoding(nn.Module):
    """One learned vector per position, added to a sequence of at most max_len tokens.

    Args:
        d_model: width D.
        max_len: number of positions that have a vector.

    Source: section 3.5 and row (E) of Table 3. Built in notebook 02.
    """

    def __init__(self, d_model: int, max_len: int = 5000) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(max_len, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw entries on the scale of the sinusoids, whose mean square is 1/2."""
        nn.init.normal_(self.table, std=math.sqrt(0.5))

    def forward(self, x: Float[Tensor, "B T D"], offset: int = 0) -> Float[Tensor, "B T D"]:
        """Add rows `offset … offset + T - 1` to x; raise as the sinusoidal variant does."""
        return x + position_rows(self.table, offset, x.size(1))

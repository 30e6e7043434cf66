# Written by notebooks/01_embeddings.ipynb: edit there, then `make export`.
"""Token embedding times the square root of d_model, and the output projection that shares its
weights (section 3.4 of the paper)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TokenEmbedding", "OutputProjection"]


class TokenEmbedding(nn.Module):
    """A learned vector of width d_model for every id, multiplied by √d_model.

    The entries start with standard deviation 1/√d_model. (The paper gives the factor, but neither
    an initialization nor a reason.) The row of padding starts as zeros and gets no gradient from
    lookups. A shared output projection does train it, so padding must be masked.

    Source: section 3.4. Built in notebook 01.
    """

    def __init__(self, vocab_size: int, d_model: int, pad_id: int = 0) -> None:
        super().__init__()
        self.scale = math.sqrt(d_model)
        self.pad_id = pad_id
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the entries from N(0, 1/d_model); padding gets zeros."""
        nn.init.normal_(self.weight, std=1 / self.scale)
        with torch.no_grad():
            self.weight[self.pad_id].zero_()

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Look up the ids: row `ids[b, t]` of the matrix, times √d_model."""
        return F.embedding(ids, self.weight, padding_idx=self.pad_id) * self.scale


class OutputProjection(nn.Module):
    """Map each hidden vector to one score (logit) per id: its dot product with that id's row.

    The parameter `weight` (V, D) of the embedding is shared, not copied, so both uses train it.

    Source: section 3.4. Built in notebook 01.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Logits: the agreement of each hidden vector with the row of every id."""
        return F.linear(hidden, self.weight)

# Written by notebooks/05_feed_forward.ipynb: edit there, then `make export`.
"""The position-wise network, and what surrounds every sub-layer: residual, dropout, LayerNorm
(sections 3.1, 3.3 and 5.4)."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FeedForward", "layer_norm", "Residual"]


class FeedForward(nn.Module):
    """max(0, x W₁ + b₁) W₂ + b₂: the same small network at every position.

    Args:
        d_model: width D in and out.
        d_ff: inner width F.

    Source: section 3.3, equation 2. Built in notebook 05.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_ff)
        self.contract = nn.Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Expand to d_ff, apply ReLU, contract to d_model."""
        return self.contract(self.expand(x).relu())


def layer_norm(
    x: Float[Tensor, "*B D"],
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"],
    eps: float = 1e-5,
) -> Float[Tensor, "*B D"]:
    """Normalize each vector to mean 0 and variance 1, then scale and shift (the reference).

    The variance divides by D, not D - 1, and eps is inside the square root. The layers
    run torch's fused `nn.LayerNorm`; a test checks that the two agree.

    Source: section 3.1 (Ba et al., 2016). Built in notebook 05.
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, correction=0)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


class Residual(nn.Module):
    """A residual connection around a sub-layer, with dropout on its output and a LayerNorm.

    Post-norm, the paper's order: LayerNorm(x + Dropout(Sublayer(x))).
    Pre-norm, `norm_first=True`: x + Dropout(Sublayer(LayerNorm(x))).

    Args:
        d_model: width D.
        dropout: probability of zeroing each entry of the sub-layer's output in training.
        norm_first: pre-norm instead of the paper's post-norm.

    Source: sections 3.1 and 5.4. Built in notebook 05.
    """

    def __init__(self, d_model: int, dropout: float = 0.1, norm_first: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(
        self, x: Float[Tensor, "B T D"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "B T D"]:
        """Return x plus the output of the sub-layer, normalized."""
        if self.norm_first:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))

# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""Every size of the model in one frozen place (section 3 and Table 3)."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """Every size of the model. The defaults are the paper's base model.

    Args:
        src_vocab_size: number of source ids.
        tgt_vocab_size: number of target ids.
        d_model: width D of all vectors between the sub-layers.
        n_heads: number of attention heads H; divides d_model.
        n_layers: number of encoder layers, and of decoder layers (N).
        d_ff: inner width F of the feed-forward network.
        dropout: share dropped behind every sub-layer and behind embedding + position.
        max_len: positions held ready.
        norm_first: pre-norm instead of the paper's post-norm.
        tie_embeddings: one matrix for target embedding and output projection, and for the source
            embedding too when both vocabularies have the same size: they are then taken as one.
        pad_id: the id of padding, the same on both sides.
        positions: "sinusoidal" as in the paper, "learned", or "none" for experiments.

    Raises:
        ValueError: one message that lists all problems.

    Source: section 3 and Table 3. Built in notebook 06.
    """

    src_vocab_size: int
    tgt_vocab_size: int
    d_model: int = 512
    n_heads: int = 8
    n_layers: int = 6
    d_ff: int = 2048
    dropout: float = 0.1
    max_len: int = 5000
    norm_first: bool = False
    tie_embeddings: bool = True
    pad_id: int = 0
    positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal"

    def __post_init__(self) -> None:
        sizes = ["src_vocab_size", "tgt_vocab_size", "d_model", "n_heads", "n_layers", "d_ff"]
        problems = [
            f"{name} must be a whole number of at least 1, got {value!r}"
            for name in [*sizes, "max_len"]
            if not isinstance(value := getattr(self, name), int) or value < 1
        ]
        if not problems and self.d_model % self.n_heads:
            problems.append(f"d_model={self.d_model} is not divisible by n_heads={self.n_heads}")
        if not problems and self.positions == "sinusoidal" and self.d_model % 2:
            problems.append(f"sinusoidal positions need an even d_model, got {self.d_model}")
        if not problems and not 0 <= self.pad_id < min(self.src_vocab_size, self.tgt_vocab_size):
            problems.append(f"pad_id={self.pad_id} is not an id of both vocabularies")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.positions not in ("sinusoidal", "learned", "none"):
            problems.append(f"positions must be sinusoidal, learned or none, got {self.positions}")
        if problems:
            raise ValueError("invalid ModelConfig: " + "; ".join(problems))

    @property
    def shares_vocabulary(self) -> bool:
        """Whether source and target use one embedding matrix."""
        return self.tie_embeddings and self.src_vocab_size == self.tgt_vocab_size

    @classmethod
    def tiny(cls, vocab_size: int, **changes) -> "ModelConfig":
        """4 layers, width 128: trains on a laptop. `changes` replace single fields."""
        sizes = {"d_model": 128, "n_heads": 4, "n_layers": 4, "d_ff": 256}
        return cls(vocab_size, vocab_size, **(sizes | changes))

    @classmethod
    def base(cls, vocab_size: int, **changes) -> "ModelConfig":
        """The paper's base model: 6 layers, width 512."""
        return cls(vocab_size, vocab_size, **changes)

    @classmethod
    def big(cls, vocab_size: int, **changes) -> "ModelConfig":
        """The paper's big model: 6 layers, width 1024, 16 heads, dropout 0.3."""
        sizes = {"d_model": 1024, "n_heads": 16, "d_ff": 4096, "dropout": 0.3}
        return cls(vocab_size, vocab_size, **(sizes | changes))

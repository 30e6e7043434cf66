# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""Every size of the model in one frozen place (section 3 and Table 3)."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["TINY", "BIG", "ModelConfig", "is_whole", "config_problems"]

TINY = {"d_model": 128, "n_heads": 4, "n_layers": 4, "d_ff": 256}
BIG = {"d_model": 1024, "n_heads": 16, "d_ff": 4096, "dropout": 0.3}


@dataclass(frozen=True)
class ModelConfig:
    """Every size of the model. The defaults are the paper's base model (Table 3).

    Raises:
        ValueError: one message that lists all problems.
    """

    src_vocab_size: int  # number of source ids
    tgt_vocab_size: int  # number of target ids
    d_model: int = 512  # width D of all vectors between the sub-layers
    n_heads: int = 8  # attention heads H; divides d_model
    n_layers: int = 6  # encoder layers, and as many decoder layers: N
    d_ff: int = 2048  # inner width F of the feed-forward network
    dropout: float = 0.1  # share dropped behind every sub-layer and behind embedding + position
    max_len: int = 5000  # positions held ready
    norm_first: bool = False  # pre-norm instead of the paper's post-norm
    tie_embeddings: bool = True  # see shares_vocabulary
    pad_id: int = 0  # the id of padding, the same on both sides
    positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal"

    def __post_init__(self) -> None:
        if problems := config_problems(self):
            raise ValueError("invalid ModelConfig: " + "; ".join(problems))

    @property
    def shares_vocabulary(self) -> bool:
        """One matrix for source, target and output? Tied, and both vocabularies of one size."""
        return self.tie_embeddings and self.src_vocab_size == self.tgt_vocab_size

    @classmethod
    def tiny(cls, vocab_size: int, **changes) -> "ModelConfig":
        """4 layers, width 128: trains on a laptop. `changes` replace single fields."""
        return cls(vocab_size, vocab_size, **(TINY | changes))

    @classmethod
    def base(cls, vocab_size: int, **changes) -> "ModelConfig":
        """The paper's base model: 6 layers, width 512."""
        return cls(vocab_size, vocab_size, **changes)

    @classmethod
    def big(cls, vocab_size: int, **changes) -> "ModelConfig":
        """The paper's big model: 6 layers, width 1024, 16 heads, dropout 0.3."""
        return cls(vocab_size, vocab_size, **(BIG | changes))


def is_whole(value: object) -> bool:
    """Is it a whole number? To Python, True and False are, too; not here."""
    return isinstance(value, int) and not isinstance(value, bool)


def config_problems(config: "ModelConfig") -> list[str]:
    """Everything that is wrong with the sizes, each in one sentence."""
    vocab_sizes = ("src_vocab_size", "tgt_vocab_size")
    sizes = (*vocab_sizes, "d_model", "n_heads", "n_layers", "d_ff", "max_len")
    problems = [
        f"{name} must be a whole number of at least 1, got {value!r}"
        for name in sizes
        if not is_whole(value := getattr(config, name)) or value < 1
    ]
    if not problems:
        vocab_size = min(config.src_vocab_size, config.tgt_vocab_size)
        if config.d_model % config.n_heads:
            problems.append(
                f"d_model={config.d_model} is not divisible by n_heads={config.n_heads}"
            )
        if config.positions == "sinusoidal" and config.d_model % 2:
            problems.append(f"sinusoidal positions need an even d_model, got {config.d_model}")
        if not is_whole(config.pad_id) or not 0 <= config.pad_id < vocab_size:
            problems.append(f"pad_id={config.pad_id!r} is not an id of both vocabularies")
    if not isinstance(config.dropout, int | float) or not 0 <= config.dropout < 1:
        problems.append(f"dropout must be at least 0 and below 1, got {config.dropout!r}")
    if config.positions not in ("sinusoidal", "learned", "none"):
        problems.append(f"positions must be sinusoidal, learned or none, got {config.positions}")
    return problems

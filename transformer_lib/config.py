# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""The sizes of the model, in one frozen dataclass (section 3 and Table 3)."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

__all__ = [
    "TINY",
    "BIG",
    "ONE_VOCABULARY",
    "SIZES",
    "MAX_TABLE_ENTRIES",
    "ModelConfig",
    "is_whole",
    "config_problems",
]

TINY = {"d_model": 128, "n_heads": 4, "n_layers": 4, "d_ff": 256}
BIG = {"d_model": 1024, "n_heads": 16, "d_ff": 4096, "dropout": 0.3}
ONE_VOCABULARY = {"shared_vocabulary": True}
SIZES = ("src_vocab_size", "tgt_vocab_size", "d_model", "n_heads", "n_layers", "d_ff", "max_len")
MAX_TABLE_ENTRIES = 2**28  # numbers in the table of positions, max_len · d_model: 1 GiB


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of the model. The defaults are the paper's base model (Table 3).

    Raises:
        ValueError: one message that lists all problems.
    """

    src_vocab_size: int  # size of the source vocabulary
    tgt_vocab_size: int  # size of the target vocabulary
    d_model: int = 512  # width D of all vectors between the sub-layers
    n_heads: int = 8  # attention heads H; divides d_model
    n_layers: int = 6  # number N of encoder layers, and of decoder layers
    d_ff: int = 2048  # inner width F of the feed-forward network
    dropout: float = 0.1  # share dropped after every sub-layer and after embedding + position
    max_len: int = 5000  # number of positions
    norm_first: bool = False  # pre-norm instead of the paper's post-norm
    tie_embeddings: bool = True  # the output projection uses the target embedding's matrix
    pad_id: int = 0  # the id of padding, the same on both sides
    positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
    shared_vocabulary: bool = False  # the same ids mean the same tokens on both sides

    def __post_init__(self) -> None:
        if problems := config_problems(self):
            raise ValueError("invalid ModelConfig: " + "; ".join(problems))
        for name in (*SIZES, "pad_id"):  # numpy's integers become Python's
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "dropout", float(self.dropout))

    @classmethod
    def tiny(cls, vocab_size: int, **changes) -> "ModelConfig":
        """4 layers, width 128: trains on a laptop. `changes` replace single fields."""
        return cls(vocab_size, vocab_size, **(ONE_VOCABULARY | TINY | changes))

    @classmethod
    def base(cls, vocab_size: int, **changes) -> "ModelConfig":
        """The paper's base model: 6 layers, width 512."""
        return cls(vocab_size, vocab_size, **(ONE_VOCABULARY | changes))

    @classmethod
    def big(cls, vocab_size: int, **changes) -> "ModelConfig":
        """The paper's big model: 6 layers, width 1024, 16 heads, dropout 0.3."""
        return cls(vocab_size, vocab_size, **(ONE_VOCABULARY | BIG | changes))


def is_whole(value: object) -> bool:
    """Return True for a Python or numpy integer that is not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def config_problems(config: "ModelConfig") -> list[str]:
    """List all problems with the sizes, one message each."""
    problems = [
        f"{name} must be a whole number of at least 1, got {value!r}"
        for name in SIZES
        if not is_whole(value := getattr(config, name)) or value < 1
    ]
    if not problems:
        sizes = config.src_vocab_size, config.tgt_vocab_size
        if config.d_model % config.n_heads:
            problems.append(
                f"d_model={config.d_model} is not divisible by n_heads={config.n_heads}"
            )
        if config.positions != "learned" and config.d_model % 2:
            problems.append(f"sinusoidal positions need an even d_model, got {config.d_model}")
        if int(config.max_len) * int(config.d_model) > MAX_TABLE_ENTRIES:
            problems.append(f"max_len={config.max_len} needs a table of positions over 1 GiB")
        if not is_whole(config.pad_id) or not 0 <= config.pad_id < min(sizes):
            problems.append(f"pad_id={config.pad_id!r} is not an id of both vocabularies")
        if config.shared_vocabulary is True and len(set(sizes)) > 1:
            problems.append(f"a shared vocabulary has one size, got {sizes[0]} and {sizes[1]}")
    if not isinstance(config.dropout, Real) or not 0 <= config.dropout < 1:
        problems.append(f"dropout must be at least 0 and below 1, got {config.dropout!r}")
    if config.positions not in ("sinusoidal", "learned", "none"):
        problems.append(f"positions must be sinusoidal, learned or none, got {config.positions}")
    for name in ("norm_first", "tie_embeddings", "shared_vocabulary"):
        if not isinstance(getattr(config, name), bool):
            problems.append(f"{name} must be True or False, got {getattr(config, name)!r}")
    return problems

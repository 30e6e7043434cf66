# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""The sizes of the model, in one frozen dataclass (section 3 and Table 3)."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = [
    "TINY",
    "BIG",
    "ONE_VOCABULARY",
    "SIZES",
    "MAX_TABLE_ENTRIES",
    "MAX_LAYERS",
    "MAX_WEIGHTS",
    "MAX_WHOLE",
    "ModelConfig",
    "is_whole",
    "KINDS",
    "is_of_kind",
    "name_of_kind",
    "wrong_kinds",
    "count_weights",
    "config_problems",
]

TINY = {"d_model": 128, "n_heads": 4, "n_layers": 4, "d_ff": 256}
BIG = {"d_model": 1024, "n_heads": 16, "d_ff": 4096, "dropout": 0.3}
ONE_VOCABULARY = {"shared_vocabulary": True}
SIZES = ("src_vocab_size", "tgt_vocab_size", "d_model", "n_heads", "n_layers", "d_ff", "max_len")
MAX_TABLE_ENTRIES = 2**28  # numbers in the table of positions, max_len · d_model: 1 GiB
MAX_LAYERS = 1000  # each takes time to build, however narrow it is
MAX_WEIGHTS = 2**36  # 256 GiB
MAX_WHOLE = 2**53  # up to here, a float holds every whole number


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


KINDS = {
    int: "a whole number below 2**53",
    float: "a number",
    bool: "True or False",
    type(None): "None",
}


def is_of_kind(value: object, kind: Any) -> bool:
    """Return True for a value of an annotated kind; numbers must not overflow a float."""
    options = get_args(kind)
    if get_origin(kind) is tuple:
        fits = isinstance(value, tuple | list) and len(value) == len(options)
        return fits and all(map(is_of_kind, value, options))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in options
    if options:
        return any(is_of_kind(value, option) for option in options)
    if kind in (int, float):
        is_number = is_whole(value) or (kind is float and isinstance(value, Real))
        is_number = is_number and not isinstance(value, bool)
        return is_number and (isinstance(value, float) or abs(value) < MAX_WHOLE)
    return isinstance(value, kind)


def name_of_kind(kind: Any) -> str:
    """Return an annotated kind in words."""
    options = get_args(kind)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(options)
    if options:
        return (" and " if get_origin(kind) is tuple else " or ").join(map(name_of_kind, options))
    return KINDS.get(kind, kind.__name__)


def wrong_kinds(config: object) -> list[str]:
    """List the fields of a configuration that are not of their annotated kind."""
    return [
        f"{name} must be {name_of_kind(kind)}, got {value!r:.60}"
        for name, kind in get_type_hints(type(config)).items()
        if not is_of_kind(value := getattr(config, name), kind)
    ]


def count_weights(config: "ModelConfig") -> int:
    """Return about how many weights the sizes give: matrices of layers and embeddings."""
    d, f = int(config.d_model), int(config.d_ff)
    vocabularies = int(config.src_vocab_size) + int(config.tgt_vocab_size)
    return int(config.n_layers) * (12 * d * d + 4 * d * f) + vocabularies * d


def config_problems(config: "ModelConfig") -> list[str]:
    """List all problems with the sizes, one message each."""
    problems = [
        f"{name} must be a whole number of at least 1, got {value!r:.60}"
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
        if config.n_layers > MAX_LAYERS:
            problems.append(f"n_layers must be at most {MAX_LAYERS}, got {config.n_layers}")
        if count_weights(config) > MAX_WEIGHTS:
            problems.append("these sizes give over 2**36 weights, which take 256 GiB")
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

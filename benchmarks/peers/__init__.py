"""The peers. A peer's module is imported in its own environment only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DECODING", "HERE", "PEERS", "REFERENCE", "TRAINING", "NotOfferedError", "Peer"]

HERE = "here"  # the library's own environment
REFERENCE = {"training": "torch.nn", "decoding": "transformers"}


@dataclass(frozen=True)
class Peer:
    """A row of a table: `module.make(**options)` gives what the worker asks for.

    Attributes:
        devices: where it can be measured.
    """

    title: str
    environment: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)


BOTH, GPU = ("cpu", "cuda"), ("cuda",)
BF16 = {"precision": "bf16"}


TRAINING = {
    "torch.nn": Peer("torch.nn.Transformer, clean loop", HERE, "torch_nn", devices=BOTH),
    "torch.nn less dropout": Peer(
        "the same, dropout only where ours has it", HERE, "torch_nn", {"same_dropout": True}, BOTH
    ),
    "torch.nn bf16": Peer("the same as the first, bf16", HERE, "torch_nn", BF16, BOTH),
    "ours": Peer("transformer_lib", HERE, "ours", devices=BOTH),
    "ours bf16": Peer("transformer_lib, bf16", HERE, "ours", BF16, BOTH),
    "ours bf16 rows": Peer(
        "transformer_lib, bf16, logits of real targets only",
        HERE,
        "ours",
        BF16 | {"loss_rows": 8192},
        GPU,
    ),
    "ours bf16 compiled": Peer(
        "transformer_lib, bf16, compiled", HERE, "ours", BF16 | {"compile": True}, GPU
    ),
    "transformers": Peer("Hugging Face MarianMT", "transformers", "hugging_face", devices=BOTH),
    "transformers bf16": Peer(
        "Hugging Face MarianMT, bf16", "transformers", "hugging_face", BF16, BOTH
    ),
    "joeynmt": Peer("JoeyNMT's model and loss", "joeynmt", "joey"),
    "fairseq": Peer("fairseq's model and loss", "fairseq", "fair"),
}

DECODING = {
    "torch.nn": Peer("torch.nn.Transformer, no cache", HERE, "torch_nn", devices=BOTH),
    "torch cached": Peer("plain torch with a cache", HERE, "torch_nn", {"cached": True}, BOTH),
    "transformers": Peer("Hugging Face generate", "transformers", "hugging_face", devices=BOTH),
    "joeynmt": Peer("JoeyNMT", "joeynmt", "joey"),
    "fairseq": Peer("fairseq", "fairseq", "fair"),
    "ctranslate2": Peer("CTranslate2, float32", "ctranslate2", "ctranslate"),
    "ctranslate2 int8": Peer(
        "CTranslate2, int8", "ctranslate2", "ctranslate", {"compute_type": "int8"}
    ),
    "ours": Peer("transformer_lib", HERE, "ours", devices=BOTH),
    "ours own batches": Peer(
        "transformer_lib, batches of its own", HERE, "ours", {"own_batches": True}, BOTH
    ),
}

PEERS = {"training": TRAINING, "decoding": DECODING}


class NotOfferedError(Exception):
    """A peer has no such search: the place in the table stays empty."""

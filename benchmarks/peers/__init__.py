"""Who is measured. A peer's module is imported in its own environment only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DECODING", "HERE", "PEERS", "REFERENCE", "TRAINING", "Peer"]

HERE = "here"  # the library's own environment
REFERENCE = {"training": "torch.nn", "decoding": "transformers"}


@dataclass(frozen=True)
class Peer:
    """A row of a table: `module.make(**options)` gives what the worker asks for."""

    title: str
    environment: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)


TRAINING = {
    "torch.nn": Peer("torch.nn.Transformer, clean loop", HERE, "torch_nn"),
    "torch.nn less dropout": Peer(
        "the same, dropout only where ours has it", HERE, "torch_nn", {"same_dropout": True}
    ),
    "torch.nn bf16": Peer("the same as the first, bf16", HERE, "torch_nn", {"precision": "bf16"}),
    "ours": Peer("transformer_lib", HERE, "ours"),
    "ours bf16": Peer("transformer_lib, bf16", HERE, "ours", {"precision": "bf16"}),
    "transformers": Peer("Hugging Face MarianMT", "transformers", "hugging_face"),
    "joeynmt": Peer("JoeyNMT's model and loss", "joeynmt", "joey"),
    "fairseq": Peer("fairseq's model and loss", "fairseq", "fair"),
}

DECODING = {
    "torch.nn": Peer("torch.nn.Transformer, no cache", HERE, "torch_nn"),
    "torch cached": Peer("plain torch with a cache", HERE, "torch_nn", {"cached": True}),
    "transformers": Peer("Hugging Face generate", "transformers", "hugging_face"),
    "joeynmt": Peer("JoeyNMT", "joeynmt", "joey"),
    "fairseq": Peer("fairseq", "fairseq", "fair"),
    "ctranslate2": Peer("CTranslate2, float32", "ctranslate2", "ctranslate"),
    "ctranslate2 int8": Peer(
        "CTranslate2, int8", "ctranslate2", "ctranslate", {"compute_type": "int8"}
    ),
    "ours": Peer("transformer_lib", HERE, "ours"),
    "ours own batches": Peer(
        "transformer_lib, batches of its own", HERE, "ours", {"own_batches": True}
    ),
}

PEERS = {"training": TRAINING, "decoding": DECODING}

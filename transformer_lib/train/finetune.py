"""The model that a fine-tuning starts from: its weights, its sizes, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_lib.config import ModelConfig
from transformer_lib.data.files import contents_sha256, list_checkpoints
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.reading import blame_file, read_json
from transformer_lib.model import Transformer
from transformer_lib.translate.translator import Translator, read_model

__all__ = ["Start"]


@dataclass(frozen=True)
class Start:
    """The model that a run starts from, in place of random weights.

    Args:
        name: of a run, a model folder or a shipped model.
        sha256: of its files.
        config: its sizes.
        model: its weights; None for a run that resumes, whose checkpoints have the weights.
    """

    name: str
    sha256: str
    config: ModelConfig
    model: Transformer | None = None

    @property
    def record(self) -> dict[str, str]:
        """Return the entry of this model in a run's settings."""
        return {"name": self.name, "sha256": self.sha256}

    @classmethod
    def from_model(cls, name: str, data: Prepared) -> Start:
        """Open a model as a start for training on a corpus that has the same vocabularies.

        Raises:
            ValueError: the corpus has other vocabularies, whatever their sizes.
        """
        translator, sha256 = read_model(
            name, lambda folder: (Translator.from_pretrained(folder), contents_sha256(folder))
        )
        for side in ("src_vocab", "tgt_vocab"):
            if getattr(data, side).to_bytes() != getattr(translator, side).to_bytes():
                raise ValueError(
                    f"{data.folder} has other vocabularies than {name}: prepare it again with "
                    f"--vocab-from {name}"
                )
        model = translator.model
        return cls(name, sha256, model.config, model)

    @classmethod
    def from_run(cls, folder: Path) -> Start | None:
        """Return the start that a run with checkpoints recorded; None for random weights."""
        path = folder / "run.json"
        if not (list_checkpoints(folder / "checkpoints") and path.is_file()):
            return None
        settings: dict[str, Any] = read_json(path, {"model": dict})
        with blame_file(path):
            if init := settings.get("init"):
                config = ModelConfig(**settings["model"])
                return cls(str(init["name"]), str(init["sha256"]), config)
        return None

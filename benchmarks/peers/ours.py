"""The library itself, through the entry points that everybody uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from benchmarks.loop import my_rows
from benchmarks.material import PEAK_RATE, WARMUP, Material
from transformer_lib import Batch, ModelConfig, TrainConfig, Translator
from transformer_lib.data.devices import keep_freed_memory
from transformer_lib.data.prepared import Prepared
from transformer_lib.train.ranks import ALONE, Ranks
from transformer_lib.train.settings import RunConfig
from transformer_lib.train.trainer import Trainer

__all__ = ["OurStep", "decoder", "training"]


class OurStep:
    """Updates by a `Trainer`, with its optimizer, precision and loss."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __call__(self, src: Tensor, tgt: Tensor) -> float:
        return self.trainer.update([Batch(my_rows(src), my_rows(tgt))]).loss


def training(
    material: Material, dropout: float, precision: str = "fp32", **changes: Any
) -> OurStep:
    """A step of ours from the common weights; `changes` are fields of a `RunConfig`.

    Several processes are workers that share each batch, as those of `transformer-lib train`.
    """
    keep_freed_memory()
    ranks = ALONE
    if dist.is_initialized():
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), share_batches=True)
    config = ModelConfig(**(material.sizes | {"dropout": dropout}))
    rates = TrainConfig(peak_rate=PEAK_RATE, warmup=WARMUP)
    run, out = RunConfig(precision=precision, **changes), material.folder / "run"
    given = Prepared(material.corpus), config, rates, run, out
    trainer = Trainer(*given, device=material.device, ranks=ranks)
    trainer.translator.model.load_state_dict(material.start)
    return OurStep(trainer)


def decoder(material: Material, own_batches: bool = False):
    """Text to text: `Translator.translate`, which cuts its batches by tokens.

    The worker hands it 64 sentences at a time, or all of them (`whole`). Freed memory is kept, as
    by `transformer-lib translate`.
    """
    keep_freed_memory()
    translator = Translator.from_pretrained(material.model, device=material.device)

    def translate(lines: Sequence[str], beam: int) -> list[str]:
        return translator.translate(list(lines), beam_size=beam, alpha=0.0)

    translate.whole = own_batches
    return translate

"""CTranslate2, in C++: the limit for decoding on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.material import Material
from transformer_lib.translate.export import export
from transformer_lib.translate.translator import Translator

__all__ = ["decoder"]


def decoder(material: Material, compute_type: str = "float32"):
    """Text to text, from a folder that `transformer-lib export --to ctranslate2` wrote.

    It gets all sentences in one call, and its own workers take batches of them side by side.
    """
    import ctranslate2

    folder = material.folder / "exported" / f"ctranslate2-{compute_type}"
    export(Translator.from_pretrained(material.model), folder, "ctranslate2", replace=True)
    engines, pieces = {}, material.pieces()

    def many(lines: Sequence[str], beam: int, batch: int, workers: int, threads: int) -> list[str]:
        if (workers, threads) not in engines:
            engines[workers, threads] = ctranslate2.Translator(
                str(folder), compute_type=compute_type, inter_threads=workers, intra_threads=threads
            )
        engine, options = engines[workers, threads], {"beam_size": beam, "length_penalty": 0.0}
        if batch == 1:  # one answer before the next question
            found = [engine.translate_batch(pieces.tokens([line]), **options)[0] for line in lines]
        else:
            found = engine.translate_batch(pieces.tokens(lines), max_batch_size=batch, **options)
        return [pieces.text(result.hypotheses[0]) for result in found]

    def translate(lines: Sequence[str], beam: int) -> list[str]:
        return many(lines, beam, len(lines), 1, torch.get_num_threads())

    translate.many = many
    return translate

"""CTranslate2, in C++: the limit for decoding on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.material import Material
from transformer_lib.translate.export import export
from transformer_lib.translate.translator import Translator

__all__ = ["decoder"]


def decoder(material: Material, compute_type: str = "float32"):
    """Text to text, from a folder that `transformer-lib export --to ctranslate2` wrote."""
    import ctranslate2

    folder = material.folder / "exported" / f"ctranslate2-{compute_type}"
    export(Translator.from_pretrained(material.model), folder, "ctranslate2", replace=True)
    engines, pieces = {}, material.pieces()

    def translate(lines: Sequence[str], beam: int) -> list[str]:
        threads = torch.get_num_threads()  # the worker sets it
        if threads not in engines:
            engines[threads] = ctranslate2.Translator(
                str(folder), compute_type=compute_type, inter_threads=1, intra_threads=threads
            )
        found = engines[threads].translate_batch(
            pieces.tokens(lines), beam_size=beam, length_penalty=0.0
        )
        return [pieces.text(result.hypotheses[0]) for result in found]

    return translate

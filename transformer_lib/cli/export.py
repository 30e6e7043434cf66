"""`transformer-lib export`: a trained model for another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from transformer_lib.cli.models import find_model
from transformer_lib.translate.export import Engine
from transformer_lib.translate.export import export as write_export
from transformer_lib.translate.translator import Translator

__all__ = ["export"]


def export(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    to: Engine,
    force: bool = False,
) -> int:
    """Writes a model for another engine: trained here, served by what was made for it.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
        out: the folder to write.
        to: ctranslate2 (C++, the fastest on a CPU; pip install ctranslate2), or transformers for
            Hugging Face (pip install transformers sacremoses): a MarianMTModel where the model is
            post-norm, a PegasusForConditionalGeneration where it is pre-norm.
        force: replace an export of that name.
    """
    write_export(Translator.from_pretrained(find_model(model)), out, to, replace=force)
    print(f"{model} for {to}; written to {out}")
    return 0

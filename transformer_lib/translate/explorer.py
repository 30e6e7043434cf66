"""The explorer: a page in which a model translates inside the browser and can be taken apart.

The page itself is JavaScript, in `explorer/` of the repository. Here a model is packed for it: as
one self-contained page, as a site, or as a frame in a notebook.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch

from transformer_lib.config import is_whole
from transformer_lib.data.files import write_text
from transformer_lib.data.reading import blame_file, read_json
from transformer_lib.translate.translator import Translator, check_sentences, read_model
from transformer_lib.vocab import SubwordVocab

__all__ = ["Explorer", "explorer_page", "pack_model", "write_explorer"]

SHIPPED = ("multi30k-de-en", "multi30k-en-de")
MAX_BYTES = 100 * 2**20  # of weights: browsers open larger pages slowly, or not at all
LIMITS = re.compile(r"^- \*\*(?:Limits|License)\*\*: (.*(?:\n  .*)*)", re.M)  # in a model's card
SCRIPT = re.compile(r'<script src="([\w./-]+)"></script>\n?')
START = "globalThis.ExplorerStart"  # by which a page of ours is known
STYLE = '<link rel="stylesheet" href="style.css">'
PLACEHOLDER = "TRANSFORMER_LIB_PLACEHOLDER"  # set while notebooks are run to be committed


def page_folder() -> Path:
    """Return the folder of the page's code, installed or a part of the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "explorer"
    return installed if installed.is_dir() else package.parent / "explorer"


def pack_model(name: str | Path, *, half: bool = False) -> dict[str, Any]:
    """Return what the page needs of a model: its files are deflated and in base64.

    Args:
        name: a run (its best checkpoint), a model folder, or the name of a model that ships.
        half: round the weights to half precision; translations may differ a little. Weights that
            lose nothing by it are always stored so.

    Raises:
        ValueError: a vocabulary of whole words, which only spaCy can split, or too many weights.
    """

    def read(folder: Path) -> tuple[Translator, dict[str, Any]]:
        return Translator.from_pretrained(folder), _about(Path(name).resolve().name, folder)

    translator, about = read_model(name, read)
    if not all(isinstance(v, SubwordVocab) for v in (translator.src_vocab, translator.tgt_vocab)):
        raise ValueError(f"{name} has a vocabulary of whole words: the explorer needs subwords")
    half = half or all(torch.equal(p, p.half().float()) for p in translator.model.parameters())
    n_bytes = sum(p.numel() for p in translator.model.parameters()) * (2 if half else 4)
    if n_bytes > MAX_BYTES:
        remedy = "" if half else "; half precision takes half of it"
        size = f"{n_bytes / 2**20:,.0f} MiB of weights, a page takes 100"
        raise ValueError(f"{name} has {size}{remedy}")
    with tempfile.TemporaryDirectory() as temporary:
        translator.write_files(Path(temporary), torch.float16 if half else torch.float32)
        weights = (Path(temporary) / "model.safetensors").read_bytes()
    source, target = (v.to_bytes() for v in (translator.src_vocab, translator.tgt_vocab))
    return {
        "config": asdict(translator.model.config),
        "weights": _packed(weights),
        "source": _packed(source),
        "target": None if source == target else _packed(target),
        "about": about,
    }


def _about(title: str, folder: Path) -> dict[str, Any]:
    """Return title, languages, validation loss, and the card's limits and licence, if known."""
    training, card = folder / "training.json", folder / "README.md"
    record = read_json(training, {}) if training.is_file() else {}
    with blame_file(training):
        data = record.get("settings", {}).get("data", {})
        languages = {side: data.get(side) for side in ("source", "target")}
        losses = [line["val_loss"] for line in record.get("curve", []) if "val_loss" in line]
    notes = LIMITS.findall(card.read_text("utf-8")) if card.is_file() else []
    notes = [note[:1].upper() + note[1:] for note in notes]
    return {
        "title": title,
        **languages,
        "valLoss": losses[-1] if losses else None,
        "note": " ".join(" ".join(notes).split()),
    }


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _model_script(key: str, packed: dict[str, Any]) -> str:
    """Return a classic script that makes a model known to the page, with no `<` from its data."""
    name, text = (json.dumps(value).replace("<", "\\u003c") for value in (key, packed))
    return f"(globalThis.TransformerModels ??= {{}})[{name}] = {text};\n"


def _start(models: Sequence[str], sentence: str | None) -> str:
    """Return a script that tells the page which models there are."""
    start = json.dumps({"models": models, "sentence": sentence}).replace("<", "\\u003c")
    return f"<script>\n{START} = {start};\n</script>\n"


def explorer_page(model: str | Path, sentence: str | None = None, *, half: bool = False) -> str:
    """Return one HTML page with the explorer and a model inside, which needs nothing else.

    Args:
        model, half: as in `pack_model`.
        sentence: what the page translates first; left out, an example.

    Raises:
        ValueError: the sentence is no text or not UTF-8; see also `pack_model`.
    """
    if sentence is not None:
        check_sentences([sentence])
    folder, packed = page_folder(), pack_model(model, half=half)
    key = packed["about"]["title"]
    scripts = f"<script>\n{_model_script(key, packed)}</script>\n{_start([key], sentence)}"

    def inline(link: re.Match[str]) -> str:
        return f"<script>\n{(folder / link[1]).read_text('utf-8')}</script>\n"

    page = (folder / "index.html").read_text("utf-8")
    style = (folder / "style.css").read_text("utf-8")
    page = SCRIPT.sub(inline, page.replace(STYLE, f"<style>\n{style}</style>"))
    return page.replace("<!-- models -->", scripts)


def write_explorer(
    folder: str | Path, models: Sequence[str | Path] = SHIPPED, *, book: str = ""
) -> Path:
    """Write the explorer with these models as a site that also opens from the disk.

    The page loads a model, `models/NAME.js`, when it is first chosen.

    Args:
        folder: where the files go, new or empty; an explorer that is there is replaced.
        models: as in `pack_model`.
        book: path from the page to the book, whose cells and sections it then links to.

    Raises:
        FileExistsError: the folder holds something else.
    """
    folder, code = Path(folder), page_folder()
    first, used = folder / "index.html", folder.exists() and any(folder.iterdir())
    if used and not (first.is_file() and START in first.read_text("utf-8", "replace")):
        raise FileExistsError(f"{folder} holds other files: choose a new folder")
    (folder / "models").mkdir(parents=True, exist_ok=True)
    keys = []
    for name in models:
        packed = pack_model(name)
        keys.append(packed["about"]["title"])
        write_text(folder / "models" / f"{keys[-1]}.js", _model_script(keys[-1], packed))
    for path in [code / "style.css", *code.glob("*.js")]:
        write_text(folder / path.name, path.read_text("utf-8"))
    page = (code / "index.html").read_text("utf-8").replace("<!-- models -->", _start(keys, None))
    page = page.replace('data-book=""', f'data-book="{html.escape(book)}"')
    write_text(folder / "index.html", page)
    return folder


class Explorer:
    """The explorer as the value of a notebook cell: a frame with `explorer_page` inside.

    It needs no network, no kernel once it is shown, and no extension; a notebook saved with it
    grows by about 5 MB. Where the environment variable TRANSFORMER_LIB_PLACEHOLDER is set, one
    line is shown instead.

    Args:
        model, sentence, half: as in `explorer_page`.
        height: of the frame, in pixels.
    """

    def __init__(
        self,
        model: str | Path = SHIPPED[0],
        sentence: str | None = None,
        *,
        half: bool = False,
        height: int = 900,
    ) -> None:
        if not is_whole(height):  # it becomes a part of a page
            raise ValueError(f"height must be a whole number of pixels, got {height!r:.50}")
        self.model, self.sentence, self.half, self.height = model, sentence, half, height

    def __repr__(self) -> str:
        return f"Explorer({str(self.model)!r}): run this cell in a notebook to see the page"

    def _repr_html_(self) -> str:
        if os.environ.get(PLACEHOLDER):
            address = html.escape(urlencode({"m": self.model, "s": self.sentence or ""}))
            name = html.escape(str(self.model))
            return f'<p data-explorer="{address}">Run this cell to explore {name} here.</p>'
        page = html.escape(explorer_page(self.model, self.sentence, half=self.half))
        style = f"width: 100%; height: {self.height}px; border: 0"
        return (
            f'<iframe title="Explorer of a Transformer" style="{style}" srcdoc="{page}"></iframe>'
        )

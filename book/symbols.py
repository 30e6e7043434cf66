"""Where a public name comes from: the cell that builds it, and the place in the paper."""

import ast
import importlib
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path

from export_notebooks import ExportError, defined_names

from book import ROOT
from transformer_lib import api

PACKAGE = "transformer_lib"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))  # the appendices last
ARXIV = "https://arxiv.org/abs/1706.03762"
ARXIV_HTML = "https://arxiv.org/html/1706.03762v7"
SECTIONS = {
    "3": "Model architecture",
    "3.1": "Encoder and decoder stacks",
    "3.2": "Attention",
    "3.2.1": "Scaled dot-product attention",
    "3.2.2": "Multi-head attention",
    "3.2.3": "Applications of attention in our model",
    "3.3": "Position-wise feed-forward networks",
    "3.4": "Embeddings and softmax",
    "3.5": "Positional encoding",
    "4": "Why self-attention",
    "5": "Training",
    "5.1": "Training data and batching",
    "5.3": "Optimizer",
    "5.4": "Regularization",
    "6.1": "Machine translation",
    "6.2": "Model variations",
}
# Numbered formulas, and the section each one is in.
EQUATIONS = {
    "1": ("3.2.1", r"\mathrm{Attention}(Q, K, V) = \mathrm{softmax}(QK^T / \sqrt{d_k})\,V"),
    "2": ("3.3", r"\mathrm{FFN}(x) = \max(0, xW_1 + b_1)W_2 + b_2"),
    "3": (
        "5.3",
        r"\begin{aligned} lrate = d_\text{model}^{-0.5} \cdot \min(&step\_num^{-0.5}, \\"
        r" &step\_num \cdot warmup\_steps^{-1.5}) \end{aligned}",
    ),
}
PICTURES = {"figure-1": "3", "table-3": "6.2"}  # and the section to read with each one
# For modules whose docstring names no section: the one that comes closest.
NEAREST = {
    "vocab": "5.1",
    "batching": "5.1",
    "translate.explorer": "3.2",
    "translate.translator": "6.1",
}
# Public names that are written by hand, for speed: the lesson's simple version.
SIMPLE = {"beam_search": "beam_sentence", "greedy_decode": "greedy_sentence"}
BUILT = re.compile(r"\s*Built in notebook \d\d\.")
PLACE = re.compile(
    r"\b(?P<kind>section|equation|figure|table)s? (?P<first>\d+(?:\.\d)*)"
    r"(?: and (?P<second>\d(?:\.\d)*))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Symbol:
    """A public class or function.

    Args:
        module: its module, without the package.
        notebook: the stem of the notebook with the cell that builds it.
        cell: the id of that cell. If the name is written by hand, the cell builds the lesson's
            version of it, or is the first one that uses it.
        by_hand: True if no cell is exported to it.
        places: anchors on the book's page about the paper.
        exact: False if its docstring names no place and `places` only come closest.
    """

    name: str
    module: str
    notebook: str
    cell: str
    by_hand: bool
    places: tuple[str, ...]
    exact: bool

    @property
    def full(self) -> str:
        """Return the dotted name."""
        return f"{PACKAGE}.{self.module}.{self.name}"

    @property
    def lesson(self) -> str:
        """Return how a text names the notebook: notebook 04, or appendix B."""
        kind, _, letter = self.notebook.partition("_")
        return f"appendix {letter[0].upper()}" if kind == "appendix" else f"notebook {kind}"

    @property
    def label(self) -> str:
        """Return the anchor of its cell."""
        return f"built-{self.module}-{self.name}".replace(".", "-").replace("_", "-").lower()


def read_cells(path: Path) -> list[dict]:
    """Return the cells of a notebook, each with its `source` as one string."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def exported_names(cells: list[dict]) -> dict[str, tuple[str, list[str]]]:
    """Return cell id -> (module, names it defines) for all exported cells."""
    found, module = {}, ""
    for cell in cells:
        directive, _, source = cell["source"].lstrip().partition("\n")
        words = directive.split()
        if cell["cell_type"] != "code" or words[:1] != ["#|"]:
            continue
        module = words[2] if words[1] == "default_exp" else module
        names = []
        for node in ast.parse(source).body:
            try:
                names += defined_names(node)
            except ExportError:  # an import or the docstring
                continue
        found[cell["id"]] = module, [name for name in names if not name.startswith("_")]
    return found


def places_in(text: str) -> tuple[str, ...]:
    """Return the anchors of all sections, equations, figures and tables that a text names.

    Places that the page about the paper does not have are left out, such as equation 14 of
    another paper.
    """
    found = []
    for place in PLACE.finditer(text):
        for number in filter(None, place.group("first", "second")):
            anchor = f"{place['kind'].lower()}-{number.replace('.', '-')}"
            if anchor in ANCHORS and anchor not in found:
                found.append(anchor)
    return tuple(found)


def spoken(anchor: str) -> str:
    """Return an anchor as the paper writes it: section 3.2.1, equation 1, Table 3."""
    kind, _, number = anchor.partition("-")
    kind = kind.capitalize() if kind in ("figure", "table") else kind
    return f"{kind} {number.replace('-', '.')}"


ANCHORS = {f"section-{number.replace('.', '-')}" for number in SECTIONS}
ANCHORS |= {f"equation-{number}" for number in EQUATIONS} | set(PICTURES)


def public_symbols() -> dict[str, Symbol]:
    """Return full name -> symbol, for the classes and functions of exported modules and `api`."""
    cells = {path.stem: read_cells(path) for path in NOTEBOOKS}
    symbols, by_name = {}, {}
    for stem, own in cells.items():
        for cell, (module, names) in exported_names(own).items():
            for name in names:
                if callable_of(module, name):
                    symbol = describe(name, module, stem, cell, by_hand=False)
                    symbols[symbol.full] = by_name[name] = symbol
    for name in api.__all__:
        thing = getattr(api, name)
        module = thing.__module__.removeprefix(f"{PACKAGE}.")
        if f"{PACKAGE}.{module}.{name}" in symbols:
            continue
        if simple := by_name.get(SIMPLE.get(name, "")):
            stem, cell = simple.notebook, simple.cell
        else:
            stem, cell = first_use(name, cells)
        symbol = describe(name, module, stem, cell, by_hand=True)
        symbols[symbol.full] = symbol
    return symbols


def first_use(name: str, cells: dict[str, list[dict]]) -> tuple[str, str]:
    """Return notebook and id of the first cell that does more with a name than import it."""
    for stem, own in cells.items():
        for cell in own:
            if cell["cell_type"] == "code" and re.search(rf"\b{name}[.(]", cell["source"]):
                return stem, cell["id"]
    raise ValueError(f"no notebook uses {name}")


def callable_of(module: str, name: str) -> object | None:
    """Return the class or function, or None for a constant or a type."""
    thing = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    return thing if inspect.isclass(thing) or inspect.isfunction(thing) else None


def describe(name: str, module: str, notebook: str, cell: str, by_hand: bool) -> Symbol:
    """Return the symbol with its places in the paper."""
    thing = callable_of(module, name)
    places = places_in(inspect.getdoc(thing) or "")
    home = inspect.getdoc(importlib.import_module(f"{PACKAGE}.{module}")) or ""
    nearest = places_in(home) or places_in(f"section {NEAREST.get(module)}")
    return Symbol(name, module, notebook, cell, by_hand, places or nearest, bool(places))

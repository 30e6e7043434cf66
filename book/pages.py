"""The pages that are no notebook: the first one, the library, the paper, and the documents."""

import inspect
import re
from pathlib import Path

from book import ROOT
from book.links import Links, page_of_module
from book.notebooks import start_of
from book.picture import SENTENCE, attention_picture
from book.symbols import (
    ARXIV,
    ARXIV_HTML,
    BUILT,
    EQUATIONS,
    NOTEBOOKS,
    PACKAGE,
    PICTURES,
    SECTIONS,
    Symbol,
    callable_of,
    exported_names,
    read_cells,
    spoken,
)
from transformer_lib import api

# Modules that are written by hand: page -> title, what the page is about, what it describes.
BY_HAND = {
    "translate": (
        "Text in, text out: `Translator`, decoding in batches with a cache, and the explorer.",
        [],  # all public names that are written by hand
    ),
    "probes": ("", [f"automodule:: {PACKAGE}.lessons.probes\n   :members:"]),
}
NBSP = "\N{NO-BREAK SPACE}"
DOCUMENTS = ("install", "explorer", "training", "scaling", "distributed", "faults", "faults_table")
CARDS = {
    "01": ("Embeddings", "words become vectors, and vectors words"),
    "02": ("Positional encoding", "the order of the words"),
    "03": ("Masks", "what may be attended to"),
    "04": ("Multi-head attention", "several weighted sums at once"),
    "05": ("Feed-forward", "the network at every position"),
    "06": ("Encoder and decoder", "the whole model"),
    "07": ("Training", "it learns to translate"),
    "appendix_a": ("The bug museum", "17 bugs that raise no error"),
    "appendix_b": ("Images", "the same encoder reads digits"),
    "appendix_c": ("A language model", "the same layers write text"),
}


def title_of(path: Path) -> str:
    """Return the first heading of a notebook."""
    return read_cells(path)[0]["source"].partition("\n")[0].removeprefix("# ")


def first_page() -> str:
    """Return the landing page."""
    translation, picture = attention_picture()
    cards = {path: card(path) for path in NOTEBOOKS}
    caption = f"<q>{SENTENCE}</q> → <q>{translation}</q>"
    return (
        (ROOT / "book" / "first_page.md")
        .read_text("utf-8")
        .format(
            arxiv=ARXIV,
            picture=picture,
            caption=caption,
            cards="\n".join(text for path, text in cards.items() if path.stem[0].isdigit()),
            appendices="\n".join(text for path, text in cards.items() if path.stem[0] == "a"),
            first=f"notebooks/{NOTEBOOKS[0].stem}.html",
            **contents(),
        )
    )


def card(path: Path) -> str:
    """Return a link to a notebook with its picture and a line about it."""
    name = start_of(path)
    title, about = CARDS[name]
    return (
        f'<a href="notebooks/{path.stem}.html"><img src="pictures/{name}.png" alt="" width="160" '
        f'height="100"><strong>{name[-2:].strip("_").upper()} {title}</strong> '
        f"<span>{about}</span></a>"
    )


def contents() -> dict[str, str]:
    """Return the entries of the sidebar, by group."""
    modules = [*exported_modules(), *BY_HAND]
    return {
        "notebooks": "\n".join(f"notebooks/{path.stem}" for path in NOTEBOOKS),
        "solutions": "\n".join(f"notebooks/solutions/{start_of(p)}_solutions" for p in NOTEBOOKS),
        "modules": "\n".join(f"{name} <api/{name}>" for name in modules),
        "documents": "\n".join(f"docs/{name}" for name in documents()),
    }


def documents() -> list[str]:
    """Return the names of the documents: those with a place in the order, then all others."""
    names = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"symbols", "glossary"}
    return [*(n for n in DOCUMENTS if n in names), *sorted(names - set(DOCUMENTS))]


def exported_modules() -> dict[str, Path]:
    """Return the modules that notebooks write, in their order, each with the first notebook."""
    found: dict[str, Path] = {}
    for path in NOTEBOOKS:
        for module, _ in exported_names(read_cells(path)).values():
            found.setdefault(module, path)
    return found


def api_pages(symbols: dict[str, Symbol]) -> dict[str, str]:
    """Return path -> text of the pages about the library."""
    pages = {}
    for module, path in exported_modules().items():
        lead = f"Written by [notebook {title_of(path)}](../notebooks/{path.name})."
        body = f".. automodule:: {PACKAGE}.{module}\n   :members:\n   :member-order: bysource"
        pages[f"api/{module}.md"] = page(f"`{PACKAGE}.{module}`", lead, [body])
    for name, (lead, directives) in BY_HAND.items():
        by_hand = directives or [directive(symbol) for symbol in symbols.values() if symbol.by_hand]
        bodies = [f".. {text}" for text in by_hand]
        pages[f"api/{name}.md"] = page(f"`{PACKAGE}.{name}`", lead, bodies)
    rows = [row(symbol) for symbol in in_order(symbols, api.__all__)]
    pages["api/index.md"] = "\n".join(
        [
            "# The library",
            "",
            f"These names can be imported from `{PACKAGE}` itself, as in",
            f"`from {PACKAGE} import attention`. Each row links to the documentation of a name,",
            "to the cell of the notebook that builds it, and to the place in the paper that",
            "describes it, or to the one that comes closest.",
            "",
            *table(rows),
        ]
    )
    return pages


def directive(symbol: Symbol) -> str:
    """Return autodoc's directive for one symbol."""
    kind = "class" if inspect.isclass(of(symbol)) else "function"
    members = "\n   :members:" if kind == "class" else ""
    return f"auto{kind}:: {symbol.full}{members}"


def page(title: str, lead: str, bodies: list[str]) -> str:
    """Return a page of the API."""
    blocks = [f"# {title}", lead, *(f"```{{eval-rst}}\n{body}\n```" for body in bodies)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def in_order(symbols: dict[str, Symbol], names: list[str]) -> list[Symbol]:
    """Return the symbols with these names, in the order of the notebooks."""
    return [s for s in symbols.values() if s.name in names and getattr(api, s.name) is of(s)]


def of(symbol: Symbol) -> object:
    """Return what a symbol names."""
    return callable_of(symbol.module, symbol.name)


def row(symbol: Symbol) -> list[str]:
    """Return a line of a table: the name, its first sentence, its cell, its places."""
    first = (inspect.getdoc(of(symbol)) or "").partition("\n\n")[0].replace("\n", " ")
    first = BUILT.sub("", first).replace("|", "\\|")
    if "`" not in first:
        first = re.sub(r"[*<]", r"\\\g<0>", first)
    places = ", ".join(f"[{spoken(place)}](project:#{place})" for place in symbol.places)
    return [
        f"{{py:obj}}`{symbol.name} <{symbol.full}>`",
        first,
        f"[{symbol.lesson.replace(' ', NBSP)}](project:#{symbol.label})",
        places.replace("section ", f"section{NBSP}"),
    ]


def table(rows: list[list[str]], heads: str = "name|what it is|cell|paper") -> list[str]:
    """Return lines of Markdown."""
    names = heads.split("|")
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return [*lines, *(f"| {' | '.join(cells[: len(names)])} |" for cells in rows)]


def page_about_the_paper(symbols: dict[str, Symbol]) -> str:
    """Return the page that leads from the paper's sections to symbols and cells."""
    lines = [
        "# The paper, section by section",
        "",
        f"[*Attention Is All You Need*]({ARXIV}) (Vaswani et al., 2017) describes the model in the",
        "sections below. Each one lists the classes and functions that implement it, and the cell",
        "that builds each of them. Names in *italics* are not described there, but come closest.",
        "",
    ]
    for number, title in SECTIONS.items():
        name = number.replace(".", "-")
        lines += [f"(section-{name})=", f"## {number} {title}", ""]
        lines += [f"[Section {number} at arXiv]({ARXIV_HTML}#{arxiv_anchor(number)})", ""]
        own = [f"section-{name}"]
        for equation, (where, formula) in EQUATIONS.items():
            if where == number:
                own.append(f"equation-{equation}")
                lines += [f"(equation-{equation})=", f"Equation {equation}:", ""]
                lines += [f"$$\n{formula}\n$$", ""]
        for picture, where in PICTURES.items():
            if where == number:
                own.append(picture)
                lines += [f"({picture})=", f"{spoken(picture)} belongs to this section.", ""]
        here = [s for s in symbols.values() if set(own) & set(s.places)]
        rows = [row(symbol) for symbol in here]
        for cells, symbol in zip(rows, here, strict=True):
            cells[0] = cells[0] if symbol.exact else f"*{cells[0]}*"
        lines += [*table(rows, "name|what it is|cell"), ""] if rows else []
    readme = (ROOT / "README.md").read_text("utf-8")
    compared = re.search(r"^## How it relates to the paper\n(.*?)(?=^## )", readme, re.M | re.S)
    lines += ["## What we do differently", compared[1].strip(), ""] if compared else []
    return "\n".join(lines)


def arxiv_anchor(number: str) -> str:
    """Return the anchor of a section in arXiv's HTML: S3.SS2.SSS1."""
    parts = zip(("S", "SS", "SSS"), number.split("."), strict=False)
    return ".".join(f"{kind}{part}" for kind, part in parts)


def document(path: Path, links: Links) -> str:
    """Return a document of docs/, without the remarks to its authors."""
    text = re.sub(r"^<!--.*?-->\n", "", path.read_text("utf-8"), flags=re.M | re.S)
    text = links.inside(text, path)
    return glossary(text) if path.stem == "glossary" else text


def glossary(text: str) -> str:
    """Return the page with its list `- **term**: meaning` as a glossary that the search knows."""
    head, _, rest = text.partition("\n- **")
    terms = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\Z)", f"- **{rest}", re.M | re.S)
    entries = [f"{term}\n    {' '.join(meaning.split())}\n" for term, meaning in terms]
    return f"{head}\n\n:::{{glossary}}\n{chr(10).join(entries)}:::\n"


def page_of(symbol: Symbol) -> str:
    """Return the page with the documentation of a symbol."""
    return page_of_module("translate" if symbol.by_hand else symbol.module)

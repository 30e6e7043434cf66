"""What the book adds to Sphinx: formulas by KaTeX, links in docstrings, folded sections, access."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from book.symbols import BUILT, PLACE, Symbol, places_in, public_symbols, spoken

KATEX = ("katex/katex.min.js", "katex/auto-render.min.js")
FOLD = '<details class="going-further"><summary>Show this section</summary>'
MENDED = {
    'class="caption" role="heading">': 'class="caption" role="heading" aria-level="2">',
    '<summary aria-label="Toggle hidden content">': "<summary>",
}
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.S)
symbols = cache(public_symbols)


# Formulas


def inline_math(self: Any, node: nodes.math) -> None:
    """Write a formula in a line as KaTeX's auto-render finds it."""
    opening = self.starttag(node, "span", "", CLASS="math")
    self.body.append(f"{opening}\\({self.encode(node.astext())}\\)</span>")
    raise nodes.SkipNode


def display_math(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own; a wide one scrolls, also by keyboard."""
    opening = self.starttag(node, "div", "", CLASS="math", tabindex="0")
    self.body.append(f"{opening}\\[{self.encode(node.astext())}\\]</div>")
    raise nodes.SkipNode


def add_katex(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Load KaTeX on the pages that have a formula."""
    if doctree is not None and next(doctree.findall(is_math), None) is not None:
        app.add_css_file("katex/katex.min.css")
        for file in KATEX:
            app.add_js_file(file, loading_method="defer")


def is_math(node: nodes.Node) -> bool:
    return isinstance(node, nodes.math | nodes.math_block)


# Docstrings


def link_docstring(
    app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Turn a docstring into reStructuredText with links to names, the cell and the paper."""
    symbol = symbols().get(name)
    text = "\n".join(lines).strip("\n")
    text = BUILT.sub("", text).rstrip()
    paragraphs = [as_rst(p) for p in text.split("\n\n") if not (symbol and is_only_source(p))]
    paragraphs = [linked(paragraph) for paragraph in paragraphs]
    if symbol:
        paragraphs.append(".. rst-class:: origin\n\n   " + origin(symbol))
    lines[:] = "\n\n".join(paragraphs).split("\n")


def is_only_source(paragraph: str) -> bool:
    """Return whether a paragraph only names places in the paper."""
    return re.fullmatch(r"Source:[\s,.]*", PLACE.sub("", paragraph)) is not None


def as_rst(text: str) -> str:
    """Return plain text with `code`, escaped; public names in backticks become links."""
    parts = re.split(r"`([^`]+)`", text)
    names = {symbol.name: symbol.full for symbol in symbols().values()}
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"([*|\\])|(?<=\w)_(?!\w)", r"\\\g<0>", part)
        elif part in names:
            parts[i] = f":py:obj:`{part} <{names[part]}>`"
        else:
            parts[i] = f"``{part}``"
    return "".join(parts)


def linked(text: str) -> str:
    """Return text whose sections, equations, figures and tables of the paper are links."""

    def link(place: re.Match) -> str:
        found = places_in(place[0])
        first, _, second = place[0].partition(" and ")
        links = [
            f":ref:`{words} <{at}>`" for words, at in zip((first, second), found, strict=False)
        ]
        return " and ".join(links) if links else place[0]

    return PLACE.sub(link, text)


def origin(symbol: Symbol) -> str:
    """Return the last paragraph: links to the cell and to the places in the paper."""
    cell = f":ref:`{symbol.lesson} <{symbol.label}>`"
    verb = "Written for speed; its simple version is in" if symbol.by_hand else "Built in"
    if symbol.by_hand and symbol.name == "Translator":
        verb = "First used in"
    places = ", ".join(f":ref:`{spoken(place)} <{place}>`" for place in symbol.places)
    paper = "In the paper:" if symbol.exact else "Nearest in the paper:"
    return f"{verb} {cell}. {paper} {places}."


# Pages


def fold_going_further(app: Sphinx, doctree: nodes.document) -> None:
    """Fold sections that can be skipped, below their first paragraph."""
    for section in doctree.findall(nodes.section):
        if not section[0].astext().startswith("Going further"):
            continue
        first = next(i for i, child in enumerate(section) if isinstance(child, nodes.paragraph))
        section.insert(first + 1, nodes.raw("", FOLD, format="html"))
        section.append(nodes.raw("", "</details>", format="html"))


def without_list(signature: re.Match) -> str:
    """Return a signature of several lines without its list, which has no terms."""
    text = signature[0].replace("<dl>", '<span class="sig-lines">').replace("</dl>", "</span>")
    return text.replace("<dd>", "<span>").replace("</dd>", "</span>")


def mend(app: Sphinx, error: Exception | None) -> None:
    """Give screen readers and keyboards what Furo and MyST-NB leave out."""
    if error:
        return
    for path in Path(app.outdir).rglob("*.html"):
        if "explorer" in path.relative_to(app.outdir).parts:
            continue
        text = path.read_text("utf-8")
        for left_out, mended in MENDED.items():
            text = text.replace(left_out, mended)
        text = SIGNATURE.sub(without_list, text)
        text = re.sub(r"<pre(?![^>]*tabindex)", '<pre tabindex="0"', text)
        path.write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("katex", (inline_math, None), (display_math, None))
    app.connect("html-page-context", add_katex)
    app.connect("autodoc-process-docstring", link_docstring, priority=400)
    app.connect("doctree-read", fold_going_further)
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

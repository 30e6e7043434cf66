"""The executed notebooks as the book shows them: a copy of each, in which cells are adapted.

The setup cell goes, `#|` lines become links into the library, calls of `figures.show` and checks
are not shown, pictures get their alternative texts, and exercises a link to their solution.
"""

import ast
import json
import re
from pathlib import Path

from book.links import Links
from book.symbols import PACKAGE, Symbol, exported_names, read_cells, spoken

EXERCISE = re.compile(r"^### Exercise ([\dA-C]\.\d)\b", re.M)
EXPLORER = re.compile(r'<p data-explorer="([^"]*)">.*')  # what `Explorer` leaves in a notebook
FIGURE_CODE = "Show the code of this figure"


def adapt(path: Path, symbols: dict[str, Symbol], links: Links) -> dict:
    """Return the notebook at `path` as the book shows it."""
    cells, exported = read_cells(path), exported_names(read_cells(path))
    by_cell: dict[str, list[Symbol]] = {}
    for symbol in symbols.values():
        if symbol.notebook == path.stem:
            by_cell.setdefault(symbol.cell, []).append(symbol)
    solutions = solved(path)
    adapted = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = links.inside(markdown(cell["source"], path, solutions), path)
            for name, data in cell.pop("attachments", {}).items():
                ((kind, content),) = data.items()
                address = f"data:{kind};base64,{content}"
                cell["source"] = cell["source"].replace(f"attachment:{name}", address)
        elif "head" in cell["metadata"].get("tags", ()):
            continue
        else:
            module = exported.get(cell["id"], ("", []))[0]
            if module or cell["id"] in by_cell:
                adapted.append(origin(module, by_cell.get(cell["id"], []), cell["id"]))
            code(cell)
        adapted.append(cell)
    return {
        "cells": [{**cell, "source": cell["source"].splitlines(True)} for cell in adapted],
        "metadata": json.loads(path.read_text("utf-8"))["metadata"],
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def start_of(path: Path) -> str:
    """Return how the names of a notebook and of its solutions start: `01`, or `appendix_a`."""
    return re.match(r"\d\d|appendix_.", path.stem)[0]


def solved(path: Path) -> set[str]:
    """Return the numbers of the exercises that the notebook's solutions solve."""
    other = path.parent / "solutions" / f"{start_of(path)}_solutions.ipynb"
    if not other.exists():
        return set()
    return {n for cell in read_cells(other) for n in EXERCISE.findall(cell["source"])}


def markdown(source: str, path: Path, solutions: set[str]) -> str:
    """Return the text with anchors at exercises and a link to the solution of each one."""
    if not (exercise := EXERCISE.search(source)):
        return source
    number, place = exercise[1], path.parent.name
    kind = "solution" if place == "solutions" else "exercise"
    anchor = number.replace(".", "-").lower()
    label = f"({kind}-{anchor})="
    before, task = source[: exercise.start()], source[exercise.start() :]
    if kind == "solution":  # on its page, the level below the title
        task = task.removeprefix("#")
    source = f"{before}{label}\n{task}"
    if kind == "exercise" and number in solutions:
        target = f"solutions/{start_of(path)}_solutions.ipynb#solution-{anchor}"
        source += f"\n\n[Solution of exercise {number}]({target})"
    elif kind == "solution":
        source += f"\n\n[To the task](project:#exercise-{anchor})"
    return source


def origin(module: str, symbols: list[Symbol], cell: str) -> dict:
    """Return a cell that links the code below it to the library and to the paper."""
    named = [f"{{py:obj}}`{symbol.name} <{symbol.full}>`" for symbol in symbols]
    if not named:
        named = [f"[`{PACKAGE}/{module}.py`](/api/{module}.md)"]
    text = f"in the library: {', '.join(named)}"
    places = dict.fromkeys(place for symbol in symbols for place in symbol.places)
    if places:
        text += f" · in the paper: {', '.join(f'[{spoken(p)}](project:#{p})' for p in places)}"
    labels = "".join(f"({symbol.label})=\n" for symbol in symbols)
    source = f"{labels}\n:::{{div}} origin\n{text}\n:::"
    return {"cell_type": "markdown", "id": f"{cell}-o", "metadata": {}, "source": source}


def code(cell: dict) -> None:
    """Leave out of a cell what a reader of the book has no use for; describe its pictures."""
    metadata = cell["metadata"]
    tags = metadata.setdefault("tags", [])
    if cell["source"].startswith("#|"):
        cell["source"] = cell["source"].partition("\n")[2].lstrip("\n")
    shown = without_show(cell["source"])
    if "check" in tags:
        tags.append("remove-input")
    elif shown != cell["source"]:
        if shown:
            cell["source"] = shown
        else:
            tags.append("hide-input")
            metadata.setdefault("mystnb", {})["code_prompt_show"] = FIGURE_CODE
    for output in cell["outputs"]:
        if "text/html" in output.get("data", {}):
            page = "".join(output["data"]["text/html"])
            output["data"]["text/html"] = EXPLORER.sub(explorer_frame, page)
        if "image/png" in output.get("data", {}):
            about = output["metadata"]["image/png"]
            picture = {"alt": about["alt"]}  # MyST-NB takes the size from the output
            metadata.setdefault("mystnb", {})["image"] = picture


def explorer_frame(placeholder: re.Match[str]) -> str:
    """Return the book's own explorer in a frame, with the sentence of the notebook."""
    address = f"../explorer/index.html#{placeholder[1]}"
    return (
        f'<iframe class="explorer" title="The explorer" src="{address}" loading="lazy"></iframe>\n'
        f'<p><a href="{address}">The explorer on a page of its own</a></p>'
    )


def without_show(source: str) -> str:
    """Return code without its calls of `figures.show`, and without a title made for one."""
    kept, done, found = [], 0, False
    lines, body = source.splitlines(True), ast.parse(source).body
    for node in body:
        call = isinstance(node, ast.Expr) and ast.unparse(node).startswith("figures.show(")
        title = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "title"
        if call or title:
            kept += lines[done : node.lineno - 1]
            done, found = node.end_lineno, found or call
    return "".join(kept + lines[done:]).strip("\n") if found else source

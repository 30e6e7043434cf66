"""The shape of the notebooks: a short core, the rest skippable after it, one table of symbols."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SYMBOLS = (ROOT / "docs" / "symbols.md").read_text("utf-8")
FURTHER = "## Going further: "
MINUTES = re.compile(
    r"^\*\*Core: (\d+) to (\d+) minutes\. Going further: about \d+ minutes\.\*\*$", re.M
)
SECONDS_OF_LINE, SECONDS_OF_FIGURE, SECONDS_OF_OUTPUT = 7, 30, 3  # of a reader with care
TRANSLATED = re.compile(
    r"\b(thrice|has no say|goes on|went on|taken up|takes up|by letters|on its last way|so to say|"
    r"nobody told|put down|let us)\b",
    re.I,
)


def read(path):
    return nbformat.read(path, as_version=4).cells


def tags(cell):
    return cell.metadata.get("tags", [])


def split(cells):
    """Return the cells of the core and those of all sections that go further."""
    starts = (i for i, cell in enumerate(cells) if cell.source.startswith(FURTHER))
    start = next(starts, len(cells))
    return cells[:start], cells[start:]


def words(cells):
    """Count the words of prose: without formulas, tables, code and what is folded away."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for pattern in (
        r"\$\$.*?\$\$",
        r"```.*?```",
        r"<details>.*?</details>",
        r"^\|[^\n]*$",
        r"<[^>]+>",
    ):
        text = re.sub(pattern, " ", text, flags=re.S | (re.M if "^" in pattern else 0))
    return len(text.split())


def exercises_left_out(cells):
    start = next(
        (i for i, c in enumerate(cells) if c.source.startswith("## Exercises")), len(cells)
    )
    later = (i for i in range(start + 1, len(cells)) if cells[i].source.startswith("## "))
    return cells[:start] + cells[next(later, len(cells)) :]


def careful_minutes(cells):
    """Minutes of a reader who studies every line of code, every figure and all that is printed."""
    shown = [c for c in cells if c.cell_type == "code" and not {"head", "ci"} & {*tags(c)}]
    plain = re.compile(r"\s*(import|from|#\||figures\.show|@)|\s*$")
    lines = sum(not plain.match(line) for cell in shown for line in cell.source.splitlines())
    outputs = [output for cell in shown for output in cell.outputs]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    printed = sum(min(15, output.get("text", "").count("\n")) for output in outputs)
    seconds = lines * SECONDS_OF_LINE + figures * SECONDS_OF_FIGURE + printed * SECONDS_OF_OUTPUT
    return words(cells) / 200 + seconds / 60


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem.removeprefix("appendix_")[:2])
def notebook(request):
    return request.param


def test_the_core_is_half_an_hour(notebook):
    core, _ = split(read(notebook))
    lesson = exercises_left_out(core)
    lessons = 2 if notebook.stem.startswith("07") else 1  # 7a and 7b are two of half an hour
    assert len(lesson) <= 60 * lessons, len(lesson)
    assert words(lesson) <= 1800 * lessons, words(lesson)
    found = MINUTES.search("\n".join(cell.source for cell in core[:4]))
    first, second = map(int, found.groups())
    assert first <= second == round(careful_minutes(exercises_left_out(core)))
    headings = re.findall(
        r"^## (.*)$", "\n".join(c.source for c in core if c.cell_type != "code"), re.M
    )
    assert headings[0] == "What you will build" and "Exercises" in headings
    assert "What you built" in headings


def test_what_goes_further_is_marked_and_folded(notebook):
    core, further = split(read(notebook))
    assert further
    assert all("going-further" in tags(cell) for cell in further)
    assert not any("going-further" in tags(cell) for cell in core)
    for cell in further:
        if re.match("##? ", cell.source) and cell.cell_type == "markdown":
            assert cell.source.startswith(FURTHER)
            assert cell.metadata.get("jp-MarkdownHeadingCollapsed") is True


def test_teaching_cells_hold_no_machinery(notebook):
    for cell in read(notebook):
        if cell.cell_type != "code" or "head" in tags(cell):
            continue
        assert not re.search(r"# (noqa|fmt:|type:)", cell.source), cell.source
        assert not re.search(r'alt=\(?\s*f?"[^"]{40}', cell.source), cell.source
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
        if not cell.source.startswith("#| ") and "check" not in tags(cell) and not hidden:
            assert len(cell.source.splitlines()) <= 30, cell.source
            assert not re.search(r"^assert ", cell.source, re.M), cell.source


def test_one_symbol_means_one_thing(notebook):
    known = set(re.findall(r"^\| ([A-Z]), |^\| ([A-Z]) \|", SYMBOLS, re.M))
    sizes = {letter for pair in known for letter in pair if letter} | {"N", "H", "F", "D"}
    for cell in read(notebook):
        if cell.cell_type == "markdown":
            assert not re.search(
                r"d_\{(?!\\text)|d_\{\\text|d_\\mathrm|d_(model|ff)\}?\$", cell.source
            )
            continue
        for shape in re.findall(r'\[Tensor, "([^"]*)"\]', cell.source):
            letters = set(re.findall(r"(?<![\w_])[#*]*([A-Z])(?![\w_])", shape))
            assert letters <= sizes, (shape, letters - sizes)


def test_no_sentence_reads_translated(notebook):
    for cell in read(notebook):
        text = (
            cell.source
            if cell.cell_type == "markdown"
            else "\n".join(re.findall("#.*", cell.source))
        )
        assert not TRANSLATED.search(text), (TRANSLATED.search(text)[0], text)


def test_a_notebook_is_quick_to_open(notebook):
    assert notebook.stat().st_size <= 1_500_000

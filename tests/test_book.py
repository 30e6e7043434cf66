"""The book: every name leads to its cell and to the paper, and every page is fit for a reader.

`make test` builds the book and opens a page of each kind; `make book-test` opens every page.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from book import notebooks, pages
from book.links import Links
from book.symbols import ANCHORS, NOTEBOOKS, places_in, public_symbols, read_cells
from transformer_lib import Explorer, api
from transformer_lib.translate.explorer import PLACEHOLDER

ROOT = Path(__file__).resolve().parents[1]
BUILT = Path(os.environ.get("TRANSFORMER_LIB_BOOK", ""))
SEVENTH = "07_training_copy_task_and_translation"
AXE = ROOT / "tests" / "axe" / "axe.min.js"
symbols = cache(public_symbols)

for_each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
needs_the_book = pytest.mark.skipif(
    not (BUILT / "index.html").is_file() or Path() == BUILT, reason="the book is not built"
)


# What Sphinx reads


def test_every_public_name_has_a_cell_and_a_place_in_the_paper():
    assert {symbol.name for symbol in symbols().values()} >= set(api.__all__)
    labels = {symbol.label for symbol in symbols().values()}
    assert len(labels) == len(symbols())
    cells = {path.stem: {c["id"]: c["source"] for c in read_cells(path)} for path in NOTEBOOKS}
    for symbol in symbols().values():
        source = cells[symbol.notebook][symbol.cell]
        defined = re.search(rf"^(?:class|def) {symbol.name}\b", source, re.M)
        assert bool(defined) != symbol.by_hand, symbol
        assert symbol.places and set(symbol.places) <= ANCHORS


def test_places_are_those_of_the_paper_alone():
    text = "Source: sections 3.1 and 5.4, Figure 1. Wu et al. (2016), equation 14; section 3.2.1."
    found = ("section-3-1", "section-5-4", "figure-1", "section-3-2-1")
    assert places_in(text) == found


@for_each_notebook
def test_a_page_shows_the_lesson_and_not_its_machinery(path):
    solutions = f"{notebooks.start_of(path)}_solutions.ipynb"
    kept = f"notebooks/{path.name}", f"notebooks/solutions/{solutions}"
    adapted = notebooks.adapt(path, symbols(), Links({name: name for name in kept}, None))
    cells = [cell | {"source": "".join(cell["source"])} for cell in adapted["cells"]]
    tags = [set(cell["metadata"].get("tags", ())) for cell in cells]
    shown = [
        cell
        for cell, own in zip(cells, tags, strict=True)
        if cell["cell_type"] == "code" and not own & {"hide-input", "remove-input"}
    ]
    assert not any(re.search(r"^(#\||figures\.show\()", c["source"], re.M) for c in shown)
    assert not any(c["id"] == "head-setup" for c in cells)
    pictures = [c for c in cells if "image/png" in json.dumps(c.get("outputs", ()))]
    assert all(len(c["metadata"]["mystnb"]["image"]["alt"]) >= 20 for c in pictures)
    exercises = [c["source"] for c in cells if c["source"].count("### Exercise")]
    assert exercises
    assert all("<summary>Hint" in text and "[Solution of" in text for text in exercises)
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)


def test_a_figure_is_cut_out_of_its_code():
    source = 'x = 1\ntitle = "a"\nfigures.show(\n    f(x, title=title), alt="b"\n)\nprint(x)'
    assert notebooks.without_show(source) == "x = 1\nprint(x)"
    assert notebooks.without_show('title = "a"\nprint(title)') == 'title = "a"\nprint(title)'


def test_where_a_notebook_has_a_placeholder_the_book_has_its_explorer(monkeypatch):
    monkeypatch.setenv(PLACEHOLDER, "1")
    html = Explorer("multi30k-de-en", 'Der "Ball" & ich.')._repr_html_()
    cell = {"source": "Explorer()", "metadata": {}, "outputs": [{"data": {"text/html": [html]}}]}
    notebooks.code(cell)
    frame = BeautifulSoup(cell["outputs"][0]["data"]["text/html"], "html.parser").iframe
    address = urlsplit(frame["src"])
    assert address.path == "../explorer/index.html"
    chosen = {"m": ["multi30k-de-en"], "s": ['Der "Ball" & ich.']}
    assert parse_qs(address.fragment) == chosen


def test_the_explorer_links_to_cells_and_sections_that_exist():
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "explorer").glob("*.js"))
    notebook_of = dict(re.findall(r'^  (\w+): "(\d\d_\w+)",$', code, re.M))
    labels = {symbol.label: symbol.notebook for symbol in symbols().values()}
    named = re.findall(r'\bsymbol: "([\w-]+)"', code)
    sections = re.findall(r'\bsection: "([\d.]+)"', code)
    assert named and sections
    for name in named:
        assert labels[f"built-{name}"] == notebook_of[name.partition("-")[0]]
    assert {f"section-{number.replace('.', '-')}" for number in sections} <= ANCHORS


# The finished pages


@cache
def soup(page):
    return BeautifulSoup(page.read_text("utf-8"), "html.parser")


@cache
def ids_of(page):
    return {tag["id"] for tag in soup(page).select("[id]")}


def target(page, address):
    """Return the file and the anchor that a link of a page leads to."""
    parts = urlsplit(address)
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    return file, parts.fragment


def links_of(page, part):
    return {target(page, link["href"]) for link in part.select("a[href]")}


@needs_the_book
def test_every_name_leads_to_its_cell_and_to_the_paper_and_back():
    for symbol in symbols().values():
        documented = (BUILT / pages.page_of(symbol)).with_suffix(".html").resolve()
        lesson = (BUILT / "notebooks" / f"{symbol.notebook}.html").resolve()
        paper = (BUILT / "paper.html").resolve()
        entry = soup(documented).find("dt", id=symbol.full)
        origin = entry.find_next_sibling("dd").find(class_="origin", recursive=False)
        places = {(paper, place) for place in symbol.places}
        assert links_of(documented, origin) == {(lesson, symbol.label), *places}, symbol

        cell = soup(lesson).find(id=symbol.label)
        box = cell.find_parent(class_="origin") or cell
        assert links_of(lesson, box) >= {(documented, symbol.full), *places}, symbol
        code = box.find_next(class_="cell_input").get_text()
        assert re.search(rf"\b{symbol.name}\b", code) or symbol.by_hand, symbol

        for place in symbol.places:
            section = soup(paper).find(id=place)
            section = section if section.name == "section" else section.find_parent("section")
            both = {(documented, symbol.full), (lesson, symbol.label)}
            assert links_of(paper, section) >= both, symbol


@needs_the_book
def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere():
    for page in sorted(BUILT.resolve().rglob("*.html")):
        if "explorer" in page.relative_to(BUILT.resolve()).parts:
            continue
        for tag in soup(page).select("[href], [src]"):
            address = tag.get("href") or tag["src"]
            outside = urlsplit(address).scheme or address.startswith("//")
            if tag.name == "a" and outside:
                assert address.startswith("https://"), (page, address)
                continue
            if outside:
                assert address.startswith("data:"), (page, address)
                continue
            file, anchor = target(page, address)
            assert file.is_file(), (page, address)
            known = not anchor or file.parent.name == "explorer" or anchor in ids_of(file)
            assert known, (page, address)


@needs_the_book
def test_the_book_is_small_enough_and_says_what_its_pictures_show():
    assert sum(f.stat().st_size for f in BUILT.rglob("*") if f.is_file()) <= 25e6
    for page in BUILT.glob("notebooks/*.html"):
        for image in soup(page).select(".cell_output img"):
            assert len(image["alt"]) >= 20 and not image["alt"].startswith("../"), page


# In the browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    from test_browser import CHROMIUM, FLAGS

    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page without a network that knows what was asked and what went wrong."""
    context = browser.new_context(offline=True, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda m: m.type in ("error", "warning") and page.errors.append(m.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    context.close()


OPEN_ALL = "document.querySelectorAll('details').forEach(part => { part.open = true; })"
OVERFLOW = """() => [...document.querySelectorAll('article *')].filter(part => {
  if (part.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let box = part; box !== document.body; box = box.parentElement)
    if (getComputedStyle(box).overflowX !== 'visible') return false;
  return true;
}).map(part => part.outerHTML.slice(0, 200))"""
AXE_RUN = """() => axe.run(document, {
  runOnly: {type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']},
  rules: {'target-size': {enabled: true}}, resultTypes: ['violations'], preload: false,
  iframes: false,
}).then(result => result.violations.map(found =>
  [found.id, found.nodes.length, ...found.nodes.slice(0, 5).map(n => n.html.slice(0, 300))]))"""
PAGES = sorted(p.relative_to(BUILT).as_posix() for p in BUILT.rglob("*.html")) if BUILT.name else []
PAGES = [name for name in PAGES if not name.startswith("explorer/")]
if os.environ.get("TRANSFORMER_LIB_BOOK_PAGES") != "all":  # one of each kind
    kinds = ("index", "paper", "search", "api/index", "docs/faults", f"notebooks/{SEVENTH}")
    PAGES = [name for name in PAGES if name.removesuffix(".html") in kinds]


@needs_the_book
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_accessible_and_needs_no_network(page, name):
    for width in (1366, 390):
        page.set_viewport_size({"width": width, "height": 844})
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.goto((BUILT / name).resolve().as_uri(), wait_until="load")
            page.evaluate(OPEN_ALL)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OVERFLOW) == []
            page.evaluate(AXE.read_text("utf-8"))
            assert page.evaluate(AXE_RUN) == [], (width, theme)
            assert page.locator(".katex-error").count() == 0
            assert page.locator(".math").count() in (0, page.locator(".math:has(.katex)").count())
    assert page.errors == []
    assert all(address.startswith(("file:", "data:")) for address in page.asked)


@needs_the_book
def test_the_search_finds_from_a_file(page):
    page.goto((BUILT / "index.html").resolve().as_uri())
    page.fill("input[name=q]", "label smoothing")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").all_inner_texts()
    assert any("07" in text for text in found) and "label smoothing" in " ".join(found).lower()
    page.locator("#search-results li a").first.click()
    page.wait_for_selector("article h1")
    assert page.errors == []


IN_SIGHT = """label => {
  const cell = document.getElementById(label);
  const top = cell?.checkVisibility() && cell.getBoundingClientRect().top;
  return -1 < top && top < innerHeight;
}"""


@needs_the_book
def test_a_link_into_a_folded_section_unfolds_it(page):
    symbol = symbols()["transformer_lib.attention.MultiHeadAttention"]
    page.goto((BUILT / "api" / "attention.html").resolve().as_uri())
    page.locator(f'.origin a[href$="#{symbol.label}"]').click()
    page.wait_for_function(IN_SIGHT, arg=symbol.label)
    # Chromium unfolds by itself. Other browsers need our script: change the address unseen by it.
    page.goto((BUILT / "notebooks" / f"{symbol.notebook}.html").resolve().as_uri())
    page.evaluate("label => history.replaceState(null, '', '#' + label)", symbol.label)
    page.evaluate("dispatchEvent(new Event('hashchange'))")
    page.wait_for_function(IN_SIGHT, arg=symbol.label)
    page.reload()
    page.locator("article > section > section details.going-further > summary").first.wait_for()
    folded = page.locator("details.going-further")
    assert folded.count() > 3 and page.locator("details.going-further[open]").count() == 1


@needs_the_book
def test_a_model_translates_inside_a_page(page):
    page.goto((BUILT / "notebooks" / f"{SEVENTH}.html").resolve().as_uri())
    page.evaluate(OPEN_ALL)
    page.locator("iframe.explorer").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe.explorer")
    frame.locator("#text", has_text="kitchen").wait_for()
    page.locator("iframe.explorer + p a").click()
    page.wait_for_url("**/explorer/index.html#*")
    page.locator("#tokens button").first.wait_for()
    assert "Küche" in page.input_value("#sentence") and page.errors == []


@needs_the_book
def test_a_reader_turns_pages_and_chooses_the_theme(page):
    page.goto((BUILT / "index.html").resolve().as_uri())
    for path in NOTEBOOKS:
        page.locator("a.next-page").click()
        page.wait_for_url(f"**/{path.stem}.html")
    page.locator("a.prev-page").click()
    page.wait_for_url(f"**/{NOTEBOOKS[-2].stem}.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):
        page.locator(".theme-toggle:visible").first.click()
        seen.add(page.evaluate(colour))
    assert len(seen) == 2
    page.set_viewport_size({"width": 390, "height": 844})
    link = page.locator(".sidebar-tree a", has_text="Glossary")
    assert not link.is_visible()
    page.locator(".nav-overlay-icon").focus()
    page.keyboard.press("Enter")
    link.wait_for()
    assert page.errors == []

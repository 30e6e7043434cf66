"""`make slides`: every deck is complete, fits its slides, and loads nothing."""

import base64
import io
import re
import shutil

import film
import nbformat
import pytest
import torch
from PIL import Image, ImageChops

import slides

DECKS = sorted((slides.ROOT / "slides").glob("*.toml"))
FITS = """[...document.querySelectorAll(".slides > section")].map((slide, i) => {
  Reveal.slide(i);
  const parts = [...slide.children].filter((part) => !part.matches(".notes"));
  const bottom = Math.max(...parts.map((part) => part.offsetTop + (part.offsetHeight || 0) || 0));
  const wide = parts.some((part) => part.scrollWidth > 1286) ||
    [...slide.querySelectorAll("math")].some((part) => part.getBoundingClientRect().right > 1340);
  return slide.offsetTop + bottom > 768 || wide ? slide.querySelector("h1, h2").textContent : "";
}).filter(Boolean)"""


@pytest.mark.parametrize("path", DECKS, ids=lambda path: path.stem)
def test_every_slide_finds_its_cells_and_has_notes(path, tmp_path):
    deck = slides.read_deck(path)
    assert 15 <= len(deck) <= 25 and all(slide["notes"] for slide in deck)
    text = slides.write_deck(path, tmp_path, tmp_path).read_text("utf-8")
    assert text.count("<section") == len(deck)
    shown = text[text.index('class="slides"') : text.index("<script>")]
    assert "$" not in shown.replace("$3.50", "") and 'alt=""' not in shown
    assert 'src="http' not in text and "<link" not in shown


def test_every_notebook_has_a_deck():
    found = {path.stem for path in DECKS}
    assert found == {*(f"{i:02}" for i in range(1, 8)), *(f"appendix_{x}" for x in "abc")}


def test_a_film_is_small_and_described_and_has_a_still_for_those_who_want_no_motion():
    notebook = slides.notebook_of(slides.ROOT / "slides" / "07.toml")
    (cell,) = [c for c in nbformat.read(notebook, as_version=4).cells if "attachments" in c]
    shown = slides.section({"title": "A", "film": cell.id}, {cell.id: cell})
    still, film = (base64.b64decode(data) for data in re.findall('base64,(.+?)"', shown))
    still, animation = (Image.open(io.BytesIO(data)) for data in (still, film))
    assert len(film) <= 400_000 and animation.n_frames >= 20 and animation.info["loop"] == 0
    animation.seek(animation.n_frames - 1)
    assert ImageChops.difference(still, animation.convert("RGB")).getbbox() is None
    assert re.search('prefers-reduced-motion: reduce.*<img alt=".{100,}" src="data:', shown)


def test_the_film_finds_its_cells_and_joins_its_frames():
    cells = {c.id: c.source for c in nbformat.read(film.NOTEBOOK, as_version=4).cells}
    assert {*film.CELLS, film.FILM} <= cells.keys()
    assert {"example =", "copy_config ="} <= {*re.findall(r"^\w+ =", cells[film.TRAINING], re.M)}
    maps = {0: torch.full((3, 3), 1 / 3), 30: torch.eye(3)}
    data = film.film(maps, [3.0] * 20 + [1.0] * 20, ["4", "5", "<eos>"], 0.6)
    assert Image.open(io.BytesIO(data)).n_frames == 2


@pytest.mark.parametrize("built", [True, False])
def test_the_explorer_is_live_where_the_book_is_built(tmp_path, built):
    page = tmp_path / "book" / "explorer" / "index.html"
    page.parent.mkdir(parents=True)
    if built:
        page.touch()
    deck = slides.write_deck(DECKS[6], tmp_path / "slides", tmp_path / "book").read_text("utf-8")
    assert ('data-src="../book/explorer/index.html"' in deck) is built
    assert '<img alt="The explorer' in deck


def test_a_slide_with_an_unknown_cell_or_part_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no figure in a cell nowhere"):
        slides.section({"title": "A", "figure": "nowhere"}, {})
    (tmp_path / "04.toml").write_text('[[slide]]\ntitle = "A"\nfigures = "x"\n')
    with pytest.raises(ValueError, match="figures"):
        slides.read_deck(tmp_path / "04.toml")


def test_decks_fit_their_slides_and_load_nothing(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, slides.BROWSERS)), None)
    if chromium is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": slides.WIDTH, "height": slides.HEIGHT})
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for path in DECKS:
            address = slides.write_deck(path, tmp_path, tmp_path).as_uri()
            page.goto(address)
            page.wait_for_function("Reveal.isReady()")
            assert (path.stem, page.evaluate(FITS)) == (path.stem, [])
        browser.close()
    assert not errors
    assert {url for url in requests if not url.startswith("data:")} == {
        (tmp_path / f"{path.stem}.html").as_uri() for path in DECKS
    }

"""`make slides`: every deck is complete, fits its slides, and loads nothing."""

import shutil

import pytest

import slides

DECKS = sorted((slides.ROOT / "slides").glob("*.toml"))
FITS = """[...document.querySelectorAll(".slides > section")].map((slide, i) => {
  Reveal.slide(i);
  const parts = [...slide.children].filter((part) => !part.matches(".notes"));
  const bottom = Math.max(...parts.map((part) => part.offsetTop + (part.offsetHeight || 0) || 0));
  const wide = parts.some((part) => part.scrollWidth > 1286);
  return slide.offsetTop + bottom > 768 || wide ? slide.querySelector("h1, h2").textContent : "";
}).filter(Boolean)"""


@pytest.mark.parametrize("path", DECKS, ids=lambda path: path.stem)
def test_every_slide_finds_its_cells_and_has_notes(path, tmp_path):
    deck = slides.read_deck(path)
    assert 15 <= len(deck) <= 25 and all(slide["notes"] for slide in deck)
    text = slides.write_deck(path, tmp_path).read_text("utf-8")
    assert text.count("<section") == len(deck)
    shown = text[text.index('class="slides"') : text.index("<script>")]
    assert "$" not in shown.replace("$3.50", "") and 'alt=""' not in shown
    assert 'src="http' not in text and "<link" not in shown


def test_every_notebook_has_a_deck():
    found = {path.stem for path in DECKS}
    assert found == {f"{i:02}" for i in range(1, 8)}


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
            address = slides.write_deck(path, tmp_path).as_uri()
            page.goto(address)
            page.wait_for_function("Reveal.isReady()")
            assert (path.stem, page.evaluate(FITS)) == (path.stem, [])
        browser.close()
    assert not errors
    assert {url for url in requests if not url.startswith("data:")} == {
        (tmp_path / f"{path.stem}.html").as_uri() for path in DECKS
    }

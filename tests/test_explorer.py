"""The explorer computes in a browser what the library computes, and anyone can use its page.

Everything runs in Chromium. `make test` takes a sample; TRANSFORMER_LIB_EXPLORER=full takes 1,000
sentences in each direction and 3,000 hostile texts (some minutes; Multi30k where it is there).
"""

import copy
import html
import html.entities
import importlib
import os
import random
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
import torch
from helpers import tiny

from book.symbols import ANCHORS, public_symbols
from transformer_lib import ModelConfig, Transformer, probes
from transformer_lib.attention import MultiHeadAttention
from transformer_lib.cli import main
from transformer_lib.data.multi30k import MissingDataError, multi30k
from transformer_lib.feed_forward import Residual
from transformer_lib.masks import causal_mask
from transformer_lib.translate import explorer
from transformer_lib.translate.translator import Translator
from transformer_lib.translate.unfamiliar import why_unfamiliar
from transformer_lib.vocab import SPECIALS, SubwordVocab, WordVocab, normalize_text

sync_api = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FULL = os.environ.get("TRANSFORMER_LIB_EXPLORER") == "full"
AXE = ROOT / "tests" / "axe" / "axe.min.js"
MODEL = importlib.import_module("transformer_lib.model")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
    pytest.mark.timeout(3000 if FULL else 300),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def closed_afterwards(browser):
    """Close every page of a test, which holds a model."""
    yield
    for context in browser.contexts:
        context.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The explorer of the models that ship, on the disk."""
    return explorer.write_explorer(tmp_path_factory.mktemp("explorer"))


def opened(browser, path, at="", **options):
    """A page whose first translation is there; it fails the test with any error or request."""
    context = browser.new_context(offline=True, **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.errors = []
    page.on("console", lambda message: page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.errors.extend(outside(request.url)))
    page.goto(path.as_uri() + at)
    page.wait_for_function("document.getElementById('status').textContent.match(/token|Type/)")
    return page


def outside(url):
    """The address, in a list, if it is not the page's own."""
    return [] if url.startswith(("file:", "data:", "blob:", "about:")) else [url]


# The model


def sentences_of(side, n):
    """Captions that ship and sentences of the grammar; with Multi30k, its test set instead."""
    if FULL:
        try:
            text = multi30k("test_2016_flickr", "de", "en")
            return [*(text.source if side == "de" else text.target)][:n]
        except MissingDataError:
            pass
    files = (f"captions/captions.{side}", f"grammar/test.{side}", f"grammar/train.{side}")
    texts = ((ROOT / "data" / file).read_text("utf-8") for file in files)
    return "".join(texts).splitlines()[:n]


SEARCH = """async ([key, sentences, width, alpha, nBest]) => {
  const { model, srcVocab, tgtVocab } = await loadModel(key);
  Object.assign(model.changes, INTACT);
  const textOf = nBest > 1 ? (ids) => tgtVocab.decode(ids) : null;
  return sentences.map((sentence) => {
    const src = srcVocab.encode(sentence, { eos: true });
    if (width === 1) return [greedyDecode(model, src)];
    return beamSearch(model, src, { beamSize: width, alpha, nBest, textOf });
  });
}"""
MAPS = """async ([key, sentence, translation]) => {
  const { model, srcVocab, tgtVocab } = await loadModel(key);
  const src = srcVocab.encode(sentence, { eos: true });
  const tgt = tgtVocab.encode(translation, { eos: true });
  const numbers = (layers) => layers.map((heads) => heads.map(({ weights }) =>
    Array.from({ length: weights.rows }, (_, i) => [...weights.row(i)])));
  const maps = model.attentionMaps(src, [BOS_ID, ...tgt.slice(0, -1)]);
  const encoderMaps = [];
  const steps = [...greedySteps(model, src, { forced: tgt, encoderMaps })].map((step) => step.maps);
  const byStep = (odd) => maps.cross.map((_, l) => maps.cross[l].map((_, h) =>
    steps.map((both) => [...both[2 * l + odd][h].weights.row(0)])));
  return [Object.values(maps).map(numbers), [numbers(encoderMaps), byStep(0), byStep(1)]];
}"""


def assert_same_search(page, key, translator, sentences, width, alpha, n_best=1):
    """Compare ids and scores of every hypothesis."""
    found = page.evaluate(SEARCH, [key, sentences, width, alpha, n_best])
    expected = translator.hypotheses(sentences, beam_size=width, alpha=alpha, n_best=n_best)
    for sentence, ours, theirs in zip(sentences, found, expected, strict=True):
        assert [h["ids"] for h in ours] == [h.ids for h in theirs], sentence
        assert [h["finished"] for h in ours] == [h.finished for h in theirs], sentence
        scores = torch.tensor([[h["score"], h["logProb"]] for h in ours])
        known = torch.tensor([[h.score, h.log_prob] for h in theirs])
        # log-probabilities add up over the tokens, in float32
        torch.testing.assert_close(scores, known, rtol=1e-5, atol=1e-5)


def assert_same_maps(page, key, translator, sentence, translation):
    """Compare all maps, from one pass and token by token, to 1e-6, with the library in float64.

    In float32, the library's own maps are off by up to 1.3e-6.
    """
    model = copy.deepcopy(translator.model).double()
    exact = Translator(model, translator.src_vocab, translator.tgt_vocab)
    known, _, targets = exact.attention_maps(sentence, translation)
    for way in page.evaluate(MAPS, [key, sentence, translation]):
        for name, layers in zip(("encoder", "decoder", "cross"), way, strict=True):
            expected = getattr(known, name)[:, 0]
            for layer, heads in enumerate(layers):
                for head, rows in enumerate(heads):
                    for i, row in enumerate(rows):
                        width = expected.size(-1)
                        row = torch.tensor(row + [0.0] * (width - len(row)))
                        gap = (row - expected[layer, head, i]).abs().max()
                        assert gap < 1e-6, (name, layer, head, i)
    assert len(targets) > 2


@pytest.mark.parametrize("side, other", [("de", "en"), ("en", "de")])
def test_the_page_computes_what_the_library_computes(browser, site, side, other):
    key = f"multi30k-{side}-{other}"
    translator = Translator.open(key)
    sentences = sentences_of(side, 1000 if FULL else 12)
    page = opened(browser, site / "index.html", f"#m={key}")
    for start in range(0, len(sentences), 50):
        part = sentences[start : start + 50]
        assert_same_search(page, key, translator, part, 1, 0.0)
        assert_same_search(page, key, translator, part if FULL else part[:3], 5, 1.0)
    assert_same_search(page, key, translator, sentences[:1], 4, 0.6, n_best=4)
    for sentence in sentences[: 100 if FULL else 1]:
        assert_same_maps(page, key, translator, sentence, translator.translate([sentence])[0])
    assert page.errors == []


SIZES = {
    "post": {"norm_first": False, "positions": "learned", "tie_embeddings": False},
    "none": {"norm_first": True, "positions": "none", "n_heads": 8, "d_model": 24},
    "shared": {"norm_first": False, "shared_vocabulary": True},
}


@pytest.mark.parametrize("name", SIZES)
def test_models_of_every_kind_are_computed_alike(browser, tmp_path, name):
    sides = [sentences_of(side, 200) for side in ("de", "en")]
    vocabs = [
        SubwordVocab.train(texts, size=size) for texts, size in zip(sides, (120, 130), strict=True)
    ]
    if name == "shared":
        vocabs = vocabs[:1] * 2
    sizes = dict(zip(("src_vocab_size", "tgt_vocab_size"), map(len, vocabs), strict=True))
    sizes |= {"d_model": 16, "n_heads": 4, "n_layers": 2, "d_ff": 24, "max_len": 30}
    model = Transformer(ModelConfig(**(sizes | SIZES[name])))
    with torch.no_grad():
        for parameter in model.parameters():  # no symmetries
            parameter += 0.2 * torch.randn_like(parameter)
    key = f"{name} #1"  # not to be mistaken for a part of the address
    folder = Translator(model, *vocabs).save(tmp_path / key)
    page = opened(browser, explorer.write_explorer(tmp_path / "site", [folder]) / "index.html")
    translator = Translator.open(folder)
    texts = ["Zwei", "Ein Hund.", "der"]  # the model has 30 positions
    for width, alpha in ((1, 0.0), (3, 1.0)):
        assert_same_search(page, key, translator, texts, width, alpha)
    assert_same_maps(page, key, translator, texts[1], "a dog")
    page.fill("#sentence", "Hund " * 30)
    page.click("button.main")
    page.wait_for_function("document.getElementById('status').textContent.includes('takes 30')")
    assert page.errors == []


# Text

PARTS = [
    *"aäöüßAÄeE .,!?-'\"&;#<>/\\_0123456789\t\n\r\v\f",
    *("\x00", "\x1c", "\x85", "\xa0", "\xad", "\u2028", "\u3000", "\ufeff", "\u200b", "\u200d"),
    *(
        "\u200c",
        "\u0301",
        "\u0308",
        "\u0323",
        "▁",
        "ﬁ",
        "中",
        "文",
        "あ",
        "ก",
        "ש",
        "ع",
        "🙂",
        "👩‍🚀",
        "नि",
    ),
    *(
        "<eos>",
        "<pad>",
        "<unk>",
        "&amp;",
        "&amp;lt;",
        "&lt",
        "&nbsp;",
        "&#173;",
        "&#x41;",
        "&#150;",
    ),
    *("&#13;", "&#0;", "&#xD800;", "&#1114112;", "&#11;", "&notit;", "&NewLine;", "&unknown;"),
    *("&amp;amp;#38;amp;", "Hund", " dog ", "läuft", "Schnee", "running", "Straßenbahnhaltestelle"),
]


def hostile_texts(n):
    """Texts of all that hurts a tokenizer, and characters that Python knows too."""
    draw = random.Random(0)

    def character():
        while unicodedata.category(found := chr(draw.randrange(0x110000))) in ("Cn", "Cs"):
            pass
        return found

    pieces = [*PARTS, character, character, character]
    for _ in range(n):
        chosen = draw.choices(pieces, k=draw.randrange(1, 30))
        yield "".join(piece() if callable(piece) else piece for piece in chosen)


def test_hostile_texts_get_the_same_tokens(browser, site):
    texts = [*hostile_texts(3000 if FULL else 400), "", " ", "▁", "a▁", "x" * 2000]
    texts += [f"a&{name}b" for name in html.entities.html5]
    page = opened(browser, site / "index.html")
    normal, *ids = page.evaluate(
        """async (texts) => {
          const { srcVocab: german } = await loadModel("multi30k-de-en");
          const { srcVocab: english } = await loadModel("multi30k-en-de");
          return [texts.map(normalizeText), texts.map((t) => german.encode(t)),
            texts.map((t) => english.encode(t)), texts.map((t) => german.tokenize(t))];
        }""",
        texts,
    )
    german, english = (Translator.open(f"multi30k-{name}").src_vocab for name in ("de-en", "en-de"))
    for text, *found in zip(texts, normal, *ids, strict=True):
        tokens = german.tokenize(text)
        expected = normalize_text(text), german.encode(text), english.encode(text), tokens
        assert tuple(found) == expected, repr(text)


def test_the_page_doubts_what_the_library_doubts(browser, site):
    translator = Translator.open("multi30k-de-en")
    texts = [
        "Hallo!",
        "Bundeskanzler tritt zurück",
        "x = y + 1;",
        "中文 und ก",
        "!",
        *sentences_of("de", 6),
    ]
    best = [found[0] for found in translator.hypotheses(texts, beam_size=1, alpha=0.0)]
    page = opened(browser, site / "index.html")
    for val_loss in (None, 2.3):
        found = page.evaluate(
            """async ([texts, loss]) => {
              const { model, srcVocab } = await loadModel("multi30k-de-en");
              return texts.map((text) => whyUnfamiliar(srcVocab, text,
                greedyDecode(model, srcVocab.encode(text, { eos: true })), loss));
            }""",
            [texts, val_loss],
        )
        expected = [
            why_unfamiliar(translator.src_vocab, text, one, val_loss)
            for text, one in zip(texts, best, strict=True)
        ]
        assert found == expected
    assert sum(map(bool, expected)) >= 2
    page.fill("#sentence", "Hallo!")
    page.click("button.main")
    page.wait_for_selector("#doubt:not([hidden])")


# The museum

BREAKS = {}


def breaks(name):
    """Register a function that breaks a model of the library as the page does."""
    return lambda function: BREAKS.setdefault(name, function)


@breaks("scale")
def _(model, monkeypatch):
    for part in model.modules():
        if isinstance(part, MultiHeadAttention):
            part.query.weight.data *= (part.query.weight.size(0) / part.n_heads) ** 0.5


@breaks("positions")
def _(model, monkeypatch):
    model.positions.table.zero_()


@breaks("cache-position")
def _(model, monkeypatch):
    def at_the_start(self, ids, table, offset=0, right=Transformer.embed):
        return right(self, ids, table)

    monkeypatch.setattr(Transformer, "embed", at_the_start)


@breaks("cache-keys")
def _(model, monkeypatch):
    def first_key_only(tgt, cache, pad_id, right=MODEL.decoder_mask):
        mask = right(tgt, cache, pad_id)
        n_new = tgt.size(1)
        if cache and cache[0].length:
            mask &= torch.ones_like(mask).tril(mask.size(-1) - n_new).cumsum(-1) <= 1
        return mask

    monkeypatch.setattr(MODEL, "decoder_mask", first_key_only)


@breaks("embedding-scale")
def _(model, monkeypatch):
    model.tgt_embedding.scale = model.src_embedding.scale = 1.0


@breaks("encoder-mask")
def _(model, monkeypatch):
    def encode(self, src, maps=None):
        mask = MODEL.padding_mask(src) & causal_mask(src.size(1))
        return self.encoder(self.embed(src, self.src_embedding), mask, maps)

    monkeypatch.setattr(Transformer, "encode", encode)


@breaks("residual")
def _(model, monkeypatch):
    monkeypatch.setattr(Residual, "forward", lambda self, x, layer: self.norm(layer(x)))


def test_the_museum_breaks_the_model_and_names_the_probe_that_finds_it(browser, site, monkeypatch):
    page = opened(browser, site / "index.html")
    bugs = page.evaluate("MUSEUM.map(({ id, probe }) => [id, probe])")
    of_the_data = {"eos", "bos"}  # nothing is wrong with the model
    assert {id for id, _ in bugs} == BREAKS.keys() | of_the_data
    for id, probe in bugs:
        if id not in of_the_data:
            with monkeypatch.context() as patch:
                model = tiny(norm_first=True)
                BREAKS[id](model, patch)
                failed = {found.name for found in probes.run_all(model) if not found}
            assert failed == ({probe} if probe else set()), id
    assert all(probes.run_all(tiny(norm_first=True)))


def test_every_bug_changes_captions_and_is_undone(browser, site):
    page = opened(browser, site / "index.html")
    right = page.inner_text("#text")
    unseen = page.evaluate(
        """async () => {
          const { model, srcVocab } = await loadModel("multi30k-de-en");
          const ids = (text, changes) => { Object.assign(model.changes, INTACT, changes);
            return String(greedyDecode(model, srcVocab.encode(text, { eos: true })).ids); };
          const texts = captions("de").map((text, i, all) => all[(37 * i) % 100]);
          const right = [];
          return MUSEUM.filter(({ changes }) => !texts.some((text, i) =>
            ids(text, changes) !== (right[i] ??= ids(text, {})))).map(({ id }) => id);
        }"""
    )
    assert unseen == []
    page.check('input[name="bug"][value="cache-keys"]')
    page.wait_for_selector("#changed:not([hidden])")
    page.wait_for_selector("dl.exhibit mark")
    assert page.inner_text("#text") != right and right in page.inner_text("#exhibit")
    page.click("#changed button")
    page.wait_for_selector("#changed", state="hidden")
    assert page.inner_text("#text") == right and page.errors == []


# The page

AXE_RUN = """async () => (await axe.run(document, { preload: false, runOnly: [
  "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }))
  .violations.map(({ id, nodes }) => [id, nodes.length, nodes[0].html])"""
FITS = """() => [document.documentElement.scrollWidth,
  [...document.querySelectorAll("body *")].filter((part) => {
    if (part.getBoundingClientRect().right <= innerWidth + 1) return false;
    for (let box = part; box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX === "auto") return false;
    return true;
  }).map((part) => part.outerHTML.slice(0, 100))]"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_use_the_page(browser, site, theme):
    at = "#b=4&bug=scale"  # with the beam's tree and the museum's two translations
    page = opened(browser, site / "index.html", at, color_scheme=theme)
    page.evaluate(AXE.read_text("utf-8"))
    for width in (1366, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(FITS) == [width, []]
        assert page.evaluate(AXE_RUN) == [], (width, theme)
    assert page.errors == []


def test_the_keyboard_walks_the_map_and_a_link_restores_everything(browser, site):
    at = "#map=cross.2.1&cell=0.0"
    page = opened(browser, site / "index.html", at, reduced_motion="reduce")
    page.focus("#map [tabindex='0']")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    cell = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "(query 1)" in cell and "(key 1)" in cell
    assert page.locator("#map [tabindex='0']").count() == 1
    assert re.search(r"layer 3, head 2", page.inner_text("#map-title"))
    weight = page.inner_text("#arithmetic strong")
    share = re.search(r"(\d+) %", page.inner_text("#reading"))[1]
    assert abs(100 * float(weight) - int(share)) < 0.6
    page.click("#silence")
    page.wait_for_selector("#heads .silenced")
    page.click("#next button >> nth=0")
    page.wait_for_selector("#tokens .forced")
    address, text = page.evaluate("location.hash"), page.inner_text("#text")
    shown = page.inner_text("main")
    again = opened(browser, site / "index.html", address, reduced_motion="reduce")
    again.evaluate("say(document.querySelector('main').dataset.status ?? '')")
    page.evaluate("say('')")
    assert again.inner_text("main") == page.inner_text("main") != shown
    assert again.inner_text("#text") == text
    assert page.errors == again.errors == []


def test_a_hostile_address_is_no_error(browser, site):
    for at in (
        "#s=&b=x&a=nan&map=a.b.c&cell=9.9&f=99999.3&off=x",
        "#map=cross.-1.99&t=999&b=7&a=-1",
    ):
        page = opened(browser, site / "index.html", at)
        assert page.errors == []
    page = opened(browser, site / "index.html", "#s=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
    assert page.errors == [] and page.locator("img").count() == 0


def test_a_map_is_exported_as_picture_and_as_numbers(browser, site):
    page = opened(browser, site / "index.html", "#map=decoder.1.2")
    files = {}
    for kind in ("svg", "png", "csv"):
        with page.expect_download() as waiting:
            page.click(f"#save-{kind}")
        assert waiting.value.suggested_filename.endswith(f"layer-2-head-3.{kind}")
        files[kind] = Path(waiting.value.path()).read_bytes()
    assert files["png"].startswith(b"\x89PNG") and len(files["png"]) > 5000
    svg = files["svg"].decode()
    assert f"<desc>{html.escape(page.inner_text('#description'), quote=False)[:40]}" in svg
    rows = [line.split(",") for line in files["csv"].decode().splitlines()]
    n = len(rows[0]) - 1
    assert len(rows) == n + 1 == page.locator("#map tbody tr").count() + 1
    for i, (_, *row) in enumerate(rows[1:]):
        assert [bool(value) for value in row] == [j <= i for j in range(n)]  # masked: empty
        assert abs(sum(map(float, filter(None, row))) - 1) < 1e-5


def test_every_link_into_the_book_leads_to_a_cell_or_a_place_in_the_paper(browser, site):
    page = opened(browser, site / "index.html")
    page.evaluate("document.documentElement.dataset.book = '../'")
    symbols = "[...MUSEUM.map(({ symbol }) => symbol), 'attention-attention']"
    links = page.evaluate(f"{symbols}.map((symbol) => notebookLink(symbol).getAttribute('href'))")
    cells = {f"../notebooks/{s.notebook}.html#{s.label}" for s in public_symbols().values()}
    assert set(links) <= cells
    places = "[...MUSEUM.map(({ section }) => `section ${section}`), 'equation 1']"
    links = page.evaluate(f"{places}.map((place) => paperLink(place).getAttribute('href'))")
    assert {link.removeprefix("../paper.html#") for link in links} <= ANCHORS


@pytest.mark.skipif(not shutil.which("tsc"), reason="TypeScript is not installed")
def test_the_types_in_the_comments_hold():
    project = str(ROOT / "explorer" / "jsconfig.json")
    done = subprocess.run(["tsc", "-p", project], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# One page, and a notebook


def test_the_command_writes_one_page_that_needs_nothing(browser, tmp_path, capsys):
    out = tmp_path / "page.html"
    arguments = [
        "explore",
        "multi30k-en-de",
        "--out",
        str(out),
        "--sentence",
        "A dog </script> runs.",
    ]
    assert main(arguments) == 0
    assert out.stat().st_size < 5.1e6
    assert "open it in a browser" in capsys.readouterr().out
    page = opened(browser, out)
    assert page.input_value("#sentence") == "A dog </script> runs."
    assert "Hund" in page.inner_text("#text") and page.errors == []
    assert main(arguments) == 2 and "exists" in capsys.readouterr().err
    assert main([*arguments[:3], str(tmp_path / "page.pdf")]) == 2


def test_a_site_replaces_no_files_of_others(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        explorer.write_explorer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_text() == "mine"


def test_words_cannot_be_explored(tmp_path):
    vocab = WordVocab([*SPECIALS, "Hund"], "de")
    folder = Translator(tiny(len(vocab)), vocab, vocab).save(tmp_path / "words")
    with pytest.raises(ValueError, match="whole words"):
        explorer.pack_model(folder)


def test_a_notebook_shows_a_frame_or_a_line_in_its_place(browser, tmp_path, monkeypatch):
    shown = explorer.Explorer("multi30k-de-en", "Zwei Hunde spielen.")
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><title>cell</title>{shown._repr_html_()}", "utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    # waits for this text, not for any
    page.frame_locator("iframe").locator("#text", has_text="dogs").wait_for()
    monkeypatch.setenv(explorer.PLACEHOLDER, "1")
    assert len(shown._repr_html_()) < 200

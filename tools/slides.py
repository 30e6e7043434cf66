"""Write one deck of slides for each notebook that slides/NN.toml describes, as one HTML file each.

A slide has a title and any of: `text` (one sentence), `formula`, `figure`, `film`, `code` and
`output`, each the id of a cell of the executed notebook, and `notes` for the speaker (key S).
`picture` is a file with its `alt` text, and `page` a page of the book that is shown in its place
where the book is built. Everything else is inside the deck: reveal.js, pictures, and formulas as
MathML. With --pdf, Chromium prints the decks.
"""

import argparse
import ast
import base64
import html
import io
import os
import re
import shutil
import textwrap
import tomllib
from pathlib import Path

import nbformat
import pages
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1366, 768
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PARTS = "title text formula figure film code output picture alt page notes".split()  # noqa: SIM905
BOOK = ROOT / "build" / "book"
STYLE = """
.reveal { font: 30px/1.4 system-ui, sans-serif; color: #222; background: #fff; }
.reveal .slides section { text-align: center; padding: 0 40px; box-sizing: border-box; }
.reveal :is(h1, h2) { text-wrap: balance; }
.reveal h1 { font-size: 60px; margin: 0 0 24px; line-height: 1.2; }
.reveal h2 { font-size: 40px; margin: 12px 0 18px; line-height: 1.2; }
.reveal p { margin: 12px auto; max-width: 1150px; text-wrap: balance; }
.reveal img { max-width: 1240px; max-height: 540px; }
.reveal img.alone { max-height: 640px; } .reveal picture img { width: 1200px; max-height: none; }
.reveal pre { font-family: ui-monospace, monospace; line-height: 1.35; text-align: left;
  white-space: pre-wrap;
  margin: 14px auto; padding: 12px 18px; width: fit-content; max-width: 1240px;
  box-sizing: border-box; }
.reveal pre.code { background: #f5f5f5; border-radius: 6px; }
.reveal pre.output { border-left: 4px solid #00599d; }
.reveal math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math",
  "DejaVu Math TeX Gyre", math; } .reveal .together { white-space: nowrap; }
.reveal math[display="block"] { font-size: 40px; margin: 40px 0; }
.reveal mtable { margin: auto; } .reveal code { font-family: ui-monospace, monospace; }
.reveal :is(ul, ol) { text-align: left; max-width: 1100px; width: fit-content; margin: auto;
  padding-left: 40px; } .reveal li { margin: 10px 0; }
.reveal .live { position: relative; height: 610px; } .reveal .live img { max-height: 610px; }
.reveal .live iframe { position: absolute; inset: 0; width: 100%; height: 100%;
  border: 1px solid #999; background: #fff; box-sizing: border-box; }
@media print { .reveal .live iframe { display: none; } }
.reveal .notes { display: none; } .reveal .slide-number { background: none; color: #555; }
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script>{js}</script>
<script>{notes}</script>
<script>
Reveal.initialize({{ width: {width}, height: {height}, margin: 0.02, controls: false, hash: true,
  slideNumber: "c/t",  transition: "none", pdfSeparateFragments: false, plugins: [RevealNotes] }});
</script>
</body>
</html>
"""


def read_deck(path):
    """Return the slides of a TOML file; raise ValueError for a key that no slide has."""
    slides = tomllib.loads(path.read_text("utf-8"))["slide"]
    for slide in slides:
        if unknown := slide.keys() - {*PARTS}:
            raise ValueError(f"{path.name}: a slide has no part {', '.join(sorted(unknown))}")
    return slides


def notebook_of(path, folder=ROOT / "notebooks"):
    """Return the path of the notebook whose name begins as the TOML file's."""
    (found,) = folder.glob(f"{path.stem}_*.ipynb")
    return found


def section(slide, cells, first=False, page=None):
    """Return one slide as HTML; raise ValueError for a cell that is not there or lacks the part.

    Args:
        page: the address of the slide's page of the book, or None to show the picture.
    """
    heading = "h1" if first else "h2"
    parts = [f"<{heading}>{inline(slide['title'])}</{heading}>"]
    for part in ("text", "formula", "figure", "film", "code", "output"):
        if part not in slide:
            continue
        if part == "text":
            parts.append(markdown(slide["text"]))
            continue
        cell = cells.get(slide[part])
        found = cell and PART_OF[part](cell)
        if not found:
            raise ValueError(f"{slide['title']}: there is no {part} in a cell {slide[part]}")
        alone = part == "figure" and not slide.keys() & {"text", "code", "output"}
        parts.append(found.replace("<img ", '<img class="alone" ') if alone else found)
    if "picture" in slide:
        parts.append(framed(slide, page))
    if "notes" in slide:
        parts.append(f'<aside class="notes">{markdown(slide["notes"])}</aside>')
    if slide.keys() >= {"code", "output"}:
        fit_both(parts, 3 * ("text" in slide))
    return f"<section>{''.join(parts)}</section>"


def fit_both(parts, more):
    """Give code and output one size of letters at which they fit the slide, with `more` rows."""
    texts = [part for part in parts if part.startswith("<pre")]
    rows = more + sum(text.count("\n") + 1 for text in texts)
    if rows > 18:
        sizes = [int(re.search(r"font-size: (\d+)px", text)[1]) for text in texts]
        style = f'style="font-size: {max(16, min(*sizes, 400 // rows))}px"'
        for i, part in enumerate(parts):
            if part in texts:
                parts[i] = re.sub(r'style="font-size: \d+px"', style, part, count=1)


def markdown(text):
    page = MarkdownWithMath(renderer=pages.Renderer(escape=False)).render(text)
    return re.sub(r"(<math .*?</math>[.,:;?]+)", r'<span class="together">\1</span>', page)


def inline(text):
    return re.sub(r"^<p>|</p>\s*$", "", markdown(text).strip())


def formula(cell):
    """Return the displayed formulas of a cell of text, on one line for each \\qquad."""
    found = re.findall(r"\$\$(.+?)\$\$", cell.source, re.S)
    parts = [part.strip() for text in found for part in text.split(r"\qquad")]
    return "".join(pages.formula(part, "block") for part in parts)


def figure(cell):
    """Return the cell's picture with its alternative text."""
    for output in cell.get("outputs", []):
        if picture := output.get("data", {}).get("image/png"):
            alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
            return f'<img alt="{alt}" src="data:image/png;base64,{picture.strip()}">'
    return None


def film(cell):
    """Return the cell's animation; readers who prefer reduced motion get its last frame."""
    (found,) = re.findall(r"!\[(.+?)\]\(attachment:(.+?)\)", cell.source) or [("", "")]
    if not (content := cell.get("attachments", {}).get(found[1], {}).get("image/gif")):
        return None
    with Image.open(io.BytesIO(base64.b64decode(content))) as animation:
        animation.seek(animation.n_frames - 1)
        animation.convert("RGB").save(still := io.BytesIO(), "PNG")
    still = base64.b64encode(still.getvalue()).decode()
    return (
        '<picture><source media="(prefers-reduced-motion: reduce)" '
        f'srcset="data:image/png;base64,{still}">'
        f'<img alt="{html.escape(found[0])}" src="data:image/gif;base64,{content}"></picture>'
    )


def framed(slide, page):
    """Return the slide's picture and, for the screen, the page in its place."""
    picture = base64.b64encode((ROOT / slide["picture"]).read_bytes()).decode()
    alt = html.escape(slide["alt"])
    image = f'<img alt="{alt}" src="data:image/png;base64,{picture}">'
    if page is None:
        return image
    return f'<div class="live">{image}<iframe title="{alt}" data-src="{page}"></iframe></div>'


def code(cell):
    """Return the cell's code in colors, without lines that are for nbdev and linters."""
    source = short_docstrings(re.sub(r"^#\|.*\n|  # noqa.*$", "", cell.source, flags=re.M))
    source = re.sub(r"\n{3,}", "\n\n", source)
    formatter = HtmlFormatter(nowrap=True, noclasses=True, style="xcode")
    return f'<pre class="code" {size(source)}>{highlight(source, PythonLexer(), formatter)}</pre>'


def short_docstrings(source):
    """Return the code with the first line of every docstring."""
    lines = source.splitlines()
    kinds = ast.FunctionDef | ast.ClassDef
    for node in [part for part in ast.walk(ast.parse(source)) if isinstance(part, kinds)]:
        first = node.body[0]
        if ast.get_docstring(node) and first.end_lineno > first.lineno:
            lines[first.lineno - 1] += '"""'
            lines[first.lineno : first.end_lineno] = [None] * (first.end_lineno - first.lineno)
    return "\n".join(line for line in lines if line is not None)


def size(text):
    """Return the style of a text whose lines should fill the slide, in letters of 17 to 26 px."""
    lines = text.strip().splitlines()
    fitting = min(26, 1900 // max(map(len, lines)), 430 // len(lines))
    return f'style="font-size: {max(17, fitting)}px"'


def output(cell):
    """Return what the cell printed."""
    texts = [
        part.get("text") or part.get("data", {}).get("text/plain", "")
        for part in cell.outputs
        if "image/png" not in part.get("data", {})
    ]
    lines = strip_ansi("".join(texts)).rstrip().splitlines()
    lines = [textwrap.fill(line, 92) if len(line) > 111 else line for line in lines]
    text = "\n".join(lines)
    return f'<pre class="output" {size(text)}>{html.escape(text)}</pre>' if text else None


PART_OF = {"formula": formula, "figure": figure, "film": film, "code": code, "output": output}


def write_deck(path, folder, book=BOOK):
    """Write the deck of a TOML file into the folder and return its path."""

    def address(slide):
        file = book / slide.get("page", "nowhere")
        return Path(os.path.relpath(file, folder)).as_posix() if file.is_file() else None

    cells = {cell.id: cell for cell in nbformat.read(notebook_of(path), as_version=4).cells}
    slides = read_deck(path)
    reveal = {file.name: file.read_text("utf-8") for file in (ROOT / "slides/reveal").iterdir()}
    text = PAGE.format(
        policy=pages.POLICY
        + "; frame-src 'self' file:",  # the speaker's view shows the deck in frames
        title=html.escape(slides[0]["title"]),
        css=reveal["reveal.css"] + STYLE,
        js=reveal["reveal.js"].replace("</script", "<\\/script"),
        notes=reveal["notes.js"].replace("</script", "<\\/script"),
        slides="\n".join(section(s, cells, s is slides[0], address(s)) for s in slides),
        width=WIDTH,
        height=HEIGHT,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{path.stem}.html").write_text(text, "utf-8")
    return folder / f"{path.stem}.html"


def print_decks(paths):
    """Print decks as PDF files beside them with Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(reduced_motion="reduce")  # stills in place of films
        for path in paths:
            page.goto(f"{path.resolve().as_uri()}?print-pdf")
            page.wait_for_selector(".pdf-page")
            page.pdf(path=path.with_suffix(".pdf"), prefer_css_page_size=True)
            print(path.with_suffix(".pdf"))
        browser.close()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", nargs="*", help="decks to write, such as 04; default: all")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "slides")
    parser.add_argument("--pdf", action="store_true", help="print PDF files, too (needs Chromium)")
    options = parser.parse_args(argv)
    decks = []
    for path in sorted((ROOT / "slides").glob("*.toml")):
        if not options.numbers or path.stem in options.numbers:
            decks.append(write_deck(path, options.to))
            print(decks[-1])
    if options.pdf:
        print_decks(decks)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

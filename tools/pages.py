"""Executed notebooks as pages that need no network, and the index that lists them.

Pictures are inside the pages, formulas are MathML, solutions are folded, and links to other
notebooks lead to their pages.
"""

import base64
import html
import mimetypes
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

ABOUT = {
    "01": "From words to ids, subwords and vectors, and back to a probability for every word.",
    "02": "How the model knows the order of the words: sines and cosines, and a learned variant.",
    "03": "What attention must not see: padding, and the words that are still to be predicted.",
    "04": "Attention, from a plain loop to several heads at once.",
    "05": "The feed-forward network, and the frame around it: residual, dropout, LayerNorm.",
    "06": "All parts become the model of the paper's Figure 1.",
    "07": "Loss, schedule, batches, beam search: it learns to copy and to translate.",
    "appendix_a": "17 bugs that raise no error, and the probes that catch them.",
    "appendix_b": "The same encoder, unchanged, reads handwritten digits.",
    "appendix_c": "The same layers without the encoder write text.",
}
# Nothing from another host, whatever a cell's output asks for.
POLICY = "default-src 'unsafe-inline' data: blob:"
STYLE = """
body { margin: 0 auto; max-width: 62rem; padding: 0 0.5rem; }
.page, summary { font-family: var(--jp-ui-font-family, sans-serif); }
.page { padding: 0.5rem; } .page a { color: var(--jp-content-link-color, #00599d); }
summary { cursor: pointer; }
.jp-Cell, .jp-InputArea, .jp-OutputArea, .jp-OutputArea-output, .jp-RenderedHTMLCommon,
.jp-InputArea-editor, .cm-editor { min-width: 0; max-width: 100%; }
.jp-InputArea-editor, .jp-RenderedMarkdown { width: 100%; }
.highlight, .jp-OutputArea-output pre, .jp-RenderedHTMLCommon pre, .formula, .wide
  { overflow-x: auto; max-width: 100%; }
.highlight pre, .jp-OutputArea-output pre { white-space: pre !important; }
.jp-RenderedHTMLCommon { overflow-wrap: anywhere; }
.jp-RenderedHTMLCommon .wide table { overflow-wrap: normal; }
.jp-OutputArea-output img { max-width: 100%; height: auto; }
.formula { overflow-y: hidden; padding: 0.3rem 0; }
mtd[columnalign="left"] { text-align: left; } mtd[columnalign="right"] { text-align: right; }
@media (max-width: 600px) {
  .jp-InputPrompt, .jp-OutputPrompt { display: none !important; }
  body.jp-Notebook { padding: 0; }
}
"""
TEMPLATE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}<meta http-equiv="Content-Security-Policy" content="POLICY">
{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}<style>STYLE</style>{%- endblock -%}
{%- block body_header -%}{{ super() }}<nav class="page"><a href="index.html">All notebooks</a></nav>
{%- endblock -%}
{%- block input -%}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details><summary>Code</summary>
{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block data_latex -%}{{ output.data['text/latex'] | markdown2html }}{%- endblock -%}
{%- block data_png -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
{%- for side in ('width', 'height') if output | get_metadata(side, 'image/png') %}
  {{ side }}="{{ output | get_metadata(side, 'image/png') | int }}"
{%- endfor %}
  alt="{{ (output | get_metadata('alt', 'image/png') or 'A picture without a description') | e }}">
</div>
{%- endblock -%}
""".replace("POLICY", POLICY).replace("STYLE", STYLE)
INDEX = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>Attention Is All You Need, in seven notebooks</title>
<style>
body {{ font: 1.05rem/1.5 sans-serif; margin: 2rem auto; max-width: 42rem; padding: 0 1rem; }}
li {{ list-style: none; margin-bottom: 0.8rem; }} ul {{ padding: 0; }}
</style>
</head>
<body>
<h1>Attention Is All You Need, in seven notebooks</h1>
<p>ADVICE</p>
<ul>
ROWS
</ul>
</body>
</html>
"""


class Renderer(IPythonRenderer):
    """Markdown whose formulas are MathML, which browsers draw by themselves."""

    def inline_math(self, body):
        return formula(body)

    def block_math(self, body):
        return f'<div class="formula">{formula(body, "block")}</div>'

    def latex_environment(self, name, body):
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


class Exporter(HTMLExporter):
    """nbconvert's exporter without anything that a page would load.

    `embed_images` stays off: it completes every piece of HTML on its own, so that `<details>` is
    closed before the text it should fold.
    """

    raw_template = TEMPLATE

    @pass_context
    def markdown2html(self, context, source):
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = Renderer(escape=False, attachments=attachments)
        return MarkdownWithMath(renderer=renderer).render(source)


def formula(body, display="inline"):
    """Return MathML, or the formula as it was typed if it cannot be converted."""
    as_typed = f"<code>{html.escape(body)}</code>"
    body = re.sub(r"\{(aligned|gathered)\}", "{split}", body)  # the same, and known to `convert`
    try:
        mathml = convert(body, display=display)
    except Exception:  # the package raises errors of many kinds
        return as_typed
    function = r"<mi>(sin|cos|log|exp)</mi>"  # without the space around its name
    for name, right in ((function + r"(?=(?:<mrow>)?<mo [^>]*>&#x00028;)", 0), (function, 0.17)):
        mathml = re.sub(name, rf'<mo lspace="0.17em" rspace="{right}em">\1</mo>', mathml)
    return as_typed if re.search(r">(\\|&<)", mathml) else mathml


def write_page(notebook, path, folder):
    """Write the page of the notebook at `path` into `folder`."""
    page, _ = Exporter().from_notebook_node(notebook, {"metadata": {"name": title(notebook, path)}})
    soup = BeautifulSoup(page, features="html.parser")
    for tag in soup.select("script[src], link[href], iframe[src]"):
        tag.decompose()
    for image in soup.select("img[src]"):
        place_image(image, path.parent)
    for link in soup.select(".jp-Cell a[href]"):
        place_link(link, path.parent, folder)
    for table in soup.select(".jp-RenderedHTMLCommon table"):
        table.wrap(soup.new_tag("div", attrs={"class": "wide"}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{path.stem}.html").write_text(str(soup), "utf-8")


def place_image(image, folder):
    """Put a picture of the repository into the page, and the text of any other in its place."""
    if image["src"].startswith("data:"):
        return
    file = local_file(image["src"], folder)
    if file is None or not file.is_file():
        image.replace_with(image.get("alt", ""))
        return
    kind = mimetypes.guess_type(file.name)[0]
    image["src"] = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def place_link(link, start, folder):
    """Lead from the page to what the notebook in the folder `start` links to."""
    file = local_file(link["href"], start)
    if file is None:
        return
    fragment = f"#{urlsplit(link['href']).fragment}" if "#" in link["href"] else ""
    if file.suffix == ".ipynb" and file.parent == start.resolve():
        link["href"] = f"{file.stem}.html{fragment}"
    elif file.exists():
        link["href"] = Path(os.path.relpath(file, folder.resolve())).as_posix() + fragment
    else:
        link.unwrap()


def local_file(address, folder):
    """Return the file that a relative address names, or None."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not parts.path:
        return None
    return (folder / unquote(parts.path)).resolve()


def title(notebook, path):
    """Return the first heading without its marks, or the file's name."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)", text, re.M)
    return re.sub(r"[$`*]", "", heading[1]).strip() if heading else path.stem


def write_index(notebooks, folder):
    """Write index.html, which lists the notebooks, given by path, and says where to begin."""
    rows = []
    for path, notebook in notebooks.items():
        name = html.escape(title(notebook, path))
        about = ABOUT.get(re.match(r"\d\d|appendix_.|", path.stem)[0], "")
        page = f"{path.stem}.html"
        name = f'<a href="{page}">{name}</a>' if (folder / page).exists() else f"{name} (not run)"
        rows.append(f"<li>{name}<br>{about}</li>")
    advice = "Open the first one first: each builds on those before it. Appendices come last."
    text = INDEX.replace("ADVICE", advice).replace("ROWS", "\n".join(rows))
    (folder / "index.html").write_text(text, "utf-8")

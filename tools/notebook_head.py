"""The first two cells of every notebook: title with Colab badge, and the setup cell.

Repository and version ranges come from pyproject.toml; the title line is the notebook's own.
"""

import json
import re

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = "https://colab.research.google.com/github/{slug}/blob/main/notebooks/{name}"
# Colab has torch, numpy, matplotlib, seaborn, spaCy, safetensors and tqdm; the rest is installed
# there, without dependencies where those would replace torch or numpy.
MISSING = {
    "jaxtyping": "",
    "pooch": "",
    "sacrebleu": "",
    "sentencepiece": "",
    "torchtext": "--no-deps ",
}
SETUP = """\
# Nothing to do on your own machine. In Colab this installs what is missing there.
import importlib.util
import sys

IN_COLAB = "google.colab" in sys.modules
if IN_COLAB:
    MISSING_THERE = {{
        {missing}
    }}
    for name, what in MISSING_THERE.items():
        if importlib.util.find_spec(name) is None:
            get_ipython().run_line_magic("pip", f"install --quiet {{what}}")
elif importlib.util.find_spec("transformer_lib") is None:
    raise ModuleNotFoundError("run `make lab` in the repository, or pip install -e '.[lessons]'")"""


def title_cell(name, title, repository):
    slug = repository.removeprefix("https://github.com/")
    return f"{title}\n\n[![Open in Colab]({BADGE})]({COLAB.format(slug=slug, name=name)})"


def setup_cell(repository, project):
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["lessons"], *extras["words"]]
    ranges = {re.match(r"[\w-]+", text)[0]: text for text in wanted}
    lines = [f'"{name}": "{flags}\'{ranges[name]}\'",' for name, flags in MISSING.items()]
    lines.append(f'"transformer_lib": "--no-deps git+{repository}",')
    return SETUP.format(missing="\n        ".join(lines))


def with_head(path, project):
    """Return the text of the notebook with its two head cells inserted or refreshed."""
    notebook = json.loads(path.read_text("utf-8"))
    cells, repository = notebook["cells"], project["urls"]["Repository"]
    title, _, rest = "".join(cells[0]["source"] if cells else []).partition("\n")
    if not title.startswith("# "):
        raise ValueError("the first line must be `# NN · Title`")
    body = [cell for cell in cells if "head" not in cell["metadata"].get("tags", [])]
    if body and body[0] is cells[0]:  # the author's title cell: what is below the title stays
        rest = rest.strip().splitlines(keepends=True)
        body[:1] = [cells[0] | {"source": rest}] if rest else []
    old = next((cell for cell in cells if cell.get("id") == "head-setup"), {})
    head = [
        {"cell_type": "markdown", "id": "head-title"}
        | {"source": title_cell(path.name, title, repository)},
        {"cell_type": "code", "id": "head-setup"}
        | {"source": setup_cell(repository, project)}
        | {"execution_count": old.get("execution_count"), "outputs": old.get("outputs", [])},
    ]
    for cell in head:
        cell["metadata"] = {"tags": ["head"]}
        cell["source"] = cell["source"].splitlines(keepends=True)
    notebook["cells"] = head + body
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"

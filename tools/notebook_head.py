"""The first two cells of every notebook: title with the link to Colab, and the setup cell.

The address of the repository and the version come from pyproject.toml, which also says whether
the repository is published there. The title line is the notebook's own.
"""

import json

COLAB = "https://colab.research.google.com/github/{slug}/blob/{tag}/notebooks/{name}"
SETUP = """\
# Nothing to do on your own machine. In Colab, this cell {does}.
import importlib.util
import sys

from IPython.core.error import UsageError

remedy = 'run `python -m pip install -e ".[lessons]"` in the folder of the repository'
if "google.colab" in sys.modules and importlib.util.find_spec("transformer_lib") is None:
    {colab}
if importlib.util.find_spec("transformer_lib") is None:
    raise UsageError(f"transformer_lib is not installed here: {{remedy}}")"""
# The extra `colab` has no upper limits, so pip keeps the torch and the NumPy that Colab brings.
INSTALL = """\
address = "git+{repository}@{tag}"
    remedy = f"pip cannot get {{address}}, see above. Check the network and run this cell again"
    get_ipython().run_line_magic("pip", f'install --quiet "{name}[colab] @ {{address}}"')
    importlib.invalidate_caches()"""
UPLOAD = """\
wheel = "{wheel}-{version}-py3-none-any.whl"
    remedy = "its repository is not published yet. On your own machine, run `pip wheel --no-deps .`"
    remedy += f", upload {{wheel}}, run `%pip install './{{wheel}}[colab]'`, then this cell\""""


def title_cell(name, title, project):
    if not project["published"]:
        return title
    slug, tag = project["urls"]["Repository"].removeprefix("https://github.com/"), tag_of(project)
    return f"{title}\n\n[Open in Colab]({COLAB.format(slug=slug, tag=tag, name=name)})"


def setup_cell(project):
    name, repository = project["name"], project["urls"]["Repository"]
    if project["published"]:
        does = "installs the library"
        colab = INSTALL.format(repository=repository, tag=tag_of(project), name=name)
    else:
        does = "says how to install the library"
        colab = UPLOAD.format(wheel=name.replace("-", "_"), version=project["version"])
    return SETUP.format(does=does, colab=colab)


def tag_of(project):
    """Return the tag of this version: a branch would give readers other code than they read."""
    return f"v{project['version']}"


def with_head(path, project):
    """Return the text of the notebook with its two head cells inserted or refreshed."""
    notebook = json.loads(path.read_text("utf-8"))
    cells = notebook["cells"]
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
        | {"source": title_cell(path.name, title, project)},
        {"cell_type": "code", "id": "head-setup"}
        | {"source": setup_cell(project)}
        | {"execution_count": old.get("execution_count"), "outputs": old.get("outputs", [])},
    ]
    for cell in head:
        cell["metadata"] = {"tags": ["head"]}
        if cell["cell_type"] == "code":  # folded: it is not part of the lesson
            cell["metadata"]["jupyter"] = {"source_hidden": True}
        cell["source"] = cell["source"].splitlines(keepends=True)
    notebook["cells"] = head + body
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"

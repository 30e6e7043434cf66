"""The book: notebooks, documents and docstrings as one site that needs no network (`make book`).

`symbols` finds the cell and the paper's section of every public name, `notebooks` and `pages`
write what Sphinx reads, `conf` and `extension` are Sphinx's settings, `__main__` runs all of it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = str(ROOT / "tools")
if TOOLS not in sys.path:  # `export_notebooks` knows which cells are exported
    sys.path.append(TOOLS)

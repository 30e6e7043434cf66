"""Run the README's first two blocks of Python, which need only the core of the package."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks() -> list[str]:
    """Return the README's blocks of Python, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)


if __name__ == "__main__":
    for block in blocks()[:2]:
        exec(block, {"__name__": "snippet"})

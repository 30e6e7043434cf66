"""Links of notebooks and documents, led to the book's pages."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from book import ROOT
from book.symbols import PACKAGE

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)")


class Links:
    """The rules by which relative links are rewritten.

    Args:
        pages: path of a file of the repository -> path of its page in the book's source.
        repository: address of files that are no page, or None while nothing is published there.
    """

    def __init__(self, pages: dict[str, str], repository: str | None) -> None:
        self.pages = pages
        self.repository = repository

    def inside(self, text: str, path: Path) -> str:
        """Return Markdown from `path` with its links led to pages of the book."""
        here = Path(self.pages[path.relative_to(ROOT).as_posix()]).parent

        def led(link: re.Match) -> str:
            words, address = link.groups()
            parts = urlsplit(address)
            if parts.scheme or not parts.path or parts.path.startswith("/"):
                return link[0]
            target = Path(os.path.normpath(path.parent / parts.path))
            if not target.exists():  # no link, but code that looks like one
                return link[0]
            file = target.relative_to(ROOT).as_posix()
            fragment = f"#{parts.fragment}" if parts.fragment else ""
            if page := self.pages.get(file):
                fragment = "" if file == "README.md" else fragment
                return f"[{words}]({os.path.relpath(page, here)}{fragment})"
            return f"[{words}]({self.repository}/{file})" if self.repository else words

        return LINK.sub(led, text)


def page_of_module(module: str) -> str:
    """Return where the page about a module is in the book's source."""
    return f"api/{module.removeprefix(f'{PACKAGE}.')}.md"

"""Build the book into build/book: `make book`, or `python -m book` where the extra is installed."""

import argparse
import json
import shutil
import sys
import time
import tomllib
from pathlib import Path

from book import ROOT, notebooks, pages
from book.links import Links
from book.picture import small_pictures
from book.symbols import NOTEBOOKS, PACKAGE, public_symbols
from transformer_lib.translate.explorer import write_explorer


def write_sources(folder: Path) -> None:
    """Write everything that Sphinx reads into an empty folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    published = project["tool"]["transformer-lib"]["published"]
    address = project["project"]["urls"]["Repository"] + "/blob/main"
    solutions = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
    documents = sorted((ROOT / "docs").glob("*.md"))
    known = {path.relative_to(ROOT).as_posix() for path in [*NOTEBOOKS, *solutions, *documents]}
    led = {name: name for name in known} | {"README.md": "index.md"}
    led |= {f"{PACKAGE}/{module}.py": f"api/{module}.md" for module in pages.exported_modules()}
    led |= {f"{PACKAGE}/translate/search.py": "api/translate.md"}
    led |= {f"{PACKAGE}/lessons/probes.py": "api/probes.md"}
    links = Links(led, address if published else None)
    symbols = public_symbols()
    texts = {
        "index.md": pages.first_page(),
        "paper.md": pages.page_about_the_paper(symbols),
    }
    texts |= pages.api_pages(symbols)
    for path in [*NOTEBOOKS, *solutions]:
        notebook = notebooks.adapt(path, symbols, links)
        texts[path.relative_to(ROOT).as_posix()] = json.dumps(notebook, ensure_ascii=False)
    for path in documents:
        texts[path.relative_to(ROOT).as_posix()] = pages.document(path, links)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    shutil.copytree(ROOT / "docs" / "images", folder / "docs" / "images")


def main(arguments: list[str] | None = None) -> int:
    """Build the book and print where it is, its size, and the seconds it took."""
    parser = argparse.ArgumentParser(prog="python -m book", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book", help="where it goes")
    out = parser.parse_args(arguments).out.resolve()
    try:
        from sphinx.cmd.build import build_main
    except ImportError:
        sys.exit(
            'The book needs the extra `book`: python -m pip install -c constraints.txt -e ".[book]"'
        )
    started = time.perf_counter()
    work = out.with_name(f"{out.name}-work")
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    source = work / "source"
    source.mkdir(parents=True)
    write_sources(source)
    options = ["-q", "-W", "--keep-going", "-j", "auto", "-b", "html"]
    options += ["-c", str(ROOT / "book"), "-d", str(work / "doctrees")]
    if status := build_main([*options, str(source), str(out)]):
        return status
    small_pictures(out / "pictures")
    write_explorer(out / "explorer", book="../")
    (out / ".nojekyll").touch()  # or GitHub Pages leaves out _static
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    seconds = time.perf_counter() - started
    print(f"{out / 'index.html'}: {size / 1e6:.1f} MB, built in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

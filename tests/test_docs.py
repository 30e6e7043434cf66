"""What the documents name exists: files, links, headings, commands, targets of make, and flags."""

import re
from pathlib import Path

import nbformat
import pytest

from transformer_lib.cli import main

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("*.md", "docs/*.md", "data/**/README.md", "benchmarks/*.md", "notebooks/*.ipynb")
PAGES = [path for pattern in FOLDERS for path in sorted(ROOT.glob(pattern))]
TOP = "transformer_lib|tools|docs|tests|notebooks|benchmarks"
FILE = re.compile(rf"(?<![\w/.-])(?:{TOP})/(?:[\w./-]*[\w/])?")
LINK = re.compile(r'(?:\]\(|src=")(?!https?:|attachment:)([^)\s"#]*)(?:#([\w-]+))?[)"]')
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
COMMAND = re.compile(r"(?:transformer-lib|-m transformer_lib) ([a-z]+)")
TARGET = re.compile(r"(?:`|^)make ([a-z-]+)", re.M)
OTHERS = "nnodes nproc-per-node rdzv-backend rdzv-endpoint rdzv-id max-restarts update extra"
OTHERS += " extra-index-url from no-deps torch-backend version"


def text_of(page):
    if page.suffix == ".md":
        return page.read_text("utf-8")
    cells = nbformat.read(page, 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", text_of(page).lower(), re.M)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


def usage(capsys, *arguments):
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_links_lead_somewhere(page):
    text = text_of(page)
    assert not [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    for name, anchor in LINK.findall(text):
        target = page.parent / (name or page.name)
        assert target.exists() and (not anchor or anchor in anchors(target)), (name, anchor)


def test_commands_targets_and_flags_exist(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no flag is broken over two lines
    commands = set(re.search(r"{([\w,]+)}", usage(capsys))[1].split(","))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    flags = {flag for name in commands for flag in FLAG.findall(usage(capsys, name))}
    scripts = [path for folder in ("tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    flags |= {flag for path in scripts for flag in re.findall(r'"(--[\w-]+)"', path.read_text())}
    flags |= {f"--{name}" for name in OTHERS.split()}  # torchrun's, jupytext's, pip's and uv's
    for page in PAGES:
        text = text_of(page)
        for pattern, known in ((COMMAND, commands), (TARGET, targets), (FLAG, flags)):
            assert not set(pattern.findall(text)) - known, page

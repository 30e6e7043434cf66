"""One notebook as a reader meets it in a browser: Run All in JupyterLab, and its written page."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pages
import pytest

sync_api = pytest.importorskip("playwright.sync_api")

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "01_embeddings.ipynb"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SETTINGS = {
    # Cells that are scrolled out of sight are in the page, too.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab whose folder holds the notebook, not yet run."""
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, work / NOTEBOOK.name)
    for name, text in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(text, "utf-8")
    folders = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    folders |= {f"JUPYTER_{name}_DIR": name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
    folders["IPYTHONDIR"] = "ipy"
    environment = os.environ | {name: str(tmp_path / folder) for name, folder in folders.items()}
    environment.pop("MPLBACKEND", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={work}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api/status", server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server, seconds=60):
    until = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            assert server.poll() is None, f"JupyterLab ended with status {server.returncode}"
            assert time.monotonic() < until, f"JupyterLab did not answer within {seconds} s"
            time.sleep(0.2)


@pytest.fixture
def page():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1280, "height": 2000})
        page.set_default_timeout(120_000)  # a build machine may be busy
        yield page
        browser.close()


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.timeout(500)
def test_a_reader_opens_a_notebook_and_runs_all_cells(lab, page):
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    pictures = sum("image/png" in output.get("data", {}) for c in cells for output in c.outputs)
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    page.goto(f"{lab}/lab/tree/{NOTEBOOK.name}?reset")
    page.wait_for_selector('#jp-main-statusbar :text("| Idle")')
    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
    page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
    # A folded cell shows no number.
    folded = [cell.metadata.get("jupyter", {}).get("source_hidden", False) for cell in cells]
    numbers = ["" if hidden else f"[{n}]:" for n, hidden in enumerate(folded, start=1)]
    prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
    failed = "document.querySelector('[data-mime-type=\"application/vnd.jupyter.stderr\"]')"
    done = f"{prompts}.map(prompt => prompt.textContent.trim()).join() === numbers"
    page.wait_for_function(f"numbers => {failed} || {done}", arg=",".join(numbers))

    # Errors are shown by the same element as standard error.
    assert page.evaluate(f"{failed}?.textContent") is None
    # JupyterLab leaves out the alternative texts; tests/test_structure.py looks at those.
    widths = page.locator(".jp-OutputArea-output img").evaluate_all(
        "images => images.map(image => image.naturalWidth)"
    )
    assert len(widths) == pictures > 0 and min(widths) > 100
    outside = {url for url in asked if not url.startswith((lab, "data:", "blob:", "ws:"))}
    assert all("colab" in url for url in outside), outside  # the badge, which may be missing


MEASURE = """() => ({
  width: document.documentElement.scrollWidth,
  open: document.querySelectorAll('details[open]').length,
  // Code and formulas that end outside the window, in no box that scrolls.
  cut: [...document.querySelectorAll('pre, math, td, img')].filter(part => {
    if (part.getBoundingClientRect().right <= innerWidth) return false;
    for (let box = part; box !== document.body; box = box.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(box).overflowX)) return false;
    return true;
  }).length,
})"""


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_a_page_fits_every_screen_and_needs_no_network(page, tmp_path):
    path = NOTEBOOK.with_name("04_multi_head_attention.ipynb")
    notebook = nbformat.read(path, as_version=4)
    pages.write_page(notebook, path, tmp_path)
    pages.write_index({path: notebook}, tmp_path)
    page.context.set_offline(True)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for width in (1366, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((tmp_path / "index.html").as_uri())
        page.click("li a")
        assert page.evaluate(MEASURE) == {"width": width, "open": 0, "cut": 0}
        page.locator("summary:text('Hint')").first.click()
        assert page.evaluate(MEASURE) == {"width": width, "open": 1, "cut": 0}
    drawn = page.locator(".formula math").first.bounding_box()
    assert drawn["width"] > 100 and drawn["height"] > 20
    assert errors == [] and all(url.startswith(("file:", "data:")) for url in asked)

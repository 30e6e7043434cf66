"""Execute the notebooks in order, each on a clean kernel.

Plain, the notebooks stay as they are and the executed pages are written to build/html/. With
--inplace the notebooks themselves get their outputs, in a form that does not change from run to
run; a notebook with an error or with anything on standard error is refused.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from pages import write_index, write_page

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
KEPT = ("jp-MarkdownHeadingCollapsed", "jupyter", "tags")  # of a cell's metadata


class NotebookError(RuntimeError):
    """A cell failed; the message is one line that names notebook and cell."""


class Progress:
    """One line of progress; on a terminal it is refreshed every second."""

    def __init__(self, name, total):
        self.name, self.total, self.cell = name, total, 0
        self.started, self.stop = time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self.refresh, daemon=True)

    @property
    def seconds(self):
        return time.monotonic() - self.started

    def __str__(self):
        return f"{self.name:<42} cell {self.cell:>3}/{self.total:<3} {self.seconds:7.1f} s"

    def refresh(self):
        while sys.stdout.isatty() and not self.stop.wait(1):
            print(f"\r{self}", end="", flush=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        print(f"\r{self}" if sys.stdout.isatty() else self, flush=True)


def execute(notebook, path, timeout, progress):
    """Run every cell, in the notebook's own folder; outputs and numbers go into `notebook`."""
    stopped = []

    def stop(number, task):
        stopped.append(number)
        task.cancel()  # nbclient then shuts the kernel down

    def at_start(**_):
        with contextlib.suppress(NotImplementedError):  # Windows
            for number in (signal.SIGINT, signal.SIGTERM):
                task = asyncio.current_task()
                asyncio.get_running_loop().add_signal_handler(number, stop, number, task)

    def at_cell(cell, **_):
        progress.cell += cell.cell_type == "code"

    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_notebook_start=at_start,
        on_cell_execute=at_cell,
    )
    try:
        # What a cell writes to standard error is in its output; the rest is the kernel's log.
        asyncio.run(client.async_execute(stderr=subprocess.DEVNULL))
        return
    except CellExecutionError as error:
        reason = f"{error.ename}: {first_line(error.evalue)}"
    except CellTimeoutError:
        reason = f"no answer within {timeout} s (--timeout)"
    except (DeadKernelError, asyncio.CancelledError):
        if stopped:
            raise KeyboardInterrupt(*stopped[:1]) from None
        reason = "the kernel died"
    failed = code_cells(notebook)[progress.cell - 1]
    raise NotebookError(f"{where(path, progress.cell, failed)}: {reason}")


def where(path, number, cell):
    return f"{path.name}, cell [{number}] `{first_line(cell.source)}`"


def first_line(text):
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).strip().splitlines()
    return lines[0] if lines else ""


def clean(notebook, path):
    """Keep what is the same on every machine; refuse standard error."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                text = first_line(output.text)
                raise NotebookError(f"{where(path, number, cell)}: on standard error: {text}")
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT if key in cell.metadata}
        )


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def scores(notebook):
    """Yield what the cells with the tag `scores` have printed."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []) if "scores" in cell.metadata.get("tags", []) else []:
            yield output.get("text") or output.get("data", {}).get("text/plain", "")


def run(paths, options):
    """Run all notebooks and return the scores; print the seconds even after a failure."""
    notebooks = {path: nbformat.read(path, as_version=4) for path in paths}
    seconds, printed = {}, []
    try:
        for path, notebook in notebooks.items():
            progress = Progress(path.stem, len(code_cells(notebook)))
            try:
                with progress:
                    execute(notebook, path, options.timeout, progress)
            finally:
                seconds[path.stem] = progress.seconds
                if not options.inplace:
                    write_page(notebook, path, options.build / "html")
            printed += scores(notebook)
            if options.inplace:
                clean(notebook, path)
                nbformat.write(notebook, path)
    finally:
        if not options.inplace:
            write_index(notebooks, options.build / "html")
        print()
        for name, value in [*seconds.items(), ("together", sum(seconds.values()))]:
            print(f"{name:<42} {value:7.1f} s")
    return printed


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: notebooks/*.ipynb")
    parser.add_argument("--inplace", action="store_true", help="write outputs into the notebooks")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one cell")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for the pages")
    options = parser.parse_args(argv)
    paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    os.environ.pop("MPLBACKEND", None)  # the kernel chooses its own, which shows figures
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    if options.inplace:  # a line instead of the explorer's 5 MB
        os.environ["TRANSFORMER_LIB_PLACEHOLDER"] = "1"
    with tempfile.TemporaryDirectory() as profile:  # no start-up files of the user
        os.environ["IPYTHONDIR"] = profile
        try:
            printed = run([path.resolve() for path in paths], options)
        except NotebookError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt as stopped:
            print("stopped", file=sys.stderr)
            return 128 + (stopped.args or (signal.SIGINT,))[0]
    if not options.inplace:
        print(f"\nPages to read in a browser: {options.build / 'html' / 'index.html'}")
    for text in printed:
        print(f"\n{text.rstrip()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

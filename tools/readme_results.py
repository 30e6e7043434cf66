"""Write the tables of results into README.md, from what was measured: never typed.

The lessons' table comes from the output of notebook 07's last cell (tag `scores`), the other one
from the files that `transformer-lib evaluate --result` wrote into results/.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import nbformat
from run_notebooks import scores

ROOT = Path(__file__).resolve().parents[1]
LESSON = "07_training_copy_task_and_translation.ipynb"
MEASURES = {
    "sacreBLEU": "BLEU",
    "lower-cased": "BLEU, lower-cased",
    "literature": "BLEU, literature",
    "spaCy words": "BLEU, words",
    "chrF": "chrF",
}


def lesson_table(notebook):
    """The lines that notebook 07 prints at its end: task, then what was reached."""
    text = "\n".join(scores(notebook))
    rows = re.findall(r"^(\S+(?: \S+)*) {2,}(.+)$", text, re.M)
    rows = [(task, found.replace("|", r"\|")) for task, found in rows]
    return table(("task", "reached"), rows)


def results_table(results):
    """One row for every file in results/."""
    rows = []
    for name, result in results.items():
        search, training = result["search"], result["training"]
        found = [f"{result['scores'][key]['value']:.2f}" for key in MEASURES.values()]
        settings = f"beam {search['beam_size']}, α {search['alpha']:g}"
        minutes = f"{training['seconds'] / 60:.0f}"
        rows.append((f"[{name}](results/{name}.json)", settings, *found, minutes))
    return table(("result", "search", *MEASURES, "minutes of training"), rows)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(readme, tables):
    """The text with each table between its two markers."""
    for name, text in tables.items():
        start, end = f"<!-- {name}: written by make results -->", f"<!-- {name}: end -->"
        if readme.count(start) != 1 or readme.count(end) != 1:
            raise ValueError(f"README.md needs the markers of {name}, once each")
        before, _, rest = readme.partition(start)
        after = rest.partition(end)[2]
        readme = f"{before}{start}\n{text}\n{end}{after}"
    return readme


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="only say whether README.md is up to date"
    )
    options = parser.parse_args(arguments)
    path = ROOT / "README.md"
    notebook = nbformat.read(ROOT / "notebooks" / LESSON, as_version=4)
    files = sorted((ROOT / "results").glob("*.json"))
    results = {file.stem: json.loads(file.read_text("utf-8")) for file in files}
    old = path.read_text("utf-8")
    tables = {"lessons": lesson_table(notebook), "results": results_table(results)}
    new = with_tables(old, tables)
    if options.check and new != old:
        print("README.md is not what was measured: make results", file=sys.stderr)
        return 1
    if not options.check:
        path.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

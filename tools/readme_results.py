"""Write the tables of results and the model cards from the measured files.

The lessons' table comes from the output of notebook 07's last cell (tag `scores`), everything else
from the files that `transformer-lib evaluate --result` wrote into results/: the table of results,
the cards, and the table of ablations in docs/training.md.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import mean, stdev

import nbformat
import torch
from ablations import RESULTS, ROWS, SEARCHES, stem
from run_notebooks import scores
from scaling import tables as scaling_tables

from transformer_lib import ModelConfig, Transformer

ROOT = Path(__file__).resolve().parents[1]
LESSON = "07_training_copy_task_and_translation.ipynb"
MEASURES = {
    "sacreBLEU": "BLEU",
    "lower-cased": "BLEU, lower-cased",
    "literature": "BLEU, literature",
    "spaCy words": "BLEU, words",
    "chrF": "chrF",
}

CARD = Path(__file__).with_name("model_card.md")
MULTI30K = 29_000  # training pairs of it
LANGUAGES = {"de": "German", "en": "English"}


def lesson_table(notebook):
    """Return the scores that notebook 07 prints at its end, one row per task."""
    text = "\n".join(scores(notebook))
    rows = re.findall(r"^(\S+(?: \S+)*) {2,}(.+)$", text, re.M)
    rows = [(task, found.replace("|", r"\|")) for task, found in rows]
    return table(("task", "reached"), rows)


def results_table(results):
    """Return one row for every file in results/."""
    rows = []
    for name, result in results.items():
        search, training = result["search"], result["training"]
        found = [f"{result['scores'][key]['value']:.2f}" for key in MEASURES.values()]
        settings = f"beam {search['beam_size']}, α {search['alpha']:g}"
        minutes = f"{training['seconds'] / 60:.0f}"
        rows.append((f"[{name}](results/{name}.json)", settings, *found, minutes))
    return table(("result", "search", *MEASURES, "minutes of training"), rows)


def ablation_table(folder):
    """Return one row for every row of tools/ablations.py that has a file."""
    rows, base = [], folder / f"{stem('base')}.json"
    base = (
        json.loads(base.read_text("utf-8"))["scores"]["BLEU"]["value"] if base.is_file() else None
    )
    for name in [*ROWS, *SEARCHES]:
        file = folder / f"{stem(name)}.json"
        if not file.is_file():
            continue
        found = json.loads(file.read_text("utf-8"))
        training, scores = found["training"], found["scores"]
        bleu = scores["BLEU"]["value"]
        rows.append(
            (
                name,
                f"{n_parameters(training['settings']['model']) / 1e6:.2f}",
                f"{scores['perplexity']['value']:.2f}",
                f"{bleu:.2f}",
                "" if base is None or name == "base" else f"{bleu - base:+.2f}",
                f"{training['seconds'] / 60:.1f}",
            )
        )
    return table(
        ("row", "million parameters", "perplexity", "BLEU", "to base", "minutes of training"), rows
    )


def seeds_table(folder):
    """Return one row per run of a direction, and one with their mean and standard deviation.

    Args:
        folder: with `NAME-SEED.json` of every run; runs of one name differ in nothing but the seed.
    """
    runs, rows = {}, []
    for file in sorted(folder.glob("*-*.json")):
        runs.setdefault(file.stem.rpartition("-")[0], []).append(json.loads(file.read_text()))
    for name, results in runs.items():
        if len({recipe(result) for result in results}) > 1:
            raise ValueError(f"{folder}: the runs of {name} are not of one recipe")
        found = [[r["scores"][key]["value"] for key in MEASURES.values()] for r in results]
        for result, values in zip(results, found, strict=True):
            run = result["training"]
            took = f"{len(run['averaged'])}" if run.get("averaged") else "1"
            cells = [f"{value:.2f}" for value in values]
            rows.append((name, str(run["settings"]["run"]["seed"]), took, *cells))
        if len(found) > 1:
            cells = [f"**{mean(v):.2f}** ± {stdev(v):.2f}" for v in zip(*found, strict=True)]
            rows.append((name, f"mean of {len(found)}", "", *cells))
    return table(("model", "seed", "checkpoints averaged", *MEASURES), rows)


def recipe(result):
    """Return all settings of a run but its seed, as text."""
    settings = result["training"]["settings"]
    run = {key: value for key, value in settings["run"].items() if key != "seed"}
    return json.dumps([settings | {"run": run}, result["search"], result["name"]], sort_keys=True)


def n_parameters(sizes):
    """Count the parameters of a model of these sizes without allocating them."""
    # results from before this entry existed: one matrix where the sizes agreed
    shared = sizes["tie_embeddings"] and sizes["src_vocab_size"] == sizes["tgt_vocab_size"]
    sizes = {"shared_vocabulary": shared} | sizes
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(ModelConfig(**sizes)).parameters())


def card(name, result):
    """Return the card of a model that ships."""
    training = result["training"]
    settings, scores = training["settings"], result["scores"]
    source, target = (LANGUAGES[settings["data"][side]] for side in ("source", "target"))
    rows = [
        (key, f"{score['value']:.2f}", f"`{score['how']}`".replace("|", r"\|"))
        for key, score in scores.items()
    ]
    return CARD.read_text("utf-8").format(
        name=name,
        source=source,
        target=target,
        vocab=f"{settings['model']['src_vocab_size']:,}",
        pairs=pairs_of(settings["data"]["splits"]["train"]["pairs"]),
        steps=f"{training['step']:,}",
        minutes=f"{training['seconds'] / 60:.0f}",
        seed=settings["run"]["seed"],
        threads=training["conditions"]["threads"],
        norm="pre-norm" if settings["model"]["norm_first"] else "post-norm",
        text=result["name"],
        scores=table(("measure", "value", "how it is counted"), rows),
        **{key: settings["model"][key] for key in ("n_layers", "d_model", "n_heads", "d_ff")},
        **result["search"],
    )


def pairs_of(n_pairs):
    """Return a description of the training pairs."""
    text = f"the {min(n_pairs, MULTI30K):,} training pairs of Multi30k (Elliott et al., 2016)"
    if n_pairs > MULTI30K:
        text += f", and {n_pairs - MULTI30K:,} whose other side an earlier model translated"
    return text


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(text, tables):
    """Return the text with each table between its two markers replaced."""
    for name, rows in tables.items():
        start, end = f"<!-- {name}: written by make results -->", f"<!-- {name}: end -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"the text needs the markers of {name}, once each")
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2]
        text = f"{before}{start}\n{rows}\n{end}{after}"
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="only say whether the pages are up to date"
    )
    options = parser.parse_args(arguments)
    notebook = nbformat.read(ROOT / "notebooks" / LESSON, as_version=4)
    files = sorted((ROOT / "results").glob("*.json"))
    results = {file.stem: json.loads(file.read_text("utf-8")) for file in files}
    results = {name: found for name, found in results.items() if "search" in found}
    tables = {"lessons": lesson_table(notebook), "results": results_table(results)}
    training = {
        "ablations": ablation_table(RESULTS),
        "seeds": seeds_table(ROOT / "results" / "seeds"),
    }
    scaling = {name: table(*found) for name, found in scaling_tables().items()}
    pages = {ROOT / "README.md": tables, ROOT / "docs" / "training.md": training}
    pages[ROOT / "docs" / "scaling.md"] = scaling
    wanted = {page: with_tables(page.read_text("utf-8"), drawn) for page, drawn in pages.items()}
    for name, result in results.items():
        folder = ROOT / "data" / "pretrained" / name
        if folder.is_dir():
            wanted[folder / "README.md"] = card(name, result)
    stale = [
        path
        for path, text in wanted.items()
        if not path.is_file() or path.read_text("utf-8") != text
    ]
    for path in stale:
        if options.check:
            command = "`make results` or `python tools/readme_results.py`"
            print(f"{path} is not what was measured: run {command}", file=sys.stderr)
        else:
            path.write_text(wanted[path], "utf-8")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

"""How good is a model after so many minutes? Our command next to the plain loop, a core each.

    python -m benchmarks.quality [--minutes 26]     # measures, then writes picture and table
    python -m benchmarks.quality --draw             # only writes them, from the file

Both train the same sizes from the same first weights on the same corpus, at the same time, each
with one thread, and each with settings that suit it. Each runs some steps first to know how many
it has time for, so that its learning rate ends at 0. The curve is greedy BLEU on the validation
split; the clock of a side stands still while it translates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.collect import prepared_corpus
from benchmarks.loop import Loop
from benchmarks.peers.torch_nn import CachedGreedy, TorchModel
from benchmarks.report import README, RESULTS, table, with_section
from benchmarks.run import FOLDER
from benchmarks.surroundings import commit, load_average, machine, preload
from transformer_lib import ModelConfig, TrainConfig, Transformer
from transformer_lib.batching import pad
from transformer_lib.checkpoint import to_json, write_text
from transformer_lib.cli import main as command
from transformer_lib.metrics import bleu
from transformer_lib.plots import PALETTE, figure, headline, name_axes, style
from transformer_lib.plots.base import name_lines
from transformer_lib.prepared import Prepared
from transformer_lib.training import rate_at

__all__ = ["SIDES", "affordable", "curve", "picture", "plain_loop", "ours"]

VOCAB, TRIAL, POINTS = 4000, 200, 20
START, END = "<!-- quality: written by benchmarks.quality -->", "<!-- quality: end -->"
PLAIN = {"dropout": 0.1, "peak_rate": 3e-3, "warmup": 300, "max_tokens": 1024, "cooldown": 0.5}
OURS = {"dropout": 0.2, "peak-rate": 4e-3, "warmup": 500, "max-tokens": 2048, "cooldown": 0.8}
OURS |= {"preset": "tiny", "norm-first": True, "optimizer": "muon", "threads": 1, "keep": 1}


def batches(corpus: Prepared, max_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches without end, each epoch in another order."""
    for epoch in count():
        yield from map(tuple, corpus.pairs("train").batches(max_tokens, seed=0, epoch=epoch))


def plain_loop(corpus: Prepared, out: Path, steps: int, every: int) -> None:
    """The reference loop of the benchmark in float32, pre-norm, with the schedule of ours.

    Writes step, seconds of training and BLEU to `log.jsonl` in the folder.
    """
    torch.manual_seed(0)
    first = Transformer(ModelConfig.tiny(len(corpus.src_vocab), norm_first=True))
    model = TorchModel.from_ours(asdict(first.config), first.state_dict(), PLAIN["dropout"])
    turn = (round(steps * (1 - PLAIN["cooldown"])), steps)
    rates = TrainConfig(peak_rate=PLAIN["peak_rate"], warmup=PLAIN["warmup"], cooldown=turn)
    step = Loop(model, rate=lambda number: rate_at(number, rates))
    seconds, started = 0.0, time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("w") as log:
        drawn = batches(corpus, PLAIN["max_tokens"])
        for number, (src, tgt) in enumerate(islice(drawn, steps), 1):
            step(src, tgt)
            if number % every == 0 or number == steps:
                seconds += time.perf_counter() - started
                point = {"step": number, "seconds": seconds, "bleu": plain_bleu(model, corpus)}
                print(json.dumps(point), file=log, flush=True)
                started = time.perf_counter()


def plain_bleu(model: TorchModel, corpus: Prepared) -> float:
    """Greedy, on the validation split, 64 sentences of similar length at a time."""
    text, found = corpus.text("val"), {}
    ids = [corpus.src_vocab.encode(line, eos=True) for line in text.source]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    search = CachedGreedy(model)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        said = search(pad([ids[i] for i in chosen]))
        found |= {i: corpus.tgt_vocab.decode(row) for i, row in zip(chosen, said, strict=True)}
    model.train()
    return bleu([found[i] for i in range(len(ids))], text.target).value


def ours(corpus: Prepared, out: Path, steps: int, every: int) -> None:
    """`transformer-lib train`, in the best precision that this processor has."""
    short = {"avx512_bf16", "amx_bf16"} & set(machine()["instructions"])
    flags = OURS | {"precision": "bf16" if short else "fp32", "steps": steps}
    words = [str(x) for name, value in flags.items() for x in (f"--{name}", value)]
    if status := command(
        ["train", str(corpus.folder), str(out), *words, "--validate-every", str(every)]
    ):
        sys.exit(status)


SIDES = {"torch.nn.Transformer, plain loop": plain_loop, "transformer_lib": ours}


def affordable(minutes: float, steps: int, seconds: float) -> int:
    """Steps in so many minutes at the speed of a trial."""
    return max(1, int(60 * minutes * steps / seconds))


def curve(folder: Path) -> list[dict[str, float]]:
    """The points of a log that have a score."""
    lines = map(json.loads, (folder / "log.jsonl").read_text("utf-8").splitlines())
    return [{n: line[n] for n in ("step", "seconds", "bleu")} for line in lines if "bleu" in line]


def together(corpus: Path, out: Path, steps: Mapping[str, int], every: Mapping[str, int]):
    """All sides at once, each in a process of its own; returns their curves."""
    processes = {}
    for place, name in enumerate(SIDES):
        words = [corpus, out / str(place), "--side", place, steps[name], every[name]]
        ask = [sys.executable, "-m", "benchmarks.quality", "--corpus", *map(str, words)]
        processes[name] = subprocess.Popen(ask, env=surroundings())
    try:
        for name, process in processes.items():
            if process.wait():
                raise SystemExit(f"error: {name} ended with status {process.returncode}")
    finally:
        for process in processes.values():
            process.terminate()
    return {name: curve(out / str(place)) for place, name in enumerate(SIDES)}


def surroundings() -> dict[str, str]:
    """One thread each, and tcmalloc for both where it is installed."""
    found = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        return found | {"LD_PRELOAD": preload("tcmalloc") or ""}
    except ValueError:
        return found


@style()
def picture(curves: Mapping[str, list[dict[str, float]]]) -> Figure:
    """BLEU over minutes of training, a line for each side."""
    fig, ax = figure(8, 4.2)
    lines = {}
    for (name, points), colour in zip(curves.items(), ("#8a96a0", PALETTE[0]), strict=True):
        x, y = [p["seconds"] / 60 for p in points], [p["bleu"] for p in points]
        (lines[name],) = ax.plot(x, y, color=colour, marker="o", markersize=3.5)
    ax.grid(True)
    ax.set_ylim(0)
    name_axes(ax, x="minutes of training, one core", y="BLEU, validation split, greedy")
    name_lines(ax, lines)
    headline(fig, "The same minutes make a better model")
    return fig


def section(result: Mapping[str, Any]) -> str:
    """Where and when, and a table: BLEU after some minutes, read off straight lines."""
    box, load = result["machine"], result["load average"]
    told = (
        f"Measured {result['when']} at commit `{result['commit']}`, {box['processor']} "
        f"({', '.join(box['instructions'])}), torch {result['torch']}, allocator "
        f"{Path(result['allocator']).name}, load average {load[0]:.1f} at the start and "
        f"{load[1]:.1f} at the end."
    )
    minutes = [result["minutes"] * part for part in (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)]
    rows = [
        (name, *(f"{at(points, 60 * minute):.1f}" for minute in minutes))
        for name, points in result["curves"].items()
    ]
    head = ("BLEU after", *(f"{minute:.1f} minutes" for minute in minutes))
    alt = "Two lines over minutes of training: the BLEU of the plain loop, and ours above it"
    return f"{told}\n\n{table(head, rows)}\n\n![{alt}](../results/benchmarks/quality.png)"


def at(points: list[dict[str, float]], seconds: float) -> float:
    """BLEU at a time: between the points on a straight line, 0 at the start."""
    x, y = [0.0], [0.0]
    for point in points:
        x.append(point["seconds"])
        y.append(point["bleu"])
    return float(np.interp(seconds, x, y))


def draw(folder: Path) -> None:
    """Writes the picture beside the file; the README only from the project's own results."""
    result = json.loads((folder / "quality.json").read_text("utf-8"))
    drawn = picture(result["curves"])
    drawn.savefig(folder / "quality.png", dpi=110, metadata={"Software": None})
    if folder.resolve() == RESULTS:
        text = with_section(README.read_text("utf-8"), section(result), START, END)
        README.write_text(text, "utf-8")


def measure(minutes: float) -> dict[str, Any]:
    """Trials, then both sides for so many minutes; the curves and what they depend on."""
    corpus, load = prepared_corpus(FOLDER, VOCAB), load_average()
    same = dict.fromkeys(SIDES, TRIAL)
    folder = FOLDER / f"quality-{time.strftime('%Y%m%d-%H%M%S')}"
    trial = together(corpus, folder / "trial", same, same)
    steps = {
        name: affordable(minutes, TRIAL, points[-1]["seconds"]) for name, points in trial.items()
    }
    every = {name: max(1, n // POINTS) for name, n in steps.items()}
    curves = together(corpus, folder, steps, every)
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit(),
        "machine": machine(),
        "torch": torch.__version__,
        "allocator": surroundings().get("LD_PRELOAD") or "system",
        "load average": [load, load_average()],
        "minutes": minutes,
        "settings": dict(zip(SIDES, (PLAIN, OURS), strict=True)),
        "curves": curves,
    }


def main() -> None:
    """The command of the head of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=26)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--corpus", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.side:  # a process of `together`
        place, steps, every = options.side
        list(SIDES.values())[place](Prepared(options.corpus[0]), options.corpus[1], steps, every)
        return
    if not options.draw:
        try:
            found = measure(options.minutes)
        except ValueError as error:  # no Multi30k
            raise SystemExit(f"error: {error}") from None
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "quality.json", to_json(found))
    draw(options.out)


if __name__ == "__main__":
    main()

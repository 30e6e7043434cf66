"""Quality after so many minutes: our command next to the plain loop, one core each.

    python -m benchmarks.quality [--minutes 26]     # measures, then writes picture and table
    python -m benchmarks.quality --draw             # only writes them, from the file

Both train the same sizes from the same first weights on the same corpus, at the same time, each
with one thread: the loop with the settings of the README's script, ours with its recipe for a
short run. Each runs some steps first to know how many it has time for, so that its learning rate
ends at 0. The curve is greedy BLEU on the validation split; the clock of a side stands still while
it validates and saves.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.collect import prepared_corpus
from benchmarks.loop import Loop
from benchmarks.peers.torch_nn import CachedGreedy, TorchModel
from benchmarks.quality_report import draw
from benchmarks.report import RESULTS
from benchmarks.run import FOLDER
from benchmarks.surroundings import commit, load_average, machine, preload
from transformer_lib import ModelConfig, TrainConfig, Transformer
from transformer_lib.batching import pad
from transformer_lib.cli import main as command
from transformer_lib.data.files import to_json, write_text
from transformer_lib.data.prepared import Prepared
from transformer_lib.training import rate_at
from transformer_lib.translate.evaluation import RAW
from transformer_lib.translate.scores import bleu
from transformer_lib.translate.translator import length_batches

__all__ = ["SIDES", "affordable", "curve", "ours", "plain_loop", "together"]

VOCAB, TRIAL, POINTS = 4000, 200, 20
PLAIN = {"dropout": 0.1, "peak_rate": 3e-3, "warmup": 300, "max_tokens": 1024, "cooldown": 0.5}
OURS = {"dropout": 0.2, "peak-rate": 4e-3, "warmup": 500, "max-tokens": 2048, "cooldown": 0.8}
OURS |= {"preset": "tiny", "norm-first": True, "optimizer": "muon", "threads": 1, "keep": 1}


def batches(corpus: Prepared, max_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches without end, each epoch in another order."""
    for epoch in count():
        yield from map(tuple, corpus.pairs("train").batches(max_tokens, seed=0, epoch=epoch))


def plain_loop(corpus: Prepared, out: Path, steps: int, every: int) -> None:
    """Train with the benchmark's reference loop in float32, pre-norm, with our schedule.

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
    """Return greedy BLEU on the validation split, decoding sentences of similar length together."""
    text, found = corpus.text("val"), {}
    ids = [corpus.src_vocab.encode(line, eos=True) for line in text.source]
    search = CachedGreedy(model)
    for chosen in length_batches([len(row) for row in ids], max_tokens=1024):
        said = search(pad([ids[i] for i in chosen]))
        found |= {i: corpus.tgt_vocab.decode(row) for i, row in zip(chosen, said, strict=True)}
    model.train()
    return bleu([found[i] for i in range(len(ids))], text.target, **RAW).value


def ours(corpus: Prepared, out: Path, steps: int, every: int) -> None:
    """Run `transformer-lib train` in the fastest precision of this processor."""
    flags = OURS | {"precision": best_precision(), "steps": steps}
    words = [str(x) for name, value in flags.items() for x in (f"--{name}", value)]
    if status := command(
        ["train", str(corpus.folder), str(out), *words, "--validate-every", str(every)]
    ):
        sys.exit(status)


def best_precision() -> str:
    """Return bf16 if the processor has instructions for it, else fp32."""
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(machine()["instructions"]) else "fp32"


SIDES = {"torch.nn.Transformer, plain loop": plain_loop, "transformer_lib": ours}


def affordable(minutes: float, steps: int, seconds: float) -> int:
    """Return the number of steps in so many minutes, at the speed of a trial."""
    return max(1, int(60 * minutes * steps / seconds))


def curve(folder: Path) -> list[dict[str, float]]:
    """Return the points of a log that have a score."""
    lines = map(json.loads, (folder / "log.jsonl").read_text("utf-8").splitlines())
    return [{n: line[n] for n in ("step", "seconds", "bleu")} for line in lines if "bleu" in line]


def together(corpus: Path, out: Path, steps: Mapping[str, int], every: Mapping[str, int]):
    """Run all sides at once, each in its own process, and return their curves.

    Where one fails, and where this is stopped, none goes on.
    """
    processes: dict[str, subprocess.Popen] = {}
    try:
        for place, name in enumerate(SIDES):
            words = [corpus, out / str(place), "--side", place, steps[name], every[name]]
            ask = [sys.executable, "-m", "benchmarks.quality", "--corpus", *map(str, words)]
            processes[name] = subprocess.Popen(ask, env=surroundings())
        statuses = [None]
        while None in statuses:
            time.sleep(0.2)
            statuses = [process.poll() for process in processes.values()]
            for name, status in zip(processes, statuses, strict=True):
                if status:
                    raise ValueError(f"{name} ended with status {status}")
    finally:
        for process in processes.values():
            process.kill()  # a command that is asked kindly finishes its step and saves first
            process.wait()
    return {name: curve(out / str(place)) for place, name in enumerate(SIDES)}


def surroundings() -> dict[str, str]:
    """Return the environment variables: one thread each, and tcmalloc if it is installed."""
    found = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        return found | {"LD_PRELOAD": preload("tcmalloc") or ""}
    except ValueError:
        return found


def measure(minutes: float) -> dict[str, Any]:
    """Run the trials, then both sides for so many minutes; return the curves and conditions."""
    about = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit(),
        "machine": machine(),
        "torch": torch.__version__,
        "allocator": surroundings().get("LD_PRELOAD") or "system",
        "load average at the start": load_average(),
        "minutes": minutes,
        "precision": best_precision(),
        "settings": dict(zip(SIDES, (PLAIN, OURS), strict=True)),
    }
    corpus, same = prepared_corpus(FOLDER, VOCAB), dict.fromkeys(SIDES, TRIAL)
    folder = FOLDER / f"quality-{time.strftime('%Y%m%d-%H%M%S')}"
    trial = together(corpus, folder / "trial", same, same)
    steps = {
        name: affordable(minutes, TRIAL, points[-1]["seconds"]) for name, points in trial.items()
    }
    every = {name: max(1, n // POINTS) for name, n in steps.items()}
    return about | {"curves": together(corpus, folder, steps, every)}


def main() -> None:
    """Run the command described at the top of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=26)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--corpus", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the sides end too
    if options.side:  # a process of `together`
        place, steps, every = options.side
        list(SIDES.values())[place](Prepared(options.corpus[0]), options.corpus[1], steps, every)
        return
    if not options.draw:
        try:
            found = measure(options.minutes)
        except ValueError as error:  # no Multi30k, or a side that failed
            raise SystemExit(f"error: {error}") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "quality.json", to_json(found))
    draw(options.out)


if __name__ == "__main__":
    main()

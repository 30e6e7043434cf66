"""Measure how `prepare` and the reading of batches grow with the corpus; results/growth-data.json.

The corpora are Multi30k once, 4, 16, 64 and 100 times, with variation: in every copy but the first,
two neighboring words of each sentence change places, and the pairs come in another order. Each
measurement is a process of its own, and its memory is the most that this process ever had.

    python tools/growth.py --work build/growth            # measures what is missing, then draws
    python tools/growth.py --draw                         # only draws docs/images/growth.png
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "growth-data.json"
PICTURE = ROOT / "docs" / "images" / "growth.png"
TIMES = (1, 4, 16, 64, 100)
VOCAB = 4000
MAX_TOKENS = 4096
STEPS = 20


def vary(line, copy, number):
    """Swap two neighboring words of a sentence; copy 0 stays as it is."""
    words = line.split(" ")
    if copy and len(words) > 1:
        place = (copy * 31 + number) % (len(words) - 1)
        words[place : place + 2] = reversed(words[place : place + 2])
    return " ".join(words)


def write_corpus(folder, times):
    """Write `times` varied copies of Multi30k's training pairs to two text files, reproducibly."""
    from transformer_lib.data.multi30k import multi30k

    text = multi30k("train", "de", "en")
    paths = [folder / f"{times}x.{language}" for language in ("de", "en")]
    files = [path.open("w", encoding="utf-8") for path in paths]
    for copy in range(times):
        order = list(range(len(text)))
        random.Random(copy).shuffle(order)
        for number in order if copy else sorted(order):
            for file, side in zip(files, (text.source, text.target), strict=True):
                file.write(vary(side[number], copy, number) + "\n")
    for file in files:
        file.close()
    return paths


def peak_mebibytes():
    """Return the peak memory of this process, mapped files included (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("this system does not say how much memory a process had")


def cpu_seconds():
    """Return the CPU seconds of this process and of its finished workers."""
    return sum(os.times()[:4])


def measured(work):
    """Run it; return wall and CPU seconds, and memory before and at its peak."""
    before = peak_mebibytes()
    started, processor = time.perf_counter(), cpu_seconds()
    found = work()
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(cpu_seconds() - processor, 2),
        "mebibytes_before": round(before, 1),
        "peak_mebibytes": round(peak_mebibytes(), 1),
        **found,
    }


def measure_prepare(folder, times, workers):
    """Measure `transformer-lib prepare` on the copies, in this process and its workers."""
    from transformer_lib.cli import main
    from transformer_lib.data.multi30k import multi30k_folder

    train = [str(folder / f"{times}x.{language}") for language in ("de", "en")]
    val = [str(multi30k_folder() / f"val.{language}.gz") for language in ("de", "en")]
    command = ["prepare", str(folder / f"prepared-{times}x"), "--corpus", "files", "--force"]
    command += ["--source", "de", "--target", "en", "--vocab-size", str(VOCAB)]
    command += ["--workers", str(workers), "--train", *train, "--val", *val]

    def work():
        if main(command):
            raise RuntimeError("prepare failed")
        about = json.loads((folder / f"prepared-{times}x" / "corpus.json").read_text())
        return about["splits"]["train"]

    return measured(work)


def measure_read(folder, times):
    """Measure one epoch of batches, and the time to the first of them."""
    from transformer_lib.data.prepared import Prepared

    def work():
        started = time.perf_counter()
        pairs = Prepared(folder / f"prepared-{times}x").pairs("train")
        opened = time.perf_counter()
        n_tokens = n_batches = 0
        first = None
        for batch in pairs.batches(MAX_TOKENS, seed=0, epoch=1):
            first = first or time.perf_counter() - opened
            n_tokens += int((batch.tgt != 0).sum())
            n_batches += 1
        seconds = time.perf_counter() - opened
        return {
            "open_seconds": round(opened - started, 2),
            "first_batch_seconds": round(first, 2),
            "epoch_seconds": round(seconds, 2),
            "target_tokens": n_tokens,
            "target_tokens_per_second": round(n_tokens / seconds),
            "batches": n_batches,
        }

    return measured(work)


def measure_train(folder, times):
    """Measure some training steps of the `tiny` model, for the memory of a run."""
    import torch

    from transformer_lib import ModelConfig, TrainConfig, Transformer, make_optimizer, train_step
    from transformer_lib.data.prepared import Prepared

    torch.set_num_threads(1)

    def work():
        data = Prepared(folder / f"prepared-{times}x")
        model, config = Transformer(ModelConfig.tiny(len(data.src_vocab))), TrainConfig()
        optimizer = make_optimizer(model, config)
        batches = data.pairs("train").batches(MAX_TOKENS, seed=0, epoch=1)
        for step, batch in zip(range(1, STEPS + 1), batches, strict=False):
            train_step(model, optimizer, batch, step, config)
        return {"steps": STEPS}

    return measured(work)


KINDS = {
    "prepare": lambda folder, times: measure_prepare(folder, times, 1),
    "prepare, 2 workers": lambda folder, times: measure_prepare(folder, times, 2),
    "read": measure_read,
    "train": measure_train,
}
MOST = {"prepare, 2 workers": 16}  # enough to see that the work is the same


def in_own_process(folder, kind, times):
    """Measure in a new process, so that memory is its own."""
    command = [sys.executable, __file__, "--work", str(folder), "--measure", kind, str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def conditions():
    """Return the conditions that the numbers depend on."""
    import numpy
    import sentencepiece
    import torch

    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    modules = {"torch": torch, "numpy": numpy, "sentencepiece": sentencepiece}
    from transformer_lib.data.devices import n_cores

    return {
        "processor": model,
        "cores": n_cores(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: module.__version__ for name, module in modules.items()},
        "other_work_on_the_machine": other_work(),
    }


def other_work():
    """Return the load of other processes, averaged over the last minute."""
    return f"load {os.getloadavg()[0]:.1f} before the first measurement"


def measure_all(folder, sizes):
    """Measure what is not in the result file yet, and write the file after each."""
    folder.mkdir(parents=True, exist_ok=True)
    found = json.loads(RESULT.read_text("utf-8")) if RESULT.is_file() else {}
    found.setdefault("conditions", conditions() | {"subwords": VOCAB, "max_tokens": MAX_TOKENS})
    rows = found.setdefault("measured", {})
    for times in sizes:
        paths = [folder / f"{times}x.{language}" for language in ("de", "en")]
        if not all(path.is_file() for path in paths):
            write_corpus(folder, times)
        for kind in KINDS:
            row = rows.setdefault(kind, {})
            if str(times) not in row and times <= MOST.get(kind, times):
                load = round(os.getloadavg()[0], 1)
                row[str(times)] = {**in_own_process(folder, kind, times), "load": load}
                print(kind, times, row[str(times)], flush=True)
                RESULT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def draw(found):
    """Draw time and memory over the size of the corpus."""
    from transformer_lib.lessons.figures import figure, style

    with style():
        drawn, axes = figure(11, 4.5, ncols=2)
        _draw_panels(*axes, found)
    return drawn


def _draw_panels(left, right, found):
    marks = {"prepare": "o", "read": "s", "train": "^"}
    names = {"prepare": "prepare, 1 worker", "read": "one epoch of batches"}
    for kind, name in names.items():
        x, y = series(found, kind, "cpu_seconds")
        left.plot(x, y, marks[kind] + "-", label=name)
        slope = y[-1] / x[-1]
        left.plot(x, [slope * size for size in x], ":", color="grey", zorder=0)
    left.plot([], [], ":", color="grey", label="proportional to the pairs")
    left.set(xlabel="pairs (millions)", ylabel="processor seconds", title="Time is linear")
    names["train"] = f"{STEPS} steps of training"
    for kind, name in names.items():
        x, y = series(found, kind, "peak_mebibytes")
        right.plot(x, y, marks[kind] + "-", label=name)
    x, y = series(found, "prepare", "target_tokens")
    size = [4 * n * 2 / 2**20 for n in y]  # int32, and about as many source tokens
    right.plot(x, size, ":", color="grey", label="size of the ids on disk")
    right.set(
        xlabel="pairs (millions)",
        ylabel="peak memory (MiB)",
        title="Memory does not follow the corpus",
    )
    right.set(ylim=(0, 1.45 * right.get_ylim()[1]))  # room for the legend
    for axes in (left, right):
        axes.legend()


def tgt_tokens(row):
    return row.get("target_tokens", row.get("tgt_tokens"))


def series(found, kind, key):
    """Return millions of pairs, and the values."""
    pairs = {times: row["pairs"] / 1e6 for times, row in found["measured"]["prepare"].items()}
    rows = found["measured"][kind]
    values = [tgt_tokens(row) if key == "target_tokens" else row[key] for row in rows.values()]
    return [pairs[times] for times in rows], values


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "growth")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "TIMES"))
    options = parser.parse_args(arguments)
    if options.measure:
        kind, times = options.measure
        print(json.dumps(KINDS[kind](options.work, int(times))))
        return 0
    if not options.draw:
        measure_all(options.work, options.times)
    figure = draw(json.loads(RESULT.read_text("utf-8")))
    figure.savefig(PICTURE, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())

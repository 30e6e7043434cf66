"""Check the library on a GPU once, and measure it: one line and one file of results per section.

    python tools/gpu_check.py OUT                            # everything, in order of value
    python tools/gpu_check.py OUT --device cpu --small       # a rehearsal, in about two minutes
    python tools/gpu_check.py OUT --only model resume        # some sections

A section whose file lies in OUT is not run again, so an interrupted check goes on where it was.
A section that fails writes the reason into its file, prints it, and the next one begins; delete
the file to try again. Exit status 1 if any failed. Sections that train need Multi30k
(`TRANSFORMER_LIB_DATA`), except for `resume`.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from transformer_lib import ModelConfig, TrainConfig, Transformer, make_optimizer, train_step
from transformer_lib.batching import collate
from transformer_lib.data.multi30k import multi30k
from transformer_lib.lessons.grammar import grammar_corpus
from transformer_lib.train.losses import TrainingLoss
from transformer_lib.translate.translator import Translator

ROOT = Path(__file__).resolve().parents[1]
# Files whose tests make no assumption about the device: they run with it as torch's default.
TESTS = ["model", "attention", "masks", "positional", "feed_forward", "decoding", "losses"]
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.06, torch.float16: 0.06}
KINDS = {"post-norm": {}, "pre-norm": {"norm_first": True}, "untied": {"tie_embeddings": False}}


def device_and_versions(options):
    """Name the device and what runs on it."""
    cuda = options.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}", {}


def tests_of_the_paper(options):
    """Run the tests of the paper's modules with the device as torch's default."""
    files = [f"tests/test_{name}.py" for name in (TESTS[:1] if options.small else TESTS)]
    environment = os.environ | {"TRANSFORMER_LIB_TEST_DEVICE": options.device}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *files]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    lines = run.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if run.returncode not in (0, 1) or not lines:
        raise RuntimeError((run.stderr or run.stdout)[-600:])
    return f"{lines[-1]}", {"failed": failed, "errors": lines[-60:] if failed else []}


def batch_of(n=32):
    """Return a batch of random ids of many lengths, the same on every machine."""
    torch.manual_seed(0)
    lengths = [(3 + i % 7, 2 + i % 11) for i in range(n)]
    pairs = [[torch.randint(4, 60, (n,)).tolist() for n in pair] for pair in lengths]
    return collate([([*source, 3], [2, *target, 3]) for source, target in pairs])


def model_and_gradients(options):
    """Compare logits, loss and gradients with float64 on the CPU, in three precisions."""
    worst, batch, config = {}, batch_of(), TrainConfig()
    inputs = batch.src, batch.tgt[:, :-1], batch.tgt[:, 1:]
    for kind, changes in KINDS.items():
        torch.manual_seed(1)
        exact = Transformer(ModelConfig.tiny(60, dropout=0.0, **changes)).double()
        loss = TrainingLoss(exact, config, rows=16)(*inputs)
        loss.backward()
        for dtype in TOLERANCE:
            model = Transformer(exact.config).to(options.device)
            model.load_state_dict(exact.state_dict())
            there = [ids.to(options.device) for ids in inputs]
            narrow = None if dtype is torch.float32 else dtype
            found = TrainingLoss(model, config, narrow, rows=16)(*there)
            found.backward()
            mine, others = (
                torch.cat([p.grad.double().cpu().flatten() for p in m.parameters()])
                for m in (model, exact)
            )
            errors = (mine - others).norm() / others.norm(), abs(found.item() / loss.item() - 1)
            worst[f"{kind}, {str(dtype)[6:]}"] = error = float(max(errors))
            if not error < TOLERANCE[dtype]:
                raise AssertionError(f"{kind} in {dtype}: relative error {error:.1e}")
    return "largest relative error " + ", ".join(f"{k} {v:.0e}" for k, v in worst.items()), worst


def captions(options):
    """Translate captions with the shipped models here and on the CPU: the same ids in float32."""
    n, result = (40 if options.small else 1000), {}
    text = multi30k("test_2016_flickr")
    for name, lines in (("multi30k-de-en", text.source), ("multi30k-en-de", text.target)):
        ids, seconds = {}, {}
        for device in ("cpu", options.device):
            translator = Translator.from_pretrained(name, device=device)
            translator.model.float()
            start = time.perf_counter()
            for size, alpha in ((1, 0.0), (5, 1.0)):
                found = translator.hypotheses(lines[:n], beam_size=size, alpha=alpha)
                ids[device, size] = [best[0].ids for best in found]
            seconds[device] = time.perf_counter() - start
        for size in (1, 5):
            both = zip(ids["cpu", size], ids[options.device, size], strict=True)
            result[f"{name}, beam {size}"] = sum(a == b for a, b in both)
        result[f"{name}, seconds"] = seconds
    return f"of {n} the same: " + ", ".join(
        f"{k} {v}" for k, v in result.items() if isinstance(v, int)
    ), result


def resume_on_the_other(options):
    """Train on the device, go on on the CPU and again on the device; it must learn."""
    folder, train = options.out / "work", [sys.executable, "-m", "transformer_lib", "train"]
    folder.mkdir(exist_ok=True)
    pairs = grammar_corpus().train[:2000]
    for side, lines in (("de", [p.source for p in pairs]), ("en", [p.target for p in pairs])):
        (folder / f"train.{side}").write_text("\n".join(lines) + "\n", "utf-8")
        (folder / f"val.{side}").write_text("\n".join(lines[:40]) + "\n", "utf-8")
    run, corpus = folder / "run", folder / "corpus"
    train_files, val_files = ([folder / f"{n}.de", folder / f"{n}.en"] for n in ("train", "val"))
    prepare = [sys.executable, "-m", "transformer_lib", "prepare", corpus, "--corpus", "files"]
    prepare += ["--source", "de", "--target", "en", "--train", *train_files]
    call([*prepare, "--val", *val_files, "--vocab-size", 500, "--force"])
    sizes = ["--preset", "tiny", "--n-layers", 2, "--warmup", 40, "--peak-rate", "2e-3"]
    every = 20 if options.small else 100
    for i, device in enumerate((options.device, "cpu", options.device), 1):
        more = ["--steps", 3 * every, "--max-steps", i * every, "--validate-every", every]
        call([*train, corpus, run, *sizes, *more, "--device", device, "--resume", "auto"])
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    found = {line["step"]: line["val_loss"] for line in log if "val_loss" in line}
    if list(found) != [every, 2 * every, 3 * every] or not found[3 * every] < found[every]:
        raise AssertionError(f"losses on validation by step: {found}")
    return f"on {options.device}, cpu, {options.device}: validation loss {found}", {"log": log}


def call(command):
    """Run a command; RuntimeError with the end of what it said unless it ends with 0."""
    run = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{command[2:5]}: {(run.stderr or run.stdout)[-600:]}")
    return run.stdout


def notebook_07(options):
    """Run the cells of notebook 07 with the budget for a GPU, pictures drawn and thrown away."""
    os.environ["TRANSFORMER_LIB_BUDGET"] = "test" if options.small else "gpu"
    import nbformat
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    path = next(ROOT.glob("notebooks/07_*.ipynb"))
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    cells = [c for c in cells[1:] if "lessons.check(" not in c.source]
    names, times, printed = {}, {}, io.StringIO()
    for cell in cells:
        start = time.perf_counter()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(cell.source, cell.id, "exec"), names)
        plt.close("all")
        if (seconds := time.perf_counter() - start) > 1:
            times[cell.id] = round(seconds, 1)
        if "scores" in cell.metadata.get("tags", []):
            scores = printed.getvalue()[-900:]
    lines = printed.getvalue()
    return f"{sum(times.values()) / 60:.1f} minutes; " + " | ".join(scores.split("\n")[-6:]), {
        "seconds": times,
        "printed": lines[-8000:],
    }


def speed(kind):
    """Return a section that runs the benchmarks of this kind against who is installed here."""

    def section(options):
        command = [sys.executable, "-m", "benchmarks", "--device", options.device, "--here"]
        command += ["--kinds", kind, "--out", options.out / kind]
        command += ["--quick"] if options.small else ["--preset", "base", "--max-tokens", 25000]
        out = call(command)
        rows = [line for line in out.splitlines() if re.match(r"\| (transformer_lib|torch)", line)]
        return " ".join(rows[:3]), {"tables": out[-6000:]}

    section.__doc__ = f"Measure {kind} next to the peers."
    return section


def profile(options):
    """List the ten operations that take longest in training, with their share."""
    config = ModelConfig.tiny(8000) if options.small else ModelConfig.base(10_000)
    model, settings = Transformer(config).to(options.device), TrainConfig()
    optimizer = make_optimizer(model, settings)
    batch = batch_of(32 if options.small else 800).to(options.device)
    kind = "cuda" if options.device == "cuda" else "cpu"
    for step in range(1, 4):
        train_step(model, optimizer, batch, step, settings)
    with torch.profiler.profile() as found:
        for step in range(4, 7):
            train_step(model, optimizer, batch, step, settings)
    table = found.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=10)
    return f"{table.count(chr(10))} lines in the file", {"table": table}


SECTIONS = {
    "device": device_and_versions,
    "model": model_and_gradients,
    "captions": captions,
    "resume": resume_on_the_other,
    "notebook": notebook_07,
    "training": speed("training"),
    "decoding": speed("decoding"),
    "profile": profile,
    "tests": tests_of_the_paper,
}


def run_section(name, options):
    """Run one section unless its file is there; return True if it passed, now or before."""
    path = options.out / f"{name}.json"
    if path.is_file():
        result = json.loads(path.read_text("utf-8"))
    else:
        start = time.perf_counter()
        try:
            line, values = SECTIONS[name](options)
            result = {"ok": True, "line": line, "values": values}
        except Exception as error:  # the next section may still tell something
            result = {"ok": False, "line": f"{type(error).__name__}: {error}"}
        result["seconds"] = round(time.perf_counter() - start, 1)
        path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    mark = "ok    " if result["ok"] else "FAILED"
    print(f"{mark} {name:9} {result['seconds']:6.1f} s  {result['line']}", flush=True)
    return result["ok"]


def main(argv=None):
    """Run the sections; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; --device cpu --small rehearses", file=sys.stderr)
        return 1
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    passed = [run_section(name, options) for name in options.only or SECTIONS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())

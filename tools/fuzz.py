"""Feed random bytes to everything that reads a file or a flag (`make fuzz`, tests/test_fuzz.py).

Whatever the bytes, the outcome is a value, or a ValueError or OSError of one line: never another
exception, a hang or a crash. `python tools/fuzz.py TARGET SECONDS` runs one target under atheris
(libFuzzer with Python's coverage); without a target, all of them one after the other. What it
finds lies in build/fuzz/TARGET and belongs, once mended, into tests/fuzz_corpus/TARGET.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "build" / "fuzz"
CORPUS = ROOT / "tests" / "fuzz_corpus"
MANIFEST = "manifest.json"
TEXT = ["a b c d", "b c d e f", "c d", "d e f a b"]
# A file of a checkpoint, of a prepared corpus or of a run's folder: its target.
CHECKPOINT = {
    "manifest": MANIFEST,
    "config": "config.json",
    "weights": "model.safetensors",
    "vocab": "source.vocab",
    "progress": "training.json",
    "state": "training.pt",
}
PREPARED = {"corpus": "corpus.json", "ids": "train.src.ids.npy", "ends": "train.tgt.ends.npy"}


@cache
def home() -> Path:
    """Make a small prepared corpus and a run of two steps in a temporary folder."""
    from transformer_lib import ModelConfig, TrainConfig
    from transformer_lib.data.encoding import learn_vocabularies, prepare
    from transformer_lib.data.text import ParallelText
    from transformer_lib.train.settings import RunConfig
    from transformer_lib.train.trainer import Trainer

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    text = ParallelText(tuple(TEXT), tuple(TEXT), "tiny")
    vocabularies = learn_vocabularies(text, "subwords", 16, ("de", "en"))
    texts = {"train": text, "val": text}
    corpus = prepare(texts, vocabularies, folder / "data", say=lambda message: None)
    sizes = {"n_layers": 1, "d_model": 4, "n_heads": 1, "d_ff": 4, "max_len": 100}
    config = ModelConfig.tiny(16, **sizes)
    run = RunConfig(steps=2, max_tokens=16, validate_every=2)
    trainer = Trainer(corpus, config, TrainConfig(), run, folder / "run")
    trainer.start()
    trainer.fit(quiet=True)
    trainer.save().rename(folder / "checkpoint")
    trainer.pairs = trainer.validation_pairs = None
    home.trainer = trainer
    return folder


def forge(folder: str, name: str, data: bytes) -> Path:
    """Copy the folder, replace one file, and make the manifest agree."""
    forged = home() / f"forged-{name}"
    if not forged.exists():
        shutil.copytree(home() / folder, forged)
    (forged / name).write_bytes(data)
    if name != MANIFEST:
        manifest = json.loads((home() / folder / MANIFEST).read_text())
        manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (forged / MANIFEST).write_text(json.dumps(manifest))
    return forged


def restore(name: str, data: bytes) -> None:
    """Resume from a checkpoint in which one file is `data`."""
    home()
    home.trainer.restore(forge("checkpoint", name, data))


LIES = [
    None,
    True,
    -1,
    0.5,
    10**30,
    float("nan"),
    "",
    "x/../y",
    "\x1b[31m",
    [],
    {},
    [[]],
    {"a": {}},
]


def lie(real: Any, data: bytes) -> Any:
    """Return a copy in which one entry is another value; the bytes choose which, and what."""
    if isinstance(real, dict | list) and real and data[1:] and data[0] < 240:
        key = (sorted(real, key=str) if isinstance(real, dict) else range(len(real)))[
            data[0] % len(real)
        ]
        changed = real.copy()
        changed[key] = lie(real[key], data[1:])
        return changed
    kinds = LIES
    if hasattr(real, "shape"):
        import torch

        empty, one = real[..., :0] if real.dim() else real.new_zeros(0), torch.ones(1)
        kinds = [*LIES, empty, real.flatten(), real.double(), real * float("inf"), one.sum(), -real]
        kinds += [
            one.expand(2**40),
            real.to("meta"),
            real.to_sparse(),
            real.mT if real.dim() > 1 else one,
        ]
    return kinds[data[-1] % len(kinds)] if data else real


def restore_lies(data: bytes) -> None:
    """Resume from a checkpoint whose training.pt holds a lie, and take a step."""
    import torch

    home()
    weights = [*home.trainer.translator.model.parameters()]
    state = torch.load(home() / "checkpoint" / "training.pt", weights_only=True)
    changed = io.BytesIO()
    torch.save(lie(state, data), changed)
    restore("training.pt", changed.getvalue())
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    home.trainer.optimizer.step()
    assert all(weight.isfinite().all() for weight in weights)


def open_lies(data: bytes) -> None:
    """Read a prepared corpus whose corpus.json holds a lie."""
    real = json.loads((home() / "data" / "corpus.json").read_text())
    open_prepared("corpus.json", json.dumps(lie(real, data)).encode("utf-8", "replace"))


def open_prepared(name: str, data: bytes) -> None:
    """Read a prepared corpus in which one file is `data`, to the last batch."""
    from transformer_lib.config import ModelConfig
    from transformer_lib.data.prepared import Prepared
    from transformer_lib.data.reading import check_ids

    corpus, config = Prepared(forge("data", name, data)), ModelConfig.tiny(16)
    for split in corpus.splits:
        corpus.line_numbers(split)
        for batch in corpus.pairs(split).batches(64, seed=0, epoch=0):
            check_ids(batch, config)


def read_text(data: bytes) -> None:
    """Read two text files, plain and gzipped."""
    from transformer_lib.data.text import read_lines, read_pairs

    half = len(data) // 2
    plain, packed = home() / "text", home() / "text.gz"
    plain.write_bytes(data)
    packed.write_bytes(data)
    lines = read_lines(plain)
    assert len(lines) == data.count(b"\n") + (data[-1:] not in (b"", b"\n"))
    with contextlib.suppress(ValueError):
        read_lines(packed, max_bytes=10_000)
    packed.write_bytes(data[half:])
    other = home() / "other"
    other.write_bytes(data[half:])
    plain.write_bytes(data[:half])
    pairs = read_pairs(plain, other)
    assert all(source and target for source, target in pairs)


def read_words(data: bytes) -> None:
    """Read a vocabulary of either kind, and tokenize a sentence with it."""
    from transformer_lib.data.reading import load_vocab

    (home() / "some.vocab").write_bytes(data)
    vocab = load_vocab(home() / "some.vocab")
    ids = vocab.encode("a <pad> b\u2028c", bos=True, eos=True)
    assert all(0 <= i < len(vocab) for i in ids)
    assert vocab.pad_id not in ids
    vocab.decode(ids)


def read_run(data: bytes) -> None:
    """Read a log and the record of the best checkpoint."""
    from transformer_lib.train.folder import RunLog
    from transformer_lib.translate.translator import find_model

    (home() / "run" / "log.jsonl").write_bytes(data)
    (home() / "run" / "best.json").write_bytes(data)
    (home() / "run" / "checkpoints" / "step-000001").mkdir(exist_ok=True)
    (home() / "run" / "checkpoints" / "step-000001" / "x").touch()
    assert all(isinstance(line["step"], int) for line in RunLog.read(home() / "run" / "log.jsonl"))
    find_model(str(home() / "run"))


def parse_flags(data: bytes) -> None:
    """Start `train` with these flags on a missing folder, which is reported in one line."""
    from transformer_lib.cli import main

    flags = [part for part in data.decode("utf-8", "surrogateescape").split("\n") if part]
    flags = [flag for flag in flags if not flag.startswith("--tyro")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(["train", "/nowhere/data", "/nowhere/out", *flags])
        except SystemExit as stop:  # the help
            assert not stop.code, stop.code
            return
    told = err.getvalue()
    assert status == 2 and told.count("\n") == 1 and told.startswith("error: "), (status, told)


TARGETS: dict[str, Callable[[bytes], None]] = {
    **{key: lambda data, name=name: restore(name, data) for key, name in CHECKPOINT.items()},
    **{key: lambda data, name=name: open_prepared(name, data) for key, name in PREPARED.items()},
    "moments": restore_lies,
    "counts": open_lies,
    "text": read_text,
    "words": read_words,
    "run": read_run,
    "flags": parse_flags,
}


def outcome(target: str, data: bytes) -> Exception | None:
    """Return the one-line error of a target, or None; raise anything else."""
    try:
        TARGETS[target](data)
    except (ValueError, OSError) as error:
        assert len(str(error).splitlines()) == 1, f"not one line: {error!r}"
        return error
    return None


@cache
def seeds(target: str) -> list[bytes]:
    """Return real files as the first inputs."""
    from transformer_lib.vocab import WordVocab

    if target in CHECKPOINT:
        return [(home() / "checkpoint" / CHECKPOINT[target]).read_bytes()]
    if target in PREPARED:
        return [(home() / "data" / PREPARED[target]).read_bytes()]
    words = WordVocab.train(TEXT, "en", min_freq=1).to_bytes()
    flags = ["--preset tiny --d-model 32", "--steps 5 --betas 0.9 0.98 --resume auto", "--help"]
    return {
        "moments": [bytes([0, 1, 0, 1, 20])],
        "counts": [bytes([2, 1, 5, 7])],
        "text": ["a\u2028b\nc\r\n\u00fc x\n".encode()],
        "words": [words, (home() / "data" / "source.vocab").read_bytes()],
        "run": [b'{"step": 1, "bleu": 2.5}\n{"step": 2, "loss": 1.5}\n', b'{"step": 1}'],
        "flags": [flag.replace(" ", "\n").encode() for flag in flags],
    }[target]


def fuzz(target: str, seconds: int) -> None:
    """Run one target under atheris for so long; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["transformer_lib"]):
        import transformer_lib.cli
        import transformer_lib.cli.models
        import transformer_lib.data.reading
        import transformer_lib.train.trainer  # noqa: F401
    folder = FOUND / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (folder / f"seed-{number}").write_bytes(seed)
    known = [str(CORPUS / target)] if (CORPUS / target).is_dir() else []
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-timeout=20"]
    options += ["-rss_limit_mb=4096", "-print_final_stats=1", "-max_len=100000"]
    atheris.Setup([sys.argv[0], *options, str(folder), *known], lambda data: outcome(target, data))
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Run one target for so many seconds, or all of them."""
    if len(arguments) == 2:
        fuzz(arguments[0], int(arguments[1]))
    seconds = arguments[0] if arguments else "60"
    failed = []
    for target in TARGETS:
        print(f"{target}: {seconds} seconds", flush=True)
        done = subprocess.run([sys.executable, __file__, target, seconds])
        failed += [target] * (done.returncode != 0)
    print(f"failed: {', '.join(failed)}; see {FOUND}" if failed else "nothing was found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

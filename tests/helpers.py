"""Helpers that several test files share."""

from dataclasses import replace
from pathlib import Path

import torch

from transformer_lib import ModelConfig, Transformer
from transformer_lib.lessons.twin import as_torchs

SOURCE = ("ein Hund schläft", "eine Katze sieht den Hund", "der Garten ist grün", "ja ja ja")
TARGET = ("a dog sleeps", "a cat sees the dog", "the garden is green", "yes yes yes")


def silent(message):
    """Drop what a function reports."""


def pair_files(folder, source, target, name="train"):
    """Write lines to two aligned text files."""
    from transformer_lib.data.text import PairFiles

    paths = folder / f"{name}.de", folder / f"{name}.en"
    for path, lines in zip(paths, (source, target), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return PairFiles(*paths, name)


def prepared(folder, text, size, val=None, kind="subwords", about=None):
    """Write a prepared corpus with vocabularies of this size; it validates on its own text."""
    from transformer_lib.data.encoding import learn_vocabularies, prepare

    vocabularies = learn_vocabularies(text, kind, size, ("de", "en"))
    texts = {"train": text, "val": val or text}
    return prepare(texts, vocabularies, folder, about=about, say=silent)


def tree(folder):
    """Return the bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Models and numbers


def random(*shape, dtype=torch.float64):
    """Draw a tensor that wants a gradient."""
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def tiny(vocab_size=20, seed=0, **changes):
    """Build a small model of two layers; equal seeds draw equal weights."""
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "d_model": 16, "d_ff": 24, "max_len": 30} | changes
    return Transformer(ModelConfig.tiny(vocab_size, **sizes))


def unsettled(module, by=0.3):
    """Make it float64 and shift every weight: LayerNorms of 1 and biases of 0 hide mistakes."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter += by * torch.randn_like(parameter)
    return module


def close(found, expected, tolerance=1e-12):
    """Compare tensors, or lists of them, with the same absolute and relative tolerance."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def gradients(output, inputs):
    """Return the gradients of a sum in which every output has another factor."""
    towards = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(output, inputs, towards)


def same_as_torch(ours, theirs, output, expected, inputs, tolerance=1e-12):
    """Compare outputs, then gradients of the inputs and of every weight (to the tolerance)."""
    close(output, expected)
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    found = gradients(output, [*inputs, *mine.values()])
    wanted = gradients(expected, [*inputs, *others.values()])
    n = len(inputs)
    close(found[:n], wanted[:n], tolerance)
    renamed = as_torchs(dict(zip(mine, found[n:], strict=True)))
    assert renamed.keys() == others.keys()
    for name, gradient in zip(others, wanted[n:], strict=True):
        assert gradient.any() or name.endswith("in_proj_bias")
        close(renamed[name], gradient, tolerance)


# Notebook 07, cell by cell

SHORTER = {  # where a cell would take long, and does the same in less time
    "size=4000": "size=120",
    "range(0, len(sizes), 40)": "range(0, 400, 40)",
    "patience=2000": "patience=2",
    "slice(20": "slice(1",
    "(1, 0.0), (4, 0.0), (4, 0.6)": "(1, 0.0), (2, 0.6)",
    "limit=30": "limit=4",
    "else 4)": "else 1)",
    "(1, 2, 4, 8)": "(1, 3)",
    "[:10]": "[:2]",
    "n = 20 if": "n = 1 if",
    "held_out[:200], held_out[200:400]": "held_out[:5], held_out[5:8]",
}


def code_of_notebook_07():
    """Return the sources of its code cells but the head and the exercises."""
    import nbformat

    path = next(Path(__file__).resolve().parents[1].glob("notebooks/07_*.ipynb"))
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return [cell.source for cell in cells[1:] if "lessons.check(" not in cell.source]


def run_notebook_07(monkeypatch, skip=()):
    """Run its cells on small data for a few steps and return their names.

    Searches stop early and no picture is drawn, but every figure is made.
    """
    from transformer_lib import batching, decoding, greedy_decode, training
    from transformer_lib.data.text import ParallelText
    from transformer_lib.lessons import training as runs
    from transformer_lib.lessons.figures import base
    from transformer_lib.lessons.grammar import grammar_corpus

    small = grammar_corpus()
    sides = [tuple(getattr(p, side) for p in small.train[:20]) for side in ("source", "target")]
    small = replace(small, train=small.train[:600], val=small.val[:5], test=small.test[:5])
    monkeypatch.setattr(runs, "multi30k", lambda split: ParallelText(*sides, split))
    monkeypatch.setattr(base, "png", lambda figure: (b"", {}))
    monkeypatch.setenv("TRANSFORMER_LIB_BUDGET", "test")
    names = {}
    for code in code_of_notebook_07():
        if any(word in code for word in skip):
            continue
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        exec(code, names)
        for module in (batching, training, decoding):  # the same code, with types that tests check
            names |= {name: getattr(module, name) for name in module.__all__ if name in names}
        if "greedy_decode, lessons" in code:
            names["greedy_decode"] = lambda *args, **options: greedy_decode(
                *args, **options | {"extra": 2}
            )
            names["grammar_corpus"] = lambda: small
        if "COPY_STEPS, GRAMMAR_STEPS" in code:
            names |= {"COPY_STEPS": 6, "GRAMMAR_STEPS": 4, "CAPTION_STEPS": 4}
    return names

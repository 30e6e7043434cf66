"""Signatures, flags and help of every command.

Nothing here needs torch, whose import takes a second, so that `--help` answers at once. The work
is done by the modules beside. A function here only returns the call that does it, so that an error
in the flags is known from an error in the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from tyro.conf import Positional, arg

from transformer_lib.config import ModelConfig
from transformer_lib.data.multi30k import SPLITS
from transformer_lib.data.text import SAMPLE_PAIRS
from transformer_lib.train.folder import Resume
from transformer_lib.train.run_config import RunConfig, Workers

__all__ = ["COMMANDS", "ModelFlags", "Preset", "TrainFlags"]

Device = Literal["auto", "cpu", "cuda", "mps"]
Engine = Literal["ctranslate2", "transformers"]
Preset = Literal["tiny", "base", "big"]
Work = Callable[[], int]
Model = Annotated[str, Positional, arg(metavar="MODEL")]
Out = Annotated[Path, Positional, arg(metavar="OUT")]
Pair = Annotated[tuple[Path, Path] | None, arg(metavar="SOURCE TARGET")]
Pairs = Annotated[tuple[tuple[Path, Path], ...], arg(metavar="SOURCE TARGET ...")]

# What happens without a flag whose default is None; the preset decides about the model's sizes.
LEFT_OUT = {
    "attention": "no picture",
    "file": "standard input",
    "folder": "data/multi30k",
    "hypotheses": "not written",
    "init": "random weights",
    "loss_rows": "256 on a CPU, else all",
    "max_minutes": "no limit",
    "max_steps": "no limit",
    "max_tokens": "1,024 for each CPU thread, 4,096 on a GPU",
    "patience": "no limit",
    "peak_rate": "(d_model · warmup)^-0.5",
    "preset": "tiny, or the sizes of --init",
    "report": "not written",
    "result": "not written",
    "sentence": "an example",
    "source": "de, with Multi30k",
    "target": "en, with Multi30k",
    "test": "none",
    "threads": "as many as there are cores",
    "train": "Multi30k's",
    "val": "Multi30k's",
    "vocab": "subwords",
    "vocab_from": "learned from the training text",
    "vocab_size": "8000",
    "workers": "one per core for large files",
}


def _of_presets(name: str) -> str:
    """Return a size of each preset, or the one that all have."""
    sizes = {p: getattr(getattr(ModelConfig, p)(4), name) for p in ("tiny", "base", "big")}
    if len({*sizes.values()}) == 1:
        return str(sizes["tiny"])
    return "the preset's: " + ", ".join(f"{preset} {size}" for preset, size in sizes.items())


def _described(kind: Any, of_presets: bool = False) -> Any:
    """Annotate the parameters whose default is None with what happens when they are left out."""
    hints = get_type_hints(kind, include_extras=True)
    for name, parameter in signature(kind).parameters.items():
        if parameter.default is None:
            words = _of_presets(name) if of_presets else LEFT_OUT[name]
            hints[name] = Annotated[hints[name], arg(help_behavior_hint=f"(default: {words})")]
    if not isinstance(kind, type):
        kind.__annotations__ = hints
        return kind
    members = [(f.name, hints[f.name], field(default=f.default)) for f in fields(kind)]
    new = make_dataclass(kind.__name__, members, bases=(kind,), frozen=True)
    new.__doc__, new.__module__ = kind.__doc__, kind.__module__
    return new


def _run(command: str, arguments: dict[str, Any]) -> Work:
    """Return the work of a command, whose module is imported only when it is called."""
    module, name = command.split(".")
    return lambda: getattr(import_module(f"transformer_lib.cli.{module}"), name)(**arguments)


@dataclass(frozen=True)
class ModelFlags:
    """Sizes of the model; the preset has the defaults.

    Args:
        d_model: width of all vectors between the sub-layers.
        n_heads: attention heads; they divide d_model.
        n_layers: encoder layers, and as many decoder layers.
        d_ff: inner width of the feed-forward network.
        dropout: share dropped after every sub-layer and after embedding + position.
        max_len: number of positions.
        norm_first: pre-norm instead of the paper's post-norm.
        tie_embeddings: one matrix for source, target and output if they share a vocabulary.
        positions: encoding of the order of the tokens.
    """

    d_model: int | None = None
    n_heads: int | None = None
    n_layers: int | None = None
    d_ff: int | None = None
    dropout: float | None = None
    max_len: int | None = None
    norm_first: bool | None = None
    tie_embeddings: bool | None = None
    positions: Literal["sinusoidal", "learned", "none"] | None = None


@dataclass(frozen=True)
class TrainFlags:
    """Loss, learning rate and Adam; the defaults are the paper's.

    Args:
        peak_rate: highest learning rate; the paper's (d_model · warmup)^-0.5 when left out.
        warmup: number of steps until the peak.
        cooldown: share of the steps, at the end, over which the rate falls to 0; the paper has 0.
        smoothing: of the labels.
        max_grad_norm: longer gradients are clipped to this length.
        betas: Adam's decay rates.
        eps: added to Adam's divisor.
    """

    peak_rate: float | None = None
    warmup: int = 4000
    cooldown: float = 0.0
    smoothing: float = 0.1
    max_grad_norm: float = math.inf
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9


DescribedModelFlags = _described(ModelFlags, of_presets=True)
DescribedTrainFlags = _described(TrainFlags)
DescribedRunConfig = _described(RunConfig)


def fetch(
    folder: Path | None = None,
    languages: Annotated[tuple[str, ...], arg(metavar="LANGUAGE...")] = ("de", "en"),
    splits: Annotated[tuple[str, ...], arg(metavar="SPLIT...")] = SPLITS,
) -> Work:
    """Fetch Multi30k, for research and education only.

    Args:
        folder: where the files go; when left out, where the library looks (data/multi30k).
        languages: some of de, en, fr and cs.
        splits: some of its splits.
    """
    return _run("prepare.fetch", locals())


def prepare(
    out: Out,
    /,
    corpus: Literal["multi30k", "files"] = "multi30k",
    source: str | None = None,
    target: str | None = None,
    train: Pair = None,
    val: Pair = None,
    test: Pair = None,
    also: Pairs = (),
    vocab: Literal["subwords", "words"] | None = None,
    vocab_size: int | None = None,
    vocab_from: str | None = None,
    max_length: int = 256,
    max_ratio: float = 9.0,
    sample: int = SAMPLE_PAIRS,
    workers: int | None = None,
    force: bool = False,
) -> Work:
    """Encode parallel text for `train`, and report the pairs that were dropped.

    Args:
        out: the folder to write.
        corpus: multi30k (run `fetch` first), or two text files per split, line by line.
        source: language of the source, an ISO code (Multi30k: de when left out).
        target: language of the target (Multi30k: en).
        train: the training files, with --corpus files.
        val: the validation files.
        test: the files for the final scores.
        also: more files to train on, such as a model's translations: source, target, source, …
            The vocabulary is learned without them, and pairs that are there already are left out.
        vocab: one joint vocabulary of subwords (when left out), or whole words for each language.
        vocab_size: number of subwords, or the most words of each language; 8000 when left out.
        vocab_from: take the vocabularies of this model instead of learning them, to go on training
            it with `train --init`: a run, a model folder, or the name of a model that ships.
        max_length: training pairs with more tokens on a side are left out.
        max_ratio: so are pairs where one side is this many times longer.
        sample: a larger corpus learns its vocabulary from this many pairs, drawn at random.
        workers: processes that encode; when left out, one per core for large files. The result
            is the same.
        force: replace a prepared folder of that name.
    """
    return _run("prepare.prepare", locals())


def train(
    data: Annotated[Path, Positional, arg(metavar="DATA")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    model: DescribedModelFlags,
    rates: DescribedTrainFlags,
    run: DescribedRunConfig,
    preset: Preset | None = None,
    init: str | None = None,
    device: Device = "auto",
    threads: int | None = None,
    workers: Workers = "auto",
    validation: str = "val",
    resume: Resume = "no",
    dry_run: bool = False,
) -> Work:
    """Train a model, validate and save on a schedule, and resume after an interruption.

    Args:
        data: a folder that `prepare` wrote.
        out: the folder of this run.
        model: sizes of the model.
        rates: loss and optimizer.
        run: length and schedule.
        preset: sizes to start from: tiny (4 layers, 128), base and big (the paper's).
        init: a run, a model folder or the name of a model that ships: train it further on new
            sentences, with its sizes. Write `data` with --vocab-from and the same model.
        device: auto takes a GPU if there is one.
        threads: CPU cores to use in all; every physical core of this job when left out.
        workers: processes on this CPU, which share every batch, so that their number changes no
            update. auto: one for each core of --threads, where that pays; 1: one process.
        validation: the split to validate on.
        dry_run: check settings, data, disk and memory, time a few steps, and write nothing.
        resume: continue in `out`: from the latest checkpoint, or (auto) from the latest whole one.
    """
    return _run("train.train", locals())


def evaluate(
    model: Model,
    /,
    data: Path,
    split: str = "val",
    beam: int = 5,
    alpha: float = 1.0,
    max_tokens: int | None = None,
    device: Device = "auto",
    threads: int | None = None,
    result: Path | None = None,
    report: Path | None = None,
    hypotheses: Path | None = None,
    force: bool = False,
) -> Work:
    """Score a model: BLEU in four ways with signatures, chrF, perplexity, token accuracy.

    A sentence that is too long for the model counts as an empty translation; a warning names it.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
        data: a prepared folder.
        split: which of its splits.
        beam: width of the beam; 1 with --alpha 0 is greedy.
        alpha: of the length penalty.
        max_tokens: most source tokens decoded together; when left out, 1,024 on each CPU thread,
            4,096 on a GPU.
        device: auto takes a GPU if there is one.
        threads: CPU threads; torch's choice when left out.
        result: write scores, settings and training curve to this JSON file.
        report: write chrF by sentence length to this picture, or with translations to this page.
        hypotheses: write the translations to this file, line by line as in the files that the
            split was prepared from; empty where `prepare` left a line out.
        force: replace files of these names.
    """
    return _run("models.evaluate", locals())


def translate(
    model: Model,
    sentences: Annotated[tuple[str, ...], Positional, arg(metavar="SENTENCE...")] = (),
    /,
    file: Annotated[Path | None, arg(aliases=["-f"])] = None,
    beam: int = 5,
    alpha: float = 1.0,
    n_best: int = 1,
    scores: bool = False,
    max_tokens: int | None = None,
    device: Device = "auto",
    threads: int | None = None,
    attention: Path | None = None,
    force: bool = False,
) -> Work:
    """Translate sentences, a file, or standard input, line by line and in order.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
        sentences: what to translate; without any, --file, or else standard input.
        file: a text file, one sentence per line.
        beam: width of the beam; 1 with --alpha 0 is greedy.
        alpha: of the length penalty.
        n_best: print so many translations of each sentence, the best first; no two are the same.
            Where the search finds fewer, empty lines keep the number.
        scores: print the score before each translation.
        max_tokens: most source tokens decoded together; when left out, 1,024 on each CPU thread,
            4,096 on a GPU.
        device: auto takes a GPU if there is one.
        threads: CPU threads; torch's choice when left out.
        attention: draw the cross-attention of the first sentence to this picture.
        force: replace a picture of that name.
    """
    return _run("translate.translate", locals())


def average(
    out: Out,
    models: Annotated[tuple[str, ...], Positional, arg(metavar="MODEL...")],
    /,
    last: int = 5,
    half: bool = False,
    force: bool = False,
) -> Work:
    """Write the mean of several models (section 6.1 of the paper takes the last checkpoints).

    Args:
        out: the model folder to write.
        models: runs (of each, the newest checkpoints are taken) or model folders.
        last: how many of the newest checkpoints of a run.
        half: keep the weights in half precision, which halves the file.
        force: replace a model folder of that name.
    """
    return _run("models.average", locals())


def info(model: Model, /) -> Work:
    """Show sizes, parameters per part, vocabulary, training and scores of a model.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
    """
    return _run("models.info", locals())


def export(model: Model, out: Out, /, to: Engine, force: bool = False) -> Work:
    """Write a model for an engine that is made for serving.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
        out: the folder to write.
        to: ctranslate2 (C++, the fastest on a CPU), or transformers for Hugging Face: a
            MarianMTModel for post-norm, a PegasusForConditionalGeneration for pre-norm. Both need
            pip install "transformer-lib[export]".
        force: replace an export of that name.
    """
    return _run("models.export", locals())


def explore(
    model: Model,
    /,
    out: Path,
    sentence: str | None = None,
    half: bool = False,
    force: bool = False,
) -> Work:
    """Write one web page in which the model translates and can be taken apart.

    The page needs nothing else: no network, no Python, no other file. The model has to have
    subwords.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
        out: the page to write, such as page.html.
        sentence: what the page translates first.
        half: round the weights to half precision, for half the size; translations may differ.
        force: replace a file of that name.
    """
    return _run("models.explore", locals())


# Each function by its name, which is the name of the command.
COMMANDS = {
    command.__name__: _described(command)
    for command in (fetch, prepare, train, evaluate, translate, average, info, export, explore)
}

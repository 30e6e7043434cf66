"""`transformer-lib evaluate`, `average`, `info`: what a trained model is and is worth."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import Positional, arg

from transformer_lib.cli.training import Device, choose_device, set_threads
from transformer_lib.data.files import check_free, list_checkpoints, to_json, write_folder
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.reading import read_json, understood
from transformer_lib.training import average_weights
from transformer_lib.translate import evaluation
from transformer_lib.translate.translator import Translator, find_pretrained

__all__ = ["average", "check_alpha", "check_outputs", "evaluate", "find_model", "info"]


SCORE = re.compile(r"^\| (.+?) \| ([\d.]+) \| `", re.M)  # a row of the card's table


def find_model(name: str) -> Path:
    """A model folder: itself, the best checkpoint of a run, or a model that ships."""
    checkpoints = list_checkpoints(Path(name) / "checkpoints")
    if not checkpoints:
        return find_pretrained(name)
    best = Path(name) / "best.json"
    step = read_json(best, {"step": int})["step"] if best.is_file() else -1
    chosen = Path(name) / "checkpoints" / f"step-{step:06d}"
    return chosen if chosen in checkpoints else checkpoints[-1]


def check_outputs(*paths: Path | None, force: bool = False) -> None:
    """Refuses what could not or should not be written, before the work and not after it."""
    for path in filter(None, paths):
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file")
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists: choose another name, or add --force")
        if path.parent.exists() and not path.parent.is_dir():
            raise ValueError(f"{path.parent} is not a folder")
        path.parent.mkdir(parents=True, exist_ok=True)


def check_alpha(alpha: float) -> None:
    """Refuses a length penalty that ranks nothing."""
    if not 0 <= alpha < math.inf:
        raise ValueError(f"--alpha must be a number of at least 0, got {alpha}")


def _training(folder: Path) -> dict[str, Any] | None:
    noted = folder / "training.json"
    return read_json(noted, {}) if noted.is_file() else None


def evaluate(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
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
) -> int:
    """Scores a model: BLEU in four ways with signatures, chrF, perplexity, token accuracy.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
        data: a prepared folder.
        split: which of its splits.
        beam: width of the beam; 1 with --alpha 0 is greedy.
        alpha: of the length penalty.
        max_tokens: most source tokens decoded together; when left out, 1,024 on each CPU thread,
            4,096 on a GPU.
        device: auto takes a GPU where there is one.
        threads: CPU threads; torch's choice when left out.
        result: write scores, settings and training curve to this JSON file.
        report: write BLEU by sentence length to this picture, or with translations to this page.
        hypotheses: write the translations to this file.
        force: replace files of these names.
    """
    set_threads(threads)
    check_alpha(alpha)
    check_outputs(result, hypotheses, report, force=force)
    if report:
        from transformer_lib.translate.report import check_ending, write_report

        check_ending(report)
    folder = find_model(model)
    translator = Translator.from_pretrained(folder, device=choose_device(device))
    corpus = Prepared(data)
    text = corpus.text(split)
    noted = _training(folder)
    with understood(folder / "training.json"):
        _check_direction(noted or {}, corpus)
    found = evaluation.evaluate_text(
        translator,
        text,
        beam_size=beam,
        alpha=alpha,
        max_tokens=max_tokens,
        language=corpus.about.get("target"),
    )
    print(f"{folder} on {text.name}, {len(text):,} sentences, beam {beam}, alpha {alpha:g}")
    print(found.table())
    if found.unfinished:
        print(f"{found.unfinished} translations reached the length limit without an end")
    if hypotheses:
        hypotheses.write_text("".join(f"{line}\n" for line in found.hypotheses), "utf-8")
    if result:
        evaluation.write_result(result, found, training=noted, device=translator.device)
    if report:
        write_report(report, found, text, how=f"{model}, beam {beam}, alpha {alpha:g}")
    return 0


def _check_direction(noted: dict[str, Any], corpus: Prepared) -> None:
    """Warns where the model is known to be for other languages than the corpus has."""
    both = noted.get("settings", {}).get("data", {}), corpus.about
    sides = [[about.get(side) for side in ("source", "target")] for about in both]
    if all(map(all, sides)) and sides[0] != sides[1]:
        ours, theirs = (" to ".join(languages) for languages in sides)
        print(f"warning: the model translates {ours}, the data is {theirs}", file=sys.stderr)


def average(
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    models: Annotated[tuple[str, ...], Positional, arg(metavar="MODEL...")],
    /,
    last: int = 5,
    half: bool = False,
    force: bool = False,
) -> int:
    """Writes the mean of several models (section 6.1 of the paper takes the last checkpoints).

    Args:
        out: the model folder to write.
        models: runs (of each, the newest checkpoints are taken) or model folders.
        last: how many of the newest checkpoints of a run.
        half: keep the weights in half precision, which halves the file.
        force: replace a model folder of that name.
    """
    if not models:
        raise ValueError("average needs one or more models to take the mean of")
    check_free(out, replace=force)
    folders = [folder for name in models for folder in _newest(name, last)]
    translators = [Translator.from_pretrained(folder) for folder in folders]
    mean = translators[-1]
    for other, folder in zip(translators, folders, strict=True):
        if _kind(other) != _kind(mean):
            raise ValueError(f"{folder} has other sizes or vocabularies than {folders[-1]}")
    mean.model.load_state_dict(average_weights([t.model.state_dict() for t in translators]))
    noted = (_training(folders[-1]) or {}) | {"averaged": [folder.name for folder in folders]}

    def fill(temporary: Path) -> None:
        mean.write_files(temporary, torch.float16 if half else None)
        (temporary / "training.json").write_text(to_json(noted), "utf-8")

    write_folder(out, fill, replace=force)
    print(f"the mean of {len(folders)}: {', '.join(noted['averaged'])}; written to {out}")
    return 0


def _kind(translator: Translator) -> tuple:
    vocabularies = translator.src_vocab.to_bytes(), translator.tgt_vocab.to_bytes()
    return translator.model.config, *vocabularies


def _newest(name: str, last: int) -> list[Path]:
    if last < 1:
        raise ValueError(f"--last must be at least 1, got {last}")
    return list_checkpoints(Path(name) / "checkpoints")[-last:] or [find_pretrained(name)]


def info(model: Annotated[str, Positional, arg(metavar="MODEL")], /) -> int:
    """Tells what a model is: sizes, parameters per part, vocabulary, training, scores.

    Args:
        model: a run (its best checkpoint), a model folder, or the name of a model that ships.
    """
    folder = find_model(model)
    translator = Translator.from_pretrained(folder)
    network = translator.model
    print(folder)
    print("sizes      ", ", ".join(f"{k}={v}" for k, v in vars(network.config).items()))
    for name, part in network.named_children():
        n_parameters = sum(p.numel() for p in part.parameters())
        print(f"{name:<18} {n_parameters:>12,} parameters")
    total = sum(p.numel() for p in network.parameters())
    print(f"{'together':<18} {total:>12,} parameters, shared ones counted once")
    for side in ("src_vocab", "tgt_vocab"):
        vocab = getattr(translator, side)
        print(f"{side:<18} {len(vocab):>12,} ids, {type(vocab).__name__}")
    if noted := _training(folder):
        with understood(folder / "training.json"):
            _tell_training(noted)
    if (card := folder / "README.md").is_file():  # a model that ships
        print("scores      ", card)
        for measure, value in SCORE.findall(card.read_text("utf-8")):
            print(f"  {measure:<20} {value:>6}")
    return 0


def _tell_training(noted: dict[str, Any]) -> None:
    if averaged := noted.get("averaged"):
        told = "; below, the last of them" * ("settings" in noted)
        print(f"mean of     {', '.join(averaged)}{told}")
    if noted.keys() == {"averaged"}:  # the mean of models that nobody has trained here
        return
    minutes, device = noted["seconds"] / 60, noted["conditions"]["device"]
    told = f"{noted['step']} steps, {noted['n_tokens']:,} target tokens"
    print(f"trained     {told}, {minutes:.1f} minutes on {device}")
    for name, values in noted["settings"].items():
        print(f"{name:<11}", json.dumps(values))
    watched = [line for line in noted["curve"] if "bleu" in line]
    best = max(watched, key=lambda line: line["bleu"], default=None)
    for line in watched:
        if line is best or line in watched[-3:]:
            told = f"loss {line['val_loss']:.3f}, greedy BLEU {line['bleu']:.2f}"
            print(f"validation  step {line['step']}: {told}{', the best' * (line is best)}")

"""`transformer-lib evaluate`, `average`, `info`, `export`, `explore`: trained models."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from transformer_lib.cli.common import (
    as_utf8,
    check_alpha,
    choose_device,
    reserve_outputs,
    set_threads,
)
from transformer_lib.data.coverage import Coverage, coverage
from transformer_lib.data.devices import keep_freed_memory
from transformer_lib.data.extras import needs
from transformer_lib.data.files import (
    list_checkpoints,
    reserve,
    to_json,
    write_folder,
    write_text,
)
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.reading import blame_file, read_json
from transformer_lib.data.text import ParallelText
from transformer_lib.train.validation import best_validation
from transformer_lib.training import average_weights
from transformer_lib.translate import evaluation
from transformer_lib.translate.explorer import explorer_page
from transformer_lib.translate.export import Engine
from transformer_lib.translate.export import export as write_export
from transformer_lib.translate.scores import is_countable
from transformer_lib.translate.translator import (
    Translator,
    find_pretrained,
    read_model,
    retry_if_removed,
)

__all__ = ["average", "evaluate", "explore", "export", "info"]

SCORE = re.compile(r"^\| (.+?) \| ([\d.]+) \| `", re.M)  # a row of the card's table


def _training(folder: Path) -> dict[str, Any] | None:
    path = folder / "training.json"
    return read_json(path, {}) if path.is_file() else None


def _read(folder: Path, device: str = "cpu") -> tuple[Path, Translator, dict[str, Any] | None]:
    translator = Translator.from_pretrained(folder, device=choose_device(device))
    return folder, translator, _training(folder)


def evaluate(
    model: str,
    data: Path,
    split: str,
    beam: int,
    alpha: float,
    max_tokens: int | None,
    device: str,
    threads: int | None,
    result: Path | None,
    report: Path | None,
    hypotheses: Path | None,
    force: bool,
) -> int:
    """Run the command; `commands.evaluate` has its arguments."""
    set_threads(threads)
    keep_freed_memory()
    check_alpha(alpha)
    with needs("cli"):  # before the work, not after it
        import sacrebleu  # noqa: F401
    if report:
        from transformer_lib.translate.report import check_ending, write_report

        check_ending(report)
    outputs = [path for path in (hypotheses, result, report) if path]  # written before any line
    with reserve_outputs(*outputs, force=force):
        folder, translator, training = read_model(model, partial(_read, device=device))
        corpus = Prepared(data)
        text = corpus.text(split)
        lines = corpus.line_numbers(split)
        _warn_of_lines_left_out(corpus, split)
        with blame_file(folder / "training.json"):
            _check_direction(training or {}, corpus)
        scores = evaluation.evaluate_text(
            translator,
            text,
            beam_size=beam,
            alpha=alpha,
            max_tokens=max_tokens,
            language=corpus.about.get("target"),
            warn=lambda i, problem: _warn(f"line {lines[i]} {problem}"),
        )
        if hypotheses:
            whole = [""] * lines[-1]
            for number, line in zip(lines, scores.hypotheses, strict=True):
                whole[number - 1] = line
            write_text(hypotheses, "".join(f"{line}\n" for line in whole))
        if result:
            evaluation.write_result(result, scores, training=training, device=translator.device)
        if report:
            write_report(report, scores, text, how=f"{model}, beam {beam}, alpha {alpha:g}")
    print(f"{folder} on {text.name}, {len(text):,} sentences, beam {beam}, alpha {alpha:g}")
    print(scores.table())
    if scores.unfinished:
        print(f"{scores.unfinished} translations reached the length limit without an end")
    _print_coverage(translator, text, corpus)
    if not is_countable(text.target, scores.tokenize):
        _warn("most references have fewer than the four tokens that BLEU counts: trust chrF")
    for path in outputs:
        print(f"written to {path}")
    return 0


def _warn_of_lines_left_out(corpus: Prepared, split: str) -> None:
    """Name the lines of the prepared files that are not scored, or their number."""
    with blame_file(corpus.folder / "corpus.json"):
        record = corpus.about["splits"][split]
        left_out = [str(line) for line in record.get("left_out", ())]
        n_unknown = sum(record.get("dropped", {}).values()) - len(left_out)
    if left_out:
        _warn(f"prepare left out line {', '.join(left_out)}, where a side is empty")
    if n_unknown > 0:  # an older corpus, or a training split
        _warn(f"prepare left out {n_unknown:,} pairs; lines are numbered without them")


def _print_coverage(translator: Translator, text: ParallelText, corpus: Prepared) -> None:
    """Print how much of the text the vocabularies know, and warn if that is little."""
    training = corpus.about["splits"][corpus.splits[0]].get("coverage", {})
    for side, attribute, name, sentences in (
        ("src", "src_vocab", "source", text.source),
        ("tgt", "tgt_vocab", "references", text.target),
    ):
        vocab, usual = getattr(translator, attribute), None
        counts = coverage(vocab, sentences)
        print(f"{name:<10}  {counts}")
        if getattr(corpus, attribute).to_bytes() == vocab.to_bytes() and side in training:
            with blame_file(corpus.folder / "corpus.json"):
                usual = Coverage(**training[side])
        if problem := counts.warning(usual):
            _warn(f"{name}: {problem}; is this text of the model's language and subject?")


def _warn(problem: str) -> None:
    print(f"warning: {problem}", file=sys.stderr)


def _check_direction(training: dict[str, Any], corpus: Prepared) -> None:
    """Warn if the model is known to be for other languages than the corpus has."""
    both = training.get("settings", {}).get("data", {}), corpus.about
    sides = [[about.get(side) for side in ("source", "target")] for about in both]
    if all(map(all, sides)) and sides[0] != sides[1]:
        ours, theirs = (" to ".join(languages) for languages in sides)
        _warn(f"the model translates {ours}, the data is {theirs}")


def average(out: Path, models: tuple[str, ...], last: int, half: bool, force: bool) -> int:
    """Run the command; `commands.average` has its arguments."""
    if not models:
        raise ValueError("average needs one or more models to take the mean of")
    with reserve(out, "model", replace=force):
        read = retry_if_removed(
            lambda: [folder for name in models for folder in _newest(name, last)],
            lambda folders: [_read(folder) for folder in folders],
        )
        folders, translators, trainings = zip(*read, strict=True)
        mean = translators[-1]
        for other, folder in zip(translators, folders, strict=True):
            if _kind(other) != _kind(mean):
                raise ValueError(f"{folder} has other sizes or vocabularies than {folders[-1]}")
        weights = average_weights([t.model.state_dict() for t in translators])
        mean.model.load_state_dict(weights)
        training = (trainings[-1] or {}) | {"averaged": [folder.name for folder in folders]}

        def fill(temporary: Path) -> None:
            mean.write_files(temporary, torch.float16 if half else None)
            (temporary / "training.json").write_text(to_json(training), "utf-8")

        write_folder(out, fill, kind="model", replace=force)
    print(f"the mean of {len(folders)}: {', '.join(training['averaged'])}; written to {out}")
    return 0


def _kind(translator: Translator) -> tuple:
    vocabularies = translator.src_vocab.to_bytes(), translator.tgt_vocab.to_bytes()
    return translator.model.config, *vocabularies


def _newest(name: str, last: int) -> list[Path]:
    if last < 1:
        raise ValueError(f"--last must be at least 1, got {last}")
    return list_checkpoints(Path(name) / "checkpoints")[-last:] or [find_pretrained(name)]


def info(model: str) -> int:
    """Run the command; `commands.info` has its arguments."""
    folder, translator, training = read_model(model, _read)
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
    if training:
        with blame_file(folder / "training.json"):
            _print_training(training)
    if (card := folder / "README.md").is_file():  # a model that ships
        print("scores      ", card)
        for measure, value in SCORE.findall(card.read_text("utf-8")):
            print(f"  {measure:<20} {value:>6}")
    return 0


def _print_training(training: dict[str, Any]) -> None:
    if averaged := training.get("averaged"):
        last = "; below, the last of them" * ("settings" in training)
        print(f"mean of     {', '.join(averaged)}{last}")
    if training.keys() == {"averaged"}:  # the mean of models of unknown origin
        return
    minutes, device = training["seconds"] / 60, training["conditions"]["device"]
    length = f"{training['step']} steps, {training['n_tokens']:,} target tokens"
    print(f"trained     {length}, {minutes:.1f} minutes on {device}")
    for name, values in training["settings"].items():
        print(f"{name:<11}", json.dumps(values))
    how = training["settings"].get("validation")
    measure = how["measure"] if isinstance(how, dict) else "bleu"  # older runs have the split
    validations = [line for line in training["curve"] if "val_loss" in line]
    best = best_validation(validations, measure)
    for line in validations:
        if line is best or line in validations[-3:]:
            loss = "nan" if line["val_loss"] is None else f"{line['val_loss']:.3f}"
            scores = f"loss {loss}, greedy BLEU {line['bleu']:.2f}"
            scores += f", chrF {line['chrf']:.2f}" if "chrf" in line else ""
            print(f"validation  step {line['step']}: {scores}{', the best' * (line is best)}")


def export(model: str, out: Path, to: Engine, force: bool) -> int:
    """Run the command; `commands.export` has its arguments."""
    with reserve(out, "export", replace=force):
        write_export(Translator.open(model), out, to, replace=force)
    print(f"{model} for {to}; written to {out}")
    return 0


def explore(model: str, out: Path, sentence: str | None, half: bool, force: bool) -> int:
    """Run the command; `commands.explore` has its arguments."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the explorer is a page, .html, not {out.name!r}")
    sentence = sentence and as_utf8(sentence)
    with reserve_outputs(out, force=force):
        write_text(out, explorer_page(model, sentence, half=half))
    print(f"{model}, {out.stat().st_size / 1e6:.1f} MB; written to {out}: open it in a browser")
    return 0

"""Scores of a model on a text, with the conditions under which they were measured."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from transformer_lib.batching import epoch_batches
from transformer_lib.data.coverage import WORD
from transformer_lib.data.devices import device_name
from transformer_lib.data.extras import needs
from transformer_lib.data.files import to_json, write_text
from transformer_lib.data.text import ParallelText
from transformer_lib.training import Evaluation, evaluate
from transformer_lib.translate.inference import in_evaluation
from transformer_lib.translate.scores import Score, bleu, check_texts, choose_tokenizer, chrf
from transformer_lib.translate.translator import Translator, Warn, warn_of_sentence
from transformer_lib.vocab import WordTokenizer

__all__ = [
    "LENGTH_GROUPS",
    "Report",
    "by_length",
    "conditions",
    "evaluate_text",
    "lc_norm_tok",
    "literature_bleu",
    "predict",
    "words_bleu",
    "write_result",
]

# A model may predict <unk>. No human reference contains one, so it counts as a wrong word.
RAW: dict[str, Any] = {"special_tokens": ()}
LENGTH_GROUPS = {"1-8": 8, "9-11": 11, "12-14": 14, "15 and more": 10**9}


@dataclass(frozen=True)
class Report:
    """All scores of one model on one text.

    Attributes:
        search: settings of the search: beam_size and alpha.
        scores: for each measure its value and how it was computed.
        hypotheses: the translations, in order.
        unfinished: how many of them were truncated at the length limit.
        tokenize: sacrebleu's tokenizer, chosen by the target language.
    """

    name: str
    search: dict[str, int | float]
    scores: dict[str, dict[str, Any]]
    hypotheses: list[str] = field(repr=False)
    unfinished: int
    tokenize: str = "13a"

    def table(self) -> str:
        """Return the scores as lines of text."""
        width = max(map(len, self.scores))
        lines = (f"{n:<{width}}  {s['value']:8.2f}  {s['how']}" for n, s in self.scores.items())
        return "\n".join(lines)


def predict(
    translator: Translator,
    text: ParallelText,
    max_tokens: int = 4096,
    *,
    warn: Warn = warn_of_sentence,
) -> Evaluation:
    """Return loss, perplexity and token accuracy under teacher forcing.

    Args:
        warn: receives the index of each pair that is left out because a side is longer than the
            model, and the reason.
    """
    encode = translator.tgt_vocab.encode
    pairs = list(
        zip(
            translator.encode(text.source),
            [encode(target, bos=True, eos=True) for target in text.target],
            strict=True,
        )
    )
    sides = zip(*((source, target[1:]) for source, target in pairs), strict=True)
    too_long = {i: what for side in sides for i, what in translator.too_long(side).items()}
    for i, problem in too_long.items():
        warn(i, f"{problem}: left out of perplexity and token accuracy")
    pairs = [pair for i, pair in enumerate(pairs) if i not in too_long]
    batches = (batch.to(translator.device) for batch in epoch_batches(pairs, max_tokens))
    with in_evaluation(translator.model) as model:
        return evaluate(model, batches, translator.model.config.pad_id)


def evaluate_text(
    translator: Translator,
    text: ParallelText,
    *,
    beam_size: int = 5,
    alpha: float = 1.0,
    max_tokens: int | None = None,
    language: str | None = None,
    warn: Warn = warn_of_sentence,
) -> Report:
    """Translate a text and score it with the measures in use in the literature.

    A source sentence that is too long for the model counts as an empty translation.

    Args:
        beam_size, alpha, max_tokens: as in `Translator.hypotheses`.
        language: ISO code of the target, for the measures that tokenize words.
        warn: receives the index of each sentence that is too long, and what happens to it.
    """
    left_empty = set()

    def warn_once(i: int, problem: str) -> None:
        if i not in left_empty:
            left_empty.add(i)
            warn(i, problem)

    beams = translator.hypotheses(
        text.source, beam_size=beam_size, alpha=alpha, max_tokens=max_tokens, warn=warn_once
    )
    hypotheses = [translator.tgt_vocab.decode(best[0].ids) for best in beams]
    evaluation = predict(translator, text, warn=warn_once)
    tokenize = choose_tokenizer(language, text.target)
    counting = {"tokenize": tokenize, **RAW}
    scores = {
        "BLEU": _entry(bleu(hypotheses, text.target, **counting)),
        "BLEU, lower-cased": _entry(bleu(hypotheses, text.target, lowercase=True, **counting)),
        "chrF": _entry(chrf(hypotheses, text.target, **RAW)),
        "perplexity": {"value": evaluation.perplexity, "how": "teacher forcing, per token"},
        "token accuracy, %": {"value": 100 * evaluation.accuracy, "how": "teacher forcing"},
    }
    if language:
        if tokenize == "13a":  # Moses splits at spaces
            scores["BLEU, literature"] = literature_bleu(hypotheses, text.target, language)
        if (words := words_bleu(hypotheses, text.target, language)) is not None:
            scores["BLEU, words"] = words
    unfinished = sum(not best[0].finished for best in beams)
    search = {"beam_size": beam_size, "alpha": alpha}
    return Report(text.name, search, scores, hypotheses, unfinished, tokenize)


def _entry(score: Score, *how: str) -> dict[str, Any]:
    return {"value": score.value, "how": "; ".join([*how, score.signature])}


def words_bleu(
    hypotheses: Sequence[str], references: Sequence[str], language: str
) -> dict[str, Any] | None:
    """Return BLEU of lower-cased spaCy tokens, as most tutorials do; None without a tokenizer."""
    check_texts(hypotheses, references)
    try:
        tokenize = WordTokenizer(language)
    except Exception:  # no spaCy, a broken one, or it does not know the language
        return None
    both = (hypotheses, references)
    texts = ([" ".join(tokenize(line.lower())) for line in lines] for lines in both)
    return _entry(bleu(*texts, tokenize="none", **RAW), "lower-cased spaCy tokens")


def lc_norm_tok(lines: Sequence[str], language: str) -> list[str]:
    """Lower-case, normalize and tokenize, as in the `lc.norm.tok` files of Multi30k.

    For both sides of test_2016_flickr the output equals the published files (a test compares them).
    """
    if isinstance(lines, str):
        raise ValueError("give a list of lines, not one string")
    with needs("cli"):
        from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalize = MosesPunctNormalizer(language).normalize
    tokenize = MosesTokenizer(language).tokenize
    return [tokenize(normalize(line.lower()), return_str=True) for line in lines]


def literature_bleu(
    hypotheses: Sequence[str], references: Sequence[str], language: str
) -> dict[str, Any]:
    """Return BLEU of lower-cased, normalized, tokenized text, as papers on Multi30k report it."""
    texts = (lc_norm_tok(lines, language) for lines in (hypotheses, references))
    return _entry(bleu(*texts, tokenize="none", **RAW), "lc.norm.tok by sacremoses")


def by_length(report: Report, text: ParallelText) -> dict[str, tuple[float, int]]:
    """Return chrF and the number of sentences by the number of words in the source.

    chrF, since the BLEU of short sentences is 0 however good they are. In scripts without spaces
    between words, characters are counted.
    """
    groups: dict[str, list[tuple[str, str]]] = {name: [] for name in LENGTH_GROUPS}
    for source, *pair in zip(text.source, report.hypotheses, text.target, strict=True):
        n_words = len(WORD.findall(source))
        group = next(name for name, longest in LENGTH_GROUPS.items() if n_words <= longest)
        groups[group].append(pair)
    return {
        name: (chrf(*zip(*pairs, strict=True), **RAW).value, len(pairs))
        for name, pairs in groups.items()
        if pairs
    }


def conditions(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the versions, machine and commit that every result is saved with."""
    return {
        "python": platform.python_version(),
        "versions": {n: _version(n) for n in ("torch", "numpy", "sentencepiece", "sacrebleu")},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # sacrebleu comes with an extra
        return None


def _commit() -> str | None:
    """Return the commit of the repository that holds this library, marked dirty after changes."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:  # installed inside another repository
            return None
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return None


def write_result(
    path: str | Path,
    report: Report,
    *,
    training: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Write one result: the training (`training.json` of the checkpoint), settings and scores."""
    summary = {key: value for key, value in asdict(report).items() if key != "hypotheses"}
    fields = {**summary, "conditions": conditions(device), "training": training}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(fields))

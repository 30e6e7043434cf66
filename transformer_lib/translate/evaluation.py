"""What a model is worth on a text, and under which conditions the number was reached."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transformer_lib.batching import Batch, epoch_batches
from transformer_lib.data.corpora import ParallelText
from transformer_lib.data.files import to_json, write_text
from transformer_lib.train.ranks import ALONE, Ranks
from transformer_lib.training import Evaluation, evaluate
from transformer_lib.translate.metrics import bleu, chrf
from transformer_lib.translate.translator import Translator
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
    "validation_scores",
    "words_bleu",
    "write_result",
]

# A model may well say <unk>. No reference of a person holds one, so it counts as a wrong word.
RAW: dict[str, Any] = {"special_tokens": ()}
LENGTH_GROUPS = {"1-8": 8, "9-11": 11, "12-14": 14, "15 and more": 10**9}


@dataclass(frozen=True)
class Report:
    """All scores of one model on one text.

    Attributes:
        name: of the text.
        search: how was decoded: beam_size and alpha.
        scores: name of a measure to its value and how it was counted.
        hypotheses: the translations, in order.
        unfinished: how many of them were cut off at the length limit.
    """

    name: str
    search: dict[str, int | float]
    scores: dict[str, dict[str, Any]]
    hypotheses: list[str] = field(repr=False)
    unfinished: int

    def table(self) -> str:
        """The scores as lines of text."""
        width = max(map(len, self.scores))
        return "\n".join(
            f"{name:<{width}}  {score['value']:8.2f}  {score['how']}"
            for name, score in self.scores.items()
        )


def predict(translator: Translator, text: ParallelText, max_tokens: int = 4096) -> Evaluation:
    """Loss, perplexity and token accuracy with the true beginning given (teacher forcing)."""
    encode = translator.tgt_vocab.encode
    pairs = [
        (translator.src_vocab.encode(source, eos=True), encode(target, bos=True, eos=True))
        for source, target in text
    ]
    batches = (batch.to(translator.device) for batch in epoch_batches(pairs, max_tokens))
    return evaluate(translator.model, batches, translator.model.config.pad_id)


def validation_scores(
    model: nn.Module,
    translator: Translator,
    batches: Iterable[Batch],
    text: ParallelText,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """What a training looks at now and then: loss, accuracy, greedy BLEU.

    Args:
        model: what computes the logits; the translator's model, perhaps in another precision.
        batches: this rank's share of the text as ids, on the model's device; it may be empty.
        text: all of it; every rank translates its share, and all get the scores of the whole.
    """
    rank, n = ranks.rank, ranks.world_size
    told = Evaluation(0.0, 0.0, 0)
    with ranks.together():
        batches = list(batches)
        if batches or n == 1:  # alone without a batch, `evaluate` says what is wrong
            told = evaluate(model, batches, translator.model.config.pad_id)
        found = translator.translate(text.source[rank::n], beam_size=1, alpha=0.0)
    loss, accuracy = ranks.mean([told.loss, told.accuracy], told.n_tokens)
    texts = list(text.source)
    for rank, theirs in enumerate(ranks.gather(found)):
        texts[rank::n] = theirs
    score = bleu(texts, text.target, **RAW)
    return {"val_loss": loss, "val_accuracy": accuracy, "bleu": score.value}


def evaluate_text(
    translator: Translator,
    text: ParallelText,
    *,
    beam_size: int = 5,
    alpha: float = 1.0,
    max_tokens: int | None = None,
    language: str | None = None,
) -> Report:
    """Translates a text and scores it in every way the literature knows.

    Args:
        beam_size, alpha, max_tokens: as in `Translator.hypotheses`.
        language: ISO code of the target, for the measures that cut words.
    """
    found = translator.hypotheses(
        text.source, beam_size=beam_size, alpha=alpha, max_tokens=max_tokens
    )
    hypotheses = [translator.tgt_vocab.decode(best[0].ids) for best in found]
    told = predict(translator, text)
    scores = {
        "BLEU": _of(bleu(hypotheses, text.target, **RAW)),
        "BLEU, lower-cased": _of(bleu(hypotheses, text.target, lowercase=True, **RAW)),
        "chrF": _of(chrf(hypotheses, text.target, **RAW)),
        "perplexity": {"value": told.perplexity, "how": "true beginning given, per token"},
        "token accuracy, %": {"value": 100 * told.accuracy, "how": "true beginning given"},
    }
    if language:
        scores["BLEU, literature"] = literature_bleu(hypotheses, text.target, language)
        if (words := words_bleu(hypotheses, text.target, language)) is not None:
            scores["BLEU, words"] = words
    search = {"beam_size": beam_size, "alpha": alpha}
    unfinished = sum(not best[0].finished for best in found)
    return Report(text.name, search, scores, hypotheses, unfinished)


def _of(score: Any) -> dict[str, Any]:
    return {"value": score.value, "how": score.signature}


def words_bleu(
    hypotheses: Sequence[str], references: Sequence[str], language: str
) -> dict[str, Any] | None:
    """BLEU of lower-cased spaCy tokens, as most tutorials count; None where spaCy cannot cut."""
    try:
        cut = WordTokenizer(language)
    except ValueError:
        return None
    texts = ([" ".join(cut(line.lower())) for line in lines] for lines in (hypotheses, references))
    score = bleu(*texts, tokenize="none", **RAW)
    return {"value": score.value, "how": f"lower-cased spaCy tokens; {score.signature}"}


def lc_norm_tok(lines: Sequence[str], language: str) -> list[str]:
    """Lower-cased, normalised and tokenised, as in the `lc.norm.tok` files of Multi30k.

    sacremoses in the place of the Moses scripts: on both sides of test_2016_flickr it gives the
    published files, line by line (a test compares them).
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalize, cut = MosesPunctNormalizer(language).normalize, MosesTokenizer(language).tokenize
    return [cut(normalize(line.lower()), return_str=True) for line in lines]


def literature_bleu(
    hypotheses: Sequence[str], references: Sequence[str], language: str
) -> dict[str, Any]:
    """BLEU of lower-cased, normalised, tokenised text: how papers on Multi30k count."""
    texts = (lc_norm_tok(lines, language) for lines in (hypotheses, references))
    score = bleu(*texts, tokenize="none", **RAW)
    return {"value": score.value, "how": f"lc.norm.tok by sacremoses; {score.signature}"}


def by_length(report: Report, text: ParallelText) -> dict[str, tuple[float, int]]:
    """BLEU and number of sentences, by the number of words in the source."""
    groups: dict[str, list[int]] = {name: [] for name in LENGTH_GROUPS}
    for i, source in enumerate(text.source):
        n_words = len(source.split())
        groups[next(name for name, top in LENGTH_GROUPS.items() if n_words <= top)].append(i)
    scores = {}
    for name, rows in filter(lambda group: group[1], groups.items()):
        hypotheses, references = ([x[i] for i in rows] for x in (report.hypotheses, text.target))
        scores[name] = bleu(hypotheses, references, **RAW).value, len(rows)
    return scores


def conditions(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, machine and commit, to be noted beside every result."""
    names = ("torch", "numpy", "sentencepiece", "sacrebleu")
    cuda = torch.device(device).type == "cuda"
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the repository this library is run from, marked where files were changed."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:  # installed in somebody else's
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
    """One result as a file: how it was trained, how it was scored, and what came out.

    Args:
        training: `training.json` of the checkpoint, curve included.
        device: where it was scored.
    """
    scored = {key: value for key, value in asdict(report).items() if key != "hypotheses"}
    fields = {**scored, "conditions": conditions(device), "training": training}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(fields))

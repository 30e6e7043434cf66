"""The scores that a run computes on its validation text, and which validation is the best."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from transformer_lib.batching import Batch
from transformer_lib.data.text import ParallelText
from transformer_lib.train.ranks import ALONE, Ranks
from transformer_lib.train.settings import Select
from transformer_lib.training import Evaluation, evaluate
from transformer_lib.translate.evaluation import RAW
from transformer_lib.translate.scores import bleu, choose_tokenizer, chrf, is_countable
from transformer_lib.translate.translator import EXTRA, Translator

__all__ = [
    "NAMES",
    "best_validation",
    "describe",
    "explain_scores",
    "how_to_score",
    "pairs_that_fit",
    "rank",
    "validation_scores",
]

GREEDY: dict[str, Any] = {"beam_size": 1, "alpha": 0.0}
NAMES = {"bleu": "BLEU", "chrf": "chrF", "loss": "loss"}
WORST = (-math.inf, -math.inf)


def how_to_score(select: Select, text: ParallelText, language: str | None) -> dict[str, Any]:
    """Return what the scores of a run depend on besides its corpus; the run records it.

    Scores may be compared only if they were computed in the same way. The measure that ranks them
    is chrF in place of BLEU where the text is too short for BLEU.

    Args:
        language: ISO code of the target, if it is known.
    """
    tokenize = choose_tokenizer(language, text.target)
    countable = select != "bleu" or is_countable(text.target, tokenize)
    measure = select if countable else "chrf"
    return {"measure": measure, "tokenize": tokenize, "search": GREEDY | {"extra": EXTRA}}


def pairs_that_fit(lengths: Sequence[tuple[int, int]], max_len: int) -> list[int]:
    """Return the indices of the pairs that the model has positions for.

    Raises:
        ValueError: there is none.
    """
    fits = [i for i, (src, tgt) in enumerate(lengths) if max(src, tgt - 1) <= max_len]
    if not fits:
        raise ValueError(f"max_len={max_len} is too small for every validation pair")
    return fits


def explain_scores(
    lines: Sequence[int], fits: Collection[int], measure: str, select: str
) -> Iterator[str]:
    """Yield what is unusual: pairs that are too long, a measure that the user did not choose.

    Args:
        lines: of all pairs, in the files that were prepared.
        fits: indices of the pairs that the model has positions for.
    """
    if too_long := [str(lines[i]) for i in sorted({*range(len(lines))} - {*fits})]:
        numbers = ", ".join(too_long[:5]) + ", …" * (len(too_long) > 5)
        yield (
            f"warning: validation line {numbers} has more tokens than the model has positions: "
            "left out of the loss; a source that is too long counts as an empty translation"
        )
    if measure != select:
        yield "most validation sentences are too short for BLEU: chrF chooses the best checkpoint"


def rank(scores: Mapping[str, Any], measure: str = "bleu") -> tuple[float, float]:
    """Return a key to compare validations by: the higher, the better.

    Ties are broken by the validation loss. A loss that is not finite ranks below everything.

    Args:
        scores: of a validation, as in a run's log; older runs may lack some.
        measure: "bleu", "chrf" or "loss".
    """
    loss = scores.get("val_loss", sys.float_info.max)
    if loss is None or not math.isfinite(loss):  # JSON has null for NaN
        return WORST
    value = -loss if measure == "loss" else scores.get(measure)
    return (-math.inf if value is None else float(value)), -loss


def best_validation(
    log: Iterable[Mapping[str, Any]], measure: str = "bleu"
) -> Mapping[str, Any] | None:
    """Return the best validation among the lines of a log, the first of equals; None without."""
    ranked = (line for line in log if "val_loss" in line and rank(line, measure) > WORST)
    return max(ranked, key=lambda line: rank(line, measure), default=None)


def describe(scores: Mapping[str, Any], measure: str) -> str:
    """Return the score that ranks a validation, with its name."""
    if measure == "loss" and "val_loss" in scores:
        return f"loss {scores['val_loss']:.3f}"
    measure = measure if measure in scores else "bleu"  # an older run
    return f"{NAMES[measure]} {scores[measure]:.2f}"


def validation_scores(
    model: nn.Module,
    translator: Translator,
    batches: Iterable[Batch],
    text: ParallelText,
    ranks: Ranks = ALONE,
    tokenize: str = "13a",
) -> dict[str, float]:
    """Return the loss, token accuracy, greedy BLEU and greedy chrF of a model on a text.

    Args:
        model: computes the logits; the translator's model, perhaps in another precision.
        batches: this rank's share of the text as ids, on the model's device; may be empty.
        text: the whole text. Every rank translates its share, and all ranks return the scores
            of the whole. A sentence that is too long counts as an empty translation.
        tokenize: as in `bleu`.
    """
    n = ranks.world_size
    evaluation = Evaluation(0.0, 0.0, 0)
    with ranks.raise_on_all_ranks():
        batches = list(batches)
        if batches or n == 1:  # a single process without batches gets the error of `evaluate`
            evaluation = evaluate(model, batches, translator.model.config.pad_id)
        # that a sentence is too long is said once, when the run starts
        share = text.source[ranks.rank :: n]
        try:
            translations = translator.translate(share, **GREEDY, warn=lambda i, problem: None)
        except FloatingPointError:  # NaN in place of probabilities: never the best validation
            translations, evaluation = [""] * len(share), evaluation._replace(loss=math.nan)
    loss, accuracy, _ = evaluation
    if n > 1:
        totals = (value * evaluation.n_tokens for value in (loss, accuracy, 1))
        loss, accuracy, n_tokens = ranks.sum(*totals)
        loss, accuracy = loss / n_tokens, accuracy / n_tokens
    hypotheses = list(text.source)
    for first, part in enumerate(ranks.gather(translations)):
        hypotheses[first::n] = part
    return {
        "val_loss": loss,
        "val_accuracy": accuracy,
        "bleu": bleu(hypotheses, text.target, tokenize=tokenize, **RAW).value,
        "chrf": chrf(hypotheses, text.target, **RAW).value,
    }

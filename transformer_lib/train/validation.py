"""The scores that a run computes on its validation text."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from transformer_lib.batching import Batch
from transformer_lib.data.text import ParallelText
from transformer_lib.train.ranks import ALONE, Ranks
from transformer_lib.training import Evaluation, evaluate
from transformer_lib.translate.evaluation import RAW
from transformer_lib.translate.scores import bleu
from transformer_lib.translate.translator import Translator

__all__ = ["validation_scores"]


def validation_scores(
    model: nn.Module,
    translator: Translator,
    batches: Iterable[Batch],
    text: ParallelText,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Return the loss, token accuracy and greedy BLEU of a model on a text.

    Args:
        model: computes the logits; the translator's model, perhaps in another precision.
        batches: this rank's share of the text as ids, on the model's device; may be empty.
        text: the whole text. Every rank translates its share, and all ranks return the scores
            of the whole.
    """
    rank, n = ranks.rank, ranks.world_size
    evaluation = Evaluation(0.0, 0.0, 0)
    with ranks.raise_on_all_ranks():
        batches = list(batches)
        if batches or n == 1:  # a single process without batches gets the error of `evaluate`
            evaluation = evaluate(model, batches, translator.model.config.pad_id)
        translations = translator.translate(text.source[rank::n], beam_size=1, alpha=0.0)
    loss, accuracy, _ = evaluation
    if n > 1:
        totals = (value * evaluation.n_tokens for value in (loss, accuracy, 1))
        loss, accuracy, n_tokens = ranks.sum(*totals)
        loss, accuracy = loss / n_tokens, accuracy / n_tokens
    hypotheses = list(text.source)
    for rank, share in enumerate(ranks.gather(translations)):
        hypotheses[rank::n] = share
    score = bleu(hypotheses, text.target, **RAW)
    return {"val_loss": loss, "val_accuracy": accuracy, "bleu": score.value}

"""Teaching aids of the notebooks: running sentence, ledger, exercise checks, probes and figures.

Builds on the paper's code. `lessons.figures` needs matplotlib and is imported on demand.
"""

from transformer_lib.data.devices import choose_device
from transformer_lib.lessons.exercises import check
from transformer_lib.lessons.next_word import to_ids, train_next_word
from transformer_lib.lessons.questions import quiz
from transformer_lib.lessons.running import PAIR, Ledger, running_ids, vocabularies
from transformer_lib.lessons.stack import train_stack
from transformer_lib.lessons.stand_in import StandIn, TinyCopier, short_sentences
from transformer_lib.lessons.training import Run, captions, fit
from transformer_lib.lessons.twin import same_as_torch

__all__ = [
    "PAIR",
    "Ledger",
    "Run",
    "StandIn",
    "TinyCopier",
    "captions",
    "check",
    "choose_device",
    "fit",
    "quiz",
    "running_ids",
    "same_as_torch",
    "short_sentences",
    "to_ids",
    "train_next_word",
    "train_stack",
    "vocabularies",
]

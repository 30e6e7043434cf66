"""What the notebooks share: the running sentence, its ledger, exercise checks, probes and figures.

Builds on `data` and the paper's code. Figures (matplotlib) are in `lessons.figures`.
"""

from transformer_lib.lessons.running import PAIR, Ledger, check, running_ids, vocabularies

__all__ = ["PAIR", "Ledger", "check", "running_ids", "vocabularies"]

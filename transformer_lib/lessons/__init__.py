"""Teaching aids of the notebooks: running sentence, ledger, exercise checks, probes and figures.

Builds on the paper's code. `lessons.figures` needs matplotlib and is imported on demand.
"""

from transformer_lib.lessons.running import PAIR, Ledger, check, running_ids, vocabularies

__all__ = ["PAIR", "Ledger", "check", "running_ids", "vocabularies"]

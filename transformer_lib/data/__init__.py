"""Data: files on disk, how they are written, and how they are read.

`text` and `multi30k` give aligned sentences, `encoding` prepares a corpus from them, and `prepared`
opens it. `files` writes folders that are whole or absent, and `reading` validates their contents.
"""

from typing import TYPE_CHECKING

from transformer_lib.data.extras import import_on_use, needs
from transformer_lib.data.files import CheckpointError, check_folder, list_checkpoints, write_folder
from transformer_lib.data.text import (
    ConcatenatedText,
    PairFiles,
    ParallelText,
    read_lines,
    read_pairs,
)

if TYPE_CHECKING:
    from transformer_lib.data.encoding import LengthFilter, learn_vocabularies, prepare
    from transformer_lib.data.prepared import Prepared

__all__ = [
    "CheckpointError",
    "ConcatenatedText",
    "LengthFilter",
    "PairFiles",
    "ParallelText",
    "Prepared",
    "check_folder",
    "learn_vocabularies",
    "list_checkpoints",
    "needs",
    "prepare",
    "read_lines",
    "read_pairs",
    "write_folder",
]

# These need torch, whose import takes a second.
NEED_TORCH = dict.fromkeys(("LengthFilter", "learn_vocabularies", "prepare"), "encoding")
__getattr__ = import_on_use(__name__, NEED_TORCH | {"Prepared": "prepared"})

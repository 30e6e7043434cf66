"""The public path of `multi30k` and of readers for text of your own; the code is in `data`."""

from transformer_lib.data.multi30k import *  # noqa: F403
from transformer_lib.data.text import ParallelText, read_lines, read_pairs  # noqa: F401

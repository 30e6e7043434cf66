"""The public path of `multi30k` and of readers for text of your own; the code is in `data`."""

from transformer_lib.data.multi30k import (
    LANGUAGES,
    MULTI30K_SHA256,
    MULTI30K_URL,
    SPLITS,
    DownloadError,
    MissingDataError,
    fetch_multi30k,
    has_multi30k,
    multi30k,
    multi30k_folder,
)
from transformer_lib.data.text import ParallelText, read_lines, read_pairs

__all__ = [
    "LANGUAGES",
    "MULTI30K_SHA256",
    "MULTI30K_URL",
    "SPLITS",
    "DownloadError",
    "MissingDataError",
    "ParallelText",
    "fetch_multi30k",
    "has_multi30k",
    "multi30k",
    "multi30k_folder",
    "read_lines",
    "read_pairs",
]

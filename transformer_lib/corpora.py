"""The path by which `multi30k` has always been imported; the code is in `data`."""

from transformer_lib.data.corpora import *  # noqa: F403

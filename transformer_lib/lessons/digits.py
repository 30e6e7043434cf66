"""Handwritten digits, 8 × 8 pixels: the data of appendix B."""

import gzip
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Digits", "digits"]

TRAIN = 1437  # of 1,797


class Digits(NamedTuple):
    """Images with grey values from 0 to 1, and the digits they show."""

    images: Float[Tensor, "B 8 8"]
    labels: Int[Tensor, " B"]


@cache
def digits() -> tuple[Digits, Digits]:
    """Return 1,437 images to train on and 360 held-out ones; the split is random and fixed.

    Raises:
        FileNotFoundError: the file is missing.
    """
    package = Path(__file__).resolve().parents[1]
    shipped, repository = package / "digits", package.parent / "data" / "digits"
    path = (shipped if shipped.is_dir() else repository) / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.int64))
    rows = rows[torch.from_numpy(np.random.RandomState(0).permutation(len(rows)))]
    whole = Digits(rows[:, :-1].float().unflatten(1, (8, 8)) / 16, rows[:, -1])
    return Digits(*(part[:TRAIN] for part in whole)), Digits(*(part[TRAIN:] for part in whole))

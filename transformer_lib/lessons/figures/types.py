"""The types of what the figures are given."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Number = int | float
Point = tuple[Number, Number]
Words = Sequence[str]
Series = Mapping[str, Any]  # numbers by name
Links = Collection[tuple[int, int]]  # (source position, target position)

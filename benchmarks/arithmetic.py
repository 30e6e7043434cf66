"""Medians, ratios, floating-point operations and the peak, for the tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch

__all__ = ["flops_per_target_token", "matrix_peak", "ratio", "summary"]

FORMULA = (
    "6 · [r·N(4D² + 2DF + 2SD) + N(6D² + 2DF + (T+1)D + 2SD) + r·2ND² + DV], "
    "r source tokens per target token, S and T the lengths of the sentence, padding left out"
)


def summary(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Return the median, smallest and largest of the rounds, and the rounds themselves."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": list(values),
    }


def ratio(speeds: Sequence[float], reference: Sequence[float]) -> dict[str, float | list[float]]:
    """Return the speed-up per round; both sides were measured within the same minutes.

    Raises:
        ValueError: they do not have the same number of rounds.
    """
    if len(speeds) != len(reference):
        raise ValueError(f"{len(speeds)} rounds against {len(reference)}: they cannot be paired")
    return summary([ours / theirs for ours, theirs in zip(speeds, reference, strict=True)])


def flops_per_target_token(
    sizes: Mapping[str, int], pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> float:
    """Floating-point operations of one training step per real target token, padding left out.

    A matrix product of (n, k) and (k, m) takes 2nkm, and the backward pass twice what the forward
    pass takes. Softmax, LayerNorm, dropout and the optimizer are not counted, as usual.

    Args:
        sizes: the fields of a `ModelConfig`.
        pairs: source and target ids; the target with <bos> and <eos>, so one more than it predicts.
    """
    width, n_layers = sizes["d_model"], sizes["n_layers"]
    square, wide = width * width, width * sizes["d_ff"]
    forward = n_targets = 0
    for src, tgt in pairs:
        s, t = len(src), len(tgt) - 1
        # scores and weighted sum: 2·s·D products each for every query
        encoder = s * (4 * square + 2 * wide + 2 * s * width)
        # of the causal square only the lower triangle is needed, (t + 1) / 2 keys on average
        decoder = t * (6 * square + 2 * wide + (t + 1) * width + 2 * s * width) + s * 2 * square
        forward += 2 * (n_layers * (encoder + decoder) + t * width * sizes["tgt_vocab_size"])
        n_targets += t
    return 3 * forward / n_targets


def matrix_peak(dtype: torch.dtype, device: str = "cpu", seconds: float = 1.0) -> float:
    """Most floating-point operations per second that a square matrix product reached there.

    On a CPU, oneDNN's product is tried beside torch's own, which for float32 is MKL's: that one
    leaves AVX-512 unused on AMD.
    """
    size = 2048 if device == "cpu" else 8192
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    products = [lambda: a @ b]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(b, size)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
    best = float("inf")
    for product in products:
        product()  # the first call sets things up
        wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = time.perf_counter()
            product()
            wait()
            best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best

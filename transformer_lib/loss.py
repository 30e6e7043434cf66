# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""The label-smoothed loss, as a sum over tokens and their number (section 5.4)."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

__all__ = ["label_smoothed_loss"]


def label_smoothed_loss(
    logits: Float[Tensor, "*B V"],
    targets: Int[Tensor, "*B"],
    smoothing: float = 0.1,
    pad_id: int = 0,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Cross-entropy against (1 - ε) on the right token and ε spread evenly over all V.

    A sum and a count, not a mean: only so do batches of unequal size, gradient accumulation and
    several machines add up to the same loss.

    Args:
        logits: one score per id.
        targets: the right ids; where they are pad_id, nothing is counted.
        smoothing: ε; 0 gives the plain cross-entropy.

    Returns:
        The loss in nats, summed over all targets that are not padding, and their number.

    Raises:
        ValueError: ε is not in [0, 1).

    Source: section 5.4 (Szegedy et al., 2016). Built in notebook 07.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
    total = F.cross_entropy(
        logits.reshape(-1, logits.size(-1)),
        targets.reshape(-1),
        ignore_index=pad_id,
        label_smoothing=smoothing,
        reduction="sum",
    )
    return total, (targets != pad_id).sum()

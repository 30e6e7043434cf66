# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""Learning rates as pure functions of the step (section 5.3)."""

__all__ = ["inverse_sqrt_rate", "noam_rate", "cooldown"]


def inverse_sqrt_rate(step: int, peak: float, warmup: int) -> float:
    """Rises in a straight line to `peak` at step `warmup`, then falls with 1 / √step.

    Args:
        step: number of the update, from 1.
        peak: the highest rate.
        warmup: number of the update that has it.

    Raises:
        ValueError: step or warmup is below 1.

    Source: the shape of equation 3. Built in notebook 07.
    """
    if step < 1 or warmup < 1:
        raise ValueError(f"steps count from 1, got step={step}, warmup={warmup}")
    return peak * min(step / warmup, (warmup / step) ** 0.5)


def noam_rate(step: int, d_model: int = 512, warmup: int = 4000) -> float:
    """The paper's rate: d_model^-0.5 · min(step^-0.5, step · warmup^-1.5).

    Source: section 5.3, equation 3. Built in notebook 07.
    """
    return inverse_sqrt_rate(step, (d_model * warmup) ** -0.5, warmup)


def cooldown(step: int, start: int, end: int) -> float:
    """A factor for the rate: 1 up to step `start`, then in a straight line to 0 at step `end`.

    Not in the paper, which takes the mean of the last checkpoints instead (section 6.1). Where
    the number of steps is known beforehand, it lets a short training settle.

    Raises:
        ValueError: it would end before it starts.

    Built in notebook 07.
    """
    if not 0 <= start < end:
        raise ValueError(f"a cooldown needs 0 <= start < end, got start={start}, end={end}")
    return min(1.0, max(0.0, (end - step) / (end - start)))

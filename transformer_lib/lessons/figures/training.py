"""The figures of notebook 07: batches, and loss curves."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from transformer_lib.lessons.figures.base import figure, name_axes, show, style
from transformer_lib.lessons.figures.colours import PALETTE
from transformer_lib.lessons.figures.marks import level, line_plot
from transformer_lib.lessons.figures.types import Series

__all__ = ["LiveCurves", "loss_curves", "padded_batches"]

SMOOTH = 10  # steps of a running mean


@style()
def padded_batches(batches: Mapping[str, Sequence[Sequence[int]]], *, title: str) -> Figure:
    """Draw the first six batches, lists of sentence lengths, of each way to group sentences."""
    fig, axes = figure(9, 3.9, ncols=len(batches), title=title, sharex=True)
    for ax, (name, lists) in zip(axes, batches.items(), strict=True):
        top = 0
        for lengths in lists[:6]:
            rows = np.arange(len(lengths)) + top
            ax.barh(rows, max(lengths), height=1.0, color="#d5dbe0")
            ax.barh(rows, lengths, height=1.0, color=PALETTE[0])
            top += len(lengths) + 4
        waste = 1 - sum(map(sum, lists)) / sum(len(b) * max(b) for b in lists)
        name_axes(ax, title=f"{name}: {waste:.0%} padding", x="tokens", y="sentences, by batches")
        ax.set_yticks([])
        ax.invert_yaxis()
        ax.grid(False)
    return fig


@style()
def loss_curves(curves: Series, *, title: str, levels: Series | None = None) -> Figure:
    """Draw losses over the steps, as running means over 10 steps, and `levels` to compare with."""
    means = {name: running_mean(values, SMOOTH) for name, values in curves.items()}
    steps = np.arange(max(map(len, means.values()))) + SMOOTH
    y_label = f"loss, nats per token (mean of {SMOOTH} steps)"
    return line_plot(steps, means, title=title, x_label="step", y_label=y_label, levels=levels)


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Return means over `width` values, without those of the first width - 1 steps."""
    width = min(width, len(values))
    return np.convolve(values, np.ones(width) / width, mode="valid")


class LiveCurves:
    """Loss and accuracy, drawn while a model trains for `steps` updates, with the remaining time.

    Call it with every loss. The picture appears with the first one and is redrawn at most every
    three seconds. `floor` is the lowest possible loss, drawn as a dashed line.
    """

    def __init__(self, steps: int, title: str, floor: float | None = None) -> None:
        self.steps, self.title, self.floor = steps, title, floor
        self.smooth = max(SMOOTH, steps // 50)
        self.losses: list[float] = []
        self.scores: dict[int, float] = {}
        self.started = self.drawn = time.monotonic()
        self.id = f"live-{id(self)}"
        self.shown = False

    def __call__(self, loss: float) -> None:
        """Record the loss of one more step."""
        self.losses.append(loss)
        if len(self.losses) in (1, self.steps) or time.monotonic() - self.drawn > 3.0:
            self.draw()

    def score(self, share: float) -> None:
        """Record the share of sentences that are correct at this step."""
        self.scores[len(self.losses)] = share
        self.draw()

    def draw(self) -> None:
        """Show the curves so far, in place of the last picture."""
        show(self.figure(), alt=self.alt(), display_id=self.id, update=self.shown)
        self.shown, self.drawn = True, time.monotonic()

    def alt(self) -> str:
        """Describe the picture in words."""
        scores = f", {self.scores[max(self.scores)]:.0%} right" if self.scores else ""
        return (
            f"Training curves, {self.title}: after {len(self.losses)} of {self.steps} steps the "
            f"loss is {np.mean(self.losses[-self.smooth :]):.2f}{scores}."
        )

    @style()
    def figure(self) -> Figure:
        """Draw the loss and, once there is one, the share of correct sentences beside it."""
        done, taken = len(self.losses), time.monotonic() - self.started
        left = taken / max(done, 1) * (self.steps - done)
        title = f"{self.title}: step {done} of {self.steps}, {taken:.0f} s"
        title += f", {left:.0f} s left" if left > 1 else ""
        fig, axes = figure(9, 3.3, ncols=2 if self.scores else 1, title=title, squeeze=False)
        left, right = axes[0, 0], axes[0, -1]
        line = running_mean(self.losses, self.smooth)
        left.plot(np.arange(len(line)) + len(self.losses) - len(line), line)
        if self.floor is not None:
            top = left.get_ylim()[1]
            left.set_ylim(self.floor - 0.16 * (top - self.floor), top)  # room for its name
            level(left, self.floor, "lowest possible")
        unit = f"nats per token (mean of {self.smooth} steps)"
        name_axes(left, title="loss", x="step", y=unit)
        if self.scores:
            points = list(self.scores), list(self.scores.values())
            right.plot(*points, "o-", color=PALETTE[2], clip_on=False)  # the last is on the edge
            right.set(ylim=(-0.03, 1.03))
            right.yaxis.set_major_formatter(PercentFormatter(1.0))
            name_axes(right, title="sentences exactly right", x="step", y="share of held-out pairs")
        for ax in axes[0]:
            ax.set_xlim(0, self.steps)
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.grid(True)
        return fig

"""The figures of notebook 07: batches, learning rates, and loss curves."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from transformer_lib.lessons.figures.base import figure, name_axes, show, style
from transformer_lib.lessons.figures.colours import PALETTE
from transformer_lib.lessons.figures.marks import level, line_plot, note
from transformer_lib.lessons.figures.types import Series

__all__ = ["LiveCurves", "loss_curves", "padded_batches", "rate_curves"]

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


@style()
def rate_curves(rates: Series, *, title: str, warmup: Mapping[str, int]) -> Figure:
    """Draw learning rates over the steps 1, 2, …, each with a dot and its height at the peak."""
    steps = np.arange(len(next(iter(rates.values())))) + 1
    fig = line_plot(steps, rates, title=title, x_label="step", y_label="learning rate")
    looks = itertools.cycle(("-", "--", ":"))  # where two lines coincide, both are seen
    for line, name in zip(fig.axes[0].lines, rates, strict=True):
        line.set_linestyle(next(looks))
        peak = warmup[name]
        height = float(line.get_ydata()[peak - 1])
        look = {"color": line.get_color(), "fontweight": "bold"}
        fig.axes[0].plot(peak, height, "o", color=line.get_color())
        note(fig.axes[0], f"{height:.5f}", (peak, height), (8, 4), **look)
    fig.axes[0].set_ylim(bottom=0)
    fig.axes[0].margins(y=0.12)
    return fig


class LiveCurves:
    """The curves of a `lessons.Run`, drawn while it trains, with the remaining time.

    The picture appears with the first step and is redrawn at most every three seconds, and at the
    end. `floor` is the lowest possible loss, drawn as a dashed line.
    """

    def __init__(self, run: Any, floor: float | None = None) -> None:
        self.run, self.floor = run, floor
        self.smooth = max(SMOOTH, run.steps // 50)
        self.started = self.drawn = time.monotonic()
        self.id = f"live-{id(self)}"
        self.shown = False

    def draw_if_due(self) -> None:
        """Show the curves so far in place of the last picture, if that is old enough."""
        step = len(self.run.losses)
        if step in (1, self.run.steps) or time.monotonic() - self.drawn > 3.0:
            show(self.figure(), alt=self.alt(), display_id=self.id, update=self.shown)
            self.shown, self.drawn = True, time.monotonic()

    def alt(self) -> str:
        """Describe the picture in words."""
        run = self.run
        text = f"Training curves, {run.name}: after {len(run.losses)} of {run.steps} steps the "
        text += f"training loss is {np.mean(run.losses[-self.smooth :]):.2f}"
        if run.validation:
            text += f", the validation loss {run.validation[max(run.validation)]:.2f}"
        return text + (f", {run.scores[max(run.scores)]:.0%} right." if run.scores else ".")

    def title(self) -> str:
        """Name the step and the remaining time; at the end, the result."""
        run, done = self.run, len(self.run.losses)
        taken = time.monotonic() - self.started
        left = taken / max(done, 1) * (run.steps - done)
        if done < run.steps or not run.validation:
            title = f"{run.name}: step {done} of {run.steps}, {taken:.0f} s"
            return title + (f", {left:.0f} s left" if left > 1 else "")
        best = min(run.validation, key=run.validation.__getitem__)
        result = f"validation loss {run.validation[best]:.2f}"
        if best in run.scores:
            share = run.scores[best]
            result = f"{share:.{0 if share in (0, 1) else 1}%} of the {run.score_name}"
        return f"{run.name}: {result} after {best} steps"

    @style()
    def figure(self) -> Figure:
        """Draw both losses and, once there is one, the share of what is right beside them."""
        run, done = self.run, len(self.run.losses)
        fig, axes = figure(9, 3.3, ncols=2 if run.scores else 1, title=self.title(), squeeze=False)
        left, right = axes[0, 0], axes[0, -1]
        line = running_mean(run.losses, self.smooth)
        name = f"training (mean of {self.smooth} steps)"
        left.plot(np.arange(len(line)) + done - len(line), line, label=name)
        if run.validation:
            points = list(run.validation), list(run.validation.values())
            left.plot(*points, "o-", color=PALETTE[1], markersize=4, label="validation")
        if self.floor is not None:
            top = left.get_ylim()[1]
            left.set_ylim(self.floor - 0.16 * (top - self.floor), top)  # room for its name
            level(left, self.floor, "lowest possible")
        left.legend(loc="upper right")
        name_axes(left, title="loss", x="step", y="nats per token")
        if run.scores:
            points = list(run.scores), list(run.scores.values())
            right.plot(*points, "o-", color=PALETTE[2], clip_on=False)  # the last is on the edge
            right.set(ylim=(-0.03, 1.03))
            right.yaxis.set_major_formatter(PercentFormatter(1.0))
            name_axes(right, title=run.score_name, x="step", y="share on held-out pairs")
        for ax in axes[0]:
            ax.set_xlim(0, run.steps)
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.grid(True)
        return fig

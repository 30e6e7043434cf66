"""The figures of notebook 07: targets, batches, loss curves, changing maps, scores."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from transformer_lib.lessons.figures.base import as_array, figure, name_axes, show, style
from transformer_lib.lessons.figures.colours import MUTED, PALETTE, SEQUENTIAL
from transformer_lib.lessons.figures.heatmaps import colour_bar, draw_values, token_axes
from transformer_lib.lessons.figures.marks import name_lines, note

__all__ = [
    "LiveCurves",
    "diagonal_over_time",
    "loss_curves",
    "padded_batches",
    "scores_by_group",
    "smoothed_targets",
]

SMOOTH = 10  # steps of a running mean


@style()
def smoothed_targets(targets: Mapping[str, Any], tokens: Sequence[str], *, title: str) -> Figure:
    """Draw a panel of bars per target distribution over the same tokens."""
    fig, axes = figure(8, 3.6, ncols=len(targets), title=title, sharey=True)
    for ax, (name, values), colour in zip(axes, targets.items(), PALETTE, strict=False):
        bars = ax.bar(range(len(tokens)), as_array(values, 1), color=colour, width=0.7)
        ax.bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
        ax.set_xticks(range(len(tokens)), tokens)
        name_axes(ax, title=name, x="token")
    axes[0].set(ylim=(0, 1.12))
    name_axes(axes[0], y="target probability")
    return fig


@style()
def padded_batches(batches: Mapping[str, Sequence[Sequence[int]]], *, title: str) -> Figure:
    """Draw the first six batches of each way to group sentences: words in colour, padding in grey.

    `batches` maps the name of a way to lists of sentence lengths, one list per batch.
    """
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
def loss_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    title: str,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Draw the loss over the steps, each curve a running mean over 10 steps, named at its end.

    `levels` are losses to compare with, each drawn as a dashed line with its name.
    """
    fig, ax = figure(8, 4, title=title)
    lines = {}
    for (name, values), colour in zip(curves.items(), PALETTE, strict=False):
        means = running_mean(values, SMOOTH)
        (lines[name],) = ax.plot(np.arange(len(means)) + SMOOTH, means, color=colour)
    for name, level in (levels or {}).items():
        _dashed(ax, level, name)
    ax.grid(True)
    ax.margins(x=0.01)
    name_axes(ax, x="step", y=f"loss, nats per token (mean of {SMOOTH} steps)")
    name_lines(ax, lines)
    return fig


def _dashed(ax: Axes, level: float, name: str) -> None:
    """Draw a dashed line at that height, with its name below it."""
    ax.axhline(level, color=MUTED, linestyle="--", linewidth=1.2)
    look = {"xycoords": ("axes fraction", "data"), "va": "top", "ha": "center"}
    note(ax, name, (0.5, level), (0, -3), color=MUTED, fontsize=9, **look)


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Return means over `width` values, without those of the first width - 1 steps."""
    width = min(width, len(values))
    return np.convolve(values, np.ones(width) / width, mode="valid")


@style()
def diagonal_over_time(
    maps: Mapping[int, Any], rows: Sequence[str], columns: Sequence[str], *, title: str
) -> Figure:
    """Draw the same attention map at several training steps, from left to right."""
    fig, axes = figure(10.5, 3.7, ncols=len(maps), title=title, sharey=True)
    for ax, (step, weights) in zip(axes, maps.items(), strict=True):
        draw_values(ax, as_array(weights, 2), SEQUENTIAL, 0.0, 1.0)
        token_axes(ax, rows, columns)
        name_axes(ax, title=f"step {step}", x="keys: source")
    name_axes(axes[0], y="queries: to predict")
    colour_bar(axes, axes[0].collections[0], "attention weight")
    return fig


@style()
def scores_by_group(
    scores: Mapping[str, float],
    counts: Mapping[str, int],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> Figure:
    """Draw a bar for the score of each group of sentences, with the number of sentences in it."""
    fig, ax = figure(8, 3.9, title=title)
    bars = ax.bar(list(scores), list(scores.values()), color=PALETTE[0], width=0.66)
    ax.bar_label(bars, [f"{v:.1f}" for v in scores.values()], padding=2, fontweight="bold")
    ax.set_xticks(range(len(scores)), [f"{name}\n{counts[name]} sentences" for name in scores])
    ax.margins(y=0.14)
    name_axes(ax, x=x_label, y=y_label)
    return fig


class LiveCurves:
    """Loss and accuracy, drawn while a model trains, with the remaining time.

    Call it with every loss; the picture is redrawn at most every three seconds.

    Args:
        steps: total number of updates.
        title: name of the model.
        floor: the lowest possible loss, drawn as a dashed line.
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
        last = len(self.losses) == self.steps
        if last or time.monotonic() - self.drawn > 3.0:
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

    def status(self) -> str:
        """Return the steps done, the seconds taken, and the seconds left."""
        done, taken = len(self.losses), time.monotonic() - self.started
        left = taken / max(done, 1) * (self.steps - done)
        return f"step {done} of {self.steps}, {taken:.0f} s" + (f", {left:.0f} s left" * (left > 1))

    @style()
    def figure(self) -> Figure:
        """Draw the loss and, once there is one, the share of correct sentences beside it."""
        title = f"{self.title}: {self.status()}"
        fig, axes = figure(9, 3.3, ncols=2 if self.scores else 1, title=title, squeeze=False)
        line = running_mean(self.losses, self.smooth)
        axes[0, 0].plot(np.arange(len(line)) + len(self.losses) - len(line), line)
        if self.floor is not None:
            top = axes[0, 0].get_ylim()[1]
            axes[0, 0].set_ylim(self.floor - 0.16 * (top - self.floor), top)  # room for its name
            _dashed(axes[0, 0], self.floor, "lowest possible")
        unit = f"nats per token (mean of {self.smooth} steps)"
        name_axes(axes[0, 0], title="loss", x="step", y=unit)
        if self.scores:
            right = axes[0, 1]
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

"""The figures of notebook 07: targets, rates, batches, curves, maps that change, lengths."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from transformer_lib.lessons.figures.base import name_lines
from transformer_lib.lessons.figures.heatmaps import colour_bar, draw_values, token_axes
from transformer_lib.lessons.figures.look import (
    MUTED,
    PALETTE,
    SEQUENTIAL,
    as_array,
    figure,
    headline,
    name_axes,
    show,
    style,
)

__all__ = [
    "LiveCurves",
    "diagonal_over_time",
    "loss_curves",
    "padded_batches",
    "scores_by_group",
    "smoothed_targets",
]


@style()
def smoothed_targets(targets: Mapping[str, Any], tokens: Sequence[str], *, title: str) -> Figure:
    """One row of bars per target distribution over the same tokens."""
    fig, axes = figure(8, 3.6, ncols=len(targets), sharey=True)
    for ax, (name, values), colour in zip(axes, targets.items(), PALETTE, strict=False):
        bars = ax.bar(range(len(tokens)), as_array(values, 1), color=colour, width=0.7)
        ax.bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
        ax.set_xticks(range(len(tokens)), tokens)
        name_axes(ax, title=name, x="token")
    axes[0].set(ylim=(0, 1.12))
    name_axes(axes[0], y="wanted probability")
    headline(fig, title)
    return fig


@style()
def padded_batches(
    batches: Mapping[str, Sequence[Sequence[int]]], *, title: str, n_shown: int = 6
) -> Figure:
    """The first batches of each way to group sentences: words in colour, padding in grey.

    Args:
        batches: name of the way to lists of sentence lengths, one list per batch.
    """
    fig, axes = figure(9, 3.9, ncols=len(batches), sharex=True)
    for ax, (name, lists) in zip(axes, batches.items(), strict=True):
        top = 0
        for lengths in lists[:n_shown]:
            rows = np.arange(len(lengths)) + top
            ax.barh(rows, max(lengths), height=1.0, color="#d5dbe0")
            ax.barh(rows, lengths, height=1.0, color=PALETTE[0])
            top += len(lengths) + 4
        waste = 1 - sum(map(sum, lists)) / sum(len(b) * max(b) for b in lists)
        name_axes(ax, title=f"{name}: {waste:.0%} padding", x="tokens", y="sentences, by batches")
        ax.set_yticks([])
        ax.invert_yaxis()
        ax.grid(False)
    headline(fig, title)
    return fig


@style()
def loss_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    title: str,
    y_label: str = "loss, nats per token",
    smooth: int = 10,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Loss against the step, each curve a running mean over `smooth` steps, named at its end.

    `levels` are losses to compare with, each a dashed line with its name.
    """
    fig, ax = figure(8, 4)
    lines = {}
    for (name, values), colour in zip(curves.items(), PALETTE, strict=False):
        means = running_mean(values, smooth)
        (lines[name],) = ax.plot(np.arange(len(means)) + smooth, means, color=colour)
    for name, level in (levels or {}).items():
        _dashed(ax, level, name)
    ax.grid(True)
    ax.margins(x=0.01)
    name_axes(ax, x="step", y=f"{y_label} (mean of {smooth} steps)" if smooth > 1 else y_label)
    name_lines(ax, lines)
    headline(fig, title)
    return fig


def _dashed(ax: Axes, level: float, name: str) -> None:
    """A dashed line at that height, with its name below it."""
    ax.axhline(level, color=MUTED, linestyle="--", linewidth=1.2)
    ax.annotate(
        name, (0.5, level), xycoords=("axes fraction", "data"), xytext=(0, -3), va="top",
        textcoords="offset points", ha="center", color=MUTED, fontsize=9,
    )  # fmt: skip


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Means over `width` neighbours; shorter at the start than the values by width - 1."""
    width = min(width, len(values))
    return np.convolve(values, np.ones(width) / width, mode="valid")


@style()
def diagonal_over_time(
    maps: Mapping[int, Any], rows: Sequence[str], columns: Sequence[str], *, title: str
) -> Figure:
    """The same attention map at several steps of a training, from left to right."""
    fig, axes = figure(10.5, 3.7, ncols=len(maps), sharey=True)
    for ax, (step, weights) in zip(axes, maps.items(), strict=True):
        draw_values(ax, as_array(weights, 2), SEQUENTIAL, 0.0, 1.0, None)
        token_axes(ax, rows, columns)
        name_axes(ax, title=f"step {step}", x="keys: source")
    name_axes(axes[0], y="queries: to predict")
    colour_bar(fig, axes[0].collections[0], axes, "attention weight")
    headline(fig, title)
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
    """Bars of a score per group of sentences, with the number of sentences in each."""
    fig, ax = figure(8, 3.9)
    bars = ax.bar(list(scores), list(scores.values()), color=PALETTE[0], width=0.66)
    ax.bar_label(bars, [f"{v:.1f}" for v in scores.values()], padding=2, fontweight="bold")
    ax.set_xticks(range(len(scores)), [f"{name}\n{counts[name]} sentences" for name in scores])
    ax.margins(y=0.14)
    name_axes(ax, x=x_label, y=y_label)
    headline(fig, title)
    return fig


class LiveCurves:
    """Loss and accuracy drawn while a model trains, with the time that is left.

    Call it with every loss; the picture is drawn anew at most every `seconds`.

    Args:
        steps: updates in all.
        title: what is trained.
        seconds: least time between two pictures.
        floor: the lowest possible loss, drawn as a dashed line.
    """

    def __init__(
        self, steps: int, title: str, seconds: float = 3.0, floor: float | None = None
    ) -> None:
        self.steps, self.title, self.seconds, self.floor = steps, title, seconds, floor
        self.smooth = max(10, steps // 50)
        self.losses: list[float] = []
        self.scores: dict[int, float] = {}
        self.started = self.drawn = time.monotonic()
        self.id = f"live-{id(self)}"
        self.shown = False

    def __call__(self, loss: float) -> None:
        """Takes the loss of one more step."""
        self.losses.append(loss)
        last = len(self.losses) == self.steps
        if last or time.monotonic() - self.drawn > self.seconds:
            self.draw()

    def score(self, share: float) -> None:
        """Takes the share of sentences that are right at this step."""
        self.scores[len(self.losses)] = share
        self.draw()

    def draw(self) -> None:
        """Shows the curves so far, in the place of the last picture."""
        show(self.figure(), alt=self.alt(), display_id=self.id, update=self.shown)
        self.shown, self.drawn = True, time.monotonic()

    def alt(self) -> str:
        """The picture in words."""
        scores = f", {self.scores[max(self.scores)]:.0%} right" if self.scores else ""
        return (
            f"Training curves, {self.title}: after {len(self.losses)} of {self.steps} steps the "
            f"loss is {np.mean(self.losses[-self.smooth :]):.2f}{scores}."
        )

    def status(self) -> str:
        """Steps done, seconds taken, seconds left."""
        done, taken = len(self.losses), time.monotonic() - self.started
        left = taken / max(done, 1) * (self.steps - done)
        return f"step {done} of {self.steps}, {taken:.0f} s" + (f", {left:.0f} s left" * (left > 1))

    @style()
    def figure(self) -> Figure:
        """The loss, and beside it the share that is right once there is one."""
        fig, axes = figure(9, 3.3, ncols=2 if self.scores else 1, squeeze=False)
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
        headline(fig, f"{self.title}: {self.status()}")
        return fig

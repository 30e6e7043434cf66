"""Draw the speed of every peer relative to the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers import PEERS
from transformer_lib.lessons.figures import PALETTE, figure, headline, name_axes, style

__all__ = ["panels", "picture"]

Row = Mapping[str, Any]


def panels(result: Row) -> list[tuple[str, str, dict[str, Row], str]]:
    """(title, kind, peer to its row, what the ratio is to) of every panel, first allocator."""
    found = []
    for rows in list(result["training"].values())[:1]:
        rows = {name: row for name, row in rows.items() if row["ratio"]}
        if rows:
            found.append(("Training", "training", rows, "torch.nn.Transformer in float32"))
    for modes in list(result["decoding"].values())[:1]:
        for mode, rows in modes.items():
            rows = {name: row for name, row in rows.items() if row["ratio"]}
            if rows:
                found.append((f"Decoding, {mode}", "decoding", rows, "Hugging Face generate"))
    return found


@style()
def picture(result: Row) -> Figure:
    """Draw bars of ratios, one panel for training and one for every way to decode."""
    drawn = panels(result)
    heights = [len(rows) for _, _, rows, _ in drawn]
    fig, axes = figure(
        9,
        1.3 + sum(0.3 * n + 0.9 for n in heights),
        nrows=len(drawn),
        squeeze=False,
        gridspec_kw={"height_ratios": [n + 1.5 for n in heights]},
    )
    quick = " (quick check, not a result)" if result["quick"] else ""
    where = result["machine"].get("gpu") or f"{result['conditions']['threads']} CPU threads"
    headline(fig, f"Speed next to the peers on {where}, higher is faster{quick}")
    for ax, (title, kind, rows, reference) in zip(axes[:, 0], drawn, strict=True):
        bars(ax, kind, rows)
        name_axes(ax, title=title, x=f"times as fast as {reference}", y="")
        ax.yaxis.set_label_text("peer")
    return fig


def bars(ax: Axes, kind: str, rows: Mapping[str, Row]) -> None:
    """Draw one bar per peer with its range as a line; ours in another colour and in bold."""
    names = list(rows)[::-1]
    values = [rows[name]["ratio"] for name in names]
    middle = [value["median"] for value in values]
    below = [value["median"] - value["min"] for value in values]
    above = [value["max"] - value["median"] for value in values]
    ours = [name.startswith("ours") for name in names]
    colours = [PALETTE[0] if mine else "#a9b4bd" for mine in ours]
    ax.barh(
        names,
        middle,
        xerr=[below, above],
        color=colours,
        height=0.66,
        error_kw={"elinewidth": 1.2, "ecolor": "#1f2d3a"},
    )
    ax.axvline(1.0, color="#1f2d3a", linewidth=1.0, linestyle="--")
    ax.set_yticks(range(len(names)), [PEERS[kind][name].title for name in names])
    for label, mine in zip(ax.get_yticklabels(), ours, strict=True):
        label.set_fontweight("bold" if mine else "normal")
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        share = rows[name].get("share of peak")
        text = f"{value['median']:.2f}" + (f", {share['median']:.0%} of peak" if share else "")
        ax.annotate(
            text,
            (value["max"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    ax.set_xlim(0, 1.4 * max(value["max"] for value in values))

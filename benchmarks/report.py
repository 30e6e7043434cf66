"""The tables and the picture of a run, drawn from its file: never typed.

    python -m benchmarks.report [--check]

writes them from results/benchmarks/benchmarks.json: into README.md here, and beside that file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers import PEERS, REFERENCE
from transformer_lib.plots import PALETTE, figure, headline, name_axes, style

__all__ = ["README", "RESULTS", "draw", "picture", "tables", "with_section"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmarks"
README = Path(__file__).with_name("README.md")
START, END = "<!-- benchmarks: written by make bench -->", "<!-- benchmarks: end -->"
NOT_YET = "Nothing has been measured yet: `make bench`."

Row = Mapping[str, Any]


def tables(result: Row) -> str:
    """The run as markdown: conditions, then a table for training and one for decoding."""
    parts = [conditions(result)]
    for allocator, rows in result["training"].items():
        parts += [f"### Training, allocator: {allocator}", training_table(rows)]
    if "loss curves" in result:
        parts.append(losses_told(result["loss curves"]))
    for allocator, modes in result["decoding"].items():
        parts += [f"### Decoding, allocator: {allocator}", decoding_table(modes)]
    if result["left out"]:
        lines = [f"- **{name}**: `{why}`" for name, why in result["left out"].items()]
        parts += ["### Left out", "\n".join(lines)]
    return "\n\n".join(parts)


def conditions(result: Row) -> str:
    """Where and how it was measured."""
    about, machine, peak = result["conditions"], result["machine"], result["matrix peak"]
    flops = result["flops per target token"]
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in peak.items())
    load = [about[f"load average at the {when}"] for when in ("start", "end")]
    lines = [
        f"Measured {result['when']} at commit `{result['commit']}`"
        + (" **with `--quick`: a sanity check, not a result**" if result["quick"] else ""),
        f"{machine['processor']}, {machine['cores']} cores "
        f"({', '.join(machine['instructions']) or 'no wide instructions'}), "
        f"Python {machine['python']}",
        f"{about['threads']} threads, {about['rounds']} rounds of {about['steps per round']} "
        f"training steps, `OMP_WAIT_POLICY={about['OMP_WAIT_POLICY']}`, load average "
        + " at the start and ".join("?" if x is None else f"{x:.1f}" for x in load)
        + " at the end",
        f"measured matrix peak, GFLOP/s: {peaks}",
        f"{flops['by formula'] / 1e6:.1f} MFLOP of training per real target token, padding left "
        f"out ({flops['counted by torch'] / 1e6:.1f} counted by torch, with padding)",
    ]
    return "\n".join(f"- {line}" for line in lines)


def training_table(rows: Mapping[str, Row]) -> str:
    """One row for every peer: speed, ratio, share of the peak, memory."""
    found = []
    for name, row in rows.items():
        speed, times = row["tokens per second"], row["ratio"]
        memory = row["memory"]
        found.append(
            (
                PEERS["training"][name].title,
                f"{speed['median']:,.0f}",
                spread(times),
                f"{row['share of peak']['median']:.0%}",
                "" if memory is None else f"{memory / 2**20:,.0f}",
                "" if row["memory ratio"] is None else f"{row['memory ratio']:.2f}",
            )
        )
    head = ("training", "real target tokens/s", "ratio (smallest to largest)")
    return table((*head, "share of peak", "peak memory, MiB", "ratio"), found)


def spread(values: Row | None) -> str:
    """Median, and the range of the rounds; nothing where there was no reference."""
    if values is None:
        return ""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


def losses_told(curves: Mapping[str, Row]) -> str:
    """How far apart the losses are."""
    steps = len(next(iter(curves.values()))["losses"])
    told = [
        f"{PEERS['training'][name].title} {curve['largest difference']:.1g}"
        for name, curve in curves.items()
        if name != REFERENCE["training"] and curve["largest difference"] is not None
    ]
    return (
        f"From the same weights, without dropout, on the same {steps} batches, the losses differ "
        f"from the reference's by at most (relative): {'; '.join(told)}."
    )


def decoding_table(modes: Mapping[str, Mapping[str, Row]]) -> str:
    """One row for every peer, three columns for every mode."""
    names = [name for name in PEERS["decoding"] if any(name in rows for rows in modes.values())]
    head = ["decoding"]
    for mode in modes:
        head += [f"{mode}, sentences/s", "ratio", "same"]
    rows = []
    for name in names:
        cells = [PEERS["decoding"][name].title]
        for found in modes.values():
            cells += decoding_cells(found.get(name))
        rows.append(tuple(cells))
    return table(tuple(head), rows)


def decoding_cells(row: Row | None) -> list[str]:
    """Speed, ratio and equal translations, or nothing where the peer has no such mode."""
    if row is None:
        return ["", "", ""]
    same, times = row["same as ours"], row["ratio"]
    return [
        f"{row['sentences per second']['median']:,.1f}",
        spread(times),
        "" if same is None else f"{same['same']}/{same['of']}",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# The picture


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
    """Bars of ratios, one panel for training and one for every way to decode."""
    drawn = panels(result)
    heights = [len(rows) for _, _, rows, _ in drawn]
    fig, axes = figure(
        9, 1.3 + sum(0.3 * n + 0.9 for n in heights), nrows=len(drawn), squeeze=False,
        gridspec_kw={"height_ratios": [n + 1.5 for n in heights]},
    )  # fmt: skip
    quick = " (quick check, not a result)" if result["quick"] else ""
    threads = result["conditions"]["threads"]
    headline(fig, f"Speed next to the peers on {threads} CPU threads, higher is faster{quick}")
    for ax, (title, kind, rows, reference) in zip(axes[:, 0], drawn, strict=True):
        bars(ax, kind, rows)
        name_axes(ax, title=title, x=f"times as fast as {reference}", y="")
        ax.yaxis.set_label_text("peer")
    return fig


def bars(ax: Axes, kind: str, rows: Mapping[str, Row]) -> None:
    """One bar for every peer, its range as a line; ours in another colour and in bold."""
    names = list(rows)[::-1]
    values = [rows[name]["ratio"] for name in names]
    middle = [value["median"] for value in values]
    below = [value["median"] - value["min"] for value in values]
    above = [value["max"] - value["median"] for value in values]
    ours = [name.startswith("ours") for name in names]
    colours = [PALETTE[0] if mine else "#a9b4bd" for mine in ours]
    ax.barh(names, middle, xerr=[below, above], color=colours, height=0.66,
            error_kw={"elinewidth": 1.2, "ecolor": "#1f2d3a"})  # fmt: skip
    ax.axvline(1.0, color="#1f2d3a", linewidth=1.0, linestyle="--")
    ax.set_yticks(range(len(names)), [PEERS[kind][name].title for name in names])
    for label, mine in zip(ax.get_yticklabels(), ours, strict=True):
        label.set_fontweight("bold" if mine else "normal")
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        share = rows[name].get("share of peak")
        text = f"{value['median']:.2f}" + (f", {share['median']:.0%} of peak" if share else "")
        ax.annotate(text, (value["max"], place), xytext=(5, 0), textcoords="offset points",
                    va="center", fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    ax.set_xlim(0, 1.4 * max(value["max"] for value in values))


# The files


def with_section(text: str, section: str, start: str = START, end: str = END) -> str:
    """The text with the section between two markers.

    Raises:
        ValueError: the markers are not there, once each.
    """
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the text needs the markers {start} and {end}, once each")
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{section}\n{end}{rest.partition(end)[2]}"


def section(folder: Path) -> str:
    """What belongs between the markers."""
    file = folder / "benchmarks.json"
    if not file.is_file():
        return NOT_YET
    drawn = tables(json.loads(file.read_text("utf-8")))
    alt = "Bars: how many times as fast as the reference every peer is, in training and decoding"
    return f"{drawn}\n\n![{alt}](../results/benchmarks/ratios.png)"


def draw(folder: Path) -> None:
    """Writes the picture beside the file; the README only from the project's own results."""
    result = json.loads((folder / "benchmarks.json").read_text("utf-8"))
    if panels(result):
        picture(result).savefig(folder / "ratios.png", dpi=110, metadata={"Software": None})
    if folder.resolve() == RESULTS:
        README.write_text(with_section(README.read_text("utf-8"), section(folder)), "utf-8")


def main() -> int:
    """The command of the head of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args()
    text = README.read_text("utf-8")
    if options.check:
        fresh = text == with_section(text, section(RESULTS))
        if not fresh:
            print(f"{README} is not what was measured", file=sys.stderr)
        return int(not fresh)
    if (RESULTS / "benchmarks.json").is_file():
        draw(RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draw the tables and the picture of a run from its file.

    python -m benchmarks.report [--check]

writes them from results/benchmarks/benchmarks.json, and for a GPU from the file of that name in
results/benchmarks/cuda: into README.md here, and beside each file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, REFERENCE
from benchmarks.ratios_picture import panels, picture

__all__ = ["README", "RESULTS", "draw", "picture", "tables", "with_section"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmarks"
README = Path(__file__).with_name("README.md")
START, END = "<!-- benchmarks: written by make bench -->", "<!-- benchmarks: end -->"
MARKERS = {
    "cpu": (START, END),
    "cuda": (
        "<!-- benchmarks on a GPU: written by python -m benchmarks -->",
        "<!-- benchmarks on a GPU: end -->",
    ),
}
NOT_YET = "Nothing has been measured yet: `{}`."
GPU_COMMAND = "python -m benchmarks --device cuda --preset base --max-tokens 25000"
COMMANDS = {"cpu": "make bench", "cuda": GPU_COMMAND}

Row = Mapping[str, Any]


def results_of(device: str) -> Path:
    """Return the folder of the project's own results on a device."""
    return RESULTS if device == "cpu" else RESULTS / device


def tables(result: Row) -> str:
    """Return the run as markdown: conditions, a table for training and one for decoding."""
    parts = [conditions(result)]
    for allocator, rows in result["training"].items():
        parts += [f"### Training, allocator: {allocator}", training_table(rows)]
        if chosen := chosen_ways(rows):
            parts.append(chosen)
    if "loss curves" in result:
        parts.append(losses_told(result["loss curves"]))
    for allocator, modes in result["decoding"].items():
        parts += [f"### Decoding, allocator: {allocator}", decoding_table(modes)]
        if chosen := chosen_settings(modes):
            parts.append(chosen)
    if result["left out"]:
        lines = [f"- **{name}**: `{why}`" for name, why in result["left out"].items()]
        parts += ["### Left out", "\n".join(lines)]
    return "\n\n".join(parts)


def conditions(result: Row) -> str:
    """Return where and how the run was measured."""
    about, machine, peak = result["conditions"], result["machine"], result["matrix peak"]
    flops = result["flops per target token"]
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in peak.items())
    lines = [
        f"Measured {result['when']} at commit `{result['commit']}`"
        + (" **with `--quick`: a sanity check, not a result**" if result["quick"] else ""),
        (f"{machine['gpu']}, next to " if machine.get("gpu") else "")
        + f"{machine['processor']}, {machine['cores']} cores "
        f"({', '.join(machine['instructions']) or 'no wide instructions'}), "
        f"Python {machine['python']}",
        rounds_of(about),
        f"the model that is trained: `{result['trained'].get('preset', 'tiny')}`, batches of up to "
        f"{result['trained']['max tokens']:,} tokens; measured matrix peak, GFLOP/s: {peaks}",
        f"{flops['by formula'] / 1e6:.1f} MFLOP of training per real target token, padding left "
        f"out ({flops['counted by torch'] / 1e6:.1f} counted by torch, with padding)",
    ]
    for kind, then in result.get("kept", {}).items():
        how = f": {rounds_of(then['conditions'])}" if "conditions" in then else ""
        lines.append(f"{kind}: kept from {then['when']}, commit `{then['commit']}`{how}")
    return "\n".join(f"- {line}" for line in lines)


def rounds_of(about: Mapping[str, Any]) -> str:
    """Return how often was measured, and on how busy a machine."""
    load = [about[f"load average at the {when}"] for when in ("start", "end")]
    busy = " at the start and ".join("?" if x is None else f"{x:.1f}" for x in load)
    return (
        f"{about['threads']} threads, {about['rounds']} rounds "
        f"(of {about['steps per round']} steps in training), "
        f"`OMP_WAIT_POLICY={about['OMP_WAIT_POLICY']}`, load average {busy} at the end"
    )


def check_kept(old: Mapping[str, Any], machine: Mapping[str, Any], kinds: Collection[str]) -> None:
    """Raise ValueError if rows of other kinds were measured on another machine."""
    others = any(old[kind] for kind in PEERS if kind not in kinds)
    wrong = [name for name, value in old["machine"].items() if machine.get(name) != value]
    if others and wrong:
        raise ValueError(
            "the results that are there are of another machine and cannot be kept: "
            + ", ".join(f"{name} {old['machine'][name]}, now {machine.get(name)}" for name in wrong)
        )


def with_kept(result: dict[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result with the rows of an older one for each kind that was not measured.

    Raises:
        ValueError: the older one is of another machine.
    """
    missing = [kind for kind in PEERS if old[kind] and not result[kind]]
    check_kept(old, result["machine"], [kind for kind in PEERS if result[kind]])
    before = {name: old[name] for name in ("when", "commit", "conditions")}
    kept = {kind: old.get("kept", {}).get(kind, before) for kind in missing}
    of_training = ("loss curves", "matrix peak", "flops per target token", "trained")
    curves = {name: old[name] for name in of_training} if "training" in missing else {}
    rows = {kind: old[kind] for kind in missing}
    of_both = {name: old[name] | result[name] for name in ("versions", "left out")}
    return result | rows | curves | of_both | {"kept": kept}


def training_table(rows: Mapping[str, Row]) -> str:
    """Return one row per peer: speed, ratio, share of the peak, memory."""
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
    return table((*head, "share of peak", "peak memory of a process, MiB", "ratio"), found)


def chosen_ways(rows: Mapping[str, Row]) -> str:
    """Return the speed of every peer in its trials, empty if nothing was tried."""
    found = []
    for name, row in rows.items():
        if len(trials := row.get("trials", ())) > 1:
            told = [
                f"{trial['processes']} × {trial['threads']}: {trial['tokens per second']:,.0f}"
                for trial in trials
            ]
            found.append(f"- {PEERS['training'][name].title}: {', '.join(told)}")
    if not found:
        return ""
    return (
        "Every peer runs with the processes × threads it was fastest with. Real target tokens/s "
        "in the trials, the fastest first:\n\n" + "\n".join(found)
    )


def spread(values: Row | None) -> str:
    """Return the median and range of the rounds, or an empty cell without a reference."""
    if values is None:
        return ""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


def losses_told(curves: Mapping[str, Row]) -> str:
    """Return how far apart the losses are."""
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
    """Return one row per peer and three columns per mode."""
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


def chosen_settings(modes: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the batches with which every peer was fastest, empty if nothing was chosen."""
    found = []
    for mode, rows in modes.items():
        told = [
            f"{PEERS['decoding'][name].title} ({own['workers']} × {own['batch']})"
            for name, row in rows.items()
            if (own := row.get("settings"))
        ]
        found += [f"- {mode}: {', '.join(told)}"] if told else []
    if not found:
        return ""
    return (
        "Every peer runs with the batches it was fastest with (batches side by side × sentences "
        "in each; the threads are shared among the batches):\n\n" + "\n".join(found)
    )


def decoding_cells(row: Row | None) -> list[str]:
    """Return speed, ratio and equal translations, or empty cells if the peer has no such mode."""
    if row is None:
        return ["", "", ""]
    same, times = row["same as ours"], row["ratio"]
    return [
        f"{row['sentences per second']['median']:,.1f}",
        spread(times),
        "" if same is None else f"{same['same']}/{same['of']}",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# The files


def with_section(text: str, section: str, start: str = START, end: str = END) -> str:
    """Return the text with the section between two markers replaced.

    Raises:
        ValueError: the markers are not there, once each.
    """
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the text needs the markers {start} and {end}, once each")
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{section}\n{end}{rest.partition(end)[2]}"


def section(device: str) -> str:
    """Return the section of a device."""
    file = results_of(device) / "benchmarks.json"
    if not file.is_file():
        return NOT_YET.format(COMMANDS[device])
    drawn = tables(json.loads(file.read_text("utf-8")))
    alt = "Bars: how many times as fast as the reference every peer is, in training and decoding"
    place = (file.parent / "ratios.png").relative_to(ROOT).as_posix()
    return f"{drawn}\n\n![{alt}](../{place})"


def with_all_sections(text: str) -> str:
    """Return the README's text with the tables of every device."""
    for device, markers in MARKERS.items():
        text = with_section(text, section(device), *markers)
    return text


def draw(folder: Path) -> None:
    """Write the picture next to the file; the README only from the project's own results."""
    result = json.loads((folder / "benchmarks.json").read_text("utf-8"))
    if panels(result):
        picture(result).savefig(folder / "ratios.png", dpi=110, metadata={"Software": None})
    if folder.resolve() in map(results_of, MARKERS):
        README.write_text(with_all_sections(README.read_text("utf-8")), "utf-8")


def main() -> int:
    """Run the command described at the top of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args()
    text = README.read_text("utf-8")
    if options.check:
        fresh = text == with_all_sections(text)
        if not fresh:
            print(f"{README} is not what was measured", file=sys.stderr)
        return int(not fresh)
    for folder in map(results_of, MARKERS):
        if (folder / "benchmarks.json").is_file():
            draw(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

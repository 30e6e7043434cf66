"""`python -m benchmarks`: installs the peers, measures everybody, writes the results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.peers import PEERS
from benchmarks.rounds import PeerError
from benchmarks.run import Run
from benchmarks.surroundings import machine
from transformer_lib.data.files import to_json, write_text


def arguments() -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="few rounds, small batches, few sentences: does it run at all?",
    )
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where everybody computes")
    add("--here", action="store_true", help="install nothing: measure who is in this environment")
    add("--threads", type=int, default=2, help="CPU threads of every peer")
    add("--rounds", type=int, default=5, help="of training; of decoding two less")
    add("--steps", type=int, default=6, help="of training in every round")
    names = sorted({name for peers in PEERS.values() for name in peers})
    add("--peers", nargs="*", choices=names, metavar="PEER", help=f"only these: {', '.join(names)}")
    add("--kinds", nargs="*", choices=PEERS, default=[*PEERS])
    add(
        "--keep",
        action="store_true",
        help="keep the rows of the other kind that were measured on this machine before",
    )
    add("--allocators", nargs="*", choices=["system", "tcmalloc"], default=["system"])
    add("--model", default="multi30k-de-en", help="the trained model that decodes")
    add("--preset", choices=["tiny", "base", "big"], default="tiny", help="size that is trained")
    add("--vocab-size", type=int, default=10_000, help="of the model that is trained")
    add("--max-tokens", type=int, default=4096, help="token budget of a batch")
    add("--out", type=Path, help="folder of the results; left out: results/benchmarks[/cuda]")
    add("--pip-args", default="", help="more arguments for pip install")
    options = parser.parse_args()
    options.out = options.out or report.results_of(options.device)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    if options.quick:
        options.rounds, options.steps = 2, 1
        options.max_tokens = min(options.max_tokens, 512)
    return options


def main() -> int:
    """Run the command."""
    options = arguments()
    try:
        if options.keep:  # looked at before the work
            old = json.loads((options.out / "benchmarks.json").read_text("utf-8"))
            report.check_kept(old, machine(options.device), options.kinds)
        result = Run(options)()
        if options.keep:
            result = report.with_kept(result, old)
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2
    except PeerError as error:
        print("error: a peer died while it was measured:", error, file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "benchmarks.json", to_json(result))
    report.draw(options.out)
    print(report.tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

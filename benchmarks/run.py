"""Install, prepare, measure in turns, and assemble the result."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import Any

import torch

from benchmarks.arithmetic import FORMULA, flops_per_target_token, matrix_peak, ratio, summary
from benchmarks.collect import collect
from benchmarks.environments import PACKAGES, install, missing_here
from benchmarks.material import Material
from benchmarks.peers import PEERS, REFERENCE
from benchmarks.peers.torch_nn import counted_flops
from benchmarks.rounds import (
    ROOT,
    Conditions,
    Crew,
    agreement,
    best_settings,
    best_ways,
    decoding_rounds,
    largest_difference,
    training_rounds,
)
from benchmarks.surroundings import commit, load_average, machine, preload

__all__ = ["Run"]

FOLDER = ROOT / "build" / "bench"
N_BATCHES = 24
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Run:
    """One run of everything, and its result."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.left_out, self.versions = options, {}, {}
        self.material: Material | None = None
        self.started_at = load_average()

    def names(self, kind: str) -> list[str]:
        """Return the selected and installed peers of a kind, the reference first."""
        return [n for n in self.wanted(kind) if PEERS[kind][n].environment not in self.missing]

    def wanted(self, kind: str) -> list[str]:
        """Return the selected peers of a kind that can be measured on this device."""
        device, only = self.options.device, self.options.peers
        return [
            n
            for n, peer in PEERS[kind].items()
            if device in peer.devices and (not only or n in only)
        ]

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def install(self) -> None:
        """Create all environments, and record the peers that fail."""
        options = self.options
        needed = {PEERS[kind][n].environment for kind in options.kinds for n in self.wanted(kind)}
        self.missing = set()
        for kind in options.kinds if options.device != "cpu" else ():
            for peer in PEERS[kind].values():
                if options.device not in peer.devices:
                    self.left_out[f"{kind}: {peer.title}"] = "measured on a CPU only"
        for environment in [name for name in PACKAGES if name in needed]:
            if options.here:
                reason = missing_here(environment)
            else:
                reason = install(environment, FOLDER, shlex.split(options.pip_args))
            if reason:
                self.missing.add(environment)
                self.left_out[environment] = reason
                self.say(f"{environment} is left out: {reason}")

    def losses(self, crew: Crew) -> dict[str, Any]:
        """Return each peer's losses over the same steps from the same weights, without dropout."""
        curves = dict(crew.turns("losses", steps=3 if self.options.quick else 10))
        reference = curves.get(REFERENCE["training"])
        return {
            name: {
                "losses": curve,
                "largest difference": reference and largest_difference(curve, reference),
            }
            for name, curve in curves.items()
        }

    def training(self, conditions: Conditions, peak: dict[str, float], flops: float):
        """Return losses, speed, ratio, share of the peak and memory of every peer at its best."""
        options, n = self.options, conditions.threads
        self.say("the best number of processes and threads of every peer")
        ways = sorted({(1, 1), (1, n), (n, 1)}) if options.device == "cpu" else [(1, n)]
        trials = best_ways(
            self.names("training"), conditions, self.left_out, ways, 1 if options.quick else 3
        )
        best = {n: (tried[0]["processes"], tried[0]["threads"]) for n, tried in trials.items()}
        with Crew("training", [*trials], conditions, self.left_out, best) as crew:
            self.say("the same losses?")
            curves = self.losses(crew)
            self.say("training")
            # compiled for every shape of the batches before the clock starts
            warm_up = 2 if options.device == "cpu" else N_BATCHES
            speeds = training_rounds(crew, options.rounds, options.steps, warm_up)
            self.versions |= {name: worker.versions for name, worker in crew.workers.items()}
        memory = {name: trials[name][0]["memory"] for name in speeds}
        first, rows = REFERENCE["training"], {}
        for name, found in speeds.items():
            dtype = "bfloat16" if "bf16" in name else "float32"
            both = memory.get(name) and memory.get(first)
            rows[name] = {
                "tokens per second": summary(found),
                "ratio": ratio(found, speeds[first]) if first in speeds else None,
                "share of peak": summary([speed * flops / peak[dtype] for speed in found]),
                "peak of": dtype,
                "trials": trials[name],
                "memory": memory[name],
                "memory ratio": memory[name] / memory[first] if both else None,
            }
        return rows, curves

    def decoding(self, conditions: Conditions) -> dict[str, Any]:
        """Return speed and ratio of every peer and mode, and the number of equal translations."""
        quick, n = self.options.quick, len(self.material.sentences)
        rounds = 1 if quick else max(1, self.options.rounds - 2)
        self.say("decoding")
        with Crew("decoding", self.names("decoding"), conditions, self.left_out) as crew:
            thin, threads = 20 if quick else 1, conditions.threads
            chosen = {}
            if self.options.device == "cpu":
                self.say("the best batches of every peer")
                chosen = best_settings(crew, threads, *([(64,), 20] if quick else []))
            self.say("rounds")
            speeds, texts = decoding_rounds(crew, rounds, n, threads, thin, chosen)
            self.versions |= {name: worker.versions for name, worker in crew.workers.items()}
        found = {}
        for mode, peers in speeds.items():
            reference, same = peers.get(REFERENCE["decoding"]), agreement(texts[mode], "ours")
            found[mode] = {
                name: {
                    "sentences per second": summary(values),
                    "ratio": ratio(values, reference) if reference else None,
                    "same as ours": same.get(name),
                    "settings": chosen.get(mode, {}).get(name),
                }
                for name, values in peers.items()
            }
        return found

    def packages(self) -> dict[str, dict[str, str]]:
        """Return the relevant package versions of each peer."""
        wanted = {"torch", "transformers", "ctranslate2", "joeynmt", "fairseq", "numpy"}
        return {
            name: {p: v for p, v in sorted(found.items()) if p and p.lower() in wanted}
            for name, found in self.versions.items()
        }

    def __call__(self) -> dict[str, Any]:
        """Run everything, in order."""
        options = self.options
        self.install()
        self.say("preparing")
        self.material = collect(
            FOLDER,
            model=options.model,
            preset=options.preset,
            vocab_size=options.vocab_size,
            max_tokens=options.max_tokens,
            n_batches=N_BATCHES,
        )
        torch.set_num_threads(options.threads)
        peak = {name: matrix_peak(dtype, options.device) for name, dtype in DTYPES.items()}
        result: dict[str, Any] = {"training": {}, "decoding": {}}
        pairs = unpadded(self.material)
        flops = flops_per_target_token(self.material.sizes, pairs)
        counted = counted_flops(self.material.to(options.device))
        for allocator in options.allocators:
            conditions = Conditions(
                FOLDER, options.threads, preload(allocator), options.device, options.here
            )
            self.say(f"allocator {allocator}")
            if "training" in options.kinds:
                rows, curves = self.training(conditions, peak, flops)
                result["training"][allocator] = rows
                result.setdefault("loss curves", curves)
            if "decoding" in options.kinds:
                result["decoding"][allocator] = self.decoding(conditions)
        return self.about(peak, flops, counted) | result

    def about(self, peak: dict[str, float], flops: float, counted: float) -> dict[str, Any]:
        """Return the conditions of the run."""
        options, material = self.options, self.material
        return {
            "commit": commit(),
            "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "quick": options.quick,
            "device": options.device,
            "machine": machine(options.device),
            "conditions": {
                "threads": options.threads,
                "rounds": options.rounds,
                "steps per round": options.steps,
                "OMP_WAIT_POLICY": "PASSIVE",
                "load average at the start": self.started_at,
                "load average at the end": load_average(),
            },
            "trained": {
                "preset": options.preset,
                "sizes": material.sizes,
                "max tokens": options.max_tokens,
            },
            "decoded": {
                "model": options.model,
                "sizes": material.model_sizes,
                "sentences": len(material.sentences),
            },
            "matrix peak": peak,
            "flops per target token": {
                "formula": FORMULA,
                "by formula": flops,
                "counted by torch": counted,
            },
            "versions": self.packages(),
            "left out": self.left_out,
        }


def unpadded(material: Material) -> list[tuple[list[int], list[int]]]:
    """Return the pairs of all batches without padding."""
    return [
        tuple([id for id in row if id] for row in pair)
        for src, tgt in material.batches
        for pair in zip(src.tolist(), tgt.tolist(), strict=True)
    ]

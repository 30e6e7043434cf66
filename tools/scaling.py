"""The arithmetic of docs/scaling.md: operations, time, memory, network; its tables are drawn here.

Only multiplications of matrices are counted, a multiplication and an addition as two operations, as
the paper and torch's FlopCounterMode do. Everything that is assumed is a constant with its source.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from transformer_lib import ModelConfig, Transformer

ROOT = Path(__file__).resolve().parents[1]
GROWTH = ROOT / "results" / "growth-data.json"

BATCH = 25_000  # target tokens of a step, and as many source tokens: section 5.1 of the paper
LENGTH = 30  # assumed: pieces of a sentence; the result hardly depends on it
USED = 0.30  # assumed: share of the peak that a training reaches; the paper's base has 0.3 below
PRICE = 3.0  # assumed: US dollars for an hour of one H100; put your own
WMT14, BILLION = 4_500_000, 1_000_000_000  # pairs; the first is in section 5.1
CORE = 4_810  # target tokens/s of `tiny`, float32, one thread: docs/training.md, "Faster on a CPU"


@dataclass(frozen=True)
class PaperRun:
    """A run of the paper on 8 P100 (section 5.2 and Table 2)."""

    name: str
    vocab: int
    steps: int
    step_seconds: float
    hours: float
    flops: float
    config: ModelConfig


P100 = 9.5e12  # single precision, the paper's footnote 5
PAPER = (
    PaperRun("base", 37_000, 100_000, 0.4, 12, 3.3e18, ModelConfig.base(37_000)),
    PaperRun("big", 37_000, 300_000, 1.0, 3.5 * 24, 2.3e19, ModelConfig.big(37_000)),
)
# Peaks without sparsity, 16 bits where the chip has matrix units for them: NVIDIA's data sheets.
CHIPS = {"P100, fp32": P100, "A100, bf16": 312e12, "H100 SXM, bf16": 989e12}
# Bytes a second in one direction, as the standards and NVIDIA's data sheets name them.
LINKS = {
    "NVLink 4": 450e9,
    "PCIe 3 x16": 15.75e9,
    "100 Gbit/s Ethernet": 12.5e9,
    "10 Gbit/s Ethernet": 1.25e9,
}


def forward_flops(config, src_len, tgt_len):
    """Count the operations of one forward pass over one pair of sentences.

    Args:
        config: a ModelConfig.
        src_len, tgt_len: tokens of the source, and of the target that the decoder reads.
    """
    d, f, n, S, T = config.d_model, config.d_ff, config.n_layers, src_len, tgt_len
    projection = 2 * d * d  # of one vector, by one of attention's four matrices
    feed_forward = 2 * 2 * d * f
    scores = 2 * 2 * d  # of one query with one key, and the sum of the values
    encoder = S * (4 * projection + feed_forward) + S * S * scores
    own = T * 4 * projection + T * T * scores
    cross = (T + S) * 2 * projection + T * S * scores
    return n * (encoder + own + cross + T * feed_forward) + T * 2 * d * config.tgt_vocab_size


def training_flops(config, src_len=LENGTH, tgt_len=LENGTH):
    """Forward and backward: backward multiplies each matrix twice, for its input and its weight."""
    return 3 * forward_flops(config, src_len, tgt_len)


def per_token(config):
    """Operations of training for one target token and the source tokens that belong to it."""
    return training_flops(config) / LENGTH


def n_parameters(config):
    """Count the parameters without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(config).parameters())


def state_bytes(config):
    """Weights, gradients and Adam's two means, 4 bytes each."""
    return 4 * 4 * n_parameters(config)


def reduce_bytes(config, n):
    """Bytes that each of n processes sends in a step: 4-byte gradients, ring all-reduce."""
    return 2 * (n - 1) / n * 4 * n_parameters(config)


def core_flops():
    """Operations a second that one thread of ours sustained in a training of `tiny`."""
    return CORE * per_token(ModelConfig.tiny(4000))


def paper_table():
    """The formula beside the paper's own figures."""
    rows = []
    for run in PAPER:
        total = per_token(run.config) * BATCH * run.steps
        capacity = run.hours * 3600 * 8 * P100
        used = total / (run.steps * run.step_seconds * 8 * P100)
        base = PAPER[0]
        base_rate = per_token(base.config) * BATCH / base.step_seconds
        rows.append(
            (
                run.name,
                f"{n_parameters(run.config):,}",
                f"{per_token(run.config) / 1e9:.3f}",
                f"{total:.2g}",
                f"{capacity:.2g} ({run.flops:.2g})",
                f"{used:.0%}",
                f"{per_token(run.config) * BATCH / base_rate:.2f} s ({run.step_seconds} s)",
                f"{run.steps * run.step_seconds / 3600:.0f} h ({run.hours:g} h)",
            )
        )
    head = (
        "model",
        "parameters",
        "10⁹ operations per token",
        "needed",
        "bought (paper)",
        "share used",
        "step at base's share (paper)",
        "steps × step (paper)",
    )
    return head, rows


def time_table():
    """The paper's base training elsewhere."""
    base = PAPER[0]
    step = per_token(base.config) * BATCH
    machines = [("one CPU thread of ours, measured with `tiny`", core_flops(), None, None)]
    for n, name in (
        (8, "P100, fp32"),
        (1, "A100, bf16"),
        (8, "A100, bf16"),
        (1, "H100 SXM, bf16"),
        (8, "H100 SXM, bf16"),
    ):
        price = PRICE * n if name.startswith("H100") else None
        machines.append((f"{n} × {name}", n * CHIPS[name] * USED, USED, price))
    rows = []
    for name, rate, used, price in machines:
        hours = step * base.steps / rate / 3600
        rows.append(
            (
                name,
                f"{rate:.2g}",
                "measured" if used is None else f"{used:.0%} assumed",
                f"{step / rate:.3g} s",
                duration(hours * 3600),
                "" if price is None else f"${price * hours:.0f}",
            )
        )
    return ("machine", "operations/s", "share of the peak", "step", "100,000 steps", "cost"), rows


def network_table():
    """Bytes that eight processes exchange in a step, and the time it takes."""
    rows = []
    for run in PAPER:
        sent = reduce_bytes(run.config, 8)
        compute = per_token(run.config) * BATCH / (8 * CHIPS["H100 SXM, bf16"] * USED)
        times = [f"{sent / speed * 1e3:,.0f} ms" for speed in LINKS.values()]
        rows.append(
            (
                run.name,
                f"{state_bytes(run.config) / 1e9:.2f} GB",
                f"{sent / 1e6:.0f} MB",
                f"{compute * 1e3:.0f} ms",
                *times,
            )
        )
    head = ("model", "weights, gradients, Adam", "sent per step", "step on 8 H100", *LINKS)
    return head, rows


def data_table(growth):
    """Extrapolate from the largest measured corpus to WMT14 and to a billion pairs."""
    prepare, read = (list(growth["measured"][kind].values())[-1] for kind in ("prepare", "read"))
    pairs, ids = prepare["pairs"], prepare["src_tokens"] + prepare["tgt_tokens"]
    rows = []
    for name, n in (
        (f"{pairs:,} pairs, measured", pairs),
        ("WMT14, 4.5 million", WMT14),
        ("a billion", BILLION),
    ):
        tokens = ids if n == pairs else 2 * LENGTH * n
        scale = tokens / ids  # both take time by the token
        rows.append(
            (
                name,
                duration(prepare["cpu_seconds"] * scale),
                f"{(4 * tokens + 16 * n) / 1e9:.3g} GB",
                duration(read["cpu_seconds"] * scale),
            )
        )
    return ("corpus", "prepare, one core", "on disk", "read one epoch, one core"), rows


def feed_table(growth):
    """Tokens per second that a chip consumes, next to those that one process reads."""
    read = list(growth["measured"]["read"].values())[-1]
    made = read["target_tokens"] / read["cpu_seconds"]
    rows = []
    for run in PAPER:
        for chip, peak in CHIPS.items():
            taken = peak * USED / per_token(run.config)
            rows.append((run.name, chip, f"{taken:,.0f}", f"{made:,.0f}", f"{taken / made:.0%}"))
    head = (
        "model",
        "chip",
        "target tokens/s it takes",
        "target tokens/s one core reads",
        "time to read / time to compute",
    )
    return head, rows


def duration(seconds):
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def tables():
    """Return head and rows of each table by its name."""
    growth = json.loads(GROWTH.read_text("utf-8"))
    return {
        "paper": paper_table(),
        "time": time_table(),
        "network": network_table(),
        "data": data_table(growth),
        "feed": feed_table(growth),
    }

"""A change that should not change results does not: 30 losses of the copy task, to the bit.

The file beside this one has the losses as hexadecimal floats, and the versions of what computed
them. Bits are compared only where torch, its instruction set and the kind of processor are those:
another one adds up in another order. To record anew, after a change that *should* change results:
`python tests/test_recorded_curve.py`.
"""

import json
import platform
from pathlib import Path

import pytest
import torch

from transformer_lib import ModelConfig, TrainConfig, Transformer, collate, train_step
from transformer_lib.training import make_optimizer

RECORD = Path(__file__).with_name("recorded_curve.json")
CPUINFO = Path("/proc/cpuinfo")
STEPS = 30


def conditions():
    """Return what decides the last bit of a loss; the matrix library looks at the processor."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": models[0] if models else platform.processor() or platform.machine(),
    }


def curve():
    """Return the losses of 30 steps; source and target are the same 3 to 9 random ids."""
    torch.manual_seed(20170612)
    config = ModelConfig.tiny(30, n_layers=2, d_model=32, n_heads=4, d_ff=64)
    model, rates = Transformer(config), TrainConfig(peak_rate=3e-3, warmup=10)
    optimizer, losses = make_optimizer(model, rates), []
    for step in range(1, STEPS + 1):
        draw = torch.Generator().manual_seed(step)
        lengths = torch.randint(3, 10, (16,), generator=draw).tolist()
        rows = [torch.randint(4, 30, (n,), generator=draw).tolist() for n in lengths]
        batch = collate([([*row, 3], [2, *row, 3]) for row in rows])
        losses.append(train_step(model, optimizer, batch, step, rates).loss)
    return losses


def test_the_recorded_losses_come_again():
    """To the bit where they were recorded; elsewhere, only rounding may differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    losses = curve()
    torch.set_num_threads(threads)
    record = json.loads(RECORD.read_text())
    recorded = [float.fromhex(loss) for loss in record["losses"]]
    assert losses == pytest.approx(recorded, rel=record["tolerance"]["relative"])
    if record["conditions"] == conditions():
        assert losses == recorded


if __name__ == "__main__":
    torch.set_num_threads(1)
    exact = curve()
    record = {"conditions": conditions(), "losses": [loss.hex() for loss in exact]}
    print(*(f"{loss:.4f}" for loss in exact))
    record["tolerance"] = json.loads(RECORD.read_text())["tolerance"]
    RECORD.write_text(json.dumps(record, indent=1) + "\n")

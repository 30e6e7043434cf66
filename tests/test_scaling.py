"""The arithmetic of docs/scaling.md against torch's own counter and the paper's figures."""

import pytest
import scaling
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from transformer_lib import ModelConfig, Transformer

SIZES = {"d_model": 24, "n_heads": 3, "n_layers": 2, "d_ff": 40}


@pytest.mark.parametrize(
    ("changes", "src_len", "tgt_len", "tied"),
    [
        ({"n_layers": 3}, 5, 9, True),
        ({"d_ff": 56}, 12, 4, False),
        ({"d_model": 36}, 5, 9, False),
    ],
)
def test_operations_are_those_that_torch_counts(changes, src_len, tgt_len, tied):
    config = ModelConfig(47, 53, **(SIZES | changes), tie_embeddings=tied)
    model = Transformer(config)
    src, tgt = (torch.full((2, size), 5) for size in (src_len, tgt_len))
    # written out as matrix products: the fused kernels count what they compute twice
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            logits = model(src, tgt)
        assert counter.get_total_flops() == 2 * scaling.forward_flops(config, src_len, tgt_len)
        with FlopCounterMode(display=False) as counter:
            logits.sum().backward()
    training = scaling.training_flops(config, src_len, tgt_len)
    backward = training - scaling.forward_flops(config, src_len, tgt_len)
    assert counter.get_total_flops() == 2 * backward


def test_the_papers_own_figures_come_out():
    """12 hours and 3.3e18, 3.5 days and 2.3e19 are one statement; needed is less than bought."""
    for run in scaling.PAPER:
        bought = run.hours * 3600 * 8 * scaling.P100
        assert bought == pytest.approx(run.flops, rel=0.02)
        assert run.steps * run.step_seconds / 3600 == pytest.approx(run.hours, rel=0.1)
        needed = scaling.per_token(run.config) * scaling.BATCH * run.steps
        assert 0.25 < needed / bought < 0.45
    base, big = (scaling.per_token(run.config) for run in scaling.PAPER)
    assert big / base * 0.4 == pytest.approx(1.0, rel=0.4)


def test_what_is_sent_and_kept_follows_from_the_parameters():
    config = ModelConfig.base(37_000)
    assert scaling.n_parameters(config) == 63_082_496
    assert scaling.state_bytes(config) == 16 * 63_082_496
    assert scaling.reduce_bytes(config, 1) == 0
    assert scaling.reduce_bytes(config, 2) == 4 * 63_082_496
    assert scaling.reduce_bytes(config, 8) == pytest.approx(1.75 * 4 * 63_082_496)


def test_data_scale_with_the_tokens():
    row = {"pairs": 100, "src_tokens": 1500, "tgt_tokens": 1500, "cpu_seconds": 3.0}
    read = {"cpu_seconds": 0.3, "target_tokens": 3000}
    _, rows = scaling.data_table({"measured": {"prepare": {"1": row}, "read": {"1": read}}})
    assert rows[0][1:] == ("3 s", "1.36e-05 GB", "0.3 s")
    assert rows[2][1:] == ("694 days", "256 GB", "69.4 days")  # 2 * 10**7 times as many tokens

"""R-Drop: the loss that asks two passes with different dropout to agree."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lib import ModelConfig, TrainConfig, Transformer, collate
from transformer_lib.train.consistency import choose_loss, disagreement
from transformer_lib.training import batch_loss

CONFIG = TrainConfig()
BATCH = collate([([5, 6, 7, 3], [2, 8, 9, 10, 3]), ([9, 3], [2, 4, 3])])


def model(dropout):
    torch.manual_seed(0)
    sizes = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 32, "dropout": dropout}
    return Transformer(ModelConfig.tiny(20, **sizes)).double()


def test_disagreement_is_both_divergences_of_torch():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 7, dtype=torch.float64).unbind(0)
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    both = [F.kl_div(q, p, log_target=True, reduction="none") for p, q in
            ((log_a, log_b), (log_b, log_a))]  # fmt: skip
    torch.testing.assert_close(disagreement(a, b), sum(both).sum(-1), rtol=1e-12, atol=1e-12)


def test_weight_0_is_the_plain_loss():
    assert choose_loss(0.0) is batch_loss


def test_without_dropout_two_passes_agree_and_the_loss_is_the_plain_one():
    made = model(0.0).train()
    plain, twice = (loss(made, BATCH, CONFIG) for loss in (batch_loss, choose_loss(5.0)))
    torch.testing.assert_close(twice, plain, rtol=1e-12, atol=0)


class TwoAnswers(nn.Module):
    """Gives the second half of a doubled batch other logits than the first."""

    def forward(self, src, tgt):
        torch.manual_seed(1)
        self.seen = src, tgt
        self.logits = torch.randn(*tgt.shape, 20, dtype=torch.float64)
        return self.logits


def test_loss_is_the_sum_over_real_targets_of_both_passes_as_written_in_the_paper():
    two = TwoAnswers()
    got = choose_loss(3.0)(two, BATCH, CONFIG)
    assert torch.equal(two.seen[0], torch.cat([BATCH.src, BATCH.src]))
    expected = 0.0
    for row in range(2):
        for place, target in enumerate(BATCH.tgt[row, 1:].tolist()):
            if target == 0:
                continue
            p, q = (two.logits[half + row, place].log_softmax(-1) for half in (0, 2))
            smooth = torch.full((20,), 0.1 / 20, dtype=torch.float64)
            smooth[target] += 0.9
            divergence = (p.exp() * (p - q)).sum() + (q.exp() * (q - p)).sum()
            expected += (-(smooth * p).sum() - (smooth * q).sum() + 3.0 / 2 * divergence) / 2
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_dropout_makes_the_two_passes_differ():
    made = model(0.3).train()
    torch.manual_seed(0)
    little = float(choose_loss(1e-9)(made, BATCH, CONFIG).detach())
    torch.manual_seed(0)
    assert float(choose_loss(1.0)(made, BATCH, CONFIG).detach()) > little + 0.01


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_impossible_weight_is_refused(weight):
    from transformer_lib.train.runs import RunConfig

    with pytest.raises(ValueError, match="r_drop must be 0 or above"):
        RunConfig(r_drop=weight)

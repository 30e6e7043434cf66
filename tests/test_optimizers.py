"""Muon for the matrices, Adam for the rest, one rate for both."""

import torch
from helpers import tiny
from torch import nn

from transformer_lib import TrainConfig, collate, train_step
from transformer_lib.train.optimizers import BatchedMuon, MuonAndAdam, choose_optimizer
from transformer_lib.train.ranks import ALONE

CONFIG = TrainConfig(peak_rate=2e-3, warmup=10)
BATCH = collate([([5, 6, 7, 3], [2, 8, 9, 3]), ([9, 3], [2, 4, 3])])


def model():
    return tiny(d_ff=48, dropout=0.0)


def is_matrix(name, parameter):
    return name.startswith(("encoder.", "decoder.")) and parameter.dim() == 2


def changes(made, optimizer):
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    result = train_step(made, optimizer, BATCH, 5, CONFIG)
    after = dict(made.named_parameters())
    return {name: (after[name] - before[name]).detach() for name in before}, result.rate


def test_matrices_are_stepped_along_all_directions_alike():
    """The exact Muon step is U Vᵀ of the gradient; five iterations come near it."""
    made = model()
    moved, rate = changes(made, MuonAndAdam(made, CONFIG))
    seen = 0
    for name, p in made.named_parameters():
        if not is_matrix(name, p):
            continue
        u, s, v = torch.linalg.svd(p.grad.double(), full_matrices=False)
        strong = s > 0.02 * s[0]  # a direction without a gradient cannot be told from noise
        step = -moved[name].double() / (rate * 0.2 * max(p.shape) ** 0.5)
        sizes = torch.einsum("dr,de,re->r", u[:, strong], step, v[strong])
        assert ((sizes > 0.6) & (sizes < 1.3)).all(), (name, sizes)
        seen += 1
    assert seen == 2 * (4 + 2) + 2 * (8 + 2)


def test_everything_else_is_stepped_by_adam():
    muon, adam = model(), model()
    by_muon, _ = changes(muon, MuonAndAdam(muon, CONFIG))
    by_adam, _ = changes(adam, choose_optimizer("adam", adam, CONFIG))
    others = [name for name, p in adam.named_parameters() if not is_matrix(name, p)]
    assert (
        "tgt_embedding.weight" in others and "encoder.layers.0.feed_forward.expand.bias" in others
    )
    for name in by_adam:
        assert torch.equal(by_muon[name], by_adam[name]) == (name in others), name


def test_stacked_matrices_are_stepped_as_torch_steps_each():
    draw = torch.Generator().manual_seed(0)
    shapes = [(24, 24), (48, 24), (24, 24), (24, 48), (7, 5)]
    ours, torchs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    options = {"lr": 0.02, "weight_decay": 0, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = BatchedMuon(ours, ALONE, **options), torch.optim.Muon(torchs, **options)
    for _ in range(3):
        for one, other in zip(ours, torchs, strict=True):
            one.grad = torch.randn(one.shape, generator=draw)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)  # on this CPU 0: bf16 products


def test_a_state_can_be_taken_up():
    whole, cut = model(), model()
    optimizers = [MuonAndAdam(made, CONFIG) for made in (whole, cut)]
    for made, optimizer in zip((whole, cut), optimizers, strict=True):
        for step in (1, 2):
            train_step(made, optimizer, BATCH, step, CONFIG)
    fresh = MuonAndAdam(cut, CONFIG)
    fresh.load_state_dict(optimizers[1].state_dict())
    for step in (3, 4):
        train_step(whole, optimizers[0], BATCH, step, CONFIG)
        train_step(cut, fresh, BATCH, step, CONFIG)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, dict(cut.named_parameters())[name]), name

"""Looking up is multiplying by one-hot vectors, and one matrix does both jobs."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lib.embeddings import OutputProjection, TokenEmbedding

V, D = 23, 8
IDS = torch.tensor([[4, 7, 4, 22, 3], [5, 3, 0, 0, 0]])  # a word twice, the last row, padding
EXACT = {"atol": 1e-12, "rtol": 0}


class Both(nn.Module):
    """Look up, make non-linear, score: both jobs in one function."""

    def __init__(self, tied=True):
        super().__init__()
        self.embedding = TokenEmbedding(V, D).double()
        matrix = self.embedding if tied else copy.deepcopy(self.embedding)
        self.projection = OutputProjection(matrix.weight)

    def forward(self, ids):
        return self.projection(torch.tanh(self.embedding(ids)))

    @property
    def is_tied(self):
        one, two = self.embedding.weight, self.projection.weight
        return one is two and one.data_ptr() == two.data_ptr() and len([*self.parameters()]) == 1


def test_the_lookup_is_the_product_with_one_hot_vectors_to_the_last_digit():
    embedding = TokenEmbedding(V, D).double()
    product = F.one_hot(IDS, V).double() @ embedding.weight * math.sqrt(D)
    assert torch.equal(embedding(IDS), product)


@pytest.mark.parametrize("pad_id", [0, 3])
def test_outputs_and_gradients_are_those_of_torch(pad_id):
    ours = TokenEmbedding(V, D, pad_id=pad_id).double()
    theirs = nn.Embedding(V, D, padding_idx=pad_id).double()
    theirs.load_state_dict(ours.state_dict())
    anything = torch.randn(*IDS.shape, D, dtype=torch.float64)
    (ours(IDS) * anything).sum().backward()
    (theirs(IDS) * D**0.5 * anything).sum().backward()
    torch.testing.assert_close(ours(IDS), theirs(IDS) * D**0.5, **EXACT)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, **EXACT)
    assert ours.weight.grad[4].any() and not ours.weight.grad[pad_id].any()


def test_rows_start_with_length_one_and_leave_with_the_root_of_d_model():
    embedding = TokenEmbedding(2000, 512, pad_id=5)
    assert not embedding.weight[5].any()
    ids = torch.tensor([[i for i in range(2000) if i != 5]])
    for rows, length in ((embedding.weight[ids], 1), (embedding(ids), 512**0.5)):
        assert rows.norm(dim=-1).mean().item() == pytest.approx(length, rel=0.01)
        assert rows.mean().abs().item() < 1e-3 * length


@pytest.mark.parametrize("shape", [(D,), (3, D), (2, 5, D)])
def test_the_projection_is_a_linear_layer_without_bias(shape):
    weight = nn.Parameter(torch.randn(V, D, dtype=torch.float64))
    ours, theirs = OutputProjection(weight), nn.Linear(D, V, bias=False).double()
    theirs.load_state_dict({"weight": weight.detach().clone()})
    hidden = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(ours(hidden), theirs(hidden), **EXACT)
    ours(hidden).square().sum().backward()
    theirs(hidden).square().sum().backward()
    torch.testing.assert_close(weight.grad, theirs.weight.grad, **EXACT)


def test_tied_survives_copying_converting_loading_and_starting_again():
    model = Both()
    assert model.is_tied and copy.deepcopy(model).is_tied and model.float().is_tied
    other = Both().float()
    other.load_state_dict(model.state_dict())
    assert other.is_tied and torch.equal(other.projection.weight, model.embedding.weight)
    model.embedding.reset_parameters()
    assert model.is_tied and not torch.equal(other.projection.weight, model.projection.weight)


def test_the_gradients_of_both_jobs_add_up():
    model, separate = Both(), Both(tied=False)
    for part in (separate.embedding, separate.projection):
        part.load_state_dict(model.embedding.state_dict())
    targets = torch.randint(V, (IDS.numel(),))
    for one in (model, separate):
        F.cross_entropy(one(IDS).flatten(0, 1), targets).backward()
    jobs = separate.embedding.weight.grad, separate.projection.weight.grad
    assert jobs[0].any() and jobs[1].any()
    torch.testing.assert_close(model.embedding.weight.grad, sum(jobs), **EXACT)


def test_the_gradient_of_both_jobs_is_the_numerical_one():
    ids = torch.tensor([[4, 7, 4]])  # without padding, whose gradient is left out on purpose

    def scores(weight):
        return torch.func.functional_call(Both(), {"embedding.weight": weight}, (ids,))

    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scores, (weight,))

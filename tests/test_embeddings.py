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


def double_embedding(**options):
    return TokenEmbedding(V, D, **options).double()


def tied():
    embedding = double_embedding()
    return nn.ModuleDict({"in": embedding, "out": OutputProjection(embedding.weight)})


def through(model, ids):
    """Looked up, made non-linear, scored: both jobs of the matrix in one function."""
    return model["out"](torch.tanh(model["in"](ids)))


# --- looking up


def test_the_lookup_is_the_product_with_one_hot_vectors_to_the_last_digit():
    embedding = double_embedding()
    product = F.one_hot(IDS, V).double() @ embedding.weight * math.sqrt(D)
    assert torch.equal(embedding(IDS), product)


@pytest.mark.parametrize("pad_id", [0, 3])
def test_outputs_and_gradients_are_those_of_torch(pad_id):
    ours = double_embedding(pad_id=pad_id)
    theirs = nn.Embedding(V, D, padding_idx=pad_id).double()
    theirs.load_state_dict(ours.state_dict())
    anything = torch.randn(*IDS.shape, D, dtype=torch.float64)
    (ours(IDS) * anything).sum().backward()
    (theirs(IDS) * D**0.5 * anything).sum().backward()
    torch.testing.assert_close(ours(IDS), theirs(IDS) * D**0.5, **EXACT)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, **EXACT)
    assert ours.weight.grad[4].any() and not ours.weight.grad[pad_id].any()


def test_rows_start_with_length_one_and_leave_with_the_root_of_d_model():
    embedding = TokenEmbedding(2000, 512)
    rows = embedding.weight.detach()[1:]
    assert rows.std().item() == pytest.approx(512**-0.5, rel=0.01)
    assert rows.mean().abs().item() < 1e-3
    assert rows.norm(dim=1).mean().item() == pytest.approx(1, rel=0.01)
    looked_up = embedding(torch.arange(1, 2000)[None]).detach()
    assert looked_up.norm(dim=-1).mean().item() == pytest.approx(512**0.5, rel=0.01)


@pytest.mark.parametrize("pad_id", [0, 5])
def test_padding_starts_as_zeros_and_no_other_row_does(pad_id):
    embedding = TokenEmbedding(V, D, pad_id=pad_id)
    zero = [row for row in range(V) if not embedding.weight[row].any()]
    assert zero == [pad_id]
    assert not embedding(torch.tensor([[pad_id]])).any()


def test_an_id_outside_the_vocabulary_is_an_error():
    with pytest.raises(IndexError):
        TokenEmbedding(V, D)(torch.tensor([[V]]))


def test_the_same_seed_gives_the_same_matrix():
    torch.manual_seed(1)
    one = TokenEmbedding(V, D).weight
    torch.manual_seed(1)
    assert torch.equal(one, TokenEmbedding(V, D).weight)


# --- scoring


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


def test_a_score_is_the_dot_product_with_that_row():
    weight = nn.Parameter(torch.randn(V, D, dtype=torch.float64))
    hidden = torch.randn(D, dtype=torch.float64)
    scores = OutputProjection(weight)(hidden)
    for row in range(V):
        by_hand = sum(a * b for a, b in zip(weight[row].tolist(), hidden.tolist(), strict=True))
        assert scores[row].item() == pytest.approx(by_hand, abs=1e-12)


# --- tied


def is_tied(model):
    one, two = model["in"].weight, model["out"].weight
    return one is two and one.data_ptr() == two.data_ptr() and len(list(model.parameters())) == 1


def test_tied_is_one_parameter_in_one_place():
    assert is_tied(tied())


def test_tied_survives_copying_converting_loading_and_starting_again():
    model = tied()
    assert is_tied(copy.deepcopy(model))
    assert is_tied(model.float())
    other = tied().float()
    other.load_state_dict(model.state_dict())
    assert is_tied(other) and torch.equal(other["out"].weight, model["in"].weight)
    model["in"].reset_parameters()
    assert is_tied(model) and not torch.equal(other["out"].weight, model["out"].weight)


def test_the_gradients_of_both_jobs_add_up():
    model, entrance, exit = tied(), double_embedding(), double_embedding()
    entrance.load_state_dict(model["in"].state_dict())
    exit.load_state_dict(model["in"].state_dict())
    separate = {"in": entrance, "out": OutputProjection(exit.weight)}
    wanted = torch.randint(V, (IDS.numel(),))
    for one in (model, separate):
        F.cross_entropy(through(one, IDS).flatten(0, 1), wanted).backward()
    assert entrance.weight.grad.any() and exit.weight.grad.any()
    together = entrance.weight.grad + exit.weight.grad
    torch.testing.assert_close(model["in"].weight.grad, together, **EXACT)


def test_the_gradient_of_both_jobs_is_the_numerical_one():
    ids = torch.tensor([[4, 7, 4]])  # without padding, whose gradient is left out on purpose

    def scores(weight):
        return torch.func.functional_call(Both(), {"embedding.weight": weight}, (ids,))

    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scores, (weight,))


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = double_embedding()
        self.projection = OutputProjection(self.embedding.weight)

    def forward(self, ids):
        return self.projection(torch.tanh(self.embedding(ids)))


def test_one_step_moves_both_jobs_together():
    model = tied()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before = model["in"].weight.detach().clone()
    F.cross_entropy(through(model, IDS).flatten(0, 1), IDS.flatten()).backward()
    optimizer.step()
    assert is_tied(model) and not torch.equal(before, model["out"].weight)

"""The searches against exhaustive search, the lesson's own, and the model's probabilities."""

import itertools

import pytest
import torch

from transformer_lib import ModelConfig, Transformer, beam_search, greedy_decode
from transformer_lib.decoding import beam_sentence, greedy_sentence, length_penalty
from transformer_lib.translate import inference, search
from transformer_lib.translate.search import first_top_k

BOS, EOS = 2, 3


def tiny(vocab_size=30, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "d_model": 32, "d_ff": 64} | changes
    return Transformer(ModelConfig.tiny(vocab_size, **sizes)).eval()


def sharpened(vocab_size=30, seed=0):
    """A random model with larger weights, so that it prefers some sentences to others."""
    model = tiny(vocab_size, seed)
    with torch.no_grad():
        model.tgt_embedding.weight *= 3
    return model


SRC = torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, 0, 0], [11, 3, 4, 17, EOS]])


@torch.no_grad()
def log_prob(model, src, ids, finished):
    """Σ log p of a hypothesis by one teacher-forced pass."""
    says = [*ids, EOS] if finished else ids
    logits = model(src, torch.tensor([[BOS, *says[:-1]]]))
    return float(logits.log_softmax(-1)[0, range(len(says)), says].sum())


@torch.no_grad()
def exhaustive(model, src, living, limit, alpha):
    """The best finished sequence over `living` ids of at most `limit` tokens, `<eos>` included."""
    best = (-torch.inf, [])
    for length in range(limit):
        for ids in itertools.product(living, repeat=length):
            total = log_prob(model, src, list(ids), finished=True)
            best = max(best, (total / length_penalty(length + 1, alpha), list(ids)))
    return best


class FewIds(Transformer):
    """Only ids 3 … 6 have a chance worth speaking of."""

    def __init__(self, config):
        super().__init__(config)
        torch.nn.init.normal_(self.tgt_embedding.weight, std=1.0)
        self.output_projection.register_forward_hook(self._only_few)

    @staticmethod
    def _only_few(module, inputs, logits):
        bias = torch.full((logits.size(-1),), -200.0)
        bias[3:7] = 0.0
        return logits * 0.2 + bias


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_the_tree_finds_what_exhaustive_search_finds(seed, alpha):
    torch.manual_seed(seed)
    model = FewIds(ModelConfig.tiny(120, n_layers=1, d_model=16, d_ff=16)).eval()
    src = torch.tensor([[8, 9]])
    score, ids = exhaustive(model, src, [4, 5, 6], limit=4, alpha=alpha)
    # 27 beginnings of 3 tokens and their 4 continuations fit into 120 beams: nothing is cut.
    (found,) = beam_search(model, src, beam_size=120, alpha=alpha, extra=2, n_best=40)
    assert not any(EOS in h.ids for h in found)
    assert found[0].ids == ids
    assert found[0].score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_one_beam_is_greedy(seed, alpha):
    model = sharpened(seed=seed)
    greedy = greedy_decode(model, SRC, extra=10)
    beams = beam_search(model, SRC, beam_size=1, alpha=alpha, extra=10)
    assert [h.ids for h in greedy] == [h[0].ids for h in beams]
    assert [h.finished for h in greedy] == [h[0].finished for h in beams]
    assert [h.log_prob for h in greedy] == pytest.approx([h[0].log_prob for h in beams], abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 2, 4, 7])
def test_scores_are_the_models_own_log_probabilities(beam_size):
    model = sharpened()
    for row, found in zip(SRC, beam_search(model, SRC, beam_size=beam_size, extra=6), strict=True):
        src = row[row != 0][None]
        h = found[0]
        assert h.log_prob == pytest.approx(log_prob(model, src, h.ids, h.finished), abs=1e-4)
        length = len(h.ids) + h.finished
        assert h.score == pytest.approx(h.log_prob / ((5 + length) / 6) ** 0.6)


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_gives_what_its_sentences_give_alone(seed):
    model = sharpened(seed=seed)
    options = {"beam_size": 4, "n_best": 4, "extra": 6}
    together = beam_search(model, SRC, **options)
    for row, found in zip(SRC, together, strict=True):
        (alone,) = beam_search(model, row[row != 0][None], **options)
        assert [h.ids for h in found] == [h.ids for h in alone]
    greedy = [h.ids for h in greedy_decode(model, SRC, extra=6)]
    assert greedy == [greedy_decode(model, r[r != 0][None], extra=6)[0].ids for r in SRC]


def almost_equal(found, expected):
    assert [h.ids for h in found] == [h.ids for h in expected]
    assert [h.finished for h in found] == [h.finished for h in expected]
    for field in ("log_prob", "score"):
        values = [[getattr(h, field) for h in side] for side in (found, expected)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_batches_find_what_the_lesson_finds(seed):
    model = sharpened(seed=seed)
    greedy = greedy_decode(model, SRC, extra=5)
    wide = beam_search(model, SRC, beam_size=4, n_best=4, alpha=0.7, extra=5)
    for row, one, several in zip(SRC, greedy, wide, strict=True):
        src = row[row != 0][None]
        limit = src.size(1) + 5
        almost_equal([one], [greedy_sentence(model, src, limit)])
        almost_equal(several, beam_sentence(model, src, limit, beam_size=4, alpha=0.7))
        almost_equal(beam_sentence(model, src, limit, beam_size=1, alpha=0.0), [one])


@pytest.mark.parametrize("max_len", [7, 12])
def test_the_limit_is_clamped_to_the_positions(max_len):
    """Row 22 of docs/faults.md, for a source that nearly fills the model's positions."""
    model = tiny(max_len=max_len)
    model.output_projection.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor(EOS), -1e9)
    )
    (one,), (beams,) = greedy_decode(model, SRC[:1]), beam_search(model, SRC[:1])
    for found in (one, beams[0]):
        assert len(found.ids) == max_len and not found.finished


def test_hypotheses_are_different_and_sorted():
    for found in beam_search(sharpened(), SRC, beam_size=5, n_best=5, extra=6):
        assert len({tuple(h.ids) for h in found}) == len(found) == 5
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_a_model_that_never_ends_stops_at_the_limit():
    model = tiny()
    model.output_projection.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor(EOS), -1e9)
    )
    for hypotheses in (greedy_decode(model, SRC, extra=4), beam_search(model, SRC, extra=4)):
        first = [h if hasattr(h, "ids") else h[0] for h in hypotheses]
        assert [len(h.ids) for h in first] == [5 + 4, 3 + 4, 5 + 4]
        assert not any(h.finished for h in first)


def test_equal_scores_are_decided_by_the_smallest_id():
    values, indices = first_top_k(torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0, 2.0]]), 4)
    assert indices.tolist() == [[1, 2, 4, 3]]
    assert values.tolist() == [[3.0, 3.0, 3.0, 2.0]]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("n", [1500, 1511])
@pytest.mark.parametrize("values", [3, 40, 10**6])
def test_long_rows_are_searched_by_the_same_rule(k, n, values):
    """Few different values: many are equal, within a block and across blocks."""
    scores = torch.randint(values, (20, n)).float()
    scores[:5, torch.randperm(n)[: n - 7]] = -torch.inf  # seven numbers in all, in few blocks
    expected = scores.sort(dim=1, descending=True, stable=True)
    found = first_top_k(scores, k)
    assert found[0].equal(expected.values[:, :k])
    assert found[1].equal(expected.indices[:, :k])


def test_a_row_with_fewer_numbers_than_asked_for_gives_each_once():
    scores = torch.full((1, 2000), -torch.inf)
    scores[0, [5, 7, 1999]] = torch.tensor([1.0, 3.0, 2.0])
    values, indices = first_top_k(scores, 5)
    assert values.tolist() == [[3.0, 2.0, 1.0, -torch.inf, -torch.inf]]
    assert indices[0, :3].tolist() == [7, 1999, 5]


def test_equals_in_two_blocks_are_decided_by_the_smallest_index():
    scores = torch.zeros(1, 2000)
    scores[0, [1000, 1001]] = torch.tensor([3.0, 5.0])
    scores[0, [100, 101]] = torch.tensor([4.0, 3.0])  # a lower maximum, a smaller index
    assert first_top_k(scores, 4)[1].tolist() == [[1001, 100, 101, 1000]]


def test_a_large_vocabulary_is_searched_like_a_small_one(monkeypatch):
    model = sharpened(vocab_size=1100)
    options = {"beam_size": 3, "n_best": 3, "extra": 6}
    by_blocks = beam_search(model, SRC, **options)
    monkeypatch.setattr(search, "BLOCK", 10**6)
    assert beam_search(model, SRC, **options) == by_blocks


def test_a_source_of_padding_alone_has_room_for_one_token():
    src = torch.cat([SRC, torch.zeros_like(SRC[:1])])
    greedy = greedy_decode(sharpened(), src, extra=0)
    beams = beam_search(sharpened(), src, beam_size=1, extra=0)
    assert [h.ids for h in greedy] == [h.ids for (h,) in beams]
    for found, row in zip(greedy, src, strict=True):
        assert len(found.ids) + found.finished <= max(1, int((row != 0).sum()))
    assert len(greedy[-1].ids) + greedy[-1].finished == 1


def test_sentences_that_have_ended_leave_the_batch(monkeypatch):
    """The last one is as in a batch of its own, and the others cost nothing any more."""
    rows_of_steps, softmax = [], inference.log_softmax
    monkeypatch.setattr(
        inference, "log_softmax", lambda x: rows_of_steps.append(len(x)) or softmax(x)
    )
    model = sharpened(seed=1)
    sources = [
        [4],
        [5, EOS],
        [6, 7, EOS],
        [8, EOS],
        [7, 8, 9, EOS],
        [8, 9, 10, 11, 12, 13, 14, 15, 16, EOS],
    ]
    src = torch.tensor([[*row, *[0] * (10 - len(row))] for row in sources])
    model.output_projection.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor(EOS), -1e9)
    )
    found = greedy_decode(model, src, extra=0)  # each ends at its limit
    assert [len(h.ids) for h in found] == [1, 2, 3, 2, 4, 10]
    assert rows_of_steps[:10] == [6, 6, 3, 2, 1, 1, 1, 1, 1, 1]  # the first stayed for a step
    for row, h in zip(sources, found, strict=True):
        (alone,) = greedy_decode(model, torch.tensor([row]), extra=0)
        assert h.ids == alone.ids
        assert h.log_prob == pytest.approx(alone.log_prob, abs=1e-4)


def test_a_model_that_does_not_care_is_decoded_by_the_rule():
    model = tiny()
    with torch.no_grad():
        model.tgt_embedding.weight.zero_()  # every id has the same probability
    assert {tuple(h.ids) for h in greedy_decode(model, SRC, extra=0)} == {(0,) * 5, (0,) * 3}
    assert {tuple(h[0].ids) for h in beam_search(model, SRC, beam_size=1, extra=0)} == {
        (0,) * 5, (0,) * 3
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"beam_size": 0}, {"beam_size": 31}, {"n_best": 5}])
def test_impossible_widths_are_refused(options):
    with pytest.raises(ValueError, match="beam_size <= vocabulary size"):
        beam_search(tiny(), SRC, **options)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_length_penalty_that_ranks_nothing_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be between"):
        beam_search(tiny(), SRC, alpha=alpha)


@pytest.mark.parametrize("decode", [greedy_decode, beam_search])
def test_no_sentences_have_no_translations(decode):
    model = Transformer(ModelConfig.tiny(30, n_layers=1, d_model=16, d_ff=16))
    assert decode(model, torch.zeros(0, 4, dtype=torch.long)) == []

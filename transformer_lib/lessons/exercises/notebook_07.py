"""Exercises of notebook 07: losses, the rate, ranking, a training step, greedy and beam search."""

import math
from functools import partial

import torch
from torch.nn import functional as F

from transformer_lib.decoding import Hypothesis
from transformer_lib.lessons.exercises.checker import Exercise, Hint, numbers
from transformer_lib.lessons.exercises.notebook_06 import batches, small_model
from transformer_lib.masks import teacher_forcing
from transformer_lib.training import label_smoothed_loss
from transformer_lib.vocab import BOS_ID, EOS_ID


def ignorance(vocab_size, smoothing):
    total, n = label_smoothed_loss(torch.zeros(3, vocab_size), torch.tensor([1, 2, 1]), smoothing)
    return total.item() / n.item()


def floor(vocab_size, smoothing):
    """Return the loss, by the library, of the distribution that smoothing asks for."""
    best = torch.full((1, vocab_size), smoothing / vocab_size, dtype=torch.float64)
    best[0, 1] += 1 - smoothing
    return label_smoothed_loss(best.log(), torch.tensor([1]), smoothing)[0].item()


def entropy(right, rest, n):
    return -right * math.log(right) - n * rest * math.log(rest)


def hypotheses():
    """Lists in which the sum, the mean and the mean without <eos> give different orders."""
    a, b = Hypothesis([5], -2.0, -9.0, True), Hypothesis([5, 6, 7, 8], -4.0, -1.0, True)
    c, d = Hypothesis([5, 6], -1.9, -2.0, False), Hypothesis([7, 8, 9], -3.4, -3.0, True)
    e = Hypothesis([9], -1.05, -0.5, False)
    return [([c, a, b],), ([a, b, c, d, e],), ([d, a],)]


def rank(found, tokens=lambda h: len(h.ids) + h.finished):
    return sorted(found, key=lambda h: h.log_prob / tokens(h), reverse=True)


def training_step(
    model, optimizer, src, tgt, order="zero back step", shift=True, reduction="mean", **options
):
    """One update, with options that plant mistakes."""
    tgt_in, tgt_out = teacher_forcing(tgt) if shift else (tgt[:, :-1], tgt[:, :-1])
    logits = model(src, tgt_in).flatten(0, 1)
    options = {"ignore_index": 0, "reduction": reduction} | options
    loss = F.cross_entropy(logits, tgt_out.flatten(), **options)
    steps = {"zero": optimizer.zero_grad, "back": loss.backward, "step": optimizer.step}
    for name in order.split():
        steps[name]()
    return loss.item()


def after_step(answer, model, src, tgt):
    """Return the loss and the weights after one step; gradients of an earlier step are there."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    loss = answer(model, torch.optim.SGD(model.parameters(), lr=0.5), src, tgt)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    if loss is None:
        raise Hint("no weight has changed." if weights.equal(before) else "return the loss, too.")
    return {"loss": loss, "weights": weights}


def decoding_cases(*cases):
    models = {
        seed: small_model(seed, 1, 2, 10, tie_embeddings=False, max_len=32) for seed, *_ in cases
    }
    for model in models.values():
        model.output_projection.weight.data *= 4
    return [(models[seed], torch.tensor([[5, 6, 7, 3]]), *rest) for seed, *rest in cases]


def next_log_probs(model, src, ids):
    return model(src, torch.tensor([ids]))[0, -1].log_softmax(-1)


def without_frame(ids):
    return [id for id in ids if id not in (BOS_ID, EOS_ID)]


def beam(model, src, limit, beam_size=1, stop=True, total=lambda old, new: old + new, rank=None):
    """Return the best hypothesis, with `<bos>` and `<eos>`; the options plant mistakes."""
    best = [(0.0, [BOS_ID])]
    for _ in range(limit):
        extended = []
        for log_prob, ids in best:
            if stop and ids[-1] == EOS_ID:
                extended.append((log_prob, ids))
                continue
            scores = enumerate(next_log_probs(model, src, ids).tolist())
            extended += [(total(log_prob, new), [*ids, id]) for id, new in scores]
        best = sorted(extended, key=rank or (lambda pair: pair[0]), reverse=True)[:beam_size]
    return best[0][1]


def search(*arguments, **options):
    return without_frame(beam(*arguments, **options))


def decoded(answer, *arguments):
    """Decode; ids in any container, or in one row, count."""
    with torch.no_grad():
        found = numbers(answer(*arguments))
    if found is None:
        raise Hint("return the ids of one hypothesis, as a list of numbers.")
    return found[0] if found.dim() == 2 and len(found) == 1 else found


def previous_position(model, src, limit):
    """Read the scores at the first position instead of the last."""
    ids = [BOS_ID]
    while len(ids) <= limit and ids[-1] != EOS_ID:
        ids.append(int(model(src, torch.tensor([ids]))[0, 0].argmax()))
    return without_frame(ids)


def drops_finished(model, src, limit, beam_size):
    """Return an open hypothesis although others have ended."""
    best = [(0.0, [BOS_ID])]
    for _ in range(limit):
        scores = [(p, ids, enumerate(next_log_probs(model, src, ids).tolist())) for p, ids in best]
        best = [(p + q, [*ids, i]) for p, ids, new in scores for i, q in new if i != EOS_ID]
        best = sorted(best, reverse=True)[:beam_size]
    return without_frame(best[0][1])


LIBRARY = dict.fromkeys(
    ("greedy_sentence", "greedy_decode", "beam_sentence", "beam_search", "beam_decode"),
    "write the loop yourself",
)
FRAMED = "leave out <bos> and <eos>."

EXERCISES = {
    "7.1": Exercise(
        ignorance,
        passed="log V, whatever ε is: a model with a higher loss is worse than ignorant",
        hint="every id has the surprise -log(1 / V), and the target probabilities add up to 1.",
        inputs=lambda: [(100, 0.1), (24, 0.0), (1000, 0.3)],
        mistakes={
            "this fits V = 100 alone. Use the argument.": (
                lambda V, s: math.log(100),
                lambda V, s: 4.605,
            ),
            "a loss in nats uses the natural logarithm.": (
                lambda V, s: math.log2(V),
                lambda V, s: math.log10(V),
            ),
            "-log(1 / V) is positive.": lambda V, s: -math.log(V),
            "smoothing spreads the target, and every id has the same surprise.": (
                lambda V, s: (1 - s) * math.log(V),
                lambda V, s: math.log(V) + s,
            ),
            "this is the probability. The loss is minus its logarithm.": lambda V, s: 1 / V,
        },
    ),
    "7.2": Exercise(
        floor,
        passed="0.616 nats for V = 24: compare with the end of the copy task's curve",
        hint="the sum of -q log q over all ids, not only over the right one.",
        inputs=lambda: [(24, 0.1), (100, 0.1), (10, 0.3)],
        forbidden={"lowest_possible": "write the sum yourself"},
        tolerance=1e-3,
        mistakes={
            "the right id also gets its share ε / V of the smoothing.": (
                lambda V, s: entropy(1 - s, s / V, V),
                lambda V, s: entropy(1 - s, s / V, V - 1),
            ),
            "here ε is spread over all V ids, the right one included.": (
                lambda V, s: entropy(1 - s, s / (V - 1), V - 1)
            ),
            "the other V - 1 ids count, too.": (
                lambda V, s: entropy(1 - s + s / V, 1, 0),
                lambda V, s: -math.log(1 - s + s / V),
                lambda V, s: -math.log(1 - s),
            ),
            "there are V - 1 other ids, and each adds its own term.": (
                lambda V, s: entropy(1 - s + s / V, s / V, 1),
                lambda V, s: entropy(1 - s + s / V, s / V, V),
            ),
            "each term has a minus sign.": lambda V, s: -floor(V, s),
            "a loss in nats uses the natural logarithm.": lambda V, s: floor(V, s) / math.log(2),
            "with smoothing, even a perfect model has a loss.": lambda V, s: 0,
        },
    ),
    "7.3": Exercise(
        lambda peak, d_model: 1 / (peak**2 * d_model),
        passed="1,953 steps for a peak of 0.002 with d_model = 128",
        hint="square both sides of peak = (d_model · warmup)^-0.5 and solve for warmup.",
        inputs=lambda: [(0.002, 128), (0.0007, 512), (0.001, 256)],
        tolerance=0.0,
        slack=0.99,
        mistakes={
            "square the peak.": lambda peak, d_model: 1 / (peak * d_model),
            "d_model counts, too.": lambda peak, d_model: 1 / peak**2,
            "the peak falls when d_model grows: divide by d_model.": (
                lambda peak, d_model: d_model / peak**2,
                lambda peak, d_model: 1 / (peak**2 * d_model**-1),
            ),
            "square d_model only once: peak² = 1 / (d_model · warmup).": (
                lambda peak, d_model: 1 / (peak * d_model) ** 2,
                lambda peak, d_model: 1 / (peak**2 * d_model**0.5),
            ),
            "this fits one case alone. Use both arguments.": lambda peak, d_model: 1953,
            "a warm-up has a positive number of steps.": (
                lambda peak, d_model: 0,
                lambda peak, d_model: -1,
            ),
        },
    ),
    "7.4": Exercise(
        rank,
        passed="-0.8, -0.95 and -1.0 nats per token, in this order",
        hint="divide by the number of tokens; a finished hypothesis has one more: <eos>.",
        inputs=hypotheses,
        mistakes={
            "this ranks by the sum. Divide by the number of tokens.": partial(
                rank, tokens=lambda h: 1
            ),
            "the best comes first: sort with reverse=True.": lambda found: rank(found)[::-1],
            "a finished hypothesis has one more token, <eos>.": partial(
                rank, tokens=lambda h: len(h.ids)
            ),
            "only a finished hypothesis has an <eos>.": partial(
                rank, tokens=lambda h: len(h.ids) + 1
            ),
            "`score` contains a length penalty already. Use `log_prob`.": (
                lambda found: sorted(found, key=lambda h: h.score, reverse=True)
            ),
            "`list.sort()` sorts in place and returns None. Use `sorted`, or return the list.": (
                lambda found: found.sort()
            ),
            "the order has not changed.": lambda found: found,
        },
    ),
    "7.5": Exercise(
        training_step,
        passed="the same loss and the same weights as the reference, for two models",
        hint="shift, forward, loss over real targets, zero_grad, backward, step. Return the loss.",
        inputs=batches,
        forbidden={"train_step": "write the steps yourself", "batch_loss": "write it yourself"},
        measure=after_step,
        tolerance=1e-3,
        slack=1e-5,
        mistakes={
            "gradients of the last step are still there. Call optimizer.zero_grad() first.": (
                partial(training_step, order="back step")
            ),
            "no weight has changed: zero_grad(), backward() and step() come in this order.": (
                *(
                    partial(training_step, order=order)
                    for order in ("back zero step", "zero back", "")
                ),
                partial(training_step, order="zero step back"),
            ),
            "the step comes before backward(), and so it uses old gradients.": (
                partial(training_step, order="step back"),
                partial(training_step, order="step zero back"),
            ),
            "padding is counted. Pass `ignore_index=0`.": partial(training_step, ignore_index=-100),
            "the targets must be shifted by one: the model predicts the *next* token.": (
                partial(training_step, shift=False)
            ),
            "this is the sum over the tokens. Take the mean.": partial(
                training_step, reduction="sum"
            ),
            "leave label smoothing out here.": partial(training_step, label_smoothing=0.1),
        },
    ),
    "7.6": Exercise(
        search,
        passed="four sentences, two of which end at the limit",
        hint="start from <bos>; append the likeliest next token until <eos> or the limit.",
        inputs=lambda: decoding_cases((35, 6), (24, 6), (26, 9), (37, 4)),
        forbidden=LIBRARY,
        measure=decoded,
        mistakes={
            FRAMED: (
                beam,
                lambda *args: beam(*args)[1:],
                lambda *args: [id for id in beam(*args) if id != EOS_ID],
            ),
            "the loop does not stop at <eos>.": partial(search, stop=False),
            "the limit counts new tokens.": (
                lambda model, src, limit: search(model, src, limit - 1),
                lambda model, src, limit: search(model, src, limit + 1),
            ),
            "the loop has to stop at the limit, too.": (
                lambda model, src, limit: search(model, src, 31),
                lambda model, src, limit: search(model, src, 32),
                lambda model, src, limit: search(model, src, 33),
            ),
            "the next token is predicted at the *last* position.": previous_position,
        },
    ),
    "7.7": Exercise(
        search,
        passed="beams of one to three find what they should",
        hint="extend every open prefix by every id, and keep the best of all; ended ones compete.",
        inputs=lambda: decoding_cases((35, 6, 2), (39, 6, 3), (37, 6, 3), (56, 6, 3), (26, 6, 1)),
        forbidden=LIBRARY,
        measure=decoded,
        mistakes={
            FRAMED: (beam, lambda *args: beam(*args)[1:]),
            "this is greedy decoding. Keep beam_size prefixes at each step.": (
                lambda model, src, limit, beam_size: search(model, src, limit)
            ),
            "add the log-probabilities of all tokens of a prefix.": (
                partial(search, total=lambda old, new: new)
            ),
            "logarithms of probabilities are added, not multiplied.": (
                partial(search, total=lambda old, new: old * new if old else new)
            ),
            "divide nothing by the length here: rank by the sum.": (
                partial(search, rank=lambda pair: pair[0] / (len(pair[1]) - 1))
            ),
            "a prefix with <eos> has ended. Keep it, but do not extend it.": (
                partial(search, stop=False)
            ),
            "hypotheses that end must stay in the beam and compete.": drops_finished,
            "the likeliest prefix has the *largest* log-probability.": (
                partial(search, rank=lambda pair: -pair[0])
            ),
        },
    ),
}

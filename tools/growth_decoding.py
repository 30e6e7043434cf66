"""Measure what one more token costs after 16 to 1,024 tokens; results/growth-decoding.json.

The `tiny` model with random weights (time does not depend on them), one sentence, one thread:
the notebooks' model with the whole beginning computed again, the same model with the keys and
values of the past remembered, and the form of it that every search of the library uses. Lengths
and ways take turns, and medians are drawn.

    OMP_WAIT_POLICY=PASSIVE python tools/growth_decoding.py     # measures, then draws
    python tools/growth_decoding.py --draw                      # only draws the picture
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from growth import conditions

from transformer_lib import ModelConfig, Transformer
from transformer_lib.translate.inference import FastDecoder, PlainDecoder

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "growth-decoding.json"
PICTURE = ROOT / "docs" / "images" / "growth-decoding.png"
LENGTHS = tuple(16 * 2**n for n in range(7))
SOURCE, VOCAB, STEPS, ROUNDS = 16, 4000, 12, 7
AGAIN, CACHED, FAST = "computed again", "cached", "cached, in fewer calls (inference.py)"


def random_model():
    """Return a `tiny` model with room for the longest prefix."""
    torch.manual_seed(0)
    sizes = {"norm_first": True, "max_len": max(LENGTHS) + 2 * STEPS}
    return Transformer(ModelConfig.tiny(VOCAB, **sizes)).eval()


@torch.inference_mode()
def seconds_per_token(model, way, length, steps):
    """Return the seconds of one more token after `length`, a mean over `steps` tokens."""
    src = torch.randint(4, VOCAB, (1, SOURCE))
    ids = torch.randint(4, VOCAB, (1, length + steps))
    if way == AGAIN:
        memory = model.encode(src)
        return timed(lambda end: again(model, ids[:, :end], memory, src), length, steps)
    decoder = PlainDecoder(model) if way == CACHED else FastDecoder(model)
    with decoder.start(src, length + steps) as step:
        for end in range(1, length - 1):
            step(ids[:, end - 1 : end])
        return timed(lambda end: step(ids[:, end - 1 : end]), length, steps)


def again(model, tgt, memory, src):
    """Return log-probabilities of the next token, with the whole prefix computed again."""
    return model.output_projection(model.decode(tgt, memory, src)[:, -1]).log_softmax(-1)


def timed(predict, length, steps):
    """Return the mean seconds of `predict(end)`, which sees `end` tokens; one call warms up."""
    for end in range(length - 1, length + steps):
        if end == length:
            started = time.perf_counter()
        predict(end)
    return (time.perf_counter() - started) / steps


def measure(lengths=LENGTHS, steps=STEPS, rounds=ROUNDS):
    """Milliseconds of a token: {way: {length: median of the rounds}}, and what they depend on."""
    about = conditions() | {"subwords": VOCAB}
    about |= {"threads": 1, "rounds": rounds, "tokens timed": steps, "source tokens": SOURCE}
    torch.set_num_threads(1)
    model, found = random_model(), {AGAIN: {}, CACHED: {}, FAST: {}}
    for _ in range(rounds):
        for length in lengths:
            for way, row in found.items():
                taken = 1000 * seconds_per_token(model, way, length, steps)
                row.setdefault(str(length), []).append(taken)
    medians = {
        way: {length: round(statistics.median(values), 3) for length, values in row.items()}
        for way, row in found.items()
    }
    return {"conditions": about, "milliseconds": medians}


def title(milliseconds):
    """Return the title, which states the finding."""
    first, *_, last = milliseconds[FAST]
    more = [row[last] / row[first] for row in (milliseconds[FAST], milliseconds[AGAIN])]
    return (
        f"After {int(last) // int(first)} times as many tokens, one more costs "
        f"{more[0]:.1f} times as much with a cache, {more[1]:.0f} times without"
    )


def draw(found):
    """Draw milliseconds of one more token over the tokens before it."""
    from transformer_lib.lessons.figures import PALETTE, figure, headline, name_axes, style

    with style():
        drawn, ax = figure(8, 4.2)
        for (way, row), colour in zip(found["milliseconds"].items(), PALETTE, strict=False):
            x = [int(length) for length in row]
            ax.plot(x, list(row.values()), "o-", color=colour, label=way)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(x, [f"{length:,}" for length in x])
        ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        values = [value for row in found["milliseconds"].values() for value in row.values()]
        ax.set_ylim(0.7 * min(values), 1.4 * max(values))
        ax.grid(True)
        ax.legend(title="keys and values of the past")
        name_axes(ax, x="tokens before it", y="milliseconds, one more token")
        headline(drawn, title(found["milliseconds"]))
    return drawn


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args(arguments)
    if not options.draw:
        RESULT.write_text(json.dumps(measure(), indent=1) + "\n", "utf-8")
    draw(json.loads(RESULT.read_text("utf-8"))).savefig(
        PICTURE, dpi=110, metadata={"Software": None}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

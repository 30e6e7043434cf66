"""The tools that measure growth measure what they say."""

import os
from pathlib import Path

import growth
import growth_decoding
import pytest

from transformer_lib import KeyValueCache, Transformer
from transformer_lib.data.text import ParallelText
from transformer_lib.translate.inference import FastSteps


def test_a_copy_varies_and_stays_a_copy(tmp_path, monkeypatch):
    text = ParallelText(("a b c", "d e", "f"), ("A B C", "D E", "F"), "x")
    monkeypatch.setattr("transformer_lib.data.multi30k.multi30k", lambda *_: text)
    lines = [path.read_text().splitlines() for path in growth.write_corpus(tmp_path, 4)]
    assert [line[:3] for line in lines] == [list(text.source), list(text.target)]
    assert lines[0] == [line.lower() for line in lines[1]]  # still pairs
    assert [sorted("".join(lines[0]))] == [sorted("".join(text.source) * 4)]
    assert "e d" in lines[0] and "d e" in lines[0]
    again = [path.read_text().splitlines() for path in growth.write_corpus(tmp_path, 4)]
    assert again == lines


def test_memory_is_the_most_there_was():
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # what there is now
    now = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    before = growth.peak_mebibytes()
    found = growth.measured(lambda: {"size": len(b"1" * 100_000_000)})  # and is gone again
    assert found["size"] == 100_000_000
    assert found["peak_mebibytes"] >= found["mebibytes_before"] >= round(before, 1)
    assert found["peak_mebibytes"] > now + 90


# Decoding

WAYS = (growth_decoding.AGAIN, growth_decoding.CACHED, growth_decoding.FAST)


@pytest.mark.parametrize("way", WAYS)
def test_so_many_tokens_stand_before_the_one_that_is_timed(way, monkeypatch):
    seen, append, decode = [], KeyValueCache.append, Transformer.decode

    def watched_append(cache, keys, values):
        found = append(cache, keys, values)
        seen.append(cache.length)
        return found

    def watched_decode(model, tgt, *others):
        if way == growth_decoding.AGAIN:
            seen.extend([tgt.size(1)] * model.config.n_layers)
        return decode(model, tgt, *others)

    def watched_step(steps, last):
        seen.extend([steps.length + 1] * steps.decoder.model.config.n_layers)
        return step(steps, last)

    step = FastSteps.__call__
    monkeypatch.setattr(FastSteps, "__call__", watched_step)
    monkeypatch.setattr(KeyValueCache, "append", watched_append)
    monkeypatch.setattr(Transformer, "decode", watched_decode)
    model = growth_decoding.random_model()
    assert growth_decoding.seconds_per_token(model, way, 5, 3) > 0
    past = [] if way == growth_decoding.AGAIN else [1, 2, 3]
    assert seen[:: model.config.n_layers] == [*past, 4, 5, 6, 7]

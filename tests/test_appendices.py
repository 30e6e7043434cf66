"""What the appendices lean on: the digits and their split, and the museum's workshop."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest
import torch

from transformer_lib.lessons import museum, probes
from transformer_lib.lessons.digits import digits
from transformer_lib.model import Transformer

FOLDER = Path(__file__).resolve().parents[1] / "data" / "digits"


def test_digits_are_those_of_the_file_and_no_image_is_on_both_sides():
    readme, data = (FOLDER / "README.md").read_text("utf-8"), FOLDER / "digits.csv.gz"
    assert re.search("`([0-9a-f]{64})`", readme)[1] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert "CC BY 4.0" in readme
    train, held_out = digits()
    rows = [
        tuple([*(image * 16).int().flatten().tolist(), label])
        for part in (train, held_out)
        for image, label in zip(part.images, part.labels.tolist(), strict=True)
    ]
    lines = gzip.decompress(data.read_bytes()).decode().split()
    assert sorted(rows) == sorted(tuple(map(int, line.split(","))) for line in lines)
    assert len(train.labels) == 1437 and len(held_out.labels) == 360
    assert train.images.min() == 0 and train.images.max() == 1
    assert (held_out.labels.bincount() > 20).all() and not set(rows[:1437]) & set(rows[1437:])


class Blind(Transformer):
    """Sees no source."""

    def encode(self, src, maps=None):
        return super().encode(src, maps) * 0


def test_a_fault_has_the_same_weights_and_leaves_the_healthy_model_alone():
    healthy = museum.small_translator().eval()
    before, src = healthy.state_dict(), museum.held_out(4).src
    memory = healthy.encode(src)
    broken = museum.with_fault(healthy, Blind)
    assert type(healthy) is Transformer and torch.equal(healthy.encode(src), memory)
    assert not broken.encode(src).any()
    assert all(torch.equal(value, before[name]) for name, value in broken.state_dict().items())


def test_the_museum_decodes_alike_with_and_without_a_cache_and_trains_alike_twice(monkeypatch):
    some = museum.grammar_ids("train", 100)
    monkeypatch.setattr(museum, "grammar_ids", lambda split="train", size=None: some[:size])
    one, two = (museum.train_broken(steps=2) for _ in range(2))
    assert one.losses == two.losses and not one.model.training
    src = museum.collate(some[:5]).src
    assert museum.translate(one.model, src) == museum.translate(one.model, src, cached=True)
    assert museum.translate(one.model, src) != museum.translate(one.model, src, start=9)


@pytest.mark.parametrize(("model_class", "fired"), [(Transformer, []), (Blind, ["ignores"])])
def test_an_examination_names_the_probes_that_fire(model_class, fired, capsys):
    def ignores(model):
        return probes.ProbeResult("ignores", ["all"] * isinstance(model, Blind), "a zero")

    model = museum.with_fault(museum.small_translator().eval(), model_class)
    assert museum.examine(model, [ignores]) == fired
    assert ("✗ ignores: all" in capsys.readouterr().out) == bool(fired)

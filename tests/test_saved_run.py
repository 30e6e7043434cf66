"""A run saved by an earlier version resumes, and its model scores and translates as it did then.

`saved/run` stopped after 6 of 40 steps on the corpus in `saved/corpus`. The numbers below are those
of the version that saved it. That one rounded the scale of dropout otherwise, so what comes after a
resume agrees to five digits; with its scale, the weights are the same to the bit.
"""

import json
import shutil
from pathlib import Path

import pytest
from helpers import prepared

from transformer_lib import ModelConfig, TrainConfig, Transformer, Translator, collate, evaluate
from transformer_lib.cli import main
from transformer_lib.cli.train import ModelFlags, model_config
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.text import ParallelText
from transformer_lib.train.settings import RunConfig
from transformer_lib.train.trainer import Trainer

SAVED = Path(__file__).with_name("saved")
SIZES = "--d-model 16 --n-heads 2 --n-layers 1 --d-ff 32 --max-len 128"
LENGTH = "--steps 40 --max-steps 9 --validate-every 3 --max-tokens 256 --threads 1"
RATES = "--warmup 10 --peak-rate 1e-2"


def resume(folder):
    flags = f"{SIZES} {LENGTH} {RATES} --resume auto".split()
    return main(["train", str(SAVED / "corpus"), str(folder), *flags])


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(SAVED / "run", tmp_path / "run"))


def test_it_resumes(run, capsys):
    assert resume(run) == 0
    assert "step-000006, step 6\n9 steps are done" in capsys.readouterr().out
    newest = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    expected = {"step": 9, "val_loss": 4.356184997558594, "val_accuracy": 0.065, "tokens": 1650}
    assert {name: newest[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert json.loads((run / "best.json").read_text())["step"] == 9  # of equal BLEU, by the loss
    translator = Translator.from_pretrained(run / "checkpoints" / "step-000009")
    assert translator.model.config.shared_vocabulary


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("run", {"r_drop": 5.0}, "with run.r_drop=5.0, which this one does not have"),
        ("run", {"precision": "fp16"}, "run.precision was 'fp16', is 'auto'"),
        ("model", {"tgt_vocab_size": 119}, "model.shared_vocabulary was False, is True"),
    ],
    ids=str,
)
def test_other_settings_are_refused(run, capsys, monkeypatch, part, change, words):
    progress = run / "checkpoints" / "step-000006" / "training.json"
    record = json.loads(progress.read_text())
    record["settings"][part] |= change
    progress.write_text(json.dumps(record))
    monkeypatch.setattr(
        "transformer_lib.translate.translator.check_folder", lambda folder, *_: folder
    )
    assert resume(run) == 2
    assert words in capsys.readouterr().err


def test_its_model_scores_and_translates_as_it_did():
    corpus = Prepared(SAVED / "corpus")
    translator = Translator.from_pretrained(SAVED / "run" / "checkpoints" / "step-000006")
    pairs = corpus.pairs("val")
    scores = evaluate(translator.model, [collate([pairs[i] for i in range(len(pairs))])])
    assert scores == pytest.approx((4.548282775878906, 0.045, 200), rel=1e-6)
    found = translator.hypotheses(corpus.text("val").source[:2], beam_size=2, alpha=0.6)
    assert [len(best.ids) for best, *_ in found] == [96, 61]
    assert [best.ids[:4] for best, *_ in found] == [[75] * 4, [11] * 4]
    scores = [best.score for best, *_ in found]
    assert scores == pytest.approx([-38.36257158389286, -32.7944633240743], rel=1e-6)


@pytest.mark.parametrize("kind", ["words", "subwords"])
def test_embeddings_are_shared_only_with_the_vocabulary(tmp_path, kind):
    """Not merely because both have as many ids: "der" and "my" would be one vector."""
    text = ParallelText(("ein Hund", "der Hund") * 9, ("my dog", "the dog") * 9, "text")
    size = 30 if kind == "subwords" else 7
    corpus = prepared(tmp_path / "data", text, size, kind=kind)
    assert len(corpus.src_vocab) == len(corpus.tgt_vocab)
    model = Transformer(model_config(corpus, "tiny", ModelFlags()))
    assert (model.src_embedding is model.tgt_embedding) == (kind == "subwords")
    assert model.output_projection.weight is model.tgt_embedding.weight
    if kind == "words":
        shared = ModelConfig.tiny(len(corpus.src_vocab), max_len=64)
        with pytest.raises(ValueError, match="the corpus has two vocabularies"):
            Trainer(corpus, shared, TrainConfig(), RunConfig(), tmp_path / "run")

"""The training loop printed in the README is the command's, bit for bit.

Only what makes the command faster is left out: its dropout draws other random numbers, and its
products in float32 are rounded in another order.
"""

import readme_snippets
import torch
from helpers import prepared, silent

import transformer_lib
from transformer_lib import ModelConfig, TrainConfig, train_step
from transformer_lib.data.text import ParallelText
from transformer_lib.lessons.grammar import grammar_corpus
from transformer_lib.train.settings import RunConfig
from transformer_lib.train.trainer import Trainer

PAIRS = grammar_corpus().train[:120]
TEXT = ParallelText(tuple(p.source for p in PAIRS), tuple(p.target for p in PAIRS), "train")
STEPS, SIZE = 8, 120


def script():
    """The block of the README, for fewer steps and a smaller vocabulary."""
    (code,) = (block for block in readme_snippets.blocks() if "make_optimizer" in block)
    for written, here in (
        ("size=4000", f"size={SIZE}"),
        ("(4000, 8000)", f"({STEPS // 2}, {STEPS})"),
        ("range(1, 8001)", f"range(1, {STEPS + 1})"),
    ):
        assert code.count(written) == 1
        code = code.replace(written, here)
    return code


def test_the_script_gives_the_commands_weights(monkeypatch, tmp_path, capsys):
    losses = []

    def record(*arguments):
        losses.append(train_step(*arguments).loss)

    monkeypatch.setattr(transformer_lib, "train_step", record)
    monkeypatch.setattr("transformer_lib.corpora.multi30k", lambda *_: TEXT)
    names = {}
    exec(script(), names)  # the README's own lines
    assert len(capsys.readouterr().out) > 3 and len(losses) == STEPS

    corpus = prepared(tmp_path / "data", TEXT, SIZE)
    run = RunConfig(steps=STEPS, max_tokens=512, validate_every=STEPS, loss_rows=0)
    rates = TrainConfig(peak_rate=3e-3, warmup=300, cooldown=(STEPS // 2, STEPS))
    monkeypatch.setattr("transformer_lib.train.trainer.use_fast_dropout", lambda model: None)
    monkeypatch.setattr("transformer_lib.train.losses.has_fast_onednn", lambda: False)
    trainer = Trainer(corpus, ModelConfig.tiny(SIZE, norm_first=True), rates, run, tmp_path / "run")
    trainer.log_every = 1
    trainer.start(say=silent)
    monkeypatch.setattr(trainer, "validate", lambda: "")
    trainer.fit(quiet=True)
    for name, weight in trainer.translator.model.state_dict().items():
        assert torch.equal(weight, names["model"].state_dict()[name]), name

"""On a device other than the CPU: nothing is left behind, and the numbers are the same."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from elsewhere import CALLS, DEVICE, Remote, elsewhere
from helpers import silent, tiny
from safetensors.torch import load_file

from transformer_lib import (
    ModelConfig,
    TrainConfig,
    average_weights,
    collate,
    evaluate,
    lessons,
    make_optimizer,
    train_step,
)
from transformer_lib.cli import main
from transformer_lib.data import devices
from transformer_lib.data.files import list_checkpoints
from transformer_lib.lessons import probes
from transformer_lib.lessons.alignment import alignment_score
from transformer_lib.masks import teacher_forcing
from transformer_lib.train.losses import TrainingLoss
from transformer_lib.train.settings import RunConfig, choose_precision
from transformer_lib.train.trainer import Trainer
from transformer_lib.translate import search
from transformer_lib.translate.evaluation import conditions
from transformer_lib.translate.inference import FastDecoder, PlainDecoder
from transformer_lib.translate.translator import Translator

KINDS = [  # with seeds whose beams end in part
    {"seed": 5},
    {"seed": 5, "norm_first": True, "positions": "learned"},
    {"seed": 1, "positions": "none", "tie_embeddings": False},
]
BATCH = collate([([9, 3], [2, 4, 3]), ([5, 6, 7, 3], [2, 8, 9, 10, 3]), ([4, 8, 3], [2, 5, 3])])
CONFIG = TrainConfig(peak_rate=2e-3, warmup=20, max_grad_norm=1.0)
SEARCHES = {
    "greedy": lambda model, src: search.greedy_decode(model, src, extra=6),
    "beam": lambda model, src: search.beam_search(model, src, extra=6, beam_size=3, n_best=2),
}


def twins(seed=0, **changes):
    """The same model twice; one of them will be moved."""
    sizes = {"max_len": 5000, "n_heads": 2, "d_ff": 32, "dropout": 0.0} | changes
    model = tiny(20, seed, **sizes)
    return model, copy.deepcopy(model)


def flat(hypotheses):
    return [h for found in hypotheses for h in (found if isinstance(found, list) else [found])]


def test_the_other_device_is_strict():
    with elsewhere():
        here, there = torch.ones(2), torch.ones(2).to(DEVICE)
        assert isinstance(there, Remote) and isinstance(there + there, Remote)
        assert type(there.cpu()) is torch.Tensor and float(there.sum()) == 2.0
        with pytest.raises(AssertionError, match="on the CPU, others are not"):
            here + there
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        with pytest.raises(TypeError, match="has no float64"):
            there.double()
        there[1:] = 5.0
        assert there.tolist() == [1.0, 5.0] and here.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_steps_of_training(changes):
    local, remote = twins(**changes)
    optimizer = make_optimizer(local, CONFIG)
    expected = [train_step(local, optimizer, BATCH, i, CONFIG) for i in (1, 2, 3)]
    with elsewhere():
        optimizer, batch = make_optimizer(remote.to(DEVICE), CONFIG), BATCH.to(DEVICE)
        found = [train_step(remote, optimizer, batch, i, CONFIG) for i in (1, 2, 3)]
        assert all(isinstance(p, Remote) for p in remote.parameters())
        scores = evaluate(remote, [batch])
        mean = average_weights([remote.state_dict(), remote.state_dict()])
        assert all(isinstance(weight, Remote) for weight in mean.values())
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert scores == pytest.approx(evaluate(local, [BATCH]), rel=1e-4)


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("decoder", [FastDecoder, PlainDecoder])
@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_translating(changes, decoder, kind):
    local, remote = (model.eval() for model in twins(**changes))
    expected = flat(SEARCHES[kind](local, BATCH.src))
    if kind == "beam":
        assert {h.finished for h in expected} == {True, False}
    with elsewhere():
        found = flat(SEARCHES[kind](decoder(remote.to(DEVICE)), BATCH.src.to(DEVICE)))
    assert [h.ids for h in found] == [h.ids for h in expected]
    scores = [[h.score for h in several] for several in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_is_waited_for_between_the_first_embedding_and_the_last_gradient(rows):
    """Otherwise a GPU would be idle in the middle of a step."""
    _, remote = twins(dropout=0.1)
    with elsewhere():
        loss_of = TrainingLoss(remote.to(DEVICE), CONFIG, rows=rows)
        batch = BATCH.to(DEVICE)
        CALLS.clear()
        loss_of(batch.src, *teacher_forcing(batch.tgt)).backward()
        embeddings = [i for i, name in enumerate(CALLS) if name.startswith("embedding")]
    assert CALLS[embeddings[-1]] == "embedding_dense_backward"
    assert "WAIT" not in CALLS[embeddings[0] : embeddings[-1]]


def test_a_beam_asks_for_all_that_ends_at_once():
    waits = []
    for n in (2, 16):
        found = [[] for _ in range(n)]
        with elsewhere():
            ends, endings = torch.ones(n, 3, dtype=torch.bool), torch.zeros(n, 3)
            beams = search.Beams(n, 3, bos_id=2, like=BATCH.src.to(DEVICE))
            CALLS.clear()
            search.collect(found, beams, beams.ids, endings.to(DEVICE), ends.to(DEVICE), 0.6, {})
            waits.append(CALLS.count("WAIT"))
        assert [len(hypotheses) for hypotheses in found] == [3] * n
    assert 0 < waits[0] == waits[1]


@torch.no_grad()
def test_attention_maps_and_probes_of_a_model():
    local, remote = (model.eval() for model in twins(seed=5))
    with elsewhere():
        found = [maps.cpu() for maps in remote.to(DEVICE).attention_maps(*BATCH.to(DEVICE))]
        results = probes.run_all(remote)
        score = alignment_score(torch.eye(3).to(DEVICE), {(0, 0), (1, 2)})
    assert (score.hits, score.gold) == (1, 2)
    torch.testing.assert_close(found, [*local.attention_maps(*BATCH)])
    assert len(results) > 4 and all(results), [str(r) for r in results]


@pytest.fixture(scope="module")
def corpus(small_corpus, tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("data") / "p", n_val=5)


def trained(corpus, folder, device, steps, resume="no", optimizer="adam"):
    """Train up to this step, without dropout, which draws other numbers on another device."""
    sizes = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 32, "dropout": 0.0}
    run = {"max_tokens": 200, "validate_every": 15, "precision": "fp32", "optimizer": optimizer}
    run, config = RunConfig(steps=steps, **run), ModelConfig.tiny(120, **sizes)
    trainer = Trainer(corpus, config, CONFIG, run, folder, device=device)
    trainer.start(resume, say=silent)
    trainer.fit(quiet=True)
    return trainer


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_whole_run_with_validation_saving_and_going_on(corpus, tmp_path, optimizer):
    local = trained(corpus, tmp_path / "here", "cpu", 6, optimizer=optimizer)
    with elsewhere():
        trained(corpus, tmp_path / "there", DEVICE, 3, optimizer=optimizer)
        remote = trained(corpus, tmp_path / "there", DEVICE, 6, "auto", optimizer)
        assert isinstance(remote.translator.model.output_projection.weight, Remote)
    assert remote.step == local.step == 6
    expected, found = (
        load_file(list_checkpoints(trainer.checkpoints)[-1] / "model.safetensors")
        for trainer in (local, remote)
    )
    for name, weight in expected.items():
        if not name.endswith("key.bias"):  # softmax ignores it: Adam enlarges its rounding errors
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [1, 3])
def test_a_translator(corpus, tmp_path, width):
    local = trained(corpus, tmp_path / "run", "cpu", 30).translator
    local.save(tmp_path / "model")
    lines = corpus.text("val").source
    expected = local.translate(lines, beam_size=width, alpha=0.0)
    with elsewhere():
        remote = Translator.from_pretrained(tmp_path / "model", device=DEVICE)
        assert str(remote.device) == DEVICE
        assert remote.translate(lines, beam_size=width, alpha=0.0) == expected
        maps, *tokens = remote.attention_maps(lines[0], expected[0])
        assert isinstance(maps.cross, Remote)
        assert [maps.cross.size(-1), maps.cross.size(-2)] == [*map(len, tokens)]
        remote.save(tmp_path / "again")
    files = [tmp_path / name / "model.safetensors" for name in ("model", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


NOTEBOOK_07 = """
import pytest, torch
from elsewhere import DEVICE, Remote, elsewhere
from helpers import run_notebook_07
from transformer_lib import lessons
with pytest.MonkeyPatch.context() as patch, elsewhere():
    patch.setattr(lessons, "choose_device", lambda: torch.device(DEVICE))
    names = run_notebook_07(patch, skip=[".check("])
    for name in ("model", "grammar_model", "caption_model"):
        assert isinstance(names[name].output_projection.weight, Remote)
"""


def test_every_cell_of_notebook_07():
    """On a GPU, one that moves a model and not its input would fail after all the training.

    In a process of its own, without the checks of types, which cost twice the time here.
    """
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", NOTEBOOK_07], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]


# Which device


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_chosen_and_a_missing_one_refused(
    monkeypatch, capsys, cuda, mps, chosen
):
    """The command line, notebooks and the dry run ask the same function."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.choose_device().type == lessons.choose_device().type == chosen
    assert devices.choose_device("cpu") == torch.device("cpu")
    for name, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert devices.choose_device(name).type == name
        else:
            assert main(["translate", "multi30k-de-en", "x", "--device", name]) == 2
            told = f"error: torch sees no {name.upper()} device here: choose auto or cpu\n"
            assert capsys.readouterr().err == told


def test_what_an_mps_device_is_asked_for(monkeypatch):
    """Its memory, its name and its own random numbers, none of which are CUDA's."""
    mps, state = torch.device("mps"), [torch.tensor([7], dtype=torch.uint8)]
    fake = SimpleNamespace(
        recommended_max_memory=lambda: 10,
        driver_allocated_memory=lambda: 4,
        get_rng_state=lambda device: state[0],
        set_rng_state=lambda new, device: state.append(new),
    )
    monkeypatch.setattr(torch, "mps", fake)
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    assert devices.free_memory(mps) == 6
    assert conditions(mps)["device"].endswith(", mps")
    saved = devices.random_state(mps)
    assert saved.keys() == {"rng", "mps_rng"}
    devices.set_random_state(saved, mps)
    assert state == [state[0], state[0]]
    devices.set_random_state(saved, torch.device("cpu"))  # a run that moves
    assert len(state) == 2
    assert choose_precision("auto", mps) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [(8, None, 8), (8, "max 100000", 8), (8, "250000 100000", 2), (2, "50000 100000", 1)],
)
def test_cores_are_those_of_the_process(affinity, quota, cores, monkeypatch, tmp_path):
    """Not those of the machine: a container or a batch job may have fewer."""
    file = tmp_path / "cpu.max"
    if quota:
        file.write_text(quota)
    monkeypatch.setattr(devices, "CPU_QUOTA", file)
    monkeypatch.setattr(
        devices.os, "sched_getaffinity", lambda _: {*range(affinity)}, raising=False
    )
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 64)
    assert devices.n_cores() == cores

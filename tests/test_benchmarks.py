"""The pieces of the benchmark: its reference equals ours, its arithmetic and its tables are right.

The peers themselves are not needed here; `make bench` runs them.
"""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from elsewhere import CALLS, DEVICE, Remote, elsewhere
from helpers import unsettled
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import environments, material, quality, quality_report, report, rounds
from benchmarks.__main__ import arguments
from benchmarks.arithmetic import flops_per_target_token, ratio
from benchmarks.environments import install
from benchmarks.loop import Loop, timed_steps
from benchmarks.peers import HERE, PEERS, Peer
from benchmarks.peers.torch_nn import CachedGreedy, TorchModel, dropout_as_ours, greedy
from benchmarks.rounds import (
    Conditions,
    Crew,
    agreement,
    best_settings,
    best_ways,
    decoding_rounds,
)
from benchmarks.run import Run
from benchmarks.worker import DecodingWorker, TrainingWorker
from transformer_lib import Batch, ModelConfig, TrainConfig, Transformer, Translator, greedy_decode
from transformer_lib.training import make_optimizer, rate_at, train_step
from transformer_lib.translate.evaluation import RAW
from transformer_lib.translate.scores import Score

orders = pytest.mark.parametrize("norm_first", [False, True])
WAYS = [(1, 1), (1, 2), (2, 1)]
RATES = TrainConfig(peak_rate=material.PEAK_RATE, warmup=material.WARMUP)


def small(norm_first=False, **changes):
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 24, "dropout": 0.0, "max_len": 64}
    return ModelConfig.tiny(30, norm_first=norm_first, **(sizes | changes))


def twins(config):
    """Our model and torch's with the same weights, none of them 0 or 1 any more."""
    ours = unsettled(Transformer(config)).float()
    return ours, TorchModel.from_ours(asdict(config), ours.state_dict(), 0.0)


def batch(seed=0):
    """Two pairs of unequal length, padded."""
    draw = torch.Generator().manual_seed(seed)
    src, tgt = (torch.randint(4, 30, (2, n), generator=draw) for n in (6, 8))
    src[0, 4:], tgt[1, 5:] = 0, 0
    tgt[:, 0] = 2
    return src, tgt


# The same work


@orders
def test_the_reference_loop_has_our_losses_step_by_step(norm_first):
    ours, theirs = twins(small(norm_first))
    loop, optimizer = Loop(theirs), make_optimizer(ours, RATES)
    for step in range(1, 9):
        src, tgt = batch(step)
        expected = train_step(ours, optimizer, Batch(src, tgt), step, RATES).loss
        assert loop(src, tgt) == pytest.approx(expected, rel=2e-6)


def test_every_peer_has_the_rate_of_our_schedule():
    for step in (1, 2, 99, 100, 101, 400, 5000):
        assert material.rate_at(step) == pytest.approx(rate_at(step, RATES), rel=1e-12)


def test_dropout_as_ours_leaves_only_what_we_drop():
    config = small()
    model = TorchModel.from_ours(asdict(config), Transformer(config).state_dict(), 0.3)
    inside = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(inside) == {0.3}
    dropout_as_ours(model)
    layer = model.body.decoder.layers[0]
    assert layer.self_attn.dropout == layer.multihead_attn.dropout == layer.dropout.p == 0
    assert layer.dropout1.p == layer.dropout2.p == layer.dropout3.p == model.dropout.p == 0.3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@orders
def test_torch_decodes_what_we_decode_with_and_without_a_cache(norm_first):
    ours, theirs = twins(small(norm_first))
    src, _ = batch()
    expected = [found.ids for found in greedy_decode(ours, src)]
    assert len(set(map(tuple, expected))) == 2  # the source makes a difference
    assert greedy(theirs.eval(), src) == expected
    assert CachedGreedy(theirs)(src) == expected


def test_only_real_target_tokens_are_counted():
    seen = []
    found = timed_steps(lambda src, tgt: seen.append(tgt), [batch(), batch(1)])
    assert found["tokens"] == 2 * (7 + 4) and len(seen) == 2 and found["seconds"] > 0


# Quality after so many minutes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, small_corpus):
    return small_corpus(tmp_path_factory.mktemp("quality") / "corpus", n_val=9)


def test_the_plain_loop_is_scored_as_ours_is(corpus, monkeypatch):
    config = ModelConfig.tiny(120, norm_first=True, n_layers=1, d_model=32, d_ff=32)
    torch.manual_seed(1)
    ours = unsettled(Transformer(config).eval()).float()  # so that it has preferences
    theirs = TorchModel.from_ours(asdict(config), ours.state_dict(), 0.3)
    text = corpus.text("val")
    said = Translator(ours, corpus.src_vocab).translate(text.source, beam_size=1, alpha=0.0)
    assert len(set(said)) > 4  # in another order, the score would be another
    counted = []

    def bleu(*texts, **options):
        counted.append((*texts, options))
        return Score(7.0, "")

    monkeypatch.setattr(quality, "bleu", bleu)
    assert quality.plain_bleu(theirs, corpus) == 7.0
    assert counted == [(said, text.target, RAW)]
    assert theirs.training


@pytest.mark.parametrize("side", quality.SIDES.values())
def test_a_side_trains_to_its_last_step_and_notes_its_curve(side, corpus, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(quality, "rate_at", lambda *given: seen.append(given) or 1e-3)
    monkeypatch.setattr(quality, "OURS", quality.OURS | {"n-layers": 1, "warmup": 2})
    side(corpus, tmp_path / "run", 5, 2)
    points = quality.curve(tmp_path / "run")
    assert [point["step"] for point in points] == [2, 4, 5]
    seconds = [point["seconds"] for point in points]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    if side is quality.ours:
        told = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
        assert (told["run"]["optimizer"], told["model"]["dropout"]) == ("muon", 0.2)
        assert told["run"]["precision"] == quality.best_precision()
        assert told["train"]["cooldown"] == [1, 5] and told["model"]["norm_first"]
    else:
        assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
        assert {rates.cooldown for _, rates in seen} == {(2, 5)}


def test_the_readme_has_the_curve_that_was_measured():
    result = json.loads((report.RESULTS / "quality.json").read_text("utf-8"))
    text = report.README.read_text("utf-8")
    section = quality_report.section(result)
    assert text == report.with_section(text, section, quality_report.START, quality_report.END)
    for name, points in result["curves"].items():
        early = quality_report.at(points, 60 * result["minutes"] / 8)
        assert f"| {name} | {early:.1f} |" in section


def test_a_side_that_fails_ends_the_other(tmp_path, monkeypatch):
    started = []

    class Side(subprocess.Popen):
        def __init__(self, command, env):
            assert env["OMP_NUM_THREADS"] == "1"
            code = "raise SystemExit(3)" if started else "import time; time.sleep(30)"
            super().__init__([sys.executable, "-c", code])
            started.append(self)

    monkeypatch.setattr(quality, "subprocess", SimpleNamespace(Popen=Side))
    same = dict.fromkeys(quality.SIDES, 1)
    with pytest.raises(ValueError, match="transformer_lib ended with status 3"):
        quality.together(tmp_path, tmp_path, same, same)
    assert [side.returncode for side in started] == [-9, 3]


# Arithmetic


@pytest.mark.parametrize("t", [1, 5])
def test_operations_are_those_that_torch_counts(t):
    config, s = small(), 7
    model, width = Transformer(config).eval(), config.d_model
    src, tgt = torch.full((1, s), 5), torch.full((1, t), 6)
    with FlopCounterMode(display=False) as counter:
        hidden = model.decode(tgt, model.encode(src, []), src, maps=[])
        model.output_projection(hidden)
    # written out, all t² pairs of targets are computed; only t(t + 1) / 2 are needed
    unneeded = config.n_layers * 2 * 2 * width * (t * t - t * (t + 1) // 2)
    forward = flops_per_target_token(asdict(config), [([5] * s, [2] + [6] * t)]) * t / 3
    assert counter.get_total_flops() - unneeded == pytest.approx(forward, rel=1e-12)


def test_a_ratio_pairs_what_was_measured_in_the_same_round():
    found = ratio([20.0, 3.0, 60.0], [10.0, 1.0, 10.0])  # the second round was slow for both
    assert found == {"median": 3.0, "min": 2.0, "max": 6.0, "rounds": [2.0, 3.0, 6.0]}
    with pytest.raises(ValueError, match="paired"):
        ratio([1.0], [1.0, 2.0])


def test_agreement_compares_the_same_sentences():
    texts = {"ours": dict(enumerate("abcdef")), "some": {0: "a", 3: "d", 5: "x"}}
    found = agreement(texts, "ours")
    assert found == {"ours": {"same": 6, "of": 6}, "some": {"same": 2, "of": 3}}
    assert agreement({"other": {0: "a"}}, "ours") == {}


def test_every_peer_is_measured_with_the_batches_it_is_fastest_with():
    asked = []

    class Peers:
        """`one` is fastest with its threads on one batch, `two` with a batch for each."""

        workers = ("one", "two", "ours")

        def turns(self, order, names=None, **values):
            for name in names or self.workers:
                given = {key: v(name) if callable(v) else v for key, v in values.items()}
                asked.append((name, given["beam"], given["batch"], given.get("workers")))
                seconds = abs(given["batch"] - 64) + (given["workers"] != (name == "two") + 1)
                yield name, {"seconds": seconds + 1.0, "found": ["x"] * -(-10 // given["every"])}

    crew = Peers()
    chosen = best_settings(crew, threads=2)
    assert [*chosen] == ["greedy", "beam 5"] and "ours" not in {name for name, *_ in asked}
    assert chosen["greedy"] == {
        "one": {"batch": 64, "workers": 1},
        "two": {"batch": 64, "workers": 2},
    }
    chosen["greedy"]["one"] = {"batch": 128, "workers": 2}
    asked.clear()
    decoding_rounds(crew, 1, 10, 2, 1, chosen)
    assert ("one", 1, 128, 2) in asked and ("ours", 1, 64, 1) in asked
    assert ("two", 1, 1, 1) in asked  # one at a time


def test_every_peer_trains_with_the_processes_it_is_fastest_with(monkeypatch, tmp_path):
    class Trial:
        """Two processes pay, more threads do not; `lost` cannot have two processes."""

        def __init__(self, kind, names, conditions, left_out, ways):
            ((self.name, (self.n, self.threads)),) = ways.items()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def turns(self, order, steps):
            if (self.name, self.n) != ("lost", 2):
                seconds = steps / self.n + self.threads
                yield self.name, 7.0 if order == "memory" else {"tokens": 60, "seconds": seconds}

    monkeypatch.setattr(rounds, "Crew", Trial)
    found = best_ways(["torch.nn", "lost"], Conditions(tmp_path, 2, None), {}, WAYS, 4)
    order = [(trial["processes"], trial["threads"]) for trial in found["torch.nn"]]
    assert order == [(2, 1), (1, 1), (1, 2)] and len(found["lost"]) == 2
    row = {"trials": found["torch.nn"]}
    told = report.chosen_ways({"torch.nn": row, "ours": {}})
    assert "clean loop: 2 × 1: 20, 1 × 1: 12, 1 × 2: 10" in told and report.chosen_ways({}) == ""


def test_batches_side_by_side_share_the_threads_and_keep_their_order():
    seen = []

    def decode(lines, beam):
        seen.append((len(lines), torch.get_num_threads()))
        return [line.upper() for line in lines]

    given = SimpleNamespace(sentences=[*"abcdefg"])
    worker = DecodingWorker(given, SimpleNamespace(decoder=lambda _: decode), {})
    for workers, threads in ((1, 2), (2, 1)):
        seen.clear()
        found = worker.translate(1, 3, 1, 2, workers)
        assert found["found"] == [*"ABCDEFG"]
        assert sorted(seen[1:]) == [(1, threads), (3, threads), (3, threads)]


def test_rows_that_were_not_measured_again_are_kept_with_their_date():
    old = json.loads((report.RESULTS / "benchmarks.json").read_text("utf-8"))
    old.pop("kept", None)
    new = old | {"training": {}, "when": "later", "matrix peak": {"float32": 1.0}, "versions": {}}
    new.pop("loss curves")
    both = report.with_kept(new, old)
    for name in ("training", "loss curves", "matrix peak", "versions"):
        assert both[name] == old[name]
    assert f"training: kept from {old['when']}" in report.conditions(both)
    assert f"{old['commit']}`: {report.rounds_of(old['conditions'])}" in report.conditions(both)
    again = report.with_kept(new, both)  # what was kept before keeps its first date
    assert f"training: kept from {old['when']}" in report.conditions(again)
    with pytest.raises(ValueError, match="another machine"):
        report.with_kept(new | {"machine": {}}, old)
    other = old["machine"] | {"python": "3.0"}
    with pytest.raises(ValueError, match=r"python 3\.[\d.]+, now 3\.0$"):
        report.check_kept(old, other, ["decoding"])
    report.check_kept(old, other, ["decoding", "training"])  # nothing is kept


# Peers that fail


def test_a_peer_that_does_not_start_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(PEERS["training"], "broken", Peer("A broken peer", HERE, "nowhere"))
    left_out = {}
    with Crew("training", ["broken"], Conditions(tmp_path, 1, None), left_out) as crew:
        assert crew.workers == {}
    assert left_out == {"training: A broken peer": "KeyError: 'broken'"}


def test_a_package_that_does_not_install_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "SHARED", ())
    monkeypatch.setattr(environments.venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(environments, "python_of", lambda *_: sys.executable)  # nothing gets in
    monkeypatch.setitem(environments.PACKAGES, "absent", ["absent==1.0"])
    reason = install("absent", tmp_path, ["--no-index", "--find-links", str(tmp_path)])
    assert reason.startswith("pip install absent==1.0: ")
    assert "No matching distribution found for absent==1.0" in reason


# On a GPU


def options(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["benchmarks", *words])
        return arguments()


def test_each_device_has_the_peers_that_can_be_measured_on_it(monkeypatch):
    on_cpu = Run(options()).wanted("training")
    assert "joeynmt" in on_cpu and "ours bf16 compiled" not in on_cpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = options("--device", "cuda")
    assert on_gpu.out == report.RESULTS / "cuda" and options().out == report.RESULTS
    assert {"torch.nn", "transformers", "ours", "ours bf16 compiled"} <= {
        *Run(on_gpu).wanted("training")
    }
    assert "joeynmt" not in Run(on_gpu).wanted("training")
    assert "ctranslate2" not in Run(on_gpu).wanted("decoding")
    some = options("--device", "cuda", "--peers", "ours", "joeynmt")
    assert Run(some).wanted("training") == ["ours"]
    run = Run(options("--device", "cuda", "--here", "--kinds", "training"))
    run.install()
    assert run.left_out["training: fairseq's model and loss"] == "measured on a CPU only"


@pytest.fixture
def small_material(small_corpus, tmp_path):
    """What a run collects, of a corpus of 60 sentences and a model that is not trained."""
    corpus = small_corpus(tmp_path / "corpus", n_val=5)
    config = replace(small(True), src_vocab_size=120, tgt_vocab_size=120, max_len=128)
    torch.manual_seed(5)
    model = Transformer(config).eval()
    Translator(model, corpus.src_vocab).save(tmp_path / "model")
    return material.Material(
        folder=tmp_path / "bench",
        corpus=corpus.folder,
        sizes=asdict(config),
        start=dict(model.state_dict()),
        batches=[tuple(b) for b in corpus.pairs("train").batches(60, seed=0, epoch=0)],
        model=tmp_path / "model",
        model_sizes=asdict(config),
        model_weights=dict(model.state_dict()),
        sentences=list(corpus.text("val").source),
    )


@pytest.mark.parametrize("peer", ["torch_nn", "ours"])
def test_training_and_decoding_stay_on_their_device(peer, small_material):
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    local = TrainingWorker(small_material, module, {})
    options = [{"cached": True}, {"cached": False}] if peer == "torch_nn" else [{}]
    lines, steps = small_material.sentences, 3
    expected = local.losses(steps), [module.decoder(small_material, **o)(lines, 1) for o in options]
    with elsewhere():
        remote = small_material.to(DEVICE)
        assert str(remote.device) == DEVICE
        losses = TrainingWorker(remote, module, {}).losses(steps)
        CALLS.clear()
        texts = [module.decoder(remote, **o)(lines, 1) for o in options]
        assert CALLS.count("WAIT") > len(lines)  # it was elsewhere
        assert all(isinstance(tensor, Remote) for pair in remote.batches for tensor in pair)
    assert losses == pytest.approx(expected[0], rel=1e-4) and texts == expected[1]


def test_two_processes_share_each_batch_and_have_the_losses_of_one(small_material):
    several = [pair for pair in small_material.batches if len(pair[0]) > 1]
    small_material = replace(small_material, batches=several)
    small_material.save()
    given = Conditions(small_material.folder, 1, None), {}, {"torch.nn": (2, 1)}
    with Crew("training", ["torch.nn"], *given) as crew:
        found = dict(crew.turns("losses", steps=4))
    module = importlib.import_module("benchmarks.peers.torch_nn")
    expected = TrainingWorker(small_material, module, {}).losses(4)
    assert found == {"torch.nn": pytest.approx(expected, rel=1e-5)}


# Tables and picture


def test_the_readme_is_what_was_measured():
    text = report.README.read_text("utf-8")
    assert text == report.with_all_sections(text)

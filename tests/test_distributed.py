"""Several processes train as one would: the same updates, the same checkpoints, one fate."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from helpers import SOURCE, TARGET, prepared
from two_ranks import RATES, VOCAB_SIZE, float64, float64_model, make_trainer, started

from transformer_lib import Batch, collate, evaluate, make_optimizer, train_step
from transformer_lib.cli import main
from transformer_lib.data.files import check_folder, list_checkpoints
from transformer_lib.data.text import ParallelText
from transformer_lib.train.folder import RunLog
from transformer_lib.train.ranks import Ranks

TEXT = ParallelText(SOURCE * 2 + SOURCE[:1], TARGET * 2 + TARGET[:1], "tiny")
OTHER = ParallelText(SOURCE + SOURCE[1:], TARGET + TARGET[1:], "other")
LOOPBACK = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
if sys.platform == "linux":
    LOOPBACK["GLOO_SOCKET_IFNAME"] = "lo"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@contextmanager
def two_processes(*command):
    """Start a command as rank 0 and rank 1, without torchrun watching over them."""
    group = os.environ | LOOPBACK | {"WORLD_SIZE": "2", "MASTER_PORT": free_port()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            **pipes,
        )
        for rank in range(2)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def pairs(draw, n):
    """Sentence pairs of quite different lengths."""
    lengths = torch.randint(1, 9, (n, 2), generator=draw).tolist()
    ids = [[torch.randint(4, 20, (k,), generator=draw).tolist() for k in pair] for pair in lengths]
    return [([*src, 3], [2, *tgt, 3]) for src, tgt in ids]


@pytest.fixture(scope="module")
def given():
    """Batches of unequal size for several updates of two ranks."""
    draw = torch.Generator().manual_seed(0)
    batches = [tuple(collate(pairs(draw, n))) for n in (1, 5, 3, 2, 4, 1, 6, 2)]
    return {
        "one batch each": [batches[i : i + 2] for i in range(0, 8, 2)],
        "two batches each": [batches[:4], batches[4:]],
        "text": {"source": list(SOURCE[:3]), "target": list(TARGET[:3])},
    }


def train_alone(folder, data, resume="no", **changes):
    """Train in float64; `accumulate` makes updates as large as those of two ranks."""
    with float64():
        made = started(data, folder, resume, **changes)
        made.fit(quiet=True)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared corpus."""
    return prepared(tmp_path_factory.mktemp("two") / "data", TEXT, VOCAB_SIZE, OTHER).folder


@pytest.fixture(scope="module")
def home(data, given):
    """The folder in which two processes have done everything in two_ranks.py."""
    train_alone(data.parent / "one", data, steps=3, accumulate=2)
    torch.save(given, data.parent / "given.pt")
    with two_processes(Path(__file__).with_name("two_ranks.py"), data.parent) as started:
        for process in started:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    return data.parent


@pytest.fixture(scope="module")
def found(home):
    return [torch.load(home / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def column(curve, name):
    return [line[name] for line in curve if name in line]


def near(found, expected, tolerance):
    """Compare lists of tensors with an absolute tolerance."""
    torch.testing.assert_close(list(found), list(expected), rtol=0, atol=tolerance)


def weights(made):
    return [weight.detach() for weight in made.translator.model.parameters()]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize("batches", ["one batch each", "two batches each"])
def test_two_ranks_make_the_updates_of_one(given, found, sharding, batches):
    model = float64_model()
    optimizer = make_optimizer(model, RATES)
    alone = [
        train_step(model, optimizer, [Batch(*b) for b in all_batches], step, RATES)
        for step, all_batches in enumerate(given[batches], 1)
    ]
    name = sharding if batches == "one batch each" else f"{sharding}, accumulated"
    for there in found:
        told = there[name]["told"]
        assert [step[1] for step in told] == [step.n_tokens for step in alone]
        near(torch.tensor(told), torch.tensor(alone), 1e-12)
        near(there[name]["gradients"], [w.grad for w in model.parameters()], 1e-12)
        near(there[name]["weights"], [w.detach() for w in model.parameters()], 1e-12)
        assert any(step[2] > RATES.max_grad_norm for step in told)  # or nothing was cut


def test_gradients_travel_once_per_update(found):
    for there in found:
        n_buckets = there["ddp"]["n_sent"] // 4
        assert n_buckets >= 1
        assert there["ddp, accumulated"]["n_sent"] == 2 * n_buckets


def test_each_rank_keeps_half_of_a_model_that_is_cut(found):
    n_weights = sum(w.numel() for w in float64_model().parameters())
    kept = [there["fsdp"]["n_kept"] for there in found]
    assert sum(kept) == n_weights and max(kept) < 0.6 * n_weights
    assert all(there["ddp"]["n_kept"] == n_weights for there in found)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_nan_on_one_rank_stops_all_before_the_update(found, sharding):
    for there in found:
        told = there[f"spoiled {sharding}"]
        assert told["same"]
        assert told["error"].startswith("loss nan, gradient norm nan at step 1, rate 0.0006")
        assert told["error"].endswith("(here is rank 1)")


def test_what_fails_on_one_rank_fails_on_all(found):
    kinds, texts = zip(*(there["failing alone"] for there in found), strict=True)
    assert kinds == ("FileNotFoundError",) * 2
    assert texts == ("rank 1: no such disk", "no such disk")


def test_values_of_any_length_are_gathered_in_order(found):
    assert all(there["gathered"] == [["", 0], ["ä", 1]] for there in found)


def test_scores_are_of_the_whole_text(found):
    """One rank has no batch and fewer sentences; BLEU is 100 only if all are in their places."""
    model = float64_model()
    expected = evaluate(model, [Batch(torch.tensor([[5, 3]]), torch.tensor([[2, 6, 3]]))])
    for there in found:
        assert there["scored"]["bleu"] == pytest.approx(100)
        assert there["scored"]["val_loss"] == pytest.approx(expected.loss, rel=1e-15)


def test_dropout_does_not_depend_on_who_computes_it(home, found):
    first, second = (there["whole"] for there in found)
    assert all(map(torch.equal, first["weights"], second["weights"]))
    assert first["place"] == second["place"] and first["best"] == second["best"]
    alone = train_alone(home / "dropout", home / "data", accumulate=2, dropout=0.2)
    same_training(first["curve"], first["weights"], alone)


def test_a_cut_run_of_two_ranks_ends_with_the_same_bits(found):
    for there in found:
        assert there["cut"]["place"][0] == 4
        assert there["whole"]["place"] == there["again"]["place"]
        assert all(map(torch.equal, there["whole"]["weights"], there["again"]["weights"]))
        curves = [column(there[name]["curve"], "loss") for name in ("whole", "again")]
        assert curves[0] == curves[1] and len(curves[0]) == 6


@pytest.fixture(scope="module")
def alone(home):
    """One process whose updates are as large as those of two ranks."""
    return train_alone(home / "alone", home / "data", accumulate=2)


def same_training(curve, found, alone):
    """Equal up to the rounding of sums in another order."""
    expected = RunLog.read(alone.log.path)
    for name, n in {"loss": 6, "val_loss": 2, "val_accuracy": 2, "bleu": 2}.items():
        assert len(column(curve, name)) == n
        assert column(curve, name) == pytest.approx(column(expected, name), rel=1e-12)
    near(found, weights(alone), 1e-12)


@pytest.mark.parametrize("name", ["plain", "fsdp to ddp", "ddp to fsdp", "from one"])
def test_the_curve_does_not_depend_on_who_computes_it(found, alone, name):
    there = found[0][name]
    assert there["place"] == [alone.step, alone.epoch, alone.index, alone.n_tokens]
    same_training(there["curve"], there["weights"], alone)


def test_one_process_goes_on_with_a_checkpoint_of_two(home, found, alone, tmp_path):
    shutil.copytree(home / "plain", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    made = train_alone(tmp_path / "run", home / "data", "latest")
    assert made.accumulate == 2
    same_training(RunLog.read(made.log.path), weights(made), alone)


def test_a_signal_to_one_rank_stops_all_behind_the_same_step(home, found):
    for there in found:
        assert there["one is asked"]["reason"] == "SIGTERM"
        assert there["one is asked"]["place"][0] == 2
    (saved,) = list_checkpoints(home / "asked" / "checkpoints")
    assert saved.name == "step-000002"


class Many(Ranks):
    """Processes that agree without a word."""

    def raise_on_all_ranks(self):
        return nullcontext()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_ranks_take_turns_from_one_epoch_into_the_next(data, tmp_path, n):
    alone, *ranks = (
        make_trainer(data, tmp_path, kind(rank, world_size))
        for kind, rank, world_size in [(Ranks, 0, 1), *((Many, rank, n) for rank in range(n))]
    )
    for made in (alone, *ranks):
        made.epoch, made.index = 1, 3  # as any number of ranks may have saved it
    expected = list(islice(alone.batches(), 24))  # of five an epoch
    turns = zip(*(islice(made.batches(), 24 // n) for made in ranks), strict=True)
    for batch, other in zip(expected, chain.from_iterable(turns), strict=True):
        near(other, batch, 0)
    assert {(made.epoch, made.index) for made in ranks} == {(alone.epoch, alone.index)} == {(6, 2)}
    assert [made.place for made in ranks][-3:] == [[5, 5], [6, 1], [6, 2]][-n:]


def test_what_cannot_be_shared_is_refused(data, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="more processes than batches: 99 are too many"):
        make_trainer(data, folder, Many(world_size=99))
    with pytest.raises(ValueError, match="start them with torchrun"):
        make_trainer(data, folder, sharding="fsdp")
    with pytest.raises(ValueError, match="muon needs whole matrices, which fsdp shards"):
        make_trainer(data, folder, optimizer="muon", sharding="fsdp")


# The command, as a user starts it


SIZES = ["--n-layers", "1", "--d-model", "16", "--n-heads", "2", "--d-ff", "16", "--dropout", "0"]
LENGTH = ["--steps", "60", "--validate-every", "10", "--max-tokens", "36", "--threads", "1"]


def torchrun(*options):
    """Starts an agent, which starts the training's processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--local-addr", "127.0.0.1", *options]


def start(command):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, command)], env=os.environ | LOOPBACK, **pipes)


def train(data, folder, *options):
    return ["-m", "transformer_lib", "train", data, folder, *SIZES, *LENGTH, *options]


def last_weights(folder):
    newest = list_checkpoints(folder / "checkpoints")[-1]
    assert newest.name == "step-000060"
    return (check_folder(newest) / "model.safetensors").read_bytes()


def wait_for_a_checkpoint(folder, process):
    while not list_checkpoints(folder / "checkpoints"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def two_agents(data, tmp_path_factory):
    """A run over two machines, which here are the same: an agent with one process on each."""
    folder = tmp_path_factory.mktemp("agents")
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "two", *meet]
    # On two machines the address says who keeps the meeting place. Here it is both of theirs.
    hosts = (["--rdzv-conf", f"is_host={is_host}"] for is_host in (True, False))
    agents = [start([*torchrun(*options, *host), *train(data, folder / "run")]) for host in hosts]
    told = [agent.communicate(timeout=120) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    return folder / "run", "".join(out for out, _ in told)


def test_two_machines_train_as_one_process(data, two_agents, tmp_path):
    folder, out = two_agents
    assert out.count("all steps done: step 60") == out.count("saved: step 60 in") == 1
    command = train(data, tmp_path / "alone", "--accumulate", "2")[2:]
    assert main([*map(str, command)]) == 0
    there, here = (RunLog.read(run / "log.jsonl") for run in (folder, tmp_path / "alone"))
    assert column(there, "val_loss") == pytest.approx(column(here, "val_loss"), rel=1e-4)
    assert [line["step"] for line in there] == [line["step"] for line in here]


def workers(agent):
    """Rank and process id of what an agent has started."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    found = {}
    for child in map(int, children):
        settings = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(s[5:]): child for s in settings if s.startswith(b"RANK=")}
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes by /proc")
def test_torchrun_goes_on_from_the_checkpoint_when_a_rank_is_killed(data, two_agents, tmp_path):
    options = ["--nproc-per-node", "2", "--max-restarts", "1", "--rdzv-backend", "c10d"]
    options += ["--rdzv-endpoint", "127.0.0.1:0", "--monitor-interval", "0.1"]
    command = train(data, tmp_path / "run", "--resume", "auto")
    with start([*torchrun(*options), *command]) as agent:
        wait_for_a_checkpoint(tmp_path / "run", agent)
        os.kill(workers(agent)[1], signal.SIGKILL)
        out, err = agent.communicate(timeout=120)
    assert agent.returncode == 0, err
    assert "resuming from" in out and "all steps done: step 60" in out
    assert last_weights(tmp_path / "run") == last_weights(two_agents[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_lost_ends_the_others(data, tmp_path, number):
    """Also where no agent watches, and where the lost one is still there but does nothing."""
    endless = ["--steps", "1000000", "--wait-minutes", "0.1"]
    with two_processes(*train(data, tmp_path / "run", *endless)) as (first, second):
        wait_for_a_checkpoint(tmp_path / "run", first)
        second.send_signal(number)
        started = time.monotonic()
        _, err = first.communicate(timeout=60)
        assert time.monotonic() - started < 30
    assert first.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "another process of this training ended or does not answer" in line
    assert "--resume auto" in line and "third_party" not in line


def test_a_dry_run_of_two_processes_is_told_once(data, tmp_path):
    with two_processes(*train(data, tmp_path / "run", "--dry-run", "--sharding", "fsdp")) as both:
        told = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert told[0][0].startswith("model ") and "memory  about" in told[0][0]
    assert told[1][0] == "" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("among_others", [True, False])
def test_a_process_of_torchrun_ends_without_clearing_away(tmp_path, among_others):
    """What gloo's threads still hold would else end one run in twenty with status -6."""
    code = "import atexit, runpy, sys; atexit.register(print, 'cleared away'); "
    code += "sys.argv[1:] = ['info', sys.argv[1]]; "
    code += "runpy.run_module('transformer_lib', run_name='__main__')"
    told = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"} if among_others else {}
    call = [sys.executable, "-c", code, str(tmp_path / "nothing")]
    done = subprocess.run(call, env=os.environ | told, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stdout == ("" if among_others else "cleared away\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [([], "is not a folder that this library wrote"), (["--dropout", "1.5"], "dropout must be")],
)
def test_an_error_is_told_once_and_ends_all_with_its_status(tmp_path, flags, message):
    with two_processes(*train(tmp_path, tmp_path / "run", *flags)) as started:
        told = [process.communicate(timeout=60) for process in started]
        assert [process.returncode for process in started] == [2, 2]
    (line,) = "".join(err for _, err in told).splitlines()
    assert line.startswith("error:") and message in line

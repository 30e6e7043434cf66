"""The workers of one machine share every batch, and nobody can tell from the result."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import two_ranks
from helpers import close, prepared
from test_distributed import (
    OTHER,
    TEXT,
    column,
    same_training,
    train,
    train_alone,
    wait_for_a_checkpoint,
)

from transformer_lib import ModelConfig
from transformer_lib.cli import main
from transformer_lib.data import devices
from transformer_lib.data.files import list_checkpoints
from transformer_lib.train import workers
from transformer_lib.train.folder import RunLog
from transformer_lib.train.run_config import RunConfig

MUON = {"optimizer": "muon", "dropout": 0.2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("shared") / "data", TEXT, two_ranks.VOCAB_SIZE, OTHER)


@pytest.fixture(scope="module")
def home(data):
    return data.folder.parent


@pytest.fixture(scope="module")
def found(home, data):
    """Runs of three workers, of which this process is one."""
    train_alone(home / "one", data.folder, steps=3)
    given = {"home": str(home)}
    with workers.start_helpers(3, 1, 1.0, "two_ranks", given) as (ranks, _):
        return two_ranks.help_out(ranks, given)


@pytest.mark.parametrize("name", ["plain", "resumed"])
def test_workers_make_the_updates_of_one_process(home, data, found, name):
    """Also in batches of fewer sentences than workers, and after a checkpoint of one process."""
    alone = train_alone(home / f"alone {name}", data.folder)
    same_training(found[name]["curve"], found[name]["weights"], alone)
    assert found[name]["place"] == [alone.step, alone.epoch, alone.index, alone.n_tokens]


def test_memory_that_workers_share_changes_no_number(found):
    assert found["memory"] == (sys.platform == "linux")
    by_memory, by_messages = found["muon"], found["by messages"]
    close(by_memory["weights"], by_messages["weights"])
    curves = [column(run["curve"], "loss") for run in (by_memory, by_messages)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-12)


def test_three_workers_resume_to_the_same_bits(found):
    assert found["cut"]["place"][0] == 4
    assert all(map(torch.equal, found["muon"]["weights"], found["again"]["weights"]))
    curves = [column(found[name]["curve"], "loss") for name in ("muon", "again")]
    assert curves[0] == curves[1] and len(curves[0]) == 6


def test_one_process_resumes_the_same_run_with_its_dropout(home, data, found, tmp_path):
    """The parts of a batch, and the seed of each, are those of the run and not of the machine."""
    shutil.copytree(home / "muon", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    made = train_alone(tmp_path / "run", data.folder, "latest", **MUON)
    assert (made.per_update, made.split) == (1, 3)
    same_training(found["muon"]["curve"], found["muon"]["weights"], made)
    assert len(RunLog.read(made.log.path)) == len(found["muon"]["curve"])


# The command

ENDLESS = ["--workers", "2", "--threads", "2", "--steps", "1000000"]


def helper_of(process):
    """Return the process id of its worker."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        (child,) = file.read().split()
    return int(child)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def end_worker(process, helper):
    os.kill(helper, signal.SIGKILL)


def interrupt_all(process, helper):
    os.killpg(process.pid, signal.SIGINT)


def end_first(process, helper):
    process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
@pytest.mark.parametrize(
    ("act", "status", "message"),
    [
        (end_worker, 1, "error: worker 1 was ended by SIGKILL"),
        (interrupt_all, 130, "stopping after this step"),
        (end_first, -signal.SIGKILL, ""),
    ],
)
def test_whatever_ends_one_ends_all(data, tmp_path, act, status, message):
    command = [*map(str, train(data.folder, tmp_path / "run")), *ENDLESS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *command], **pipes, start_new_session=True) as process:
        wait_for_a_checkpoint(tmp_path / "run", process)
        helper = helper_of(process)
        act(process, helper)
        _, err = process.communicate(timeout=60)
        deadline = time.monotonic() + 20
        while is_running(helper) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert process.returncode == status, err
    assert not is_running(helper)
    lines = [line for line in err.replace("\r", "\n").splitlines() if "step/s" not in line]
    told = [line for line in lines if line.strip() and not line.startswith("step ")]
    assert len(told) == bool(message) and all(message in line for line in told), err
    assert list_checkpoints(tmp_path / "run" / "checkpoints")
    if status == 1:
        assert "--resume auto" in told[0] and "gloo" not in told[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (4, 1)),
        ({"steps": 10}, (1, 1)),  # over before the helpers have started
        ({"max_tokens": 210}, (1, 1)),  # slower with two
        ({"max_tokens": 260}, (2, 1)),
        ({"workers": 2}, (2, 1)),
        ({"workers": 1, "threads": 3}, (1, 3)),
        ({"threads": 2}, (2, 1)),
        ({"free": 1.1e9}, (2, 1)),
        ({"d_model": 512, "workers": 2}, (2, 2)),
    ],
)
def test_the_number_of_workers_fits_the_work_and_the_machine(monkeypatch, changes, expected):
    given = {"workers": "auto", "threads": None, "d_model": 128, "free": 1e12}
    given |= {"steps": 1000, "max_tokens": 2048} | changes
    monkeypatch.setattr(workers, "n_physical_cores", lambda: 4)
    monkeypatch.setattr(workers, "free_memory", lambda device: given["free"])
    config = ModelConfig.tiny(4000, d_model=given["d_model"])
    run = RunConfig(steps=given["steps"], max_tokens=given["max_tokens"])
    assert workers.choose_workers(given["workers"], given["threads"], config, run) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--workers", "3", "--threads", "2"], "--workers 3 need as many threads"),
    ],
)
def test_impossible_numbers_of_workers_are_refused(data, tmp_path, capsys, flags, message):
    command = [*map(str, train(data.folder, tmp_path / "run")[2:]), *flags]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_hyperthreads_of_a_core_are_counted_once(monkeypatch, tmp_path):
    for cpu, core in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        (tmp_path / str(cpu)).write_text(core)
    monkeypatch.setattr(devices, "CORES", str(tmp_path / "{}"))
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(devices, "CPU_QUOTA", tmp_path / "none")
    assert devices.n_physical_cores() == 2


FAULTS = """
import resource, torch
from transformer_lib.cli import main
main(['translate', 'multi30k-de-en', 'Hallo.'])
def faults(n, size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(size) for _ in range(n)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

sizes = [(8, 2**22), (32, 2**20), (64, 2**18), (5, 7 * 2**20), (3, 2**21)]
[[faults(*size) for size in sizes] for _ in range(3)]
print(max(min(faults(*size) for _ in range(4)) for size in sizes))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    """Without asking the system for every page anew, once a command began."""
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 100  # pages of thousands

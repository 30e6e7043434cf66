"""Real faults on real processes: killed at random moments, killed in the middle of a save."""

import random
import signal
import subprocess
import sys
import time

import pytest

from transformer_lib.checkpoint import check_folder, list_checkpoints, sweep, write_folder
from transformer_lib.cli import main

TEXT = ["a b c d", "b c d e f", "c d", "d e f a b"]
SIZES = ["--n-layers", "1", "--d-model", "16", "--n-heads", "2", "--d-ff", "16", "--threads", "1"]
LENGTH = ["--steps", "120", "--validate-every", "4", "--max-tokens", "16", "--keep", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "text").write_text("\n".join(TEXT))
    pair = [str(folder / "text")] * 2
    command = ["prepare", str(folder / "data"), "--corpus", "files", "--vocab-size", "16"]
    command += ["--source", "de", "--target", "en"]
    assert main([*command, "--train", *pair, "--val", *pair]) == 0
    return folder / "data"


def start(data, folder):
    command = [sys.executable, "-m", "transformer_lib", "train", data, folder, *SIZES, *LENGTH]
    return subprocess.Popen(
        [*command, "--resume", "auto"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def weights(folder):
    newest = list_checkpoints(folder / "checkpoints")[-1]
    return (check_folder(newest) / "model.safetensors").read_bytes()


def test_killed_at_random_moments_it_ends_with_the_same_bits(data, tmp_path):
    with start(data, tmp_path / "whole") as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    draw, n_kills = random.Random(0), 0
    for _ in range(4):
        with start(data, tmp_path / "cut") as process:
            before = list_checkpoints(tmp_path / "cut" / "checkpoints")
            while process.poll() is None:
                if list_checkpoints(tmp_path / "cut" / "checkpoints") != before:
                    break
                time.sleep(0.01)
            time.sleep(draw.random() / 5)
            n_kills += process.poll() is None
            process.kill()
    with start(data, tmp_path / "cut") as process:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out.decode()
    assert n_kills >= 2  # or the test has shown nothing
    assert b"going on from" in out
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")


SAVE_AND_DIE = """
import os, pathlib, signal, sys
from transformer_lib import checkpoint
moment, folder = sys.argv[1], pathlib.Path(sys.argv[2])
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def fill(temporary):
    (temporary / "weights.json").write_text("new")
    if moment == "while writing":
        die()
if moment == "before the manifest":
    checkpoint._fingerprint = die
if moment == "before the rename":
    checkpoint._move_into_place = die
if moment == "between the two renames":
    rename = pathlib.Path.rename
    def rename_once(path, target):
        if path.name.startswith(checkpoint.TEMPORARY):
            die()
        return rename(path, target)
    pathlib.Path.rename = rename_once
checkpoint.write_folder(folder, fill)
"""


@pytest.mark.parametrize(
    "moment",
    ["while writing", "before the manifest", "before the rename", "between the two renames"],
)
def test_killed_in_the_middle_of_a_save_the_old_one_is_whole(tmp_path, moment):
    folder = write_folder(
        tmp_path / "step-000001", lambda path: (path / "weights.json").write_text("old")
    )
    died = subprocess.run([sys.executable, "-c", SAVE_AND_DIE, moment, folder], timeout=60)
    assert died.returncode == -signal.SIGKILL
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert (check_folder(folder) / "weights.json").read_text() == "old"

"""Encoding on several processes: the same bytes, and nobody left behind when one of them dies."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import silent

from transformer_lib.data.encoding import (
    GrowingArray,
    LengthFilter,
    encoder,
    learn_vocabularies,
    prepare,
)
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.text import PairFiles, ParallelText

ROOT = Path(__file__).resolve().parents[1]
GERMAN = ["Ein Hund schläft.", "", "Eine Katze sieht\u2028den Hund.", "Der Garten ist grün.\r"]
ENGLISH = ["A dog sleeps.", "Nothing.", "A cat sees the dog.", "The garden is green. " * 30]


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Two files of 1,600 pairs, read in 23 blocks; every fourth is empty, every fourth uneven."""
    monkeypatch.setattr("transformer_lib.data.text.BLOCK_PAIRS", 70)
    for name, lines in (("a.de", GERMAN), ("a.en", ENGLISH)):
        numbered = [f"{line} {n}" if line else "" for n in range(400) for line in lines]
        content = "".join(f"{line}\n" for line in numbered)
        (tmp_path / name).write_text(content, "utf-8")
    pair = tmp_path / "a.de", tmp_path / "a.en"
    return {split: PairFiles(*pair, split) for split in ("train", "val")}


def test_the_folder_is_the_same_for_any_number_of_workers(texts, tmp_path):
    vocabularies = learn_vocabularies(texts["train"], "subwords", 60, ("de", "en"))
    length_filter = LengthFilter(max_ratio=5.0)
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        options = {"length_filter": length_filter, "workers": workers, "say": silent}
        prepare(texts, vocabularies, folder, **options)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "12"]
    assert contents[0] == contents[1]
    # and the arrays are those of all pairs at once
    vocab, found = vocabularies[0], Prepared(tmp_path / "1")
    assert found.about["splits"]["train"]["dropped"] == {
        "empty line": 400,
        "one side over 5 times longer": 400,
    }
    ids = [vocab.encode(f"{GERMAN[i]} {n}", eos=True) for n in range(400) for i in (0, 2)]
    assert [src for src, _ in found.pairs("train")] == ids
    assert len(found.text("val")) == len(found.pairs("val")) == 1200


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("sizes", [[], [0], [1000, 0, 99_999]])
def test_an_array_that_grew_is_what_numpy_saves_of_the_whole(tmp_path, dtype, sizes):
    parts = [np.arange(size, dtype=dtype) for size in sizes]
    with GrowingArray(tmp_path / "grown.npy", dtype) as grown:
        for part in parts:
            grown.append(part)
    whole = np.concatenate([np.zeros(0, dtype), *parts])
    np.save(tmp_path / "saved.npy", whole)
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    assert grown.size == len(whole)


def test_blocks_are_taken_as_they_are_needed():
    taken = []

    def blocks():
        for number in range(1000):
            taken.append(number)
            yield [("ein Hund", "a dog")]

    text = ParallelText(("ein Hund",) * 9, ("a dog",) * 9, "x")
    vocabularies = learn_vocabularies(text, "subwords", 18, ("de", "en"))
    with encoder(vocabularies, 2) as encode:
        found = encode(blocks(), None)
        next(found)
        assert len(taken) <= 6  # or all blocks of a large file would lie in memory
        found.close()
    with pytest.raises(ValueError, match="workers must be at least 1"), encoder(vocabularies, 0):
        pass


SCRIPT = """
import sys, time
from pathlib import Path
from transformer_lib.data import encoding, text

class Slow(text.PairFiles):
    def blocks(self):
        for number, block in enumerate(super().blocks()):
            if number == 5:
                print("running", flush=True)
                time.sleep(60)
            yield block

if __name__ == "__main__":
    folder, split = Path(sys.argv[1]), sys.argv[2]
    pair = folder / "a.de", folder / "a.en"
    whole = text.PairFiles(*pair, "x")
    text.BLOCK_PAIRS = 70
    vocabularies = encoding.learn_vocabularies(whole, "subwords", 60, ("de", "en"))
    slow = Slow(*pair, "train")
    slow.__dict__["_count"] = 1600
    try:
        encoding.prepare({"train": slow}, vocabularies, folder / "out", workers=2)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise SystemExit(130)
"""


def start(folder):
    (folder / "slow.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(folder / "slow.py"), str(folder), "train"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        # a shell's background job ignores Ctrl-C, and so would all that it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "running\n"
    return process


def members(group):
    """Processes of a group that are still running (Linux)."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_is_stopped_leaves_neither_workers_nor_half_a_folder(texts, tmp_path, number):
    process = start(tmp_path)
    try:
        assert len(members(process.pid)) >= 3  # the parent and two workers at least
        if number == signal.SIGINT:  # as Ctrl-C: to all of them
            os.killpg(process.pid, number)
            out, errors = process.communicate(timeout=200)
            assert (process.returncode, out) == (130, "interrupted\n")
            lines = [line for line in re.split(r"[\r\n]+", errors) if line]
            assert all(line.startswith("train: encoding:") for line in lines), errors  # the bar
            assert not list(tmp_path.glob(".writing-*"))
        else:
            process.kill()
            process.wait()
        deadline = time.monotonic() + 60
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not members(process.pid)
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "out").exists()
    vocabularies = learn_vocabularies(texts["train"], "subwords", 60, ("de", "en"))
    prepare(texts, vocabularies, tmp_path / "out")
    assert not list(tmp_path.glob(".writing-*"))  # what was left is swept by the next one


def test_a_disk_that_is_full_is_named(texts, tmp_path):
    """A limit on the bytes of a file stands for a disk that is full while the ids are written."""
    vocabularies = learn_vocabularies(texts["train"], "subwords", 60, ("de", "en"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"out.*too large"):
            prepare(texts, vocabularies, tmp_path / "out", say=silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".writing-*"))

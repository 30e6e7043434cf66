"""Aligned text, whole or block by block: no line is lost, and every complaint names its place."""

import gzip
import io
import os
import sys
import tempfile
import tracemalloc
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformer_lib.cli import main
from transformer_lib.data import text as module
from transformer_lib.data.progress import progress_bar
from transformer_lib.data.text import (
    PairFiles,
    ParallelText,
    lines_of_file,
    read_lines,
    read_pairs,
    stream_lines,
)

NOT_LINE_ENDS = ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r"]
SETTINGS = settings(database=None, deadline=None, derandomize=True)


def write(folder, name, content):
    path = Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pair(folder, source, target):
    return write(folder, "a.src", source), write(folder, "a.tgt", target)


def files(folder, source, target):
    return PairFiles(*pair(folder, source, target), "text")


def whole_pairs(text):
    return [pair for block in text.blocks() for pair in block if all(pair)]


@contextmanager
def at_most(n_bytes):
    """Less memory is taken than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


# --- one file


@pytest.mark.parametrize(
    ("content", "lines"),
    [(f"one{mark}two\nthree\n", ["one two", "three"]) for mark in NOT_LINE_ENDS]
    + [
        ("a b\nc\n", ["a b", "c"]),
        ("a b\nc", ["a b", "c"]),
        ("a b\r\nc\r\n", ["a b", "c"]),
        ("a b\r\nc", ["a b", "c"]),
        ("a\n\n", ["a", ""]),
        ("", []),
    ],
    ids=ascii,
)
def test_only_a_line_feed_ends_a_line(tmp_path, content, lines):
    assert read_lines(write(tmp_path, "a", content)) == lines


def test_spaces_are_single_marks_dropped_and_accents_composed(tmp_path):
    for line in ("ein\tHund", "ein\u00a0Hund", "ein  Hund", "ein Hund  ", " ein Hund"):
        assert read_lines(write(tmp_path, "a", line)) == ["ein Hund"]
    decomposed = unicodedata.normalize("NFD", "über")
    path = write(tmp_path, "a", b"\xef\xbb\xbf" + f"{decomposed} <pad> <eos>\n".encode())
    assert read_lines(path) == ["über <pad> <eos>"]  # names of special tokens are plain text


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"gut\n" * 7 + b"sch\xf6n\ngut\n", "line 8, byte 4: 0xf6"),  # Latin-1
        ("gut\n".encode("utf-16"), "line 1, byte 1: 0xff"),
        (b"a\xed\xa0\x80", "line 1, byte 2: 0xed"),  # half of a surrogate pair
    ],
)
def test_bytes_that_are_not_utf8_are_named(tmp_path, monkeypatch, content, where):
    monkeypatch.setattr(module, "BLOCK_PAIRS", 3)
    path = write(tmp_path, "latin.txt", content)
    for read in (read_lines, lambda path: len(PairFiles(path, path, "x"))):  # before any work
        with pytest.raises(ValueError) as caught:
            read(path)
        assert f"{path}, {where} is not UTF-8" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [gzip.compress(b"abc" * 99, mtime=0)[:-9], b"abc\n"])
def test_a_broken_gzip_file_is_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.gz is not a whole gzip file"):
        read_lines(write(tmp_path, "a.gz", content))


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    path = write(tmp_path, "bomb.gz", gzip.compress(bytes(50_000_000), compresslevel=1))
    with at_most(5_000_000), pytest.raises(ValueError, match="more than 1000 bytes"):
        read_lines(path, max_bytes=1000)
    path = write(tmp_path, "exact.txt", "a" * 1000)
    assert read_lines(path, max_bytes=1000) == ["a" * 1000]


def test_a_line_without_end_is_not_taken_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    bomb = gzip.compress(b"fine\n" + bytes(50_000_000), compresslevel=1)
    path = write(tmp_path, "bomb.gz", bomb)
    words = r"bomb\.gz, line 2 has more than 1000 bytes"
    with at_most(5_000_000), pytest.raises(ValueError, match=words):
        list(PairFiles(path, path, "bomb").blocks())
    with pytest.raises(ValueError, match="standard input, line 2 has more than 1000 bytes"):
        list(stream_lines(io.BufferedReader(io.BytesIO(b"a\n" + bytes(10_000))), "standard input"))
    text = files(tmp_path, "a" * 1000 + "\n", "b" * 1000)
    assert whole_pairs(text) == [("a" * 1000, "b" * 1000)]


# --- two files


@pytest.mark.parametrize(("n_source", "n_target"), [(0, 1), (7, 3), (3, 7), (6, 8), (9, 0)])
def test_unequal_numbers_of_lines_are_refused_with_both_counts(
    tmp_path, monkeypatch, n_source, n_target
):
    monkeypatch.setattr(module, "BLOCK_PAIRS", 3)
    text = files(tmp_path, "a\n" * n_source, "b\n" * n_target)
    words = rf"a\.src has {n_source} lines, but .*a\.tgt has {n_target};"
    for read in (len, whole_pairs, lambda text: read_pairs(*text.paths)):
        with pytest.raises(ValueError, match=words):
            read(text)
    with pytest.raises(ValueError, match="x: 2 source sentences, but 1 target"):
        ParallelText(source=("a", "b"), target=("a",), name="x")


def test_an_empty_line_drops_its_pair_and_shifts_nobody(tmp_path):
    source = "eins\n\ndrei\n \u00a0\nfünf\n\nsieben"
    pairs = read_pairs(*pair(tmp_path, source, "one\ntwo\n\nfour\nfive\n\nseven"))
    assert list(pairs) == [("eins", "one"), ("fünf", "five"), ("sieben", "seven")]
    assert pairs.dropped == {"empty line": 4}
    assert pairs.name == f"{tmp_path / 'a.src'} | {tmp_path / 'a.tgt'}"
    with pytest.raises(ValueError, match="hold no pair"):
        read_pairs(*pair(tmp_path, "\n\n", "a\nb\n"))


LINE = st.text(st.sampled_from([*"ab \t", *NOT_LINE_ENDS, "\ufeff", "\xa0", "\u0308"]), max_size=6)


@SETTINGS
@given(st.lists(st.tuples(LINE, LINE), max_size=12), st.integers(1, 5), st.booleans())
@example([("a\u2028b", "x"), ("", "y"), ("z", "\ufeff"), ("c", "d")], 2, True)
def test_what_is_kept_is_what_was_paired_at_once_and_block_by_block(pairs, size, packed):
    normal = [(module.normalize_text(s), module.normalize_text(t)) for s, t in pairs]
    expected = [both for both in normal if all(both)]
    contents = ["".join(f"{both[side]}\n" for both in pairs).encode() for side in (0, 1)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_PAIRS", size)
        text = files(folder, *contents)
        if packed:
            paths = [write(folder, f"{i}.gz", gzip.compress(contents[i], 1)) for i in (0, 1)]
            text = PairFiles(*paths, "packed")
        assert len(text) == len(pairs)
        assert all(len(block) <= size for block in text.blocks())
        assert whole_pairs(text) == expected
        if expected:
            found = read_pairs(*text.paths)
            assert list(found) == expected
            assert found.dropped == {"empty line": len(pairs) - len(expected)}


def test_long_lines_make_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    text = files(tmp_path, f"{'a' * 300}\n" * 9, f"{'b' * 300}\n" * 9)
    sizes = [(block.first, len(block)) for block in text.blocks()]
    assert sizes == [(1, 2), (3, 2), (5, 2), (7, 2), (9, 1)]


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_PAIRS", 100)
    text = files(tmp_path, "ein Hund bellt laut\n" * 8000, "a dog barks loudly\n" * 8000)
    with at_most(200_000):  # both files have 312,000 bytes
        assert len(text) == 8000 and len(text.sample(50)) == 50


def test_what_can_be_read_only_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is read more than once: write it to a file first"):
        PairFiles(tmp_path / "pipe", tmp_path / "pipe", "x")
    with pytest.raises(FileNotFoundError):
        len(PairFiles(tmp_path / "none", tmp_path / "none", "x"))
    with pytest.raises(IsADirectoryError):
        len(PairFiles(tmp_path, tmp_path, "x"))


def test_a_sample_is_always_the_same_and_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_PAIRS", 3)
    lines = [f"{i}\n" for i in range(1000)]
    text = files(tmp_path, "".join(lines), "".join(lines))
    found = text.sample(100)
    numbers = [int(source) for source, target in found if source == target]
    assert len(found) == len(set(numbers)) == 100
    assert numbers == sorted(numbers) and text.sample(100) == found
    assert all(5 <= sum(i // 250 == quarter for i in numbers) <= 50 for quarter in range(4))
    assert text.sample(1000) == text.sample(5000) == [(line[:-1],) * 2 for line in lines]
    text = files(tmp_path, "a\n\nc\n", "x\ny\n \n")
    assert text.sample(10) == [("a", "x")]  # no empty sides


def test_without_tqdm_there_is_no_bar_but_messages_are_shown(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress_bar("reading", total=9) as bar:
        bar.update(3)
        bar.set_postfix_str("slowly", refresh=False)
        bar.write("half way")
    assert capsys.readouterr() == ("half way\n", "")


def test_lines_that_are_looked_at_one_by_one_need_no_memory(tmp_path):
    path = tmp_path / "many.gz"
    path.write_bytes(gzip.compress(b"a\n" * 200_000))
    with at_most(2**20):
        assert sum(1 for _ in lines_of_file(path)) == 200_000


def test_a_broken_line_of_a_file_is_told_before_any_is_translated(tmp_path, capsys):
    path = tmp_path / "many"
    path.write_bytes(b"a\n" * 2000 + b"\xff\n")  # more than are translated at once
    assert main(["translate", "multi30k-de-en", "--file", str(path), "--beam", "1"]) == 2
    found = capsys.readouterr()
    assert (found.out, found.err.count("\n")) == ("", 1) and "line 2001, byte 1" in found.err

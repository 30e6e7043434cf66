"""Text files read piece by piece: the same pairs and the same complaints as of whole files."""

import gzip
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformer_lib.data import textfiles
from transformer_lib.data.corpora import read_pairs
from transformer_lib.data.textfiles import PairFiles

ODD = ["\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\ufeff", "\xa0", "\u0308"]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK_PAIRS", 3)


def files(folder, source, target, name="text"):
    paths = [Path(folder) / f"a.{side}" for side in ("src", "tgt")]
    for path, content in zip(paths, (source, target), strict=True):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return PairFiles(*paths, name)


def whole_pairs(text):
    return [pair for block in text.blocks() for pair in block if all(pair)]


LINE = st.text(st.sampled_from([*"ab ", *ODD]), max_size=6)


@settings(database=None, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(LINE, LINE), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 5),
)
@example([("a\u2028b", "x"), ("", "y"), ("z", "\ufeff"), ("c", "d")], "\r\n", True, 2)
def test_piece_by_piece_is_as_at_once(pairs, end, packed, size):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(textfiles, "BLOCK_PAIRS", size)
        text = files(folder, *("".join(f"{line}{end}" for line in s) for s in sides(pairs)))
        if packed:
            packed_paths = [path.with_name(f"{path.name}.gz") for path in text.paths]
            for path, new in zip(text.paths, packed_paths, strict=True):
                new.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
            text = PairFiles(*packed_paths, "packed")
        assert len(text) == len(pairs)
        assert all(len(block) <= size for block in text.blocks())
        found = whole_pairs(text)
        if found:
            assert found == list(read_pairs(*text.paths))
        else:
            with pytest.raises(ValueError, match="hold no pair"):
                read_pairs(*text.paths)


def sides(pairs):
    return [[pair[side] for pair in pairs] for side in (0, 1)]


@pytest.mark.parametrize(("n_source", "n_target"), [(0, 1), (7, 3), (3, 7), (6, 8), (9, 0)])
def test_unequal_files_are_refused_with_both_counts(tmp_path, small_blocks, n_source, n_target):
    text = files(tmp_path, "a\n" * n_source, "b\n" * n_target)
    words = rf"a\.src has {n_source} lines, but .*a\.tgt has {n_target};"
    with pytest.raises(ValueError, match=words):
        len(text)
    with pytest.raises(ValueError, match=words):
        list(text.blocks())


def test_a_byte_that_is_not_utf8_is_named_before_any_work(tmp_path, small_blocks):
    lines = [b"gut"] * 10
    lines[7] = b"sch\xf6n"
    text = files(tmp_path, "a\n" * 10, b"\n".join(lines))
    with pytest.raises(ValueError, match=r"a\.tgt, line 8, byte 4: 0xf6 is not UTF-8"):
        len(text)


def test_a_line_without_end_is_not_taken_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(textfiles, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"fine\n" + bytes(50_000_000), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"bomb\.gz, line 2 has more than 1000 bytes"):
            list(PairFiles(path, path, "bomb").blocks())
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    text = files(tmp_path, "a" * 1000 + "\n", "b" * 1000)
    assert whole_pairs(text) == [("a" * 1000, "b" * 1000)]


def test_long_lines_make_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK_BYTES", 1000)
    text = files(tmp_path, f"{'a' * 300}\n" * 9, f"{'b' * 300}\n" * 9)
    assert [(block.first, len(block)) for block in text.blocks()] == [
        (1, 2), (3, 2), (5, 2), (7, 2), (9, 1),
    ]  # fmt: skip


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK_PAIRS", 100)

    def peak(lines):
        text = files(tmp_path, "ein Hund bellt laut\n" * lines, "a dog barks loudly\n" * lines)
        tracemalloc.start()
        try:
            assert len(text) == lines
            assert len(text.sample(50)) == 50
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8_000) < 1.1 * peak(1_000) + 20_000


def test_what_can_be_read_only_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is read more than once: write it to a file first"):
        PairFiles(tmp_path / "pipe", tmp_path / "pipe", "x")
    with pytest.raises(FileNotFoundError):
        len(PairFiles(tmp_path / "none", tmp_path / "none", "x"))
    with pytest.raises(IsADirectoryError):
        len(PairFiles(tmp_path, tmp_path, "x"))


def test_a_sample_is_always_the_same_and_from_everywhere(tmp_path, small_blocks):
    numbers = [f"{i}\n" for i in range(1000)]
    text = files(tmp_path, "".join(numbers), "".join(numbers))
    found = text.sample(100)
    places = [int(source) for source, target in found if source == target]
    assert len(found) == len(set(places)) == 100
    assert places == sorted(places) and text.sample(100) == found
    assert all(5 <= sum(i // 250 == quarter for i in places) <= 50 for quarter in range(4))
    assert text.sample(1000) == text.sample(5000) == [(line[:-1],) * 2 for line in numbers]


def test_a_sample_has_no_empty_sides(tmp_path):
    text = files(tmp_path, "a\n\nc\n", "x\ny\n \n")
    assert text.sample(10) == [("a", "x")]

"""Reading aligned text without losing the alignment, and fetching Multi30k without half files."""

import errno
import gzip
import hashlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformer_lib.data import corpora, download
from transformer_lib.data.corpora import (
    MissingDataError,
    ParallelText,
    multi30k,
    read_lines,
    read_pairs,
)
from transformer_lib.data.download import MULTI30K_SHA256, DownloadError, fetch_multi30k

ROOT = Path(__file__).parents[1]
NOT_LINE_ENDS = ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r"]

needs_multi30k = pytest.mark.skipif(
    not os.environ.get("TRANSFORMER_LIB_DATA")
    or not all(map(corpora.has_multi30k, ["train", "val", "test_2016_flickr"])),
    reason="TRANSFORMER_LIB_DATA names no folder with Multi30k in it",
)


def write(folder, name, content):
    path = Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- one file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", NOT_LINE_ENDS, ids=ascii)
def test_only_a_line_feed_ends_a_line(tmp_path, mark):
    path = write(tmp_path, "a.txt", f"one{mark}two\nthree\n")
    assert read_lines(path) == ["one two", "three"]


@pytest.mark.parametrize("content", ["a b\nc\n", "a b\nc", "a b\r\nc\r\n", "a b\r\nc"], ids=ascii)
def test_line_ends_of_every_system_with_and_without_the_last(tmp_path, content):
    assert read_lines(write(tmp_path, "a.txt", content)) == ["a b", "c"]


def test_an_empty_last_line_is_a_line(tmp_path):
    assert read_lines(write(tmp_path, "a.txt", "a\n\n")) == ["a", ""]
    assert read_lines(write(tmp_path, "a.txt", "")) == []


@pytest.mark.parametrize(
    "line", ["ein\tHund", "ein\u00a0Hund", "ein  Hund", "ein Hund  ", " ein Hund"]
)
def test_every_run_of_spaces_is_one_space(tmp_path, line):
    assert read_lines(write(tmp_path, "a.txt", line)) == ["ein Hund"]


def test_byte_order_mark_is_dropped_and_accents_are_composed(tmp_path):
    decomposed = unicodedata.normalize("NFD", "über")
    assert decomposed != "über"
    path = write(tmp_path, "a.txt", b"\xef\xbb\xbf" + f"{decomposed}\n".encode())
    assert read_lines(path) == ["über"]


def test_names_of_special_tokens_are_plain_text(tmp_path):
    line = "<pad> <unk> <bos> <eos> <s> </s> [PAD]"
    assert read_lines(write(tmp_path, "a.txt", line)) == [line]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"gut\nsch\xf6n\n", "line 2, byte 4: 0xf6"),  # Latin-1
        ("gut\n".encode("utf-16"), "line 1, byte 1: 0xff"),
        (b"a\xed\xa0\x80", "line 1, byte 2: 0xed"),  # half of a surrogate pair
    ],
)
def test_bytes_that_are_not_utf8_are_named(tmp_path, content, where):
    path = write(tmp_path, "latin.txt", content)
    with pytest.raises(ValueError) as caught:
        read_lines(path)
    assert f"{path}, {where} is not UTF-8" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gzip_files_read_like_plain_ones(tmp_path):
    text = "ein Hund\u2028bellt\nüber\n".encode()
    packed = write(tmp_path, "a.txt.gz", gzip.compress(text))
    assert read_lines(packed) == read_lines(write(tmp_path, "a.txt", text))


@pytest.mark.parametrize("content", [gzip.compress(b"abc" * 99)[:-9], b"abc\n"])
def test_a_broken_gzip_file_is_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.gz is not a whole gzip file"):
        read_lines(write(tmp_path, "a.gz", content))


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    path = write(tmp_path, "bomb.gz", gzip.compress(bytes(50_000_000), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 1000 bytes"):
            read_lines(path, max_bytes=1000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    path = write(tmp_path, "exact.txt", "a" * 1000)
    assert read_lines(path, max_bytes=1000) == ["a" * 1000]


LINES = st.lists(
    st.text(
        st.characters(exclude_characters="\n", exclude_categories=["Cs"])
        | st.sampled_from(NOT_LINE_ENDS)
    )
)
SETTINGS = settings(database=None, deadline=None, derandomize=True)


@SETTINGS
@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
@example(["a\u2028b", "", "c\r"], "\r\n", True, True)
def test_any_lines_come_back_one_by_one(lines, end, last_end, packed):
    content = end.join(lines) + end * (last_end or lines[-1:] in ([], [""]))
    content = content.encode() if lines else b""
    with tempfile.TemporaryDirectory() as folder:
        if packed:
            path = write(folder, "a.gz", gzip.compress(content, compresslevel=1))
        else:
            path = write(folder, "a", content)
        found = read_lines(path)
    spaced = [unicodedata.normalize("NFC", line.replace("\ufeff", "")) for line in lines]
    assert found == [" ".join(line.split()) for line in spaced]


# --- two files --------------------------------------------------------------------------------


def test_pairs_know_their_length_and_come_in_order(tmp_path):
    pairs = read_pairs(write(tmp_path, "a.de", "eins\nzwei\n"), write(tmp_path, "a.en", "one\ntwo"))
    assert (pairs.source, pairs.target) == (("eins", "zwei"), ("one", "two"))
    assert len(pairs) == 2
    assert list(pairs) == [("eins", "one"), ("zwei", "two")]
    assert pairs.dropped == {"empty line": 0}
    assert "a.de" in pairs.name and "a.en" in pairs.name
    assert hash(pairs) == hash(read_pairs(tmp_path / "a.de", tmp_path / "a.en"))


def test_unequal_numbers_of_lines_are_refused_with_both_counts(tmp_path):
    source = write(tmp_path, "a.de", "1\n2\n3\n")
    with pytest.raises(ValueError, match=r"a\.de has 3 lines, but .*a\.en has 4;"):
        read_pairs(source, write(tmp_path, "a.en", "1\n2\n\n4\n"))
    with pytest.raises(ValueError, match="x: 2 source sentences, but 1 target"):
        ParallelText(source=("a", "b"), target=("a",), name="x")


def test_an_empty_line_drops_its_pair_and_shifts_nobody(tmp_path):
    source = write(tmp_path, "a.de", "eins\n\ndrei\n \u00a0\nfünf\n\nsieben")
    target = write(tmp_path, "a.en", "one\ntwo\n\nfour\nfive\n\nseven")
    pairs = read_pairs(source, target)
    assert list(pairs) == [("eins", "one"), ("fünf", "five"), ("sieben", "seven")]
    assert pairs.dropped == {"empty line": 4}


def test_files_without_one_whole_pair_are_refused(tmp_path):
    empty, full = write(tmp_path, "empty", "\n\n"), write(tmp_path, "full", "a\nb\n")
    with pytest.raises(ValueError, match="hold no pair"):
        read_pairs(empty, full)


@SETTINGS
@given(st.lists(st.tuples(st.text("ab \u2028\u0085\v\r\t\u00a0"), st.text("xy \u2029\f\x1e"))))
def test_what_is_kept_is_what_was_paired(pairs):
    expected = [(" ".join(s.split()), " ".join(t.split())) for s, t in pairs]
    expected = [(s, t) for s, t in expected if s and t]
    with tempfile.TemporaryDirectory() as folder:
        source = write(folder, "s", "".join(f"{s}\n" for s, _ in pairs))
        target = write(folder, "t", "".join(f"{t}\n" for _, t in pairs))
        if not expected:
            with pytest.raises(ValueError, match="hold no pair"):
                read_pairs(source, target)
            return
        found = read_pairs(source, target)
    assert list(found) == expected
    assert found.dropped == {"empty line": len(pairs) - len(expected)}


# --- Multi30k on this machine -----------------------------------------------------------------


@needs_multi30k
@pytest.mark.parametrize(
    ("split", "count"), [("train", 29_000), ("val", 1_014), ("test_2016_flickr", 1_000)]
)
def test_multi30k_has_its_published_number_of_pairs(split, count):
    pairs = multi30k(split)
    assert len(pairs) == count
    assert pairs.dropped == {"empty line": 0}
    assert pairs.name == f"multi30k {split} de-en"
    turned = multi30k(split, "en", "de")
    assert (turned.source, turned.target) == (pairs.target, pairs.source)


@needs_multi30k
def test_odd_spaces_of_multi30k_are_gone():
    raw = gzip.decompress((corpora.multi30k_folder() / "train.de.gz").read_bytes()).decode()
    raw = raw.split("\n")[:-1]
    assert sum("\t" in line for line in raw) == 1
    assert sum(line.count("\u00a0") for line in raw) == 47
    assert sum("  " in line for line in raw) == 44
    assert sum(line.endswith(" ") for line in raw) == 40
    for line, before in zip(multi30k("train").source, raw, strict=True):
        assert line == line.strip()
        assert not {"\t", "\u00a0"} & set(line)
        assert "  " not in line
        assert line.split() == before.split()


@needs_multi30k
def test_sums_in_the_code_are_the_published_ones():
    sums = corpora.multi30k_folder() / "SHA256SUMS"
    if not sums.is_file():
        pytest.skip("no SHA256SUMS beside the files")
    published = dict(reversed(line.split()) for line in sums.read_text().splitlines())
    assert {f"{name}.gz": sha256 for name, sha256 in MULTI30K_SHA256.items()} == published


def test_every_file_has_a_sum_of_its_own():
    assert len(MULTI30K_SHA256) == len(set(MULTI30K_SHA256.values())) == 22
    assert all(len(s) == 64 and int(s, 16) for s in MULTI30K_SHA256.values())
    assert {name.split(".")[0] for name in MULTI30K_SHA256} == set(download.SPLITS)
    assert {name.split(".")[1] for name in MULTI30K_SHA256} == set(download.LANGUAGES)


@pytest.fixture
def no_web(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("went to the web unasked")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", refuse)


def test_missing_files_tell_what_to_do(tmp_path, monkeypatch, no_web):
    monkeypatch.setenv("TRANSFORMER_LIB_DATA", str(tmp_path))
    with pytest.raises(MissingDataError) as caught:
        multi30k("val", "de", "fr")
    message = str(caught.value)
    for part in ("`make data`", "val.de.gz and val.fr.gz", str(tmp_path / "multi30k"), "https://"):
        assert part in message
    assert "TRANSFORMER_LIB_DATA" in message and "\n" not in message
    assert isinstance(caught.value, FileNotFoundError)
    assert not corpora.has_multi30k("val", "de", "fr")
    assert list(tmp_path.iterdir()) == []


def test_where_multi30k_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMER_LIB_DATA", "~/texts")
    assert corpora.multi30k_folder() == Path.home() / "texts" / "multi30k"
    monkeypatch.setenv("TRANSFORMER_LIB_DATA", "")
    assert corpora.multi30k_folder() == ROOT / "data" / "multi30k"
    monkeypatch.delenv("TRANSFORMER_LIB_DATA")
    monkeypatch.chdir(tmp_path)
    assert corpora.multi30k_folder() == ROOT / "data" / "multi30k"
    monkeypatch.setattr(download, "__file__", str(tmp_path / "site" / "lib" / "download.py"))
    assert corpora.multi30k_folder() == tmp_path / "data" / "multi30k"


@pytest.fixture
def published(monkeypatch):
    """Two small files that stand for Multi30k's val.de.gz and val.en.gz."""
    files = {}
    for name, text in (("val.de", "ein Hund\nzwei Hunde\n"), ("val.en", "a dog\ntwo dogs\n")):
        files[f"{name}.gz"] = gzip.compress(text.encode())
        monkeypatch.setitem(MULTI30K_SHA256, name, hashlib.sha256(files[f"{name}.gz"]).hexdigest())
    return files


def test_multi30k_is_checked_whenever_it_is_read(tmp_path, published, no_web):
    for name, content in published.items():
        write(tmp_path, name, content)
    assert corpora.has_multi30k("val", folder=tmp_path)
    assert list(multi30k("val", folder=tmp_path))[1] == ("zwei Hunde", "two dogs")
    changed = gzip.compress(b"a cat\ntwo cats\n")
    write(tmp_path, "val.en.gz", changed)
    with pytest.raises(ValueError, match=r"val\.en\.gz is not the published file") as caught:
        multi30k("val", folder=tmp_path)
    assert MULTI30K_SHA256["val.en"] in str(caught.value)
    assert hashlib.sha256(changed).hexdigest() in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", "de", "en"), "no split 'test'; it has train, val, test_2016_flickr"),
        (("../val", "de", "en"), "no split '../val'"),
        (("val", "de", "nl"), "no language 'nl'; it has de, en, fr, cs"),
        (("val", "en", "en"), "both 'en'"),
        (("test_2017_flickr", "cs", "en"), "test_2017_flickr has no 'cs'; it has de, en, fr"),
    ],
)
def test_what_multi30k_does_not_have_is_refused(arguments, message):
    for function in (multi30k, corpora.has_multi30k):
        with pytest.raises(ValueError) as caught:
            function(*arguments)
        assert message in str(caught.value)


# --- fetching, from a server on this machine --------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.faults` holds what to do instead, by name."""

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked.append(name)
        if fault := self.server.faults.get(name):
            fault(self)
        else:
            self.answer(self.server.files[name])

    def answer(self, body, *, status=200, length=None, kind="application/octet-stream"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length != "none":
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(published, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.files, server.faults, server.asked = dict(published), {}, []
    server.awake = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/raw"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.awake.set()
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(site, folder, **options):
    lines = []
    fetch_multi30k(folder, splits=["val"], base_url=site.url, say=lines.append, **options)
    return lines


def test_fetched_files_are_whole_and_are_not_fetched_twice(tmp_path, site, published):
    folder = tmp_path / "new" / "multi30k"
    assert fetch(site, folder) == ["[1/2] val.de.gz: fetched", "[2/2] val.en.gz: fetched"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == published
    assert site.asked == ["val.de.gz", "val.en.gz"]
    (folder / "val.en.gz").unlink()
    assert fetch(site, folder) == ["[1/2] val.de.gz: already there", "[2/2] val.en.gz: fetched"]
    assert site.asked == ["val.de.gz", "val.en.gz", "val.en.gz"]
    assert len(multi30k("val", folder=folder)) == 2
    plain = write(tmp_path, "plain", "")  # others may read it, as any file one makes
    assert (folder / "val.de.gz").stat().st_mode == plain.stat().st_mode


def cut_off(handler):
    handler.answer(
        handler.server.files["val.de.gz"][:-5], length=len(handler.server.files["val.de.gz"])
    )


def cut_off_unannounced(handler):
    handler.answer(handler.server.files["val.de.gz"][:-5], length="none")


def cut_off_chunk(handler):
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"400\r\nabc")
    handler.close_connection = True


def html(handler):
    handler.answer(b"\n<!DOCTYPE html><title>Please log in</title>", kind="text/html")


def too_large(handler):
    handler.answer(bytes(5000))


def stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"abc")
    handler.server.awake.wait(10)


FAULTS = {
    "cut off": (cut_off, "cut off after"),
    "cut off, no length": (cut_off_unannounced, "not the expected file"),
    "cut off chunk": (cut_off_chunk, "it broke"),
    "wrong content": (lambda h: h.answer(b"something else"), "not the expected file"),
    "html": (html, "an HTML page came"),
    "404": (lambda h: h.answer(b"gone", status=404), "the server answered 404 Not Found"),
    "empty": (lambda h: h.answer(b""), "not the expected file"),
    "too large": (too_large, "larger than 1000 bytes"),
    "stalled": (stall, "timed out"),
    "no answer": (lambda h: h.connection.shutdown(socket.SHUT_RDWR), "no connection"),
}


@pytest.mark.parametrize("before", [None, b"an older file"], ids=["nothing there", "wrong there"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_download_leaves_all_as_it_was_and_a_rerun_works(
    tmp_path, site, monkeypatch, fault, before
):
    monkeypatch.setattr(download, "MULTI30K_MAX_BYTES", 1000)
    if before is not None:
        write(tmp_path, "val.de.gz", before)
    site.faults["val.de.gz"], what = FAULTS[fault]
    with pytest.raises(DownloadError) as caught:
        fetch(site, tmp_path, timeout=0.2 if fault == "stalled" else 10.0)
    message = str(caught.value)
    assert f"{site.url}/val.de.gz: " in message and what in message
    assert f"expected {MULTI30K_SHA256['val.de']}, found " in message
    assert f"put the file at {tmp_path / 'val.de.gz'} by hand" in message
    assert "\n" not in message
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == (
        {} if before is None else {"val.de.gz": before}
    )
    site.faults.clear()
    assert fetch(site, tmp_path)[0] == "[1/2] val.de.gz: fetched"
    assert multi30k("val", folder=tmp_path).source[0] == "ein Hund"


def test_the_found_sum_is_named(tmp_path, site):
    site.files["val.de.gz"] = b"something else"
    with pytest.raises(DownloadError, match=hashlib.sha256(b"something else").hexdigest()):
        fetch(site, tmp_path)


def test_no_network(tmp_path, site):
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        site.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"no connection.*Connection refused.*by hand"):
            fetch(site, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_no_temporary(tmp_path, site, monkeypatch, broken):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path, "val.de.gz", b"older")
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{broken}", fail)
        with pytest.raises(DownloadError, match=r"cannot write .*val\.de\.gz: No space left"):
            fetch(site, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"val.de.gz": b"older"}


def test_ctrl_c_while_writing_leaves_no_temporary(tmp_path, site, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(site, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_files_that_exist_are_asked_for(tmp_path, site):
    assert len(fetch(site, tmp_path, languages=["en"])) == 1
    assert site.asked == ["val.en.gz"]
    with pytest.raises(ValueError, match=r"no test_2017_flickr\.cs"):
        fetch_multi30k(tmp_path, ["cs"], ["test_2017_flickr"], base_url=site.url)
    with pytest.raises(ValueError, match="no language 'nl'"):
        fetch_multi30k(tmp_path, ["nl"], base_url=site.url)


def test_command_line_fetches_and_says_so(tmp_path, site, capsys):
    arguments = ["fetch", "--folder", str(tmp_path), "--splits", "val"]
    assert corpora.main(arguments, base_url=site.url) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "[1/2] val.de.gz: fetched",
        "[2/2] val.en.gz: fetched",
        f"Multi30k is in {tmp_path}",
    ]
    assert err == ""


@pytest.mark.parametrize(
    ("extra", "status"), [(["--languages", "nl"], 2), (["--languages", "de"], 1)]
)
def test_command_line_errors_are_one_line(tmp_path, site, capsys, extra, status):
    site.faults["val.de.gz"] = html
    arguments = ["fetch", "--folder", str(tmp_path), "--splits", "val", *extra]
    assert corpora.main(arguments, base_url=site.url) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1


def test_command_line_folder_that_is_a_file(tmp_path, site, capsys):
    arguments = ["fetch", "--folder", str(write(tmp_path, "file", "")), "--splits", "val"]
    assert corpora.main(arguments, base_url=site.url) == 1
    assert capsys.readouterr().err.startswith("error: cannot write ")


def command(site, folder):
    """The command line in a process of its own, with our server and all warnings as errors."""
    code = (  # a shell that starts us in the background has SIGINT ignored: take it back
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from transformer_lib import corpora, download; "
        f"download.MULTI30K_SHA256.update({dict(MULTI30K_SHA256)!r}); "
        f"sys.exit(corpora.main(sys.argv[1:], base_url={site.url!r}))"
    )
    call = [
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        "fetch",
        "--folder",
        folder,
        "--splits",
        "val",
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(call, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def wait_until_asked(site, name):
    for _ in range(6000):
        if name in site.asked:
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} was never asked for")


def test_ctrl_c_keeps_what_is_whole_and_leaves_nothing_half(tmp_path, site, published):
    site.faults["val.en.gz"] = stall
    process = command(site, tmp_path)
    wait_until_asked(site, "val.en.gz")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "[1/2] val.de.gz: fetched\n")
    assert err == "interrupted; run it again to fetch the rest\n"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "val.de.gz": published["val.de.gz"]
    }


def test_a_closed_pipe_is_no_traceback(tmp_path, site, monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    arguments = ["fetch", "--folder", str(tmp_path), "--splits", "val"]
    with os.fdopen(write_end, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert corpora.main(arguments, base_url=site.url) == 1
    # and closing the pipe, as Python does at its end, has not raised


def test_usage_of_the_module(capsys):
    call = [sys.executable, "-W", "error", "-m", "transformer_lib.data.corpora", "fetch", "--help"]
    result = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "--languages" in result.stdout and result.stderr == ""
    with pytest.raises(SystemExit, match="2"):
        corpora.main(["fetch", "--nonsense"])
    assert "--nonsense" in capsys.readouterr().err

"""Multi30k: its published files and no others, fetched whole or not at all."""

import errno
import gzip
import hashlib
import http.server
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from transformer_lib import corpora
from transformer_lib.corpora import MissingDataError, fetch_multi30k, has_multi30k, multi30k
from transformer_lib.data.multi30k import MULTI30K_SHA256, DownloadError
from transformer_lib.vocab import normalize_text

MODULE = sys.modules["transformer_lib.data.multi30k"]
ROOT = Path(__file__).parents[1]

needs_multi30k = pytest.mark.skipif(
    not os.environ.get("TRANSFORMER_LIB_DATA")
    or not all(map(has_multi30k, ["train", "val", "test_2016_flickr"])),
    reason="TRANSFORMER_LIB_DATA names no folder with Multi30k in it",
)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- on this machine


@needs_multi30k
def test_multi30k_has_its_published_pairs_without_odd_spaces():
    for split, count in {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}.items():
        pairs, turned = multi30k(split), multi30k(split, "en", "de")
        assert len(pairs) == count and pairs.dropped == {"empty line": 0}
        assert pairs.name == f"multi30k {split} de-en"
        assert (turned.source, turned.target) == (pairs.target, pairs.source)
    raw = gzip.decompress((corpora.multi30k_folder() / "train.de.gz").read_bytes()).decode()
    lines = raw.split("\n")[:-1]
    assert [raw.count("\t"), raw.count("\u00a0")] == [1, 47]
    assert multi30k("train").source == tuple(map(normalize_text, lines))


@needs_multi30k
def test_sums_in_the_code_are_the_published_ones():
    sums = corpora.multi30k_folder() / "SHA256SUMS"
    if not sums.is_file():
        pytest.skip("no SHA256SUMS beside the files")
    published = dict(reversed(line.split()) for line in sums.read_text().splitlines())
    assert {f"{name}.gz": sha256 for name, sha256 in MULTI30K_SHA256.items()} == published


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
    commands = "run `make data` or `transformer-lib fetch`", "fetch_multi30k()", "https://"
    files = "val.de.gz and val.fr.gz", str(tmp_path / "multi30k"), "set TRANSFORMER_LIB_DATA"
    assert all(part in message for part in (*commands, *files)) and "\n" not in message
    assert isinstance(caught.value, FileNotFoundError)
    assert not has_multi30k("val", "de", "fr")


def test_where_multi30k_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMER_LIB_DATA", "~/texts")
    assert corpora.multi30k_folder() == Path.home() / "texts" / "multi30k"
    monkeypatch.setenv("TRANSFORMER_LIB_DATA", "")
    assert corpora.multi30k_folder() == ROOT / "data" / "multi30k"
    monkeypatch.delenv("TRANSFORMER_LIB_DATA")
    monkeypatch.chdir(tmp_path)
    assert corpora.multi30k_folder() == ROOT / "data" / "multi30k"
    monkeypatch.setattr(MODULE, "__file__", str(tmp_path / "site" / "lib" / "multi30k.py"))
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
        (tmp_path / name).write_bytes(content)
    assert has_multi30k("val", folder=tmp_path)
    assert list(multi30k("val", folder=tmp_path))[1] == ("zwei Hunde", "two dogs")
    changed = gzip.compress(b"a cat\ntwo cats\n")
    (tmp_path / "val.en.gz").write_bytes(changed)
    with pytest.raises(ValueError, match=r"val\.en\.gz is not the published file") as caught:
        multi30k("val", folder=tmp_path)
    for content in (published["val.en.gz"], changed):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)


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
    for function in (multi30k, has_multi30k):
        with pytest.raises(ValueError) as caught:
            function(*arguments)
        assert message in str(caught.value)


# --- fetching, from a server on this machine


class Site(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.faults` holds what to do instead, by name."""

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked.append(name)
        if fault := self.server.faults.get(name):
            fault(self)
        else:
            self.answer(self.server.files[name])

    def answer(self, body, *, status=200, length=None):
        self.send_response(status)
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


def test_fetched_files_are_whole_and_are_not_fetched_twice(tmp_path, site, published, capfd):
    folder = tmp_path / "new" / "multi30k"
    assert fetch(site, folder) == ["[1/2] val.de.gz: fetched", "[2/2] val.en.gz: fetched"]
    assert contents(folder) == published
    (folder / "val.en.gz").unlink()
    assert fetch(site, folder) == ["[1/2] val.de.gz: already there", "[2/2] val.en.gz: fetched"]
    assert site.asked == ["val.de.gz", "val.en.gz", "val.en.gz"]
    assert len(multi30k("val", folder=folder)) == 2
    (tmp_path / "plain").touch()  # others may read it, as any file one makes
    assert (folder / "val.de.gz").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert capfd.readouterr() == ("", "")


def cut_off_chunk(handler):
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"400\r\nabc")
    handler.close_connection = True


def begin(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"abc")


def stall(handler):
    begin(handler)
    handler.server.awake.wait(10)


def drip(handler):
    begin(handler)
    while not handler.server.awake.wait(0.02):
        handler.wfile.write(b"d")


def drip_header(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    while not handler.server.awake.wait(0.02):
        handler.wfile.write(b"d")


FAULTS = {
    "cut off": (lambda h: h.answer(b"half", length=9), "cut off after 4 of 9 bytes"),
    "cut off, no length": (lambda h: h.answer(b"half", length="none"), "not the expected file"),
    "cut off chunk": (cut_off_chunk, "it broke"),
    "wrong content": (lambda h: h.answer(b"something else"), "not the expected file"),
    "html": (lambda h: h.answer(b"\n<!DOCTYPE html><title>"), "an HTML page came"),
    "404": (lambda h: h.answer(b"gone", status=404), "the server answered 404 Not Found"),
    "empty": (lambda h: h.answer(b""), "not the expected file"),
    "too large": (lambda h: h.answer(bytes(5000)), "larger than 1000 bytes"),
    "stalled": (stall, "timed out"),
    "too slow": (drip, "not whole after 0.2 seconds"),
    "too slow header": (drip_header, "not whole after 0.2 seconds"),
    "no answer": (lambda h: h.connection.shutdown(socket.SHUT_RDWR), "no connection"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_download_leaves_all_as_it_was_and_a_rerun_works(
    tmp_path, site, monkeypatch, fault
):
    monkeypatch.setattr(MODULE, "MULTI30K_MAX_BYTES", 1000)
    before = {"val.de.gz": b"an older file"} if fault > "e" else {}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    site.faults["val.de.gz"], what = FAULTS[fault]
    limits = {"stalled": {"timeout": 0.2}, "too slow": {"time_limit": 0.2}}
    limits["too slow header"] = limits["too slow"]
    with pytest.raises(DownloadError) as caught:
        fetch(site, tmp_path, **limits.get(fault, {}))
    message = str(caught.value)
    assert f"{site.url}/val.de.gz: " in message and what in message
    assert f"expected {MULTI30K_SHA256['val.de']}, found " in message
    if fault == "wrong content":
        assert hashlib.sha256(b"something else").hexdigest() in message
    assert f"put the file at {tmp_path / 'val.de.gz'} by hand" in message
    assert "\n" not in message
    assert contents(tmp_path) == before
    site.faults.clear()
    assert fetch(site, tmp_path)[0] == "[1/2] val.de.gz: fetched"
    assert multi30k("val", folder=tmp_path).source[0] == "ein Hund"


def test_no_network(tmp_path, site):
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        site.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"no connection.*Connection refused.*by hand"):
            fetch(site, tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_every_download_is_by_https_and_stays_so():
    assert MODULE.MULTI30K_URL.startswith("https://")
    secure = MODULE.urllib.request.Request("https://example.org/a")
    handler = MODULE.StaysSecure()
    moved = handler.redirect_request(secure, None, 302, "", {}, "https://example.org/b")
    assert moved.full_url == "https://example.org/b"
    with pytest.raises(OSError, match=r"http://example\.org/b is not https"):
        handler.redirect_request(secure, None, 302, "", {}, "http://example.org/b")


@pytest.mark.parametrize("broken", ["shutil.move", "os.unlink"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_fails_while_writing_leaves_no_temporary(tmp_path, site, monkeypatch, broken, error):
    """Before a byte of the new file is written, and when it gets its name."""

    def fail(*args):
        raise error

    (tmp_path / "val.de.gz").write_bytes(b"older")
    expected, words = KeyboardInterrupt, None
    if isinstance(error, OSError):
        expected, words = DownloadError, r"cannot write .*val\.de\.gz: No space left"
    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(expected, match=words):
            fetch(site, tmp_path)
    assert contents(tmp_path) == {"val.de.gz": b"older"}
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(site, tmp_path / "file")


def test_only_files_that_exist_are_asked_for(tmp_path, site):
    assert len(fetch(site, tmp_path, languages=["en"])) == 1
    assert site.asked == ["val.en.gz"]
    with pytest.raises(ValueError, match=r"no test_2017_flickr\.cs"):
        fetch_multi30k(tmp_path, ["cs"], ["test_2017_flickr"], base_url=site.url)
    with pytest.raises(ValueError, match="no language 'nl'"):
        fetch_multi30k(tmp_path, ["nl"], base_url=site.url)

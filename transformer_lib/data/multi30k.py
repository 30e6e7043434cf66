"""Multi30k: fetched by file, checked by sha256, and read as parallel text.

The files come one by one from the data set's repository at one commit, whose sums are below.
Nothing is fetched unless it is asked for, with `fetch_multi30k` or `transformer-lib fetch`.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from transformer_lib.data.files import file_sha256
from transformer_lib.data.locks import make_folders, remove_empty
from transformer_lib.data.text import ParallelText, read_pairs

__all__ = [
    "LANGUAGES",
    "MULTI30K_SHA256",
    "MULTI30K_URL",
    "SPLITS",
    "DownloadError",
    "MissingDataError",
    "fetch_multi30k",
    "has_multi30k",
    "multi30k",
    "multi30k_folder",
]

LANGUAGES = ("de", "en", "fr", "cs")
TESTS = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco", "test_2018_flickr")
SPLITS = ("train", "val", *TESTS)
MULTI30K_URL = (
    "https://raw.githubusercontent.com/multi30k/dataset/"
    "a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
)
MULTI30K_MAX_BYTES = 2**24  # of one file; train.de.gz has 0.6 MB, unpacked 2.1 MB
# The SHA-256 sum of NAME.gz for every NAME that exists; not every test set is in every language.
MULTI30K_SHA256 = {
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "train.cs": "a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "val.cs": "b63226e05c4bd5dd6a42897d74b86a1b9d2c31498252c572b1ea7f7996927fcc",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    "test_2016_flickr.cs": "200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1",
    "test_2017_flickr.de": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.en": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_flickr.fr": "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496",
    "test_2017_mscoco.de": "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
    "test_2017_mscoco.en": "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58",
    "test_2017_mscoco.fr": "754f3072ba9f124569ba5258b32730fc1d214bbf8e0c6dfb2b74401676220db0",
    "test_2018_flickr.de": "ddd0130c7d97482dc5197a02141dae8dd79f20f03586c480d675c09a32daf608",
    "test_2018_flickr.en": "ef4f4844037d4c5dea75c9a8ed5fd78905967a26f67c255e230cc9780032654d",
    "test_2018_flickr.fr": "fb2b83fcceb937a4f7e3e93c1c51c22aba92f1e342391e6b5ba392b16a920501",
    "test_2018_flickr.cs": "7d0a9db904f94c554a8c58049a9f3a5357c27f46cc3d710d70cb0b4a2585b8c2",
}


class DownloadError(RuntimeError):
    """A file could not be fetched; the message says why and what to do by hand."""


class MissingDataError(FileNotFoundError):
    """A data set is not on this machine; the message says how to get it."""


def multi30k_folder() -> Path:
    """Return the folder of Multi30k.

    `$TRANSFORMER_LIB_DATA/multi30k` if that variable is set; else `data/multi30k` in the
    repository, or in the current folder when the library was installed without one.
    """
    if data := os.environ.get("TRANSFORMER_LIB_DATA"):
        return Path(data).expanduser() / "multi30k"
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        root = Path.cwd()
    return root / "data" / "multi30k"


def multi30k(
    split: str, source: str = "de", target: str = "en", folder: str | Path | None = None
) -> ParallelText:
    """Read one split of Multi30k (Elliott et al., 2016): captions of photographs and translations.

    Args:
        split: one of `SPLITS`.
        source, target: two of `LANGUAGES`.
        folder: where the files are; `multi30k_folder()` when not given.

    Raises:
        MissingDataError: the files are not there; the message says what to do.
        ValueError: no such split or language, or a file that is not the published one.
    """
    paths = _paths(split, source, target, folder)
    if missing := [path for path in paths if not path.is_file()]:
        names = " and ".join(path.name for path in missing)
        raise MissingDataError(
            "Multi30k is not here: run `make data` or `transformer-lib fetch` (in Python: "
            "`transformer_lib.corpora.fetch_multi30k()`), "
            f"or put {names} from {MULTI30K_URL} into {missing[0].parent} by hand, or set "
            "TRANSFORMER_LIB_DATA to a folder that has multi30k/ in it"
        )
    for path in paths:
        expected, found = MULTI30K_SHA256[path.name.removesuffix(".gz")], file_sha256(path)
        if found != expected:
            raise ValueError(
                f"{path} is not the published file (sha256 expected {expected}, found {found}); "
                "delete it and fetch it again"
            )
    name = f"multi30k {split} {source}-{target}"
    return read_pairs(*paths, name=name, max_bytes=MULTI30K_MAX_BYTES)


def has_multi30k(
    split: str = "train", source: str = "de", target: str = "en", folder: str | Path | None = None
) -> bool:
    """Return True if both files of a split are there. `multi30k` checks what they hold."""
    return all(path.is_file() for path in _paths(split, source, target, folder))


def _paths(split: str, source: str, target: str, folder: str | Path | None) -> tuple[Path, Path]:
    if source == target:
        raise ValueError(f"source and target are both {source!r}; give two languages")
    _check_names([split], [source, target])
    for language in (source, target):
        if f"{split}.{language}" not in MULTI30K_SHA256:
            known = [name for name in LANGUAGES if f"{split}.{name}" in MULTI30K_SHA256]
            raise ValueError(f"{split} has no {language!r}; it has {', '.join(known)}")
    folder = Path(folder or multi30k_folder())
    return folder / f"{split}.{source}.gz", folder / f"{split}.{target}.gz"


def _check_names(splits: Sequence[str], languages: Sequence[str]) -> None:
    """Raise ValueError for splits and languages that Multi30k does not have."""
    for given, known, what in ((splits, SPLITS, "split"), (languages, LANGUAGES, "language")):
        for name in given:
            if name not in known:
                raise ValueError(f"Multi30k has no {what} {name!r}; it has {', '.join(known)}")


def fetch_multi30k(
    folder: str | Path | None = None,
    languages: Sequence[str] = ("de", "en"),
    splits: Sequence[str] = SPLITS,
    *,
    base_url: str = MULTI30K_URL,
    timeout: float = 30.0,
    time_limit: float = 600.0,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetch Multi30k by file from the data set's repository, and return the folder.

    Files that are there and right are left alone, so an interrupted run is simply run again.

    Args:
        folder: where the files go; `multi30k_folder()` when not given.
        languages: some of `LANGUAGES`; what a split does not have is left out.
        splits: some of `SPLITS`.
        base_url: where the files are; the tests put their own server here.
        timeout, time_limit: most seconds without an answer, and for one file.
        say: receives one line of progress for each file.

    Raises:
        DownloadError: a file could not be fetched or written; the message says what to do.
        ValueError: no such split or language, or no split in these languages.
    """
    _check_names(splits, languages)
    folder = Path(folder or multi30k_folder())
    pairs = [f"{split}.{language}" for split in splits for language in languages]
    names = [name for name in pairs if name in MULTI30K_SHA256]
    if not names:
        raise ValueError(f"Multi30k has no {', '.join(pairs) or 'file for an empty list'}")
    for i, name in enumerate(names, start=1):
        path, sha256, status = folder / f"{name}.gz", MULTI30K_SHA256[name], "already there"
        if not (path.is_file() and file_sha256(path) == sha256):
            _fetch_file(f"{base_url}/{path.name}", path, sha256, timeout, time_limit)
            status = "fetched"
        say(f"[{i}/{len(names)}] {path.name}: {status}")
    return folder


def _fetch_file(url: str, path: Path, sha256: str, timeout: float, time_limit: float) -> None:
    """Fetch a file; what was there is replaced only if all came and its sum is right.

    Raises:
        DownloadError: the file did not come whole, or cannot be written.
    """
    import pooch

    def download(url: str, output_file: str, _: object) -> None:
        data, problem = _read(url, timeout, time_limit)
        found = hashlib.sha256(data).hexdigest() if data else "nothing"
        if problem or found != sha256:
            raise DownloadError(
                f"{url}: {problem or 'not the expected file'} (sha256 expected {sha256}, "
                f"found {found}); put the file at {path} by hand, or run this again"
            )
        os.unlink(output_file)  # pooch's own file could be read by nobody else
        with open(output_file, "xb") as file:
            file.write(data)

    pooch.get_logger().setLevel("WARNING")  # one line for each file is enough
    made: list[Path] = []
    try:
        made = make_folders(path.parent)
        pooch.retrieve(url, sha256, path.name, path.parent, downloader=download)
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        remove_empty(made)  # those in which nothing has arrived


def _read(url: str, timeout: float, time_limit: float) -> tuple[bytes, str]:
    """Return what came, and what is wrong with it ("" when nothing is).

    pooch limits neither size nor time, and follows a redirection from https to http. A thread can
    be left behind, whatever it waits for: a name server, or a header that comes byte by byte.
    """
    results: list[tuple[bytes, str]] = []
    thread = threading.Thread(
        target=lambda: results.append(_receive(url, timeout, time_limit)), daemon=True
    )
    thread.start()
    thread.join(time_limit)
    return results[0] if results else (b"", f"not whole after {time_limit:g} seconds")


def _receive(url: str, timeout: float, time_limit: float) -> tuple[bytes, str]:
    stop, data = time.monotonic() + time_limit, b""
    try:
        with urllib.request.build_opener(StaysSecure).open(url, timeout=timeout) as answer:
            length = answer.length  # as announced; None when the server does not say
            while part := answer.read1(2**16):
                data += part
                if len(data) > MULTI30K_MAX_BYTES:
                    return b"", f"larger than {MULTI30K_MAX_BYTES} bytes"
                if time.monotonic() > stop:
                    return data, f"not whole after {time_limit:g} seconds"
    except urllib.error.HTTPError as error:
        with error:
            return b"", f"the server answered {error.code} {error.reason}"
    except Exception as error:  # mostly OSError, which URLError and timeouts are
        return b"", f"no connection, or it broke: {getattr(error, 'reason', None) or error!r}"
    if length is not None and len(data) < length:
        return data, f"cut off after {len(data)} of {length} bytes"
    if data[:512].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return data, "an HTML page came instead of the file"
    return data, ""


class StaysSecure(urllib.request.HTTPRedirectHandler):
    """Follow a redirection from https only to https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Return the next request, as urllib makes it."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"{newurl} is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

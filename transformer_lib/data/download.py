"""Multi30k's files from the web, checked: each is either whole and right, or not there at all.

They come one by one from the data set's repository at one commit, whose sums are below.
Nothing here runs unless it is asked to.
"""

import hashlib
import http.client
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = [
    "LANGUAGES",
    "MULTI30K_MAX_BYTES",
    "MULTI30K_SHA256",
    "MULTI30K_URL",
    "SPLITS",
    "StaysSecure",
    "DownloadError",
    "check_names",
    "fetch_file",
    "fetch_multi30k",
    "file_sha256",
    "multi30k_folder",
]

LANGUAGES = ("de", "en", "fr", "cs")
SPLITS = (
    "train",
    "val",
    "test_2016_flickr",
    "test_2017_flickr",
    "test_2017_mscoco",
    "test_2018_flickr",
)
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


def multi30k_folder() -> Path:
    """Where Multi30k is looked for.

    `$TRANSFORMER_LIB_DATA/multi30k` if that variable is set; else `data/multi30k` in the
    repository, or in the current folder when the library was installed without one.
    """
    if data := os.environ.get("TRANSFORMER_LIB_DATA"):
        return Path(data).expanduser() / "multi30k"
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        root = Path.cwd()
    return root / "data" / "multi30k"


def check_names(splits: Sequence[str], languages: Sequence[str]) -> None:
    """Refuses splits and languages that Multi30k does not have (ValueError)."""
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
    say: Callable[[str], None] = print,
) -> Path:
    """Fetches Multi30k by file from the data set's repository, pinned to one commit.

    Files that are there and right are left alone, so a broken run is simply run again.

    Args:
        folder: where the files go; `multi30k_folder()` when not given.
        languages: some of `LANGUAGES`; what a split does not have is left out.
        splits: some of `SPLITS`.
        base_url: where the files are; the tests put their own server here.
        timeout: seconds without an answer until we give up.
        say: takes one line of progress for each file.

    Returns:
        The folder.

    Raises:
        DownloadError: a file could not be fetched or written; the message says what to do.
        ValueError: no such split or language, or no split in these languages.
    """
    check_names(splits, languages)
    folder = Path(folder) if folder is not None else multi30k_folder()
    pairs = [f"{split}.{language}" for split in splits for language in languages]
    names = [name for name in pairs if name in MULTI30K_SHA256]
    if not names:
        raise ValueError(f"Multi30k has no {', '.join(pairs) or 'file for an empty list'}")
    for i, name in enumerate(names, start=1):
        path = folder / f"{name}.gz"
        fetched = fetch_file(
            f"{base_url}/{path.name}",
            path,
            sha256=MULTI30K_SHA256[name],
            max_bytes=MULTI30K_MAX_BYTES,
            timeout=timeout,
        )
        say(f"[{i}/{len(names)}] {path.name}: {'fetched' if fetched else 'already there'}")
    return folder


def file_sha256(path: Path) -> str:
    """The file's SHA-256 sum, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_file(url: str, path: Path, *, sha256: str, max_bytes: int, timeout: float) -> bool:
    """Puts the file at `url` at `path`, unless it is there already.

    The bytes are held in memory and checked before anything is written; they are written to
    a temporary in the same folder, which is then renamed. A file that is there and wrong is
    replaced only once the right one has come.

    Args:
        url: where the file is.
        path: where it goes; its folder is made if needed.
        sha256: the sum that the file must have, in hexadecimal.
        max_bytes: most bytes to read.
        timeout: seconds without an answer until we give up.

    Returns:
        True if the file was fetched, False if it was there and right.

    Raises:
        DownloadError: no connection, an answer that is not the file, or a folder that cannot
            be written. What was at `path` before is still there.
    """
    if path.is_file() and file_sha256(path) == sha256:
        return False
    data, problem = _read(url, max_bytes, timeout)
    found = hashlib.sha256(data).hexdigest() if data else "nothing"
    if problem or found != sha256:
        raise DownloadError(
            f"{url}: {problem or 'not the expected file'} (sha256 expected {sha256}, found "
            f"{found}); put the file at {path} by hand, or run this again"
        )
    try:
        _write_whole(path, data)
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from error
    return True


class StaysSecure(urllib.request.HTTPRedirectHandler):
    """Follows a redirection from https only to https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """The next request, as urllib makes it."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"{newurl} is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read(url: str, max_bytes: int, timeout: float) -> tuple[bytes, str]:
    """What came from `url`, and what is wrong with it ("" when nothing is)."""
    try:
        with urllib.request.build_opener(StaysSecure).open(url, timeout=timeout) as response:
            length = response.length  # as announced; None when the server does not say
            data = response.read(max_bytes + 1)
    except urllib.error.HTTPError as error:
        with error:
            return b"", f"the server answered {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSError
        return b"", f"no connection, or it broke: {getattr(error, 'reason', None) or error!r}"
    if len(data) > max_bytes:
        return b"", f"larger than {max_bytes} bytes"
    if length is not None and len(data) < length:
        return data, f"cut off after {len(data)} of {length} bytes"
    if data[:512].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return data, "an HTML page came instead of the file"
    return data, ""


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a temporary beside `path` and renames it, so that `path` is never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # gone already when the renaming worked

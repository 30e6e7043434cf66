"""Probes of docs/faults.md: what is read, models, corpora, text and numbers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from faults_table import LENGTH, SIZES, TEXT, Sandbox, check, probe, tree

READERS = ("info", "translate", "evaluate", "average", "explore", "export", "train")
# and `prepare --vocab-from`, which reads no weights


def reading(box: Sandbox, column: str) -> list[object]:
    """Return the words of a command that reads the model."""
    new = box.folder / "new"
    prepare = box.prepare(new, "--vocab-from", box.model)
    if column == "prepare":
        at = prepare.index("--vocab-size")
        del prepare[at : at + 2]
    return {
        "info": ["info", box.model],
        "translate": ["translate", box.model, "a b", "--beam", "1"],
        "evaluate": ["evaluate", box.model, "--data", box.data, "--split", "val", "--beam", "1"],
        "average": ["average", new, box.model, box.model],
        "explore": ["explore", box.model, "--out", box.folder / "new.html"],
        "export": ["export", box.model, new, "--to", "ctranslate2"],
        "prepare": prepare,
        "train": ["train", box.data, new, *SIZES, *LENGTH, "--init", box.model],
    }[column]


def sign(folder: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    data = (folder / name).read_bytes()
    manifest[name] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


# 4, 5, 36, 37: models


@probe(4, *READERS, "prepare")
def a_damaged_model(box: Sandbox, column: str) -> None:
    for name in ("model.safetensors", "config.json", "source.vocab", "manifest.json"):
        path = box.model / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for data in (whole[:middle], b"", flipped, None):
            if name == "manifest.json" and data == flipped:
                continue  # may be a letter of a date
            path.write_bytes(data or b"") if data is not None else path.unlink()
            box.refused(*reading(box, column), says=path.name.partition(".")[0])
            path.write_bytes(whole)
    box.must(*reading(box, column))


class Callable:
    """Something that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@probe(5, *READERS, "prepare")
def a_pickled_model(box: Sandbox, column: str) -> None:
    names = ("source.vocab", "model.safetensors", "config.json")
    for name in names[:1] if column == "prepare" else names:  # the only kind that it reads
        path = box.model / name
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Callable(box.folder / "ran")))
        sign(box.model, name)
        box.refused(*reading(box, column))
        check(not (box.folder / "ran").exists(), "it ran")
        path.write_bytes(whole)
        sign(box.model, name)


def lying_configurations(box: Sandbox) -> Iterator[None]:
    """Give the model one impossible configuration after the other, each with a right manifest."""
    path = box.model / "config.json"
    true = json.loads(path.read_text())
    lies = {"d_model": 2**20}, {"n_layers": 10**9}, {"src_vocab_size": 2**40}, {"n_heads": 0}
    for lie in (*lies, {"d_model": "16"}, {"dropout": None}, {"unknown": 1}):
        path.write_text(json.dumps(true | lie))
        sign(box.model, "config.json")
        yield


@probe(36, *READERS)
def a_configuration_that_lies(box: Sandbox, column: str) -> None:
    for _ in lying_configurations(box):
        box.refused(*reading(box, column))


@probe(36, "prepare")
def a_vocabulary_or_a_training_that_lies(box: Sandbox, column: str) -> None:
    lies = {
        "target.vocab": (b"", b"{}", b'{"tokens": 3, "language": "de"}', b"\x0a\xff" * 40),
        "training.json": (b"[]", b"{", b'{"settings": 3}', b'{"settings": {"data": [1]}}'),
    }
    for name, datas in lies.items():
        path, manifest = box.model / name, box.model / "manifest.json"
        whole = path.read_bytes() if path.exists() else None
        signed = manifest.read_text()
        for data in datas:
            path.write_bytes(data)
            if whole is not None:
                sign(box.model, name)
            box.refused(*reading(box, column), says=name.replace(".", "\\."), status=2)
        path.write_bytes(whole) if whole is not None else path.unlink()
        manifest.write_text(signed)
    box.must(*reading(box, column))


@probe(37, *READERS)
def a_model_with_nan(box: Sandbox, column: str) -> None:
    from safetensors.numpy import load_file, save_file

    path = box.model / "model.safetensors"
    weights = load_file(str(path))
    for bad in (np.nan, np.inf):
        first = next(iter(weights))
        changed = weights | {first: weights[first].copy()}
        changed[first].flat[0] = bad
        save_file(changed, str(path))
        sign(box.model, path.name)
        box.refused(*reading(box, column), says="NaN|inf", status=1)


# 11 to 17, 25: text


def ids(box: Sandbox, text: bytes) -> dict[str, bytes]:
    """Return the encoded text of a corpus made of it."""
    box.text.write_bytes(text)
    out = box.folder / f"corpus-{len([*box.folder.iterdir()])}"
    box.must(*box.prepare(out))
    return {name: data for name, data in tree(out).items() if name.endswith(".npy")}


def lines(box: Sandbox, text: bytes) -> list[str]:
    """Return what `translate --file` prints for it, a line for each of its lines."""
    box.text.write_bytes(text)
    out = box.must("translate", box.model, "--file", box.text, "--beam", "1")
    return out.removesuffix("\n").split("\n")


@probe(13, "prepare", "translate")
def other_line_ends(box: Sandbox, column: str) -> None:
    text = "".join(f"{line}\n" for line in TEXT).encode()
    look = ids if column == "prepare" else lines
    plain = look(box, text)
    check(look(box, text.replace(b"\n", b"\r\n")) == plain, "CRLF changes something")
    check(look(box, text.removesuffix(b"\n")) == plain, "a last line without its end is lost")
    for mark in ("\u2028", "\x85", "\x0b", "\r"):
        inside = text.replace(b"a b", f"a{mark}b".encode(), 1)
        found = look(box, inside)
        check(len(found) == len(plain), f"{mark!r} ends a line")


@probe(14, "prepare", "translate")
def other_spaces(box: Sandbox, column: str) -> None:
    text = "".join(f"{line}\n" for line in TEXT).encode()
    look = ids if column == "prepare" else lines
    for space in ("\t", "\u00a0", "  "):
        other = text.replace(b" ", space.encode())
        check(look(box, other) == look(box, text), f"{space!r} changes something")


@probe(15, "prepare", "translate")
def bytes_that_are_no_utf8(box: Sandbox, column: str) -> None:
    box.text.write_bytes(b"a b c d\nb \xe4 c\n" * 6)
    call = box.prepare(box.folder / "new")
    if column == "translate":
        call = ["translate", box.model, "--file", box.text]
    box.refused(*call, says="line 2", status=2)


@probe(16, "prepare", "translate")
def a_mark_and_two_code_points(box: Sandbox, column: str) -> None:
    look = ids if column == "prepare" else lines
    text = "".join(f"{line} ä\n" for line in TEXT)
    marked = "\ufeff" + text.replace("ä", "a\u0308")
    check(look(box, marked.encode()) == look(box, text.encode()), "it changes something")


@probe(17, "prepare", "translate", "explore")
def typed_special_tokens(box: Sandbox, column: str) -> None:
    if column == "explore":
        page = box.folder / "new.html"
        box.must("explore", box.model, "--out", page, "--sentence", "<eos> <pad> </script>")
        check("<eos> <pad> </script>" not in page.read_text(), "it ends the page's script")
        return
    text = "".join(f"{line} <eos> <pad> <bos>\n" for line in TEXT).encode()
    if column == "translate":
        check(len(lines(box, text)) == len(TEXT), "lines are lost")
        return
    from transformer_lib.vocab import BOS_ID, EOS_ID, PAD_ID

    found = ids(box, text)
    check(found, "no ids")
    ends = np.load(io.BytesIO(found["train.src.ends.npy"]))
    numbers = np.split(np.load(io.BytesIO(found["train.src.ids.npy"])), ends[:-1])
    special = [PAD_ID, BOS_ID, EOS_ID]
    inside = [np.isin(row[:-1], special).any() for row in numbers]
    check(not any(inside), "a special id inside a sentence")


@probe(12, "prepare")
def a_line_that_is_empty_on_one_side(box: Sandbox, column: str) -> None:
    other = box.folder / "other"
    other.write_text("".join(f"{'' if i == 1 else line}\n" for i, line in enumerate(TEXT)))
    call = box.prepare(box.folder / "new")
    call[call.index("--train") + 2] = other
    box.must(*call)
    about = json.loads((box.folder / "new" / "corpus.json").read_text())
    check(about["splits"]["train"]["pairs"] == len(TEXT) - 1, "the pair is still there")


@probe(19, "translate", "evaluate", "explore")
def a_sentence_that_is_too_long(box: Sandbox, column: str) -> None:
    long = "a " * 6000
    if column == "explore":
        box.must("explore", box.model, "--out", box.folder / "new.html", "--sentence", long)
    elif column == "translate":
        status, out, err = box.call("translate", box.model, long, "a b", "--beam", "1")
        check(status == 0 and out.startswith("\n") and len(out) > 1, f"{status}: {out[:60]!r}")
        check("tokens" in err and err.count("\n") <= 3, err)
    else:
        box.text.write_text(f"{long}\na b c d\n" + "b c d\n" * 8)
        new = box.folder / "new"
        call = box.prepare(new, "--vocab-from", box.model)
        at = call.index("--vocab-size")
        del call[at : at + 2]
        box.call(*call)
        box.must("evaluate", box.model, "--data", new, "--split", "val", "--beam", "1")


@probe(25, "prepare", "translate")
def a_gzip_bomb(box: Sandbox, column: str) -> None:
    bomb = box.folder / "bomb.gz"
    with gzip.open(bomb, "wb", 1) as file:
        for _ in range(40):
            file.write(b"a" * 2**20)
    call = box.prepare(box.folder / "new")
    call[call.index("--train") + 1] = call[call.index("--train") + 2] = bomb
    if column == "translate":
        call = ["translate", box.model, "--file", bomb]
    box.refused(*call, says="line|bytes|UTF-8", status=2)


# 20, 22, 23, 24, 28: numbers and downloads


@probe(20, "train")
def a_pair_over_the_budget(box: Sandbox, column: str) -> None:
    call = box.words("train", box.folder / "new")
    call[call.index("--max-tokens") + 1] = "2"
    box.must(*call)


@probe(23, "translate", "evaluate")
def a_beam_wider_than_the_vocabulary(box: Sandbox, column: str) -> None:
    call = reading(box, column)
    call[call.index("--beam") + 1] = "5000"
    box.refused(*call, says="beam", status=2)


@probe(28, "train")
def the_same_seed_twice(box: Sandbox, column: str) -> None:
    found = []
    for name in ("one", "two"):
        box.must(*box.words("train", box.folder / name))
        files = tree(box.folder / name)
        found.append({n: d for n, d in files.items() if n.endswith("model.safetensors")})
    check(found[0] and found[0] == found[1], "the weights differ")


@probe(24, "fetch")
def a_download_that_is_a_page(box: Sandbox, column: str) -> None:
    def answer(*_: object, **__: object) -> io.BytesIO:
        page = io.BytesIO(b"<html>not found</html>")
        page.headers = {}
        page.status, page.url = 200, "https://example.org/"
        page.geturl = lambda: "https://example.org/"
        return page

    with mock.patch("urllib.request.OpenerDirector.open", answer):
        box.refused("fetch", "--folder", box.folder / "new", says="sha256")

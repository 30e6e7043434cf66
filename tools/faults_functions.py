"""Probes of docs/faults.md: public functions."""

from __future__ import annotations

import gzip
import html
import io
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from faults_pages import FILES, never_ends, on_page, served
from faults_table import TEXT, Broken, Sandbox, check, probe, tree

SPECIALS = {0, 2, 3}  # <pad>, <bos>, <eos>


def refused(call: Callable[[], Any], says: str = "", kind: Any = ValueError) -> str:
    """Call what must raise such an error in one line; return the line."""
    try:
        call()
    except kind as error:
        line = str(error)
        check(re.search(says, line) and "\n" not in line, f"says {line!r}, not {says!r}")
        return line
    except Exception as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    raise Broken("accepted")


def model(box: Sandbox) -> Any:
    """Return the model of the sandbox."""
    from transformer_lib import Translator

    return Translator.open(box.model)


# 13 to 17, 19, 21, 43, 46: texts


def vocabulary_of(texts: list[str]) -> bytes:
    from transformer_lib import SubwordVocab

    return SubwordVocab.train(texts, size=20 if "<eos>" in str(texts[0]) else 12).to_bytes()


def words_of(texts: list[str]) -> bytes:
    from transformer_lib import WordVocab

    return WordVocab.train(texts, "de").to_bytes()


def learned_from(texts: list[str]) -> bytes:
    from transformer_lib.data import ParallelText, learn_vocabularies

    text = ParallelText(tuple(texts), tuple(texts), "x")
    size = 20 if "<eos>" in str(texts[0]) else 12  # what so few letters can give
    return learn_vocabularies(text, "subwords", size, ("de", "en"))[0].to_bytes()


def prepared_from(box: Sandbox, texts: list[str]) -> Any:
    from transformer_lib.data import ParallelText, prepare

    text, vocab = ParallelText(tuple(texts), tuple(texts), "x"), model(box).src_vocab
    out = box.folder / f"corpus-{len([*box.folder.iterdir()])}"
    prepare({"train": text, "val": text}, (vocab, vocab), out, say=lambda _: None)
    return {name: data for name, data in tree(out).items() if name.endswith(".npy")}


def of_explorer(box: Sandbox, text: str) -> list[int]:
    """Return the ids that the page inside the frame of a notebook gives the sentence."""
    from transformer_lib import Explorer

    frame = Explorer(box.model, text)._repr_html_()
    page = html.unescape(re.search(r'srcdoc="(.*)"></iframe>', frame, re.S)[1])
    return on_page(box, text, page)["src"]


LEARN = {
    "SubwordVocab.train": vocabulary_of,
    "WordVocab.train": words_of,
    "learn_vocabularies": learned_from,
}
ENCODE = (
    "Translator.encode",
    "Vocab.encode",
    "SubwordVocab.tokenize",
    "WordVocab.tokenize",
    "normalize_text",
    "Explorer",
)
TRANSLATE = ("Translator.translate", "Translator.hypotheses", "Translator.attention_maps")
TAKE_TEXT = (*LEARN, *ENCODE, *TRANSLATE, "prepare()")


def value_of(box: Sandbox, column: str) -> Callable[[str], Any]:
    """Return a function of one text, which may depend on its tokens only."""
    from transformer_lib import WordVocab, normalize_text

    if column in LEARN:
        return lambda text: LEARN[column]([text] * 6)
    if column == "prepare()":
        return lambda text: prepared_from(box, [text] * 3)
    if column == "Explorer":
        return partial(of_explorer, box)
    translator = model(box)
    if column == "WordVocab.tokenize":
        return WordVocab.train([*TEXT, "ä"] * 2, "de").tokenize
    return {
        "Translator.encode": lambda text: translator.encode([text]),
        "Vocab.encode": translator.src_vocab.encode,
        "SubwordVocab.tokenize": translator.src_vocab.tokenize,
        "normalize_text": normalize_text,
        "Translator.translate": lambda text: translator.translate([text], beam_size=1),
        "Translator.hypotheses": lambda text: translator.hypotheses([text], beam_size=1),
        "Translator.attention_maps": lambda text: translator.attention_maps(text, text)[1:],
    }[column]


@probe(13, *TAKE_TEXT)
def line_ends_inside_a_text(box: Sandbox, column: str) -> None:
    value = value_of(box, column)
    usual = value("a b c d")
    for mark in ("\u2028", "\x85", "\x0b", "\r"):
        check(value(f"a{mark}b c d") == usual, f"{mark!r} changes something")


@probe(14, *TAKE_TEXT)
def spaces_inside_a_text(box: Sandbox, column: str) -> None:
    value = value_of(box, column)
    usual = value("a b c d")
    for space in ("\t", "\u00a0", "  "):
        check(value(f"a{space}b c d{space}") == usual, f"{space!r} changes something")


@probe(15, *TAKE_TEXT)
def a_text_that_is_no_utf8(box: Sandbox, column: str) -> None:
    value = value_of(box, column)
    refused(lambda: value("a \udcff b c d"), "UTF-8|not a text")


@probe(16, *TAKE_TEXT)
def two_code_points_in_a_text(box: Sandbox, column: str) -> None:
    value = value_of(box, column)
    check(value("\ufeffa b a\u0308 d") == value("a b ä d"), "it changes something")


@probe(17, *TAKE_TEXT)
def specials_typed_in_a_text(box: Sandbox, column: str) -> None:
    from transformer_lib import Vocab

    text, value = "a <eos> <pad> <bos> Zebra", value_of(box, column)
    found = value(text)
    if column in LEARN:
        vocab = Vocab.from_bytes(found)
        check(not SPECIALS & {*vocab.encode(text)}, "a special id")
        check(len({vocab.id_to_token(i) for i in range(len(vocab))}) == len(vocab), "twice")
    elif column == "prepare()":
        ids, ends = (np.load(io.BytesIO(found[f"train.src.{n}.npy"])) for n in ("ids", "ends"))
        rows = np.split(ids, ends[:-1])
        check(not any(np.isin(row[:-1], [0, 2, 3]).any() for row in rows), "a special id")
    elif column == "normalize_text":
        check(found == text, f"now {found!r}")
    elif "Vocab" in column and column != "Vocab.encode":
        vocab = value.__self__
        check(not SPECIALS & {vocab.token_to_id(token) for token in found}, f"special in {found}")
    elif column in TRANSLATE[:2]:
        check(len(found) == 1, f"{found}")
    else:
        ids = found if column in ("Vocab.encode", "Explorer") else found[0]
        if column == "Translator.attention_maps":
            special = {"<pad>", "<bos>", "<eos>"}
            check(not special & {*ids[:-1]}, f"special in {ids}")
        else:
            ends = 0 if column == "Vocab.encode" else 1
            check(not SPECIALS & {*ids[: len(ids) - ends]}, f"special in {ids}")


@probe(46, *TAKE_TEXT)
def what_is_no_text(box: Sandbox, column: str) -> None:
    value = value_of(box, column)
    for wrong in (None, 5, b"a", ["a"]):
        if (column, wrong) != ("Explorer", None):  # an example
            refused(partial(value, wrong), "text")
    translator = model(box)
    if column in ("Translator.translate", "Translator.hypotheses", "Translator.encode"):
        function = getattr(translator, column.partition(".")[2])
        for wrong in (None, 5, "a b", {"a": 1}, (x for x in "ab")):
            refused(partial(function, wrong), "list of sentences")


@probe(19, *TRANSLATE, "Explorer", "prepare()")
def a_text_that_is_too_long(box: Sandbox, column: str) -> None:
    long, translator, warned = "a " * 6000, model(box), []
    if column == "Explorer":
        check(len(of_explorer(box, long)) > translator.model.config.max_len, "it was cut")
    elif column == "prepare()":
        kept = prepared_from(box, [long, "a b c d"])
        check(len(np.load(io.BytesIO(kept["train.src.ends.npy"]))) == 2, "it was kept")
    elif column == "Translator.attention_maps":
        refused(lambda: translator.attention_maps(long, "a"), "sentence has .* tokens")
        refused(lambda: translator.attention_maps("a", long), "translation has .* tokens")
    else:
        warn = lambda i, problem: warned.append((i, problem))  # noqa: E731
        function = getattr(translator, column.partition(".")[2])
        found = function(["a b", long, "c d"], beam_size=1, warn=warn)
        check([i for i, _ in warned] == [1] and "tokens" in warned[0][1], f"warned {warned}")
        check(len(found) == 3 and (found[1] == "" or found[1][0].ids == []), "not left empty")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            function([long], beam_size=1)
        check(len(seen) == 1, "the usual warning is missing")


@probe(21, *TRANSLATE[:2], "Explorer")
def an_empty_text(box: Sandbox, column: str) -> None:
    if column == "Explorer":
        check(of_explorer(box, "") == [3], "ids from nothing")
        return
    function = getattr(model(box), column.partition(".")[2])
    alone, among = function(["a b"], beam_size=1), function(["", "a b", " \t"], beam_size=1)
    check(len(among) == 3 and among[1] == alone[0], f"{among}")
    if column == "Translator.translate":
        check(among[::2] == ["", ""], f"{among}")
    check(function([]) == [], "something from nothing")


@probe(43, *TRANSLATE[:2], "Explorer")
def python_says_nothing_of_unfamiliar_texts(box: Sandbox, column: str) -> None:
    from transformer_lib.translate.unfamiliar import why_unfamiliar

    translator = model(box)
    ((best,),) = translator.hypotheses(["Zebra quagga!"], beam_size=1)
    check(why_unfamiliar(translator.src_vocab, "Zebra quagga!", best), "it is not doubted")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value_of(box, column)("Zebra quagga!")


# 10, 18, 22, 23, 37, 38, 44 to 47: searches

SEARCHES = ("beam_search", "greedy_decode", *TRANSLATE[:2])


def search_of(column: str, translator: Any) -> Callable[..., Any]:
    """Return a function of texts and of the options of a search."""
    import transformer_lib
    from transformer_lib.batching import pad

    if "." in column:
        return getattr(translator, column.partition(".")[2])

    def search(texts: list[str], beam_size: int = 1, **options: Any) -> Any:
        if column == "beam_search":
            options["beam_size"] = beam_size
        return getattr(transformer_lib, column)(
            translator.model, pad(translator.encode(texts)), **options
        )

    return search


@probe(22, *SEARCHES)
def a_search_without_an_end(box: Sandbox, column: str) -> None:
    never_ends(box)
    translator = model(box)
    most = translator.model.config.max_len
    (found,) = search_of(column, translator)(["a b"], beam_size=1)
    if column == "Translator.translate":
        check(2 < len(found) < 2 * most, f"{len(found)} letters")
        return
    best = found if column == "greedy_decode" else found[0]
    check(not best.finished and 10 < len(best.ids) <= most, f"{best.finished} {len(best.ids)}")


@probe(23, *SEARCHES)
def batches_and_caches(box: Sandbox, column: str) -> None:
    from transformer_lib import beam_search, greedy_decode
    from transformer_lib.batching import pad

    translator = model(box)
    search, texts = search_of(column, translator), ["a b c d", "b", "d e f a b", "zz"]
    together = search(texts, beam_size=1)
    alone = [search([text], beam_size=1)[0] for text in texts]

    def ids(found: Any) -> Any:
        if isinstance(found, str):
            return found
        return [one.ids for one in found] if isinstance(found[0], tuple) else found.ids

    if not isinstance(together[0], str | list):
        together, alone = [[x] for x in together], [[x] for x in alone]
    check([ids(x) for x in together] == [ids(x) for x in alone], "a batch changes something")
    src = pad(translator.encode(texts))
    greedy = [one.ids for one in greedy_decode(translator.model, src)]
    one = [found[0].ids for found in beam_search(translator.model, src, beam_size=1, alpha=0.0)]
    check(greedy == one, "a beam of 1 is not greedy")
    if column != "greedy_decode":
        refused(lambda: search(["a"], beam_size=5000), "beam_size")


@probe(38, *SEARCHES)
@probe(46, *SEARCHES)
def numbers_that_make_no_sense(box: Sandbox, column: str) -> None:
    search = search_of(column, model(box))
    if column in ("greedy_decode", "beam_search"):
        for wrong in ("9", 2.5, None, True):
            refused(lambda wrong=wrong: search(["a"], extra=wrong), "extra")
    if column != "greedy_decode":
        for wrong in ("2", 2.5, None, True, 0, -1, 10**30):
            refused(lambda wrong=wrong: search(["a"], beam_size=wrong), "beam_size")
        for wrong in ("x", None, float("nan"), -1.0, 10**400):
            refused(lambda wrong=wrong: search(["a"], alpha=wrong), "alpha")
    if column in ("Translator.hypotheses", "beam_search"):
        for wrong in ("2", 2.5, 0, 10**30):
            refused(lambda wrong=wrong: search(["a"], n_best=wrong), "n_best")
    if column == "Translator.hypotheses":
        for wrong in ("9", 2.5, 0, True):
            refused(lambda wrong=wrong: search(["a"], max_tokens=wrong), "max_tokens")
    if column == "greedy_decode":  # a huge number is no more than all positions
        check(search(["a"], extra=10**30), "nothing")


@probe(18, "beam_search", "greedy_decode")
def a_source_without_a_row(box: Sandbox, column: str) -> None:
    import torch

    import transformer_lib

    translator = model(box)
    for bad in (16, 10**6, -1):
        src = torch.tensor([[5, bad, 3]])
        refused(
            lambda src=src: getattr(transformer_lib, column)(translator.model, src),
            f"id {bad} .*16 ids",
        )


@probe(10, "beam_search", "greedy_decode")
def a_source_of_padding(box: Sandbox, column: str) -> None:
    import torch

    import transformer_lib

    found = getattr(transformer_lib, column)(model(box).model, torch.tensor([[0, 0], [5, 3]]))
    scores = [x.score if column == "greedy_decode" else x[0].score for x in found]
    check(len(found) == 2 and np.isfinite(scores).all(), f"scores {scores}")


@probe(37, *SEARCHES, "Translator.attention_maps")
def a_search_that_computes_nan(box: Sandbox, column: str) -> None:
    import torch

    translator = model(box)
    with torch.no_grad():
        translator.model.decoder.layers[0].residuals[0].norm.bias[0] = float("nan")
    if column == "Translator.attention_maps":
        refused(lambda: translator.attention_maps("a b", "a b"), "NaN")
        return
    refused(lambda: search_of(column, translator)(["a b"], beam_size=1), "NaN")


@probe(44, "beam_search", "Translator.hypotheses")
def no_two_read_the_same(box: Sandbox, column: str) -> None:
    translator = model(box)
    options = {"beam_size": 5, "n_best": 5}
    if column == "beam_search":
        options["text_of"] = translator.tgt_vocab.decode
    for found in search_of(column, translator)(["a b c d", "d e"], **options):
        texts = [translator.tgt_vocab.decode(one.ids) for one in found]
        check(len({*texts}) == len(texts) == 5, f"{texts}")


@probe(45, *SEARCHES)
def a_changed_layer(box: Sandbox, column: str) -> None:
    import torch

    translator = model(box)
    search = search_of(column, translator)
    calls = []
    layer = translator.model.decoder.layers[0].feed_forward
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    search(["a b"], beam_size=1)
    check(calls, "the hook was not called")
    handle.remove()

    class Ends(torch.nn.Module):
        """In place of the output: the end is certain."""

        weight = translator.model.output_projection.weight

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = hidden.new_zeros(*hidden.shape[:-1], len(self.weight))
            logits[..., 3] = 99.0
            return logits

    translator.model.output_projection = Ends()
    (found,) = search(["a b"], beam_size=1)
    if isinstance(found, list):
        (found,) = found
    check(found == "" or found.ids == [], f"not the changed model: {found}")


@probe(47, *SEARCHES, "Translator.attention_maps")
def no_mode_is_changed(box: Sandbox, column: str) -> None:
    """A model in training mode gives what it gives in evaluation mode, and no mode changes."""
    import torch

    translator, seen = model(box), []

    def act() -> Any:
        if column == "Translator.attention_maps":
            return translator.attention_maps("a b", "a b")[0].cross[0].tolist()
        found = search_of(column, translator)(["a b c", "b"], beam_size=1)
        return [getattr(one[0] if isinstance(one, list) else one, "ids", one) for one in found]

    def watch(frame: Any, event: str, _: object) -> None:  # a patched method would be a change
        if event == "call" and frame.f_code is torch.nn.Module.train.__code__:
            seen.append(frame.f_locals["self"])

    usual = act()
    translator.model.train()
    sys.setprofile(watch)
    try:
        again = act()
    finally:
        sys.setprofile(None)
    check(again == usual, "dropout was at work")
    check(all(part.training for part in translator.model.modules()), "a mode was changed")
    parts = [*map(id, translator.model.modules())]
    check(not [part for part in seen if id(part) in parts], "the mode of a shared model was set")


# 10: masks, 18: ids


@probe(10, "attention", "MultiHeadAttention.forward", "EncoderLayer.forward", "Encoder.forward")
@probe(10, "DecoderLayer.forward", "Decoder.forward")
@probe(10, "Transformer.encode", "Transformer.decode", "Transformer.forward")
@probe(10, "Transformer.attention_maps")
def attention_without_a_key(box: Sandbox, column: str) -> None:
    import torch

    from transformer_lib import MultiHeadAttention, attention

    network, name = model(box).model, column.partition(".")[2]
    x = torch.randn(2, 3, 16, requires_grad=True)
    mask = torch.tensor([[0, 0, 0], [1, 1, 0]], dtype=torch.bool)[:, None, None, :]
    full = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    src, tgt = torch.tensor([[0, 0, 0], [5, 3, 0]]), torch.tensor([[2, 5, 6], [2, 5, 0]])
    if column == "attention":
        found, weights = attention(x, x, x, mask[:, 0])
        check(not found[0].any() and not weights[0].any(), "not 0")
    elif column == "MultiHeadAttention.forward":
        layer = MultiHeadAttention(16, 2)
        found = layer(x, x, mask)
        check(torch.equal(found[0], layer.output.bias.expand(3, -1)), "not only the bias")
    elif column.startswith("Encoder"):
        part = network.encoder if column == "Encoder.forward" else network.encoder.layers[0]
        found = part(x, mask)
    elif column.startswith("Decoder"):
        part = network.decoder if column == "Decoder.forward" else network.decoder.layers[0]
        found = part(x, full, x, mask)
    elif name == "encode":
        found = network.encode(src)
    elif name == "decode":
        found = network.decode(tgt, x, src)
    elif name == "attention_maps":
        found = torch.stack(list(network.attention_maps(src, tgt).cross))
        check(found.isfinite().all() and not found[:, 0].any(), "not 0")
        return
    else:
        found = network(src, tgt)
    check(found.isfinite().all(), "not finite")
    found.sum().backward()
    grads = [x.grad] if x.grad is not None else [p.grad for p in network.parameters()]
    check(all(g is None or g.isfinite().all() for g in grads), "a gradient is not finite")


@probe(10, "collate", "epoch_batches")
def a_pair_without_a_token(box: Sandbox, column: str) -> None:
    from transformer_lib import collate, epoch_batches

    for pair in (([], [2, 3]), ([0, 0], [2, 3]), ([5, 3], [0])):
        pairs = [([5, 3], [2, 3]), pair]
        act = partial(collate, pairs)
        if column == "epoch_batches":
            act = lambda pairs=pairs: [*epoch_batches(pairs, 100)]  # noqa: E731
        refused(act, "without a single token")


@probe(18, "Vocab.decode")
@probe(46, "Vocab.decode")
def an_id_without_a_token(box: Sandbox, column: str) -> None:
    for bad in (16, -1, 10**9):
        refused(partial(model(box).src_vocab.decode, [5, bad]), f"id {bad} .* 16 ids")


# 11 to 16, 24, 25, 33: files of text

READ = ("read_lines", "read_pairs", "PairFiles")


def lines_of(column: str, path: Path, other: Path | None = None) -> list[Any]:
    """Return what a function reads from a file, or from two."""
    from transformer_lib.data import PairFiles, read_lines, read_pairs

    if column == "read_lines":
        return read_lines(path)
    if column == "read_pairs":
        text = read_pairs(path, other or path)
        return [*zip(text.source, text.target, strict=True)]
    text = PairFiles(path, other or path, "x")
    found = [pair for block in text.blocks() for pair in block]
    check(len(found) == len(text) or "" in (side for pair in found for side in pair), "its length")
    return found


@probe(13, *READ)
@probe(16, *READ)
def lines_of_a_file(box: Sandbox, column: str) -> None:
    text = "".join(f"{line} ä\n" for line in TEXT)

    def read(data: str) -> list[Any]:
        box.text.write_bytes(data.encode())
        return lines_of(column, box.text)

    usual = read(text)
    check(read(text.replace("\n", "\r\n")) == usual, "CRLF changes something")
    check(read(text.removesuffix("\n")) == usual, "the last line is lost")
    check(read("\ufeff" + text.replace("ä", "a\u0308")) == usual, "a mark changes something")
    for mark in ("\u2028", "\x85", "\x0b", "\r"):
        check(len(read(text.replace("a b", f"a{mark}b", 1))) == len(usual), f"{mark!r} ends a line")


@probe(15, *READ)
def a_line_that_is_no_utf8(box: Sandbox, column: str) -> None:
    box.text.write_bytes(b"a b c d\nb \xe4 c\n")
    refused(partial(lines_of, column, box.text), f"{box.text}.*line 2")


@probe(25, *READ)
def a_bomb(box: Sandbox, column: str) -> None:
    bomb = box.folder / "bomb.gz"
    with gzip.open(bomb, "wb", 1) as file:
        for _ in range(1100 if column == "read_lines" else 40):
            file.write(b"a" * 2**20)
    refused(partial(lines_of, column, bomb), "bytes|line")


@probe(33, *READ)
def a_file_that_cannot_be_read(box: Sandbox, column: str) -> None:
    link = box.folder / "link"
    link.symlink_to(box.folder / "away")
    refused(partial(lines_of, column, link), "link|No such", OSError)
    refused(partial(lines_of, column, box.folder), "directory|folder", (OSError, ValueError))


@probe(11, "read_pairs", "PairFiles", "ParallelText")
def unequal_numbers_of_lines(box: Sandbox, column: str) -> None:
    from transformer_lib.data import ParallelText

    other = box.folder / "other"
    other.write_text("a\nb\n")
    act = partial(lines_of, column, box.text, other)
    if column == "ParallelText":
        act = partial(ParallelText, tuple(TEXT), ("a", "b"), "x")
    refused(act, f"{len(TEXT)}.* 2|2 .*{len(TEXT)}")


@probe(12, "read_pairs", "PairFiles")
def an_empty_line_on_one_side(box: Sandbox, column: str) -> None:
    other = box.folder / "other"
    lines = ["" if i == 1 else f"{i}" for i in range(len(TEXT))]
    other.write_text("".join(f"{line}\n" for line in lines))
    found = [pair for pair in lines_of(column, box.text, other) if all(pair)]
    expected = [(TEXT[i], f"{i}") for i in range(len(TEXT)) if i != 1]
    check(found == expected, f"{found[:3]}")


@probe(24, "multi30k", "fetch_multi30k")
@probe(33, "multi30k")
def files_that_are_not_the_published_ones(box: Sandbox, column: str) -> None:
    from transformer_lib.corpora import fetch_multi30k, multi30k

    folder = box.folder / "new"
    with served():
        if column == "fetch_multi30k":
            bad = mock.patch("transformer_lib.data.multi30k._read", lambda *_: (b"<html>", ""))
            with bad:
                refused(lambda: fetch_multi30k(folder, splits=("val",)), "sha256", RuntimeError)
            check(not folder.exists(), "something is left")
            fetch_multi30k(folder, splits=("val",), say=lambda _: None)
            return
        folder.mkdir()
        refused(lambda: multi30k("val", folder=folder), "not here", FileNotFoundError)
        for name in FILES:
            (folder / f"{name}.gz").write_bytes(b"wrong")
        refused(lambda: multi30k("val", folder=folder), "sha256 expected")
        (folder / "val.de.gz").unlink()
        (folder / "val.de.gz").symlink_to(folder / "away")
        refused(lambda: multi30k("val", folder=folder), "not here", FileNotFoundError)

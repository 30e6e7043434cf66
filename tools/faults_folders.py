"""Probes of docs/faults.md: public functions that read and write folders, settings and training."""

from __future__ import annotations

import copy
import dataclasses
import errno
import inspect
import io
import json
import os
import pickle
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from faults_functions import model, refused
from faults_pages import FILES, fill, served
from faults_reading import Callable as Pickled
from faults_reading import lying_configurations, sign
from faults_table import TEXT, Broken, Sandbox, check, probe, tree
from faults_writing import mounted

# 4, 5, 32, 33, 36, 37, 46: saved models and corpora


def opener(box: Sandbox, column: str) -> Callable[[Path], Any]:
    """Return what reads a model folder."""
    from transformer_lib import Explorer, Translator
    from transformer_lib.data import check_folder

    return {
        "Explorer": lambda path: Explorer(path)._repr_html_(),
        "Translator.open": Translator.open,
        "Translator.from_pretrained": Translator.from_pretrained,
        "check_folder": check_folder,
    }[column]


OPEN = ("Translator.open", "Translator.from_pretrained", "Explorer")
CORPUS = ("Prepared", "Prepared.pairs", "Prepared.text", "Prepared.line_numbers")


def open_corpus(box: Sandbox, column: str) -> Any:
    from transformer_lib.data import Prepared

    corpus = Prepared(box.data)
    if column == "Prepared.pairs":
        return corpus.pairs("val")
    if column == "Prepared.line_numbers":
        return corpus.line_numbers("val")
    return corpus.text("val") if column == "Prepared.text" else corpus


@probe(4, *OPEN, "check_folder", *CORPUS)
def a_damaged_folder(box: Sandbox, column: str) -> None:
    folder = box.data if column in CORPUS else box.model
    act = partial(open_corpus, box, column) if column in CORPUS else None
    act = act or partial(opener(box, column), box.model)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        if path.name == "manifest.json" or not whole:
            continue
        middle = len(whole) // 2  # of the weights: only the manifest can tell
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for data in (whole[:middle], b"", flipped, None):
            path.write_bytes(data) if data is not None else path.unlink()
            refused(act, re.escape(path.name), (ValueError, OSError))
            path.write_bytes(whole)
    act()


@probe(33, *OPEN, "check_folder", *CORPUS)
def a_folder_that_cannot_be_read_now(box: Sandbox, column: str) -> None:
    folder = box.data if column in CORPUS else box.model
    act = partial(open_corpus, box, column) if column in CORPUS else None
    act = act or partial(opener(box, column), box.model)
    real = io.open
    for path in sorted(folder.iterdir()):

        def fail(file: Any, *arguments: Any, path: Path = path, **options: Any) -> Any:
            if str(file) == str(path):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return real(file, *arguments, **options)

        with mock.patch("io.open", fail), mock.patch("builtins.open", fail):
            line = refused(act, "Permission denied", OSError)
        check("damaged" not in line, line)


@probe(5, *OPEN)
def a_pickle_in_a_model(box: Sandbox, column: str) -> None:
    for name in ("model.safetensors", "source.vocab", "config.json"):
        path = box.model / name
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Pickled(box.folder / "ran")))
        sign(box.model, name)
        refused(partial(opener(box, column), box.model), re.escape(name))
        check(not (box.folder / "ran").exists(), "it ran")
        path.write_bytes(whole)
        sign(box.model, name)


@probe(5, *CORPUS)
def a_pickle_in_a_corpus(box: Sandbox, column: str) -> None:
    names = {"Prepared": "source.vocab", "Prepared.line_numbers": "corpus.json"}
    path = box.data / names.get(column, "val.src.ids.npy")
    contents = [pickle.dumps(Pickled(box.folder / "ran"))]
    if path.suffix == ".npy":
        np.save(path, np.array([Pickled(box.folder / "ran")]), allow_pickle=True)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        sign(box.data, path.name)
        refused(partial(open_corpus, box, column), re.escape(path.name))
        check(not (box.folder / "ran").exists(), "it ran")


@probe(36, *CORPUS)
def a_corpus_that_lies(box: Sandbox, column: str) -> None:
    names = {"Prepared.pairs": "val.src.ends.npy", "Prepared.text": "val.src.txt"}
    path = box.data / names.get(column, "corpus.json")
    whole = path.read_bytes()
    lies: list[bytes] = []
    if column == "Prepared.pairs":
        for wrong in ([2**40], [-1, 5], [9, 3], [1.5], [[3]], []):
            file = io.BytesIO()
            np.save(file, np.array(wrong))
            lies.append(file.getvalue())
        lies.append(lies[0].replace(b"(1,)", b"(9999999999,)"))  # more than there is
    elif column == "Prepared.text":
        lies = [b"", b"a\n", b"a\n" * 99, b"\xff\n" * len(TEXT)]
    elif column == "Prepared.line_numbers":
        for wrong in ([-1], ["3"], 5, {"a": 1}, [None]):
            about = json.loads(whole)
            about["splits"]["val"]["left_out"] = wrong
            lies.append(json.dumps(about).encode())
    else:
        changes = {"splits": 5}, {"splits": {}}, {"name": 3}, {"splits": {"../x": {}}}
        lies = [b"5", b"[]", b"{}", *(json.dumps(json.loads(whole) | c).encode() for c in changes)]
    for lie in lies:
        path.write_bytes(lie)
        sign(box.data, path.name)
        says = "val" if column == "Prepared.text" else re.escape(path.name)
        refused(partial(open_corpus, box, column), says)
    path.write_bytes(whole)
    sign(box.data, path.name)
    open_corpus(box, column)


@probe(5, "Vocab.from_bytes", "Vocab.load", "SubwordVocab")
@probe(36, "Vocab.from_bytes", "Vocab.load", "SubwordVocab")
def bytes_that_are_no_vocabulary(box: Sandbox, column: str) -> None:
    from transformer_lib import SubwordVocab, Vocab

    true = (box.model / "source.vocab").read_bytes()
    pickled = pickle.dumps(Pickled(box.folder / "ran"))
    for data in (pickled, true[: len(true) // 2], b"", b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x7f"):
        box.text.write_bytes(data)
        act = {
            "Vocab.from_bytes": partial(Vocab.from_bytes, data),
            "Vocab.load": partial(Vocab.load, box.text),
            "SubwordVocab": partial(SubwordVocab, data),
        }[column]
        refused(act)
        check(not (box.folder / "ran").exists(), "it ran")


@probe(36, *OPEN)
def a_model_that_lies(box: Sandbox, column: str) -> None:
    for _ in lying_configurations(box):
        refused(partial(opener(box, column), box.model))


@probe(37, *OPEN)
def weights_that_are_no_numbers(box: Sandbox, column: str) -> None:
    from safetensors.numpy import load_file, save_file

    path = box.model / "model.safetensors"
    weights = load_file(str(path))
    first = next(iter(weights))
    for bad in (np.nan, np.inf):
        weights[first].flat[0] = bad
        save_file(weights, str(path))
        sign(box.model, path.name)
        refused(partial(opener(box, column), box.model), "NaN|inf")


@probe(46, *OPEN)
def what_is_no_name(box: Sandbox, column: str) -> None:
    for wrong in (None, 5, b"a", ["a"]):
        refused(partial(opener(box, column), wrong), "text")


@probe(32, "Explorer")
def a_checkpoint_goes_while_a_page_is_made(box: Sandbox, column: str) -> None:
    from transformer_lib.data import manifest

    newest, real = box.newest(), manifest.file_sha256
    (box.run / "best.json").unlink()

    def lose(path: Any) -> str:
        if newest.exists() and Path(path).parent == newest:
            newest.rename(newest.with_name("step-000099"))
        return real(path)

    with mock.patch.object(manifest, "file_sha256", lose):
        opener(box, column)(box.run)
    check(not newest.exists(), "nothing was read")


# 3, 29, 31, 32, 34, 35, 37: what is written

WRITE = ("Translator.save", "write_folder", "prepare()")


def writer(box: Sandbox, column: str) -> Callable[..., Any]:
    """Return a function that writes a folder."""
    from transformer_lib.data import ParallelText, prepare, write_folder

    translator = model(box)
    if column == "Translator.save":
        return translator.save
    if column == "write_folder":
        return partial(write_folder, fill=lambda new: (new / "a").write_text("x"), kind="export")
    text, vocab = ParallelText(tuple(TEXT), tuple(TEXT), "x"), translator.src_vocab
    return lambda out: prepare(
        {"train": text, "val": text}, (vocab, vocab), out, say=lambda _: None
    )


@probe(3, *WRITE, "fetch_multi30k", "Translator.write_files")
def a_disk_without_room(box: Sandbox, column: str) -> None:
    from transformer_lib.corpora import DownloadError, fetch_multi30k

    place = box.folder / "disk"
    place.mkdir()
    if column == "fetch_multi30k":
        act = lambda: fetch_multi30k(place / "o", splits=("val",), say=lambda _: None)  # noqa: E731
    elif column == "Translator.write_files":
        act = partial(model(box).write_files, place)
    else:
        act = partial(writer(box, column), place / "o")
    kind, names = (OSError, DownloadError), re.escape(str(place))
    if column == "Translator.write_files":  # `write_folder` adds the name
        kind, names = Exception, "No space|space left"
    with served():
        if column != "Translator.write_files":
            with mounted(place, "ro"):
                refused(act, "Read-only", kind)
        with mounted(place):
            filler = fill(place)
            refused(act, names, kind)
            if column != "Translator.write_files":
                check(os.listdir(place) == ["filler"], f"left {os.listdir(place)}")
            filler.unlink()
            act()


@probe(29, *WRITE)
@probe(31, *WRITE)
def a_name_that_is_taken(box: Sandbox, column: str) -> None:
    write = writer(box, column)
    foreign, link = box.folder / "foreign", box.folder / "link"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    link.symlink_to(foreign)
    kinds = {"Translator.save": box.model, "prepare()": box.data}
    taken = {foreign, link, box.text, box.data, box.model, box.newest(), box.model / "x"}
    before = tree(box.folder)
    for out in taken - {kinds.get(column)}:
        refused(partial(write, out), kind=(FileExistsError, NotADirectoryError))
        check(tree(box.folder) == before, f"changed the disk: {out}")
    write(box.folder / "new")
    write(box.folder / "new")  # of the same kind, and nothing else in it
    (box.folder / "new" / "notes.txt").write_text("mine")
    refused(partial(write, box.folder / "new"), "not ours", FileExistsError)


@probe(32, *WRITE)
def a_name_that_another_writes(box: Sandbox, column: str) -> None:
    from transformer_lib.data.files import reserve

    write, out, told = writer(box, column), box.folder / "new", []
    with reserve(out):  # by a thread or a process, a name has one writer
        thread = threading.Thread(
            target=lambda: told.append(refused(partial(write, out), "another", FileExistsError))
        )
        thread.start()
        thread.join()
    check(told and not out.exists(), "two at a time")
    write(out)


@probe(34, *WRITE)
def whole_or_not_at_all(box: Sandbox, column: str) -> None:
    from transformer_lib.data import files

    write, out = writer(box, column), box.folder / "new"
    write(out)
    before, real = tree(box.folder), files._flush
    for at in (1, 2):
        seen = []

        def fail(path: Path, at: int = at, seen: list = seen) -> None:
            seen.append(path)
            if len(seen) == at:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            real(path)

        with mock.patch.object(files, "_flush", fail):
            refused(partial(write, out), "Input/output", OSError)
        check(tree(box.folder) == before, "not as before")


@probe(35, *WRITE, "fetch_multi30k")
def a_name_that_is_no_utf8(box: Sandbox, column: str) -> None:
    odd = Path(os.fsdecode(os.fsencode(box.folder) + b"/od\xff"))
    before = tree(box.folder)
    if column == "fetch_multi30k":  # its files have names of their own: any folder is as good
        from transformer_lib.corpora import fetch_multi30k

        with served():
            fetch_multi30k(odd, splits=("val",), say=lambda _: None)
        check(len([*odd.iterdir()]) == len(FILES), "not all files")
        return
    refused(partial(writer(box, column), odd), "UTF-8")
    check(tree(box.folder) == before, "changed the disk")


@probe(35, "Translator.write_files")
@probe(37, "Translator.write_files", "Translator.save")
def weights_that_could_not_be_read(box: Sandbox, column: str) -> None:
    import torch

    translator, out = model(box), box.folder / "new"
    if column == "Translator.write_files":
        out.mkdir()
    write = getattr(translator, column.partition(".")[2])
    bias = translator.model.encoder.layers[0].feed_forward.expand.bias
    with torch.no_grad():
        bias[0] = 1e30
    refused(partial(write, out, torch.float16), "float16|half")
    with torch.no_grad():
        bias[0] = float("nan")
    refused(partial(write, out), "NaN")
    with torch.no_grad():
        bias[0] = 0.0
    state = {name: tensor.clone() for name, tensor in translator.model.state_dict().items()}
    translator.model.load_state_dict(state, assign=True)
    refused(partial(write, out), "shared|unknown")
    check(not out.exists() or not any(out.iterdir()), "something was written")


@probe(29, "fetch_multi30k")
@probe(31, "fetch_multi30k")
@probe(32, "fetch_multi30k")
@probe(34, "fetch_multi30k")
def what_is_there_is_left_alone(box: Sandbox, column: str) -> None:
    from transformer_lib.corpora import DownloadError, fetch_multi30k

    out, said = box.folder / "out", []
    out.mkdir()
    (out / "mine").write_text("mine")
    fetch = partial(fetch_multi30k, splits=("val",), say=said.append)
    with served() as asked:
        before = tree(box.folder)
        refused(lambda: fetch(box.text), kind=DownloadError)
        check(tree(box.folder) == before, "changed the disk")
        threads = [threading.Thread(target=fetch, args=(out,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = {path.name: path.read_bytes() for path in out.iterdir()}
        expected = {f"{name}.gz": data for name, data in FILES.items()}
        check(found == expected | {"mine": b"mine"}, f"{found}")
        asked.clear()
        fetch(out)
        check(not asked and "already there" in said[-1], "fetched again")


# 6, 9, 18 to 20, 26, 28, 36, 38, 39, 48: settings and training


@probe(26, "RunConfig", "TrainConfig", "ModelConfig", "LengthFilter")
@probe(38, "RunConfig", "TrainConfig", "ModelConfig", "LengthFilter")
def settings_of_another_kind_or_size(box: Sandbox, column: str) -> None:
    import transformer_lib
    from transformer_lib.data import LengthFilter
    from transformer_lib.train import RunConfig

    make = {"RunConfig": RunConfig, "LengthFilter": LengthFilter}.get(column)
    make = inspect.unwrap(make or getattr(transformer_lib, column))
    given = (9, 9) if column == "ModelConfig" else ()
    usual = make(*given)
    n = 0
    for field in dataclasses.fields(usual):
        value = getattr(usual, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for wrong in (10**400, "3", -1, float("nan"), []):
            if wrong == -1 and field.name in ("seed", "pad_id"):
                continue
            options = {field.name: wrong}
            if column == "ModelConfig":
                options = {"src_vocab_size": 9, "tgt_vocab_size": 9} | options
            refused(partial(make, **options), rf"{field.name}|over 2\*\*36 weights")
            n += 1
    check(n >= 5, "no number was tried")


def trainer(box: Sandbox, data: Path | None = None, out: str = "new", **changes: Any) -> Any:
    """Return a trainer of a tiny model."""
    from transformer_lib import ModelConfig, TrainConfig
    from transformer_lib.data import Prepared
    from transformer_lib.train import RunConfig, Trainer

    corpus = Prepared(data or box.data)
    sizes = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16}
    config = ModelConfig.tiny(len(corpus.src_vocab), **sizes | changes.pop("model", {}))
    run = RunConfig(**{"steps": 8, "validate_every": 4, "max_tokens": 32} | changes)
    return Trainer(corpus, config, TrainConfig(), run, box.folder / out)


def trained(box: Sandbox, data: Path | None = None, out: str = "new", **changes: Any) -> Any:
    """Return a trainer after its training."""
    made = trainer(box, data, out, **changes)
    made.start(say=lambda _: None)
    made.fit(quiet=True)
    return made


@probe(20, "Trainer", "Trainer.fit")
def a_pair_over_the_budget_of_a_trainer(box: Sandbox, column: str) -> None:
    check(trained(box, max_tokens=2).step == 8, "not all steps")


@probe(28, "Trainer", "Trainer.fit")
def the_same_seed_in_two_trainers(box: Sandbox, column: str) -> None:
    ends = []
    for out in ("one", "two"):
        state = trained(box, out=out).translator.model.state_dict()
        ends.append({name: tensor.clone() for name, tensor in state.items()})
    check(all(tensor.equal(ends[1][name]) for name, tensor in ends[0].items()), "other weights")
    other = trained(box, out="three", seed=1).translator.model.state_dict()
    check(any(not tensor.equal(other[name]) for name, tensor in ends[0].items()), "no seed")


@probe(39, "Trainer", "Trainer.fit", "Trainer.validate")
def too_short_for_bleu(box: Sandbox, column: str) -> None:
    box.text.write_text("a b\nc d\nb\nd e f\n" * 4)
    box.must(*box.prepare(box.folder / "short"))
    made = trained(box, box.folder / "short")
    check(made.measure == "chrf" and made.best["chrf"] is not None, f"{made.measure} {made.best}")


@probe(19, "Trainer.validate")
def a_validation_line_that_is_too_long(box: Sandbox, column: str) -> None:
    box.text.write_text("".join(f"{line}\n" for line in TEXT) + "a " * 60 + "\n")
    call = [*box.prepare(box.folder / "long"), "--max-length", "20"]
    box.must(*call)
    made = trained(box, box.folder / "long", model={"max_len": 24})
    check(made.step == 8 and np.isfinite(made.best["val_loss"]), f"{made.best}")


@probe(48, "Trainer")
def a_trainer_larger_than_the_memory(box: Sandbox, column: str) -> None:
    with mock.patch("transformer_lib.data.devices.free_memory", return_value=10_000):
        refused(lambda: trainer(box), "memory|GB")  # a large one would be killed in an older one


@probe(9, "Trainer", "Trainer.fit", "Trainer.update", "train_step")
def a_loss_that_is_nan(box: Sandbox, column: str) -> None:
    import torch

    from transformer_lib import TrainConfig, collate, make_optimizer, train_step

    made = trainer(box)
    made.start(say=lambda _: None)
    network = made.translator.model
    with torch.no_grad():
        network.decoder.layers[0].feed_forward.expand.bias[0] = float("nan")
    before = copy.deepcopy(network.state_dict())
    batch = collate([([5, 6, 3], [2, 5, 6, 3])])
    act = {
        "Trainer.update": lambda: made.update([batch]),
        "train_step": lambda: train_step(
            network, make_optimizer(network, TrainConfig()), batch, 1, TrainConfig()
        ),
    }.get(column, lambda: made.fit(quiet=True))
    line = refused(act, "nan|not finite|infinite", FloatingPointError)
    check("step 1" in line, f"no step in {line!r}")
    for name, tensor in network.state_dict().items():
        check(torch.equal(tensor.nan_to_num(7.0), before[name].nan_to_num(7.0)), f"{name} changed")


@probe(18, "Trainer.update")
def a_batch_without_a_row(box: Sandbox, column: str) -> None:
    from transformer_lib import collate

    made = trainer(box)
    for pair, side in ((([16, 3], [2, 3]), "source"), (([5, 3], [2, 99, 3]), "target")):
        refused(lambda pair=pair: made.update([collate([pair])]), f"{side} id .*16 ids")


@probe(28, "train_step", "Trainer.update")
def the_same_steps_twice(box: Sandbox, column: str) -> None:
    import torch

    from transformer_lib import TrainConfig, collate, make_optimizer, train_step

    losses = []
    for out in ("one", "two"):
        made, batch = trainer(box, out=out), collate([([5, 6, 3], [2, 5, 6, 3])])
        torch.manual_seed(3)
        network, config = made.translator.model, TrainConfig()
        optimizer = make_optimizer(network, config)
        losses.append(
            [
                made.update([batch]).loss
                if column == "Trainer.update"
                else train_step(network, optimizer, batch, step, config).loss
                for step in (1, 2, 3)
            ]
        )
    check(losses[0] == losses[1] and len({*losses[0]}) == 3, f"{losses}")


@probe(6, "Trainer", "Trainer.fit", "Trainer.start", "Trainer.restore")
def other_settings(box: Sandbox, column: str) -> None:
    first = trained(box, seed=5)
    newest = sorted(first.checkpoints.iterdir())[-1]
    other = trainer(box, seed=6, max_tokens=48)
    before = tree(first.folder)
    act = {"Trainer.restore": partial(other.restore, newest)}.get(
        column, partial(other.start, "latest", say=lambda _: None)
    )
    line = refused(act)
    check("seed" in line and "max_tokens" in line, f"says {line!r}")
    check(tree(first.folder) == before, "changed the disk")


@probe(4, "Trainer", "Trainer.start", "Trainer.restore")
@probe(33, "Trainer", "Trainer.start", "Trainer.restore")
@probe(5, "Trainer", "Trainer.start", "Trainer.restore")
@probe(36, "Trainer", "Trainer.start", "Trainer.restore")
def a_checkpoint_that_is_damaged(box: Sandbox, column: str) -> None:
    first = trained(box)
    older, newest = sorted(first.checkpoints.iterdir())[-2:]
    path = newest / "training.pt"
    whole = path.read_bytes()
    pickled = pickle.dumps(Pickled(box.folder / "ran"))
    for data, signs in ((whole[:99], False), (b"", False), (pickled, True), (whole[:99], True)):
        path.write_bytes(data)
        manifest = (newest / "manifest.json").read_bytes()
        if signs:
            sign(newest, path.name)
        other = trainer(box)
        act = {"Trainer.restore": partial(other.restore, newest)}.get(
            column, partial(other.start, "latest", say=lambda _: None)
        )
        refused(act, r"training\.pt", (ValueError, OSError))
        check(newest.exists() and not (box.folder / "ran").exists(), "renamed, or it ran")
        (newest / "manifest.json").write_bytes(manifest)
    path.unlink()
    path.symlink_to(box.folder / "away")
    refused(act, "link|No such", OSError)
    if column != "Trainer.restore":
        said = []
        other = trainer(box)
        other.start("auto", say=said.append)
        other.close()
        check(newest.exists() and other.step == int(older.name[5:]), f"{said}")


@probe(29, "Trainer", "Trainer.save")
@probe(31, "Trainer", "Trainer.save")
def a_trainer_in_a_folder_of_others(box: Sandbox, column: str) -> None:
    foreign = box.folder / "foreign"
    foreign.mkdir()
    (foreign / "log.jsonl").write_text('{"mine": 1}\n')
    for out in ("foreign", "data", "model", "text"):
        before = tree(box.folder)
        refused(
            lambda out=out: trainer(box, out=out).start(say=lambda _: None),
            kind=(ValueError, FileExistsError, NotADirectoryError),
        )
        check(tree(box.folder) == before, f"changed the disk: {out}")
    made = trainer(box)
    made.start(say=lambda _: None)
    link = made.checkpoints / "step-000000"
    link.symlink_to(foreign)  # as where a checkpoint was moved elsewhere
    made.save()
    made.close()
    check(not link.is_symlink() and (foreign / "log.jsonl").exists(), "went through a link")


@probe(32, "Trainer", "Trainer.save")
def two_trainers_in_one_folder(box: Sandbox, column: str) -> None:
    made, other = trainer(box), trainer(box)
    made.start(say=lambda _: None)
    refused(lambda: other.start(say=lambda _: None), "another", (OSError, ValueError))
    made.fit(quiet=True)


@probe(34, "Trainer", "Trainer.save")
@probe(3, "Trainer", "Trainer.save")
def a_save_that_fails(box: Sandbox, column: str) -> None:
    made = trainer(box, out="disk/new")
    (box.folder / "disk").mkdir()
    with mounted(box.folder / "disk"):
        made.start(say=lambda _: None)
        made.save()
        before = tree(made.folder)
        fill(box.folder / "disk")
        made.step = 1
        refused(made.save, "step-000001|No space", OSError)
        check(tree(made.folder) == before, "left a part")
        made.close()


@probe(35, "Trainer", "Trainer.save")
def a_run_whose_name_is_no_utf8(box: Sandbox, column: str) -> None:
    before = tree(box.folder)
    refused(lambda: trainer(box, out="od\udcff").start(say=lambda _: None), "UTF-8")
    check(tree(box.folder) == before, "changed the disk")


@probe(49, "Transformer.forward")
def no_torchscript(box: Sandbox, column: str) -> None:
    import torch

    network = model(box).model.eval()
    src, tgt = torch.tensor([[5, 6, 3]]), torch.tensor([[2, 5, 6]])
    try:
        torch.jit.script(network)
    except Exception:  # of which kind is torch's affair
        program = torch.export.export(network, (src, tgt)).module()
        check(torch.allclose(program(src, tgt), network(src, tgt), atol=1e-5), "other numbers")
        return
    raise Broken("it compiles now: docs/faults.md says that it does not")

"""Probes of docs/faults.md: the page of `explore`, what is fetched, disks, and running models."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from shutil import which
from unittest import mock

import numpy as np
from faults_reading import reading, sign
from faults_table import LENGTH, ROOT, SIZES, TEXT, Sandbox, Untried, check, probe, tree
from faults_writing import WRITERS, mounted, words

# What the page does with its sentence, run by Node.js without a document.
ON_PAGE = """
const vm = require("vm");
for (const text of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
  try { vm.runInThisContext(text); } catch { break; } // the first script that needs a document
}
vm.runInThisContext(`(async () => {
  const [key] = ExplorerStart.models, { sentence } = ExplorerStart;
  const { model, srcVocab, about } = await openModel(TransformerModels[key]);
  const src = srcVocab.encode(sentence, { eos: true });
  const doubts = (n) => whyUnfamiliar(srcVocab, sentence, greedyDecode(model, src), about.valLoss);
  const doubt = src.length > 1 && src.length <= model.config.max_len ? doubts() : null;
  return JSON.stringify({ sentence, src, doubt, most: model.config.max_len });
})()`).then(console.log);
"""


class Scripts(HTMLParser):
    """The scripts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag == "script"
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def on_page(box: Sandbox, sentence: str, page: str = "") -> dict:
    """Write a page for a sentence, if none is given, and return what the page makes of it."""
    if not which("node"):
        raise Untried("Node.js")
    if not page:
        out = box.folder / "new.html"
        box.must("explore", box.model, "--out", out, "--force", "--sentence", sentence)
        page = out.read_text("utf-8")
    scripts = Scripts()
    scripts.feed(page)
    done = subprocess.run(
        ["node", "-e", ON_PAGE], input=json.dumps(scripts.texts), capture_output=True, text=True
    )
    check(not done.returncode and done.stdout, done.stderr[-300:])
    return json.loads(done.stdout)


def same_as_ours(box: Sandbox, sentence: str, usual: str) -> None:
    """Compare the ids of the page with ours of the usual spelling of the sentence."""
    from transformer_lib import Translator

    found = on_page(box, sentence)
    check(found["sentence"] == sentence, f"the page has {found['sentence']!r}")
    ours = Translator.open(box.model).encode([usual])[0]
    check(found["src"] == ours, f"{sentence!r} has the ids {found['src']}, not {ours}")


# 13 to 17, 21, 43: the sentence of a page


@probe(13, "explore")
def line_ends_in_the_sentence(box: Sandbox, column: str) -> None:
    for mark in ("\u2028", "\x85", "\x0b", "\r", "\r\n", "\n"):
        same_as_ours(box, f"a{mark}b c", "a b c")


@probe(14, "explore")
def spaces_in_the_sentence(box: Sandbox, column: str) -> None:
    for space in ("\t", "\u00a0", "  "):
        same_as_ours(box, f" a{space}b c{space}", "a b c")


@probe(15, "explore")
def a_sentence_that_is_no_utf8(box: Sandbox, column: str) -> None:
    done = box.shell("tl explore model --out x.html --sentence $'a \\xff b'", LC_ALL="C.UTF-8")
    line = done.stderr
    check(done.returncode == 2, f"status {done.returncode}: {line!r}")
    check(line.count("\n") == 1 and "UTF-8" in line, f"says {line!r}")
    check(not (box.folder / "x.html").exists(), "a page was written")


@probe(16, "explore")
def two_code_points_in_the_sentence(box: Sandbox, column: str) -> None:
    same_as_ours(box, "\ufeffa b a\u0308", "a b ä")


@probe(17, "explore")
def typed_specials_in_the_sentence(box: Sandbox, column: str) -> None:
    found = on_page(box, "a <eos> <pad> <bos> Zebra")
    check(not {0, 2, 3} & {*found["src"][:-1]}, f"a special id in {found['src']}")


@probe(19, "explore")
def a_sentence_too_long_for_the_page(box: Sandbox, column: str) -> None:
    found = on_page(box, "a " * 6000)
    check(len(found["src"]) > found["most"], "it was cut")
    code = (ROOT / "explorer" / "ui.js").read_text("utf-8")
    check("tokens, the model takes" in code, "the page does not tell")


@probe(21, "explore")
def an_empty_sentence(box: Sandbox, column: str) -> None:
    for sentence in ("", "  "):
        found = on_page(box, sentence)
        check(found["sentence"] == sentence, f"the page has {found['sentence']!r}")
        check(found["src"] == [3], f"its ids are {found['src']}")


@probe(43, "explore")
def a_page_doubts(box: Sandbox, column: str) -> None:
    from transformer_lib import Translator
    from transformer_lib.translate.unfamiliar import why_unfamiliar

    translator = Translator.open(box.model)
    texts = ["Zebra quagga!", *TEXT[:2]]
    ours = []
    for text in texts:
        ((best,),) = translator.hypotheses([text], beam_size=1, alpha=0.0)
        ours.append(why_unfamiliar(translator.src_vocab, text, best))
        check(on_page(box, text)["doubt"] == ours[-1], f"{text!r}: not {ours[-1]!r}")
    check(any(ours), "nothing is doubted")


# 3: disks


def fill(folder: Path) -> Path:
    """Write a file that takes all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@probe(3, "prepare", "average", "export")
def a_full_disk_keeps_the_old_folder(box: Sandbox, column: str) -> None:
    place = box.folder / "full"
    place.mkdir()
    with mounted(place):
        call = words(box, column, place / "out")
        box.must(*call)
        before, filler = tree(place / "out"), fill(place)
        status, _, err = box.call(*call, "--force")
        check(status == 1 and err.startswith("error: "), f"status {status}: {err}")
        check(err.count("\n") == 1 and str(place / "out") in err, f"says {err!r}")
        check(tree(place / "out") == before, "the old folder is changed")
        check(sorted(os.listdir(place)) == ["filler", "out"], f"left {os.listdir(place)}")
        filler.unlink()
        box.must(*call, "--force")


@probe(3, "train")
def a_full_disk_ends_a_run(box: Sandbox, column: str) -> None:
    place = box.folder / "full"
    place.mkdir()
    with mounted(place):
        call = words(box, column, place / "run")
        fill(place)
        status, _, err = box.call(*call)
        check(status == 1 and err.count("\n") == 1, f"status {status}: {err}")
        check(str(place) in err and os.listdir(place) == ["filler"], f"{os.listdir(place)}: {err}")


# 24, 29, 32, 34, 35, 38: fetch, from a server that is a stand-in

FILES = {f"val.{side}": f"{side}\n".encode() for side in ("de", "en")}
FETCH = ("fetch", "--splits", "val", "--folder")
SERVED = f"""
import hashlib, sys, time
from unittest import mock
import transformer_lib.data.multi30k as m
files = {FILES!r}
m.MULTI30K_SHA256.update((n, hashlib.sha256(d).hexdigest()) for n, d in files.items())
def read(url, *rest):
    print("asked", flush=True)
    time.sleep(WAIT)
    return files[url.rpartition("/")[2].removesuffix(".gz")], ""
m._read = read
from transformer_lib.cli import main
sys.exit(main())
"""


@contextmanager
def served():
    """Answer every download with a small file of the expected sum; yield what was asked for."""
    import transformer_lib.data.multi30k as module

    asked = []

    def read(url: str, *rest: object) -> tuple[bytes, str]:
        asked.append(url.rpartition("/")[2].removesuffix(".gz"))
        return FILES[asked[-1]], ""

    sums = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    with (
        mock.patch.dict(module.MULTI30K_SHA256, sums),
        mock.patch.object(module, "_read", read),
    ):
        yield asked


def fetched(folder: Path) -> None:
    """Check that both files are there and nothing else."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    expected = {f"{name}.gz": data for name, data in FILES.items()}
    check(found == expected, f"there are {found}")


@probe(3, "fetch")
def a_full_or_read_only_disk(box: Sandbox, column: str) -> None:
    place = box.folder / "disk"
    place.mkdir()
    with served():
        with mounted(place, "ro"):
            box.refused(*FETCH, place / "new", says="new.*Read-only file system", status=1)
        with mounted(place):
            filler = fill(place)
            box.refused(*FETCH, place / "new", says="new.*No space left", status=1)
            filler.unlink()
            box.must(*FETCH, place / "new")
            fetched(place / "new")


@probe(29, "fetch")
def a_folder_that_is_there(box: Sandbox, column: str) -> None:
    out = box.folder / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    (out / "val.de.gz").write_bytes(FILES["val.de"])
    (out / "val.en.gz").write_bytes(b"wrong")
    with served() as asked:
        box.must(*FETCH, out)
        check(asked == ["val.en"], f"fetched {asked}")
        check((out / "mine").read_text() == "mine", "changed another file")
        (out / "mine").unlink()
        fetched(out)
        (out / "val.de.gz").unlink()
        (out / "val.de.gz").mkdir()
        box.refused(*FETCH, out, says="val.de.gz", status=1)


def fetch_line(box: Sandbox, wait: float = 0.0) -> str:
    """Write a program that fetches from the stand-in, and return the words that start it."""
    program = box.folder / "served.py"
    program.write_text(SERVED.replace("WAIT", str(wait)))
    return f"'{sys.executable}' '{program}' {' '.join(FETCH)}"


@probe(29, "fetch")
def nobody_reads_the_progress(box: Sandbox, column: str) -> None:
    line = fetch_line(box)
    for end in ("| true", "2>&1 | true"):
        done = box.shell(f"{line} out {end}; exit ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED="1")
        check(not done.returncode and not done.stderr, f"{done.returncode}: {done.stderr[-200:]}")
        fetched(box.folder / "out")
        for path in (box.folder / "out").iterdir():
            path.unlink()


@probe(32, "fetch")
def two_fetch_to_one_folder(box: Sandbox, column: str) -> None:
    line = fetch_line(box, 1.0)
    done = box.shell(f"{line} out >one 2>&1 & {line} out >two 2>&1; a=$?; wait $!; echo $? $a")
    both = [(box.folder / name).read_text() for name in ("one", "two")]
    check(done.stdout == "0 0\n", f"{done.stdout} {both}")
    fetched(box.folder / "out")


@probe(35, "fetch")
def a_folder_that_is_not_utf8(box: Sandbox, column: str) -> None:
    done = box.shell(f"{fetch_line(box)} $'od\\xff'", LC_ALL="C.UTF-8")
    told = done.returncode and done.stderr.count("\n") == 1 and "UTF-8" in done.stderr
    check(told or not done.returncode, f"{done.returncode}: {done.stderr[-200:]}")
    odd = Path(os.fsdecode(os.fsencode(box.folder) + b"/od\xff"))
    if told:
        check(not odd.exists(), "refused, and a folder is left")
    else:
        fetched(odd)


@probe(38, "fetch")
def fetch_with_closed_streams(box: Sandbox, column: str) -> None:
    line = fetch_line(box)
    for number, closed in enumerate((">&-", "2>&-", "<&- >&- 2>&-")):
        done = box.shell(f"{line} out{number} {closed}")
        check(not done.returncode, f"{closed}: {done.returncode}, {done.stderr[-200:]}")
        fetched(box.folder / f"out{number}")


@probe(38, "fetch")
def pooch_is_missing(box: Sandbox, column: str) -> None:
    with served(), mock.patch.dict(sys.modules, {"pooch": None}):
        box.refused(*FETCH, box.folder / "new", says="pooch", status=2)


@probe(38, "explore")
def a_sentence_where_the_locale_is_ascii(box: Sandbox, column: str) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = box.shell("tl explore model --out x.html --sentence 'ä b'", **plain)
    check(not done.returncode, done.stderr)
    check('"\\u00e4 b"' in (box.folder / "x.html").read_text("utf-8"), "another sentence")


@probe(38, "export")
def an_engine_is_missing(box: Sandbox, column: str) -> None:
    for engine in ("ctranslate2", "transformers"):
        gone = {n: None for n in [*sys.modules, engine] if n.split(".")[0] == engine}
        gone |= {f"{engine}.specs": None}
        with mock.patch.dict(sys.modules, gone):
            call = ["export", box.model, box.folder / "new", "--to", engine]
            box.refused(*call, says=r"transformer-lib\[export\]", status=2)


@probe(38, "explore", "info", "average", "train", "prepare", "evaluate", "translate", "export")
def closed_streams(box: Sandbox, column: str) -> None:
    """A closed stdout is told where the result would go there; otherwise the work is done."""
    out = box.folder / {"translate": "x.png", "explore": "x.html"}.get(column, "x")
    line = " ".join(f"'{word}'" for word in words(box, column, out))
    for closed in ("<&-", "2>&-"):
        done = box.shell(f"tl {line} {closed} >printed")
        if "transformer-lib[export]" in done.stderr:
            raise Untried(column)
        check(not done.returncode, f"{closed}: {done.returncode} {done.stderr[-200:]}")
        if column != "info":
            check(out.exists(), f"{closed}: nothing was written")
            subprocess.run(["rm", "-r", str(out)], check=True)
    done = box.shell(f"tl {line} >&-")
    if column in ("info", "translate", "evaluate"):
        told = done.stderr.count("\n") == 1 and "standard output is closed" in done.stderr
        check(done.returncode == 1 and told, f"{done.returncode}: {done.stderr[-200:]}")
        check(not out.exists(), "status 1, and it was written")
    else:
        check(not done.returncode and out.exists(), f"{done.returncode}: {done.stderr[-200:]}")


# 2, 7, 39: training

KILL = """
import os, signal, sys
import transformer_lib.data.files as files
real, seen = files._flush, []
def flush(path):
    real(path)
    if "step-" in str(path):
        seen.append(path)
        if len(seen) == AT:
            os.kill(os.getpid(), signal.SIGKILL)
files._flush = flush
from transformer_lib.cli import main
sys.exit(main())
"""


@probe(2, "train")
def killed_while_it_saves(box: Sandbox, column: str) -> None:
    whole = tree(box.run / "checkpoints" / "step-000012")["model.safetensors"]
    flags = " ".join([*SIZES, *LENGTH])
    for at in (1, 9):  # within the first save, and within the second
        (box.folder / "kill.py").write_text(KILL.replace("AT", str(at)))
        line = f"train data new-{at} {flags}"
        done = box.shell(f"'{sys.executable}' kill.py {line}")
        check(done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), "it was not killed")
        done = box.shell(f"tl {line} --resume auto")
        check(not done.returncode and "damaged" not in done.stdout, done.stdout + done.stderr)
        left = tree(box.folder / f"new-{at}")
        check(left["checkpoints/step-000012/model.safetensors"] == whole, f"other weights: {at}")
        check(not [n for n in left if ".writing-" in n or ".replaced-" in n], f"left {[*left]}")


@probe(7, "train")
def a_checkpoint_of_two_processes(box: Sandbox, column: str) -> None:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    flags = " ".join([*SIZES, *LENGTH])
    # as torchrun starts them: ranks, each with its share of every batch
    train = f"tl train data two {flags}"
    done = box.shell(
        f"RANK=0 LOCAL_RANK=0 {train} & RANK=1 LOCAL_RANK=1 {train} & wait",
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
    )
    two = box.folder / "two"
    check((two / "checkpoints" / "step-000012").is_dir(), done.stdout[-300:] + done.stderr[-300:])
    call = words(box, "train", two)
    call[call.index("--steps") + 1] = "16"
    out = box.must(*call, "--resume", "latest")
    check("step-000012" in out and (two / "checkpoints" / "step-000016").is_dir(), out)


@probe(39, "train")
def sentences_without_four_tokens(box: Sandbox, column: str) -> None:
    box.text.write_text("a b\nc d\nb\nd e f\n" * 4)
    data, out = box.folder / "short", box.folder / "new"
    box.must(*box.prepare(data))
    box.must("train", data, out, *SIZES, *LENGTH)
    step = json.loads((out / "best.json").read_text())["step"]
    curve = json.loads((out / "checkpoints" / "step-000012" / "training.json").read_text())["curve"]
    scored = {line["step"]: line for line in curve if "val_loss" in line}
    check(all("chrf" in line for line in scored.values()), f"no chrF: {scored}")
    best = max(scored.values(), key=lambda line: (line["chrf"], -line["val_loss"]))
    check(scored[step]["chrf"] == best["chrf"], f"best is {step}: {scored}")
    settings = json.loads((out / "run.json").read_text())
    check('"chrf"' in json.dumps(settings), f"ranked by another score: {settings}")


# 18, 22: models and corpora that do not fit


@probe(18, "train")
def an_id_without_a_row(box: Sandbox, column: str) -> None:
    path = next(path for path in box.data.iterdir() if path.name == "val.src.ids.npy")
    true = np.load(path)
    for bad in (16, 10**4):
        changed = true.copy()
        changed[0] = bad
        np.save(path, changed)
        sign(box.data, path.name)
        status, _, err = box.call(*words(box, column, box.folder / f"new-{bad}"))
        line = err.strip().split("\n")[-1]  # the bar of the steps comes before
        check(status == 2 and f"source id {bad}" in line and "16 ids" in line, f"says {line!r}")


def never_ends(box: Sandbox) -> None:
    """Change the model so that the end of a sentence is never its best token."""
    import torch

    from transformer_lib import Translator

    translator = Translator.open(box.model)
    with torch.no_grad():
        norm = translator.model.decoder.layers[-1].residuals[-1].norm
        norm.weight.zero_()
        norm.bias.fill_(3.0)
        weight = translator.model.output_projection.weight
        weight[3].fill_(-1.0)  # <eos>
        weight[4:].abs_()
        weight[:3].fill_(-1.0)
    translator.save(box.folder / "endless")
    subprocess.run(["rm", "-r", str(box.model)], check=True)
    (box.folder / "endless").rename(box.model)


@probe(22, "evaluate", "translate")
def a_model_that_never_ends(box: Sandbox, column: str) -> None:
    never_ends(box)
    if column == "translate":
        box.text.write_text("a b\nb\n")
        out = box.must("translate", box.model, "--file", box.text, "--beam", "1")
        check(out.count("\n") == 2 and len(out) > 40, f"{out!r}")
        return
    out = box.must(*reading(box, column))
    check(re.search(r"\d+ translations reached the length limit", out), out)


@probe(44, "translate")
def five_best_that_read_differently(box: Sandbox, column: str) -> None:
    out = box.must("translate", box.model, "a b c d", "--beam", "5", "--n-best", "5")
    found = [line for line in out.split("\n") if line]
    check(out.count("\n") == 5 and len({*found}) == len(found) > 1, f"{out!r}")


# 29, 38: links, other tools


@probe(38, *WRITERS, "info")
def rank_of_another_tool(box: Sandbox, column: str) -> None:
    no = box.folder / "nowhere"
    call = {
        "train": ["train", no, box.folder / "n"],
        "evaluate": ["evaluate", no, "--data", no],
        "translate": ["translate", no, "a"],
        "average": ["average", box.folder / "n", no],
        "info": ["info", no],
        "export": ["export", no, box.folder / "n", "--to", "transformers"],
        "explore": ["explore", no, "--out", box.folder / "n.html"],
        "prepare": ["prepare", box.model, "--corpus", "multi30k"],
    }[column]
    with mock.patch.dict(os.environ, {"RANK": "1"}):
        box.refused(*call, status=2)


# 29: planted links


@probe(29, *WRITERS)
def planted_links(box: Sandbox, column: str) -> None:
    precious = box.folder / "precious"
    precious.write_text("mine")
    out = box.folder / {"translate": "new.png", "explore": "new.html"}.get(column, "new")
    if column == "train":
        out.mkdir()
        (out / ".lock").symlink_to(precious)
    else:
        for name in (f".writing-{out.name}", f".lock-{out.name}"):
            (box.folder / name).symlink_to(precious)
    box.call(*words(box, column, out))
    check(precious.read_text() == "mine", "the target of a link was changed")

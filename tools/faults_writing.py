"""Probes of docs/faults.md: what is written, and what a status of 0 means."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

from faults_table import ROOT, TEXT, Broken, Sandbox, check, probe, tree

FOLDERS = ("prepare", "average")  # commands that write a folder of ours
FILES = {
    "evaluate": ("result", "report", "hypotheses"),
    "translate": ("attention",),
    "explore": ("out",),
}
ENDING = {
    "result": ".json",
    "report": ".html",
    "hypotheses": ".txt",
    "attention": ".png",
    "out": ".html",
}
WRITERS = ("prepare", "average", "export", "train", "evaluate", "translate", "explore")


def outputs(box: Sandbox, column: str) -> list[list[object]]:
    """Return the words of a command for each of its outputs, without the path, which comes last."""
    base = {
        "evaluate": ["evaluate", box.model, "--data", box.data, "--split", "val", "--beam", "1"],
        "translate": ["translate", box.model, "a b c d", "--beam", "1"],
        "explore": ["explore", box.model],
    }[column]
    return [[*base, f"--{name}"] for name in FILES[column]]


def words(box: Sandbox, column: str, out: Path, *flags: object) -> list[object]:
    """Return the words of a command that writes to `out`."""
    found = box.words(column, out)
    if column == "evaluate":
        found = [*outputs(box, "evaluate")[0], out]
    return [*found, *flags]


# 31: what is not ours stays


@probe(31, *FOLDERS, "export")
def foreign_file(box: Sandbox, column: str) -> None:
    out = box.folder / "p"
    if column == "export":
        from transformer_lib.data.files import write_folder

        write_folder(out, lambda f: (f / "a").touch(), kind="export")
    else:
        box.must(*words(box, column, out))
    (out / "notes.txt").write_text("mine")
    (out / "runs").mkdir()
    box.refused(*words(box, column, out, "--force"), says="not ours", status=2)


@probe(31, *FOLDERS, "export", "train")
def another_kind(box: Sandbox, column: str) -> None:
    for out in (box.data, box.model, box.newest(), box.newest().parent / "step-000099"):
        if (column, out) in (("prepare", box.data), ("average", box.model)):
            continue
        flags = [] if column == "train" else ["--force"]
        box.refused(*words(box, column, out, *flags), status=2)


@probe(31, "train")
def inside_a_folder_of_ours(box: Sandbox, column: str) -> None:
    box.refused(*words(box, column, box.data / "runs"), status=2)


@probe(31, "train")
def foreign_log(box: Sandbox, column: str) -> None:
    out = box.folder / "app"
    out.mkdir()
    (out / "log.jsonl").write_text('{"mine": 1}\n')
    box.refused(*words(box, column, out), status=2)
    (out / "log.jsonl").rename(out / "best.json")
    box.refused(*words(box, column, out), status=2)


@probe(31, *WRITERS, "info", "fetch")
def a_file_for_a_folder(box: Sandbox, column: str) -> None:
    file = box.text
    if column in ("prepare", "average", "export", "train", "fetch"):
        for out in (file, file / "x"):
            status = None if column == "fetch" else 2
            box.refused(*words(box, column, out), status=status)
            if column not in ("train", "fetch"):
                box.refused(*words(box, column, out, "--force"), status=status)
    if column in ("evaluate", "train"):
        call = (
            ["evaluate", box.model, "--data", file]
            if column == "evaluate"
            else ["train", file, box.folder / "n"]
        )
        box.refused(*call, says="not a (prepared )?folder", status=2)
    if column not in ("prepare", "train", "fetch"):
        call = {
            "evaluate": ["evaluate", file, "--data", box.data],
            "explore": ["explore", file, "--out", box.folder / "n.html"],
            "translate": ["translate", file, "a"],
            "info": ["info", file],
            "average": ["average", box.folder / "n", file],
            "export": ["export", file, box.folder / "n", "--to", "transformers"],
        }[column]
        box.refused(*call, says="not a folder|no folder", status=2)


@probe(31, "Translator.save")
def api_keeps_foreign_files(box: Sandbox, column: str) -> None:
    from transformer_lib import Translator

    (box.model / "notes.txt").write_text("mine")
    before = tree(box.folder)
    try:
        Translator.open(box.run).save(box.model)
    except FileExistsError:
        check(before == tree(box.folder), "changed the disk")
    else:
        raise Broken("replaced a folder with notes.txt in it")


@probe(31, *FILES)
def outputs_into_ours(box: Sandbox, column: str) -> None:
    for call in outputs(box, column):
        end = ENDING[call[-1][2:]]
        for out in (box.data / f"x{end}", box.newest() / f"x{end}", box.model / f"x{end}"):
            box.refused(*call, out, "--force", status=2)
        box.refused(*call, box.run / "run.json", "--force", status=2)
        box.refused(*call, box.run / "checkpoints" / "step-000099" / f"x{end}", "--force")


# 29, 34: outputs are checked before the work


@probe(29, "evaluate")
def two_outputs_of_one_name(box: Sandbox, column: str) -> None:
    base = outputs(box, "evaluate")[0][:-1]
    x = box.folder / "x.html"
    box.refused(*base, "--result", x, "--report", x, "--force", status=2)
    x.write_text("old")
    os.link(x, box.folder / "y.html")
    box.refused(*base, "--result", x, "--report", box.folder / "y.html", "--force", status=2)
    z = box.folder / "z"
    box.refused(*base, "--result", z, "--report", z / "b.html", status=2)


@probe(29, "translate")
def output_is_an_input(box: Sandbox, column: str) -> None:
    (box.folder / "in.png").write_text("a b\n")
    call = ["translate", box.model, "--file", box.folder / "in.png", "--attention"]
    box.refused(*call, box.folder / "in.png", "--force", status=2)


@probe(29, *FILES)
def links(box: Sandbox, column: str) -> None:
    for call in outputs(box, column):
        end = ENDING[call[-1][2:]]
        target, link = box.folder / f"t{end}", box.folder / f"l{end}"
        target.write_text("mine")
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        box.refused(*call, link, "--force", says="link", status=2)
        target.unlink()
        box.refused(*call, link, says="link", status=2)


@probe(29, *FILES)
def a_pipe_is_written_to(box: Sandbox, column: str) -> None:
    for call in outputs(box, column):
        pipe = box.folder / f"pipe{ENDING[call[-1][2:]]}"
        os.mkfifo(pipe)
        with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
            try:
                box.must(*call, pipe)
                found = reader.communicate(timeout=20)
            finally:
                reader.kill()
        check(stat_is_fifo(pipe), "the pipe was replaced")
        check(found and len(found[0]) > 10, "nothing came through the pipe")
        pipe.unlink()


def stat_is_fifo(path: Path) -> bool:
    import stat

    return stat.S_ISFIFO(path.lstat().st_mode)


@probe(29, "evaluate")
def standard_output_as_a_file(box: Sandbox, column: str) -> None:
    call = "tl evaluate model --data data --split val --beam 1 --hypotheses "
    done = box.shell(call + "/dev/stdout | cat; exit ${PIPESTATUS[0]}")
    check(done.returncode == 0 and len(done.stdout.splitlines()) > len(TEXT), done.stderr)
    done = box.shell(call + "/dev/stdout > out.txt")
    check(done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr)
    check(Path("/dev/stdout").is_symlink(), "/dev/stdout is gone")


@probe(34, *WRITERS)
def a_read_only_place(box: Sandbox, column: str) -> None:
    place = box.folder / "ro"
    place.mkdir()
    with mounted(place, "ro"):
        calls = [words(box, column, place / "out")]
        if column in FILES:
            calls = [[*c, place / f"o{ENDING[c[-1][2:]]}"] for c in outputs(box, column)]
        for call in calls:
            with no_work():
                box.refused(*call, says="Read-only|ro/", status=1)


class Worked(Exception):  # noqa: N818
    """The work was done before the output was looked at."""


def no_work():
    """Let every kind of work fail: decoding, learning, averaging, a step."""
    stack = contextlib.ExitStack()
    for name in (
        "transformer_lib.translate.translator.Translator.hypotheses",
        "transformer_lib.data.encoding.learn_vocabularies",
        "transformer_lib.cli.models.average_weights",
        "transformer_lib.train.trainer.Trainer.update",
        "transformer_lib.cli.models.write_export",
        "transformer_lib.cli.models.explorer_page",
    ):
        with contextlib.suppress(AttributeError):  # an older checkout
            stack.enter_context(mock.patch(name, side_effect=Worked("the work was done first")))
    return stack


class mounted:  # noqa: N801
    """A small file system on a folder, while it lasts."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options

    def __enter__(self) -> None:
        call = ["mount", "-t", "tmpfs", "-o", ",".join((*self.options, "size=1m")), "tmpfs"]
        subprocess.run([*call, str(self.folder)], check=True, capture_output=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.folder)], check=False)


@probe(34, *WRITERS)
def a_refused_command_leaves_no_folder(box: Sandbox, column: str) -> None:
    out = box.folder / "deep" / "er" / "out"
    nothing = box.folder / "nowhere"
    if column in FILES:
        for call in outputs(box, column):
            call[1] = nothing
            box.refused(*call, f"{out}{ENDING[call[-1][2:]]}", status=2)
        return
    calls = {
        "prepare": box.prepare(out, "--vocab-size", "5000"),
        "average": ["average", out, nothing],
        "export": ["export", nothing, out, "--to", "transformers"],
        "train": ["train", box.data, out, *words(box, "train", out)[3:], "--max-len", "3"],
    }
    box.refused(*calls[column])
    if column == "train":
        box.refused(*words(box, "train", out), "--resume", "latest", status=2)
    if column == "prepare":
        bad = box.folder / "bad"
        bad.write_bytes(b"a b\n\xff\n")
        call = box.prepare(out)
        call[call.index("--val") + 1] = bad
        box.refused(*call, status=2)


@probe(3, *FILES)
def a_full_disk_keeps_the_old_file(box: Sandbox, column: str) -> None:
    place = box.folder / "full"
    place.mkdir()
    for call in outputs(box, column):
        with mounted(place):
            out = place / f"o{ENDING[call[-1][2:]]}"
            out.write_text("old")
            with (place / "filler").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
            status, _, err = box.call(*call, out, "--force")
            check(status == 1 and err.count("error: ") == 1, f"status {status}: {err}")
            check(out.read_text() == "old", "the old file is destroyed")
            check(sorted(os.listdir(place)) == ["filler", out.name], "left a rest")


@probe(38, "evaluate", "translate")
def matplotlib_is_missing(box: Sandbox, column: str) -> None:
    names = {"evaluate": "report", "translate": "attention"}
    (call,) = [call for call in outputs(box, column) if call[-1] == f"--{names[column]}"]
    with mock.patch.dict(sys.modules, {"matplotlib": None, "matplotlib.figure": None}), no_work():
        box.refused(*call, box.folder / "x.png", says="lessons", status=2)


@probe(38, "evaluate")
def sacrebleu_is_missing(box: Sandbox, column: str) -> None:
    gone = {name: None for name in [*sys.modules, "sacrebleu"] if name.split(".")[0] == "sacrebleu"}
    with mock.patch.dict(sys.modules, gone), no_work():
        box.refused(*outputs(box, "evaluate")[0], box.folder / "x.json", says="cli", status=2)


@probe(22, "translate")
def attention_of_a_translation_that_is_too_long(box: Sandbox, column: str) -> None:
    from transformer_lib.decoding import Hypothesis

    long = [[Hypothesis([5] * 6000, -1.0, -1.0, False)]]
    with mock.patch(
        "transformer_lib.translate.translator.Translator.hypotheses", return_value=long
    ):
        status, out, err = box.call(*outputs(box, "translate")[0], box.folder / "x.png")
    check(out.count("\n") == 1, "the translation was not printed")
    check(status in (0, 1, 2) and "Traceback" not in err and (status or "warning" in err), err)
    check(not (box.folder / "x.png").exists(), "a picture of nothing")
    check("not written" in err and status == 0, f"status {status}: {err}")


# 32: two writers, a reader beside a training


WORK = {
    "prepare": "data.encoding.learn_vocabularies",
    "average": "cli.models.average_weights",
    "evaluate": "translate.translator.Translator.hypotheses",
    "translate": "translate.translator.Translator.hypotheses",
    "export": "cli.models.write_export",
    "explore": "cli.models.explorer_page",
}


@probe(32, *WORK)
def a_second_writer_is_told_at_once(box: Sandbox, column: str) -> None:
    call = words(box, column, box.folder / "new.html")
    if column == "translate":
        call[call.index("--attention") + 1] = box.folder / "new.png"
    hold = (
        "import sys, time, unittest.mock as m\n"
        "import transformer_lib.cli.models, transformer_lib.cli.prepare\n"
        "from transformer_lib.cli import main\n"
        "def slow(*a, **k): print('working', flush=True); time.sleep(60)\n"
        f"m.patch('transformer_lib.{WORK[column]}', slow).start()\n"
        "main(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold, *map(str, call)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))},
    )
    with process:
        try:
            check(process.stdout.readline() == "working\n", "the first did not start")
            with no_work():
                box.refused(*call, says="another process", status=2)
        finally:
            process.kill()
    box.must(*call)  # what was killed holds nothing


@probe(32, *WORK, "info", "Translator.open")
def a_checkpoint_goes_while_it_is_read(box: Sandbox, column: str) -> None:
    from transformer_lib import Translator

    try:
        from transformer_lib.data import manifest as files
    except ImportError:  # an older checkout
        from transformer_lib.data import files

    newest = box.newest()
    following = newest.with_name("step-000099")
    real, done = files.file_sha256, []

    def lose(path):
        if not done and Path(path).parent == newest:
            done.append(1)
            newest.rename(following)  # a newer one is there, and this one is gone
            manifest = following / "manifest.json"
            manifest.write_text(manifest.read_text())
        return real(path)

    (box.run / "best.json").unlink()
    with mock.patch.object(files, "file_sha256", lose):
        call = {
            "average": ["average", box.folder / "new", box.run],
            "info": ["info", box.run],
            "translate": ["translate", box.run, "a"],
            "evaluate": ["evaluate", box.run, "--data", box.data, "--split", "val", "--beam", "1"],
            "export": ["export", box.run, box.folder / "new", "--to", "ctranslate2"],
            "explore": ["explore", box.run, "--out", box.folder / "new.html"],
            "prepare": box.prepare(box.folder / "new", "--vocab-from", box.run),
        }
        if column == "Translator.open":
            Translator.open(box.run)
        else:
            if column == "prepare":
                i = call[column].index("--vocab-size")
                del call[column][i : i + 2]
            box.must(*call[column])
    check(done, "nothing was read")


@probe(32, "train")
def a_linked_checkpoint(box: Sandbox, column: str) -> None:
    """A checkpoint that was moved elsewhere and linked is read, pruned and replaced as a link."""
    kept = box.folder / "archive"
    kept.mkdir()
    for path in (box.run / "checkpoints").iterdir():
        (kept / path.name).parent.mkdir(exist_ok=True)
        path.rename(kept / path.name)
        path.symlink_to(kept / path.name)
    before = tree(kept)
    call = [*words(box, "train", box.run), "--resume", "auto"]
    call[call.index("--steps") + 1] = "28"
    box.must(*call)
    check(tree(kept) == before, "the target of a link was changed")
    names = sorted(path.name for path in (box.run / "checkpoints").iterdir())
    check(all(re.fullmatch(r"step-\d+", name) for name in names), f"left {names}")


@probe(32, "train")
def a_link_where_a_checkpoint_goes(box: Sandbox, column: str) -> None:
    (box.run / "checkpoints" / "step-000016").symlink_to(box.folder / "nowhere")
    call = [*words(box, "train", box.run), "--resume", "auto"]
    call[call.index("--steps") + 1] = "20"
    out = box.must(*call)
    check("skipped" in out and "nowhere" not in out.split("skipped")[0], out)


# 33: what cannot be read now is not damaged


@probe(33, "train")
def a_dangling_file_in_a_checkpoint(box: Sandbox, column: str) -> None:
    newest, older = box.newest(), sorted((box.run / "checkpoints").iterdir())[-2]
    away = box.folder / "away"
    (newest / "model.safetensors").rename(away)
    (newest / "model.safetensors").symlink_to(away)
    call = words(box, "train", box.run)
    call[call.index("--steps") + 1] = "12"
    box.must(*call, "--resume", "auto")  # a link is as good as the file
    away.rename(box.folder / "unmounted")
    call[call.index("--steps") + 1] = "10"
    out = box.must(*call, "--resume", "auto")
    check(newest.is_dir() and "damaged" not in out, f"renamed: {out}")
    check(f"resuming from {older}" in out, out)


@probe(33, "train", number=errno.EACCES)
@probe(33, "train", number=errno.EIO)
@probe(33, "train", number=errno.ESTALE)
def one_file_cannot_be_read(box: Sandbox, column: str, number: int) -> None:
    newest, older = box.newest(), sorted((box.run / "checkpoints").iterdir())[-2]
    real = io.open

    def fail(file, *arguments, **options):
        if str(file) == str(newest / "training.pt"):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *arguments, **options)

    call = words(box, "train", box.run)
    call[call.index("--steps") + 1] = "10"
    with mock.patch("io.open", fail), mock.patch("builtins.open", fail):
        says = os.strerror(number)
        box.refused(*call, "--resume", "latest", says=says, status=1, look=False)
        out = box.must(*call, "--resume", "auto")
    check(newest.is_dir() and "damaged" not in out, out)
    check(os.strerror(number) in out and f"resuming from {older}" in out, out)


@probe(33, "info", "translate", "evaluate", "average", "export", "explore", "prepare")
def a_model_that_cannot_be_read(box: Sandbox, column: str) -> None:
    real = io.open
    calls = {
        "info": ["info", box.model],
        "translate": ["translate", box.model, "a"],
        "evaluate": ["evaluate", box.model, "--data", box.data],
        "average": ["average", box.folder / "n", box.model],
        "export": ["export", box.model, box.folder / "n", "--to", "transformers"],
        "explore": ["explore", box.model, "--out", box.folder / "n.html"],
        "prepare": box.prepare(box.folder / "n", "--vocab-from", box.model),
    }
    if column == "prepare":
        del calls[column][(at := calls[column].index("--vocab-size")) : at + 2]
    for name in ("manifest.json", "model.safetensors", "config.json"):

        def fail(file, *arguments, name=name, **options):
            if str(file) == str(box.model / name):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return real(file, *arguments, **options)

        with mock.patch("io.open", fail), mock.patch("builtins.open", fail):
            line = box.refused(*calls[column], says="Permission denied", status=1, look=False)
        check("damaged" not in line, line)


# 35: what is written can be read


@probe(35, "ModelConfig", changes={"norm_first": 1})
@probe(35, "ModelConfig", changes={"tie_embeddings": "no"})
@probe(35, "ModelConfig", changes={"positions": "none", "max_len": 10**7})
def settings_are_refused(box: Sandbox, column: str, changes: dict) -> None:
    from transformer_lib import ModelConfig

    try:
        ModelConfig.tiny(9, **changes)
    except ValueError:
        return
    raise Broken(f"accepted {changes}")


@probe(35, "train")
def positions_beyond_the_table(box: Sandbox, column: str) -> None:
    call = [
        *words(box, "train", box.folder / "n"),
        "--positions",
        "none",
        "--max-len",
        "1" + "0" * 9,
    ]
    box.refused(*call, status=2)


@probe(35, "Translator.save")
def untied_weights(box: Sandbox, column: str) -> None:
    import torch

    from transformer_lib import Translator

    for change in ("untied", "dtype", "extra", "surrogate"):
        translator = Translator.open(box.run)
        model = translator.model
        if change == "untied":
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            model.load_state_dict(state, assign=True)
        if change == "dtype":
            model.output_projection.weight = torch.nn.Parameter(
                model.output_projection.weight.to(torch.complex64)
            )
        if change == "extra":
            model.register_parameter("mine", torch.nn.Parameter(torch.ones(2)))
        if change == "surrogate":
            from transformer_lib import ModelConfig, Transformer, WordVocab

            try:
                vocab = WordVocab(["<pad>", "<unk>", "<bos>", "<eos>", "\udcff"], "en")
            except (ValueError, TypeError):
                continue
            translator = Translator(Transformer(ModelConfig.tiny(5)), vocab)
        out = box.folder / f"new-{change}"
        try:
            translator.save(out)
        except ValueError:
            check(not out.exists(), "half a folder")
            continue
        try:
            Translator.open(out)
        except ValueError as error:
            raise Broken(f"{change}: saved, but {error}") from error


@probe(35, *WRITERS, "info")
def a_path_that_is_not_utf8(box: Sandbox, column: str) -> None:
    odd = os.fsdecode(os.fsencode(str(box.folder)) + b"/od\xffd")
    calls = {
        "prepare": "prepare $ODD --corpus files --source de --target en --train text text"
        " --val text text --vocab-from $ODDM",
        "train": "train data $ODD " + " ".join(map(str, words(box, "train", box.run)[3:])),
        "average": "average $ODD $ODDM",
        "evaluate": "evaluate $ODDM --data data --split val --beam 1 --result $ODD",
        "translate": "translate $ODDM 'a b' --beam 1 --attention $ODD.png",
        "info": "info $ODDM",
        "export": "export $ODDM $ODD --to ctranslate2",
        "explore": "explore $ODDM --out $ODD.html",
    }
    os.rename(box.model, odd + "m")
    done = box.shell(
        f"ODD=$'od\\xffd' ODDM=$'od\\xffdm'; tl {calls[column]} >/dev/null && echo done",
        LC_ALL="C.UTF-8",
    )
    check("Traceback" not in done.stderr, done.stderr[-200:])
    refused = done.stderr.count("\n") == 1 and "is not UTF-8" in done.stderr
    check("done" in done.stdout or refused, done.stderr[-200:])
    if column == "prepare" and not refused:
        done = box.shell(f"ODD=$'od\\xffd'; tl train $ODD run2 {SIZES_LENGTH} && tl info run2")
        check(not done.returncode, f"cannot be trained on: {done.stderr[-200:]}")


SIZES_LENGTH = "--n-layers 1 --d-model 16 --n-heads 2 --d-ff 16 --steps 2 --validate-every 2"


# 34: a status of 0 means done


@probe(34, "prepare", "train", "average", "evaluate", "export", "explore")
def nobody_reads_the_output(box: Sandbox, column: str) -> None:
    out = box.folder / "new.html"
    line = " ".join(str(word) for word in words(box, column, out))
    head = "import transformer_lib.cli.prepare as p; p.LARGE = 1; " if column == "prepare" else ""
    program = f"{head}import sys; from transformer_lib.cli import main; sys.exit(main())"
    for both in ("", "2>&1"):
        done = box.shell(
            f"'{sys.executable}' -c '{program}' {line} {both} | true; exit ${{PIPESTATUS[0]}}",
            PYTHONUNBUFFERED="1",
        )
        check("Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr)
        check(done.returncode == 0, f"status {done.returncode}: {done.stderr}")
        check(out.exists(), "status 0, and nothing was written")
        subprocess.run(["rm", "-r", str(out)], check=True)


@probe(34, "translate")
def a_picture_although_nobody_reads(box: Sandbox, column: str) -> None:
    done = box.shell(
        "tl translate model 'a b c d' --beam 1 --attention x.png | true; exit ${PIPESTATUS[0]}",
        PYTHONUNBUFFERED="1",
    )
    check("Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr)
    written = (box.folder / "x.png").exists()
    check(done.returncode != 0 or written, "status 0, and no picture")


@probe(34, "translate")
def warnings_nobody_reads(box: Sandbox, column: str) -> None:
    lines = "\n".join(["Zebra quagga!"] * 3)
    (box.folder / "in").write_text(lines)
    done = box.shell(
        "{ tl translate model --file in --beam 1 2>&1 >out.txt; echo $? >status; } | true",
        PYTHONUNBUFFERED="1",
    )
    status = (box.folder / "status").read_text().strip()
    n = len((box.folder / "out.txt").read_text().splitlines())
    check(status == "0" and n == 3, f"status {status} with {n} lines; {done.stderr}")


@probe(34, *WRITERS, "info")
def the_disk_of_the_output_is_full(box: Sandbox, column: str) -> None:
    out = box.folder / "new.html"
    call = ["translate", "model", "a"] if column == "translate" else words(box, column, out)
    if column == "info":
        call = ["info", "model"]
    done = box.shell(f"tl {' '.join(map(str, call))} > /dev/full")
    check("Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr)
    if column in ("translate", "info"):
        check(
            done.returncode == 1 and "No space left" in done.stderr,
            f"{done.returncode} {done.stderr}",
        )
    else:
        check(out.exists(), f"status {done.returncode}, and nothing was written: {done.stderr}")
        if column == "evaluate":
            check(
                done.returncode == 1 and "No space" in done.stderr,
                f"{done.returncode}, its scores lost",
            )


@probe(34, *WRITERS, "info", "fetch")
def help_nobody_reads(box: Sandbox, column: str) -> None:
    done = box.shell(f"tl {column} --help | true; exit ${{PIPESTATUS[0]}}")
    check(done.returncode == 0 and not done.stderr, f"{done.returncode}: {done.stderr[-200:]}")

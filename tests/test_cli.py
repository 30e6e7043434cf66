"""The command line from text to translation, in one process and as a command of its own."""

import importlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from typing import get_args

import pytest
import torch
from helpers import pair_files

from transformer_lib import ModelConfig, TrainConfig, Translator
from transformer_lib.cli import main
from transformer_lib.cli.commands import COMMANDS, Engine, ModelFlags, TrainFlags
from transformer_lib.cli.train import train_config
from transformer_lib.data.files import contents_sha256
from transformer_lib.data.multi30k import SPLITS
from transformer_lib.train.ranks import known_to_all
from transformer_lib.train.settings import RunConfig
from transformer_lib.translate import export
from transformer_lib.translate.translator import find_model, find_pretrained

GERMAN = ["Ein Hund schläft.", "Eine Katze sieht den Hund.", "Der Garten ist grün.", "Ja ja ja."]
ENGLISH = ["A dog sleeps.", "A cat sees the dog.", "The garden is green.", "Yes yes yes."]
PREPARE = "--corpus files --vocab-size 60 --source {0} --target {1}"
TRAIN = "train {data} {out} --n-layers 1 --d-model 32 --d-ff 64 --norm-first True --threads 1 "
TRAIN += "--peak-rate 1e-2 --warmup 20 --max-tokens 200 --validate-every 120"
SMALL = "--n-layers 1 --d-model 16 --d-ff 16 --threads 1"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two texts, a prepared corpus and a short run."""
    folder = tmp_path_factory.mktemp("home")
    pair = [*map(str, pair_files(folder, GERMAN, ENGLISH, "a").paths)]
    splits = [word for split in ("--train", "--val", "--test") for word in (split, *pair)]
    command = ["prepare", str(folder / "data"), *PREPARE.format("de", "en").split()]
    assert main([*command, *splits]) == 0
    places = {"data": folder / "data", "out": folder / "run"}
    assert main([*(w.format(**places) for w in TRAIN.split()), "--steps", "240"]) == 0
    return folder


@pytest.fixture
def cli(home, capsys, tmp_path):
    """Run one command, and return its exit status, output and errors.

    {run}, {data}, {de}, {en} are what `home` has, {tmp} and {out} what the test writes.
    """
    places = {"run": home / "run", "data": home / "data", "de": home / "a.de", "en": home / "a.en"}
    places |= {"tmp": tmp_path, "out": tmp_path / "out"}

    def call(command, *words):
        capsys.readouterr()
        status = main([*(word.format(**places) for word in command.split()), *words])
        found = capsys.readouterr()
        return status, found.out, found.err

    return call


def test_what_was_trained_translates(cli):
    status, out, _ = cli("translate {run}", *GERMAN)
    assert status == 0 and out.splitlines() == ENGLISH
    _, out, _ = cli("translate {run} --n-best 3 --scores --beam 4", GERMAN[0])
    scores = [float(line.split("\t")[0]) for line in out.splitlines()]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert out.splitlines()[0].endswith("\tA dog sleeps.")


def test_lines_come_back_in_order_with_empty_ones_in_place(cli, monkeypatch):
    text = "Ja ja ja.\n\nEin Hund schläft."
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert cli("translate {run}")[1].split("\n") == ["Yes yes yes.", "", "A dog sleeps.", ""]
    assert cli("translate {run} --file {de} --beam 1")[1].splitlines() == ENGLISH


def test_a_line_that_is_too_long_is_warned_about_and_stays_in_place(cli, home, tmp_path):
    model = Translator.from_pretrained(home / "run" / "checkpoints" / "step-000240")
    model.model.config.__dict__["max_len"] = 80
    model.save(tmp_path / "out")
    status, out, err = cli("translate {out}", "Ja ja ja.", "Hund " * 200, "Ja ja ja.")
    assert (status, out.splitlines()[1]) == (0, "")
    assert "warning: line 2 has" in err and "the model takes 80" in err


def test_attention_is_drawn_or_the_reason_is_told(cli, tmp_path):
    cli("translate {run} --attention {tmp}/map.png", GERMAN[0])
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    for name in ("map.txt", "map"):  # matplotlib would make another name of the second
        status, out, err = cli(f"translate {{run}} --attention {{tmp}}/{name}", GERMAN[0])
        assert (status, out) == (2, "") and ".png, .svg or .pdf" in err
    status, out, err = cli("translate {run} --attention {tmp}/no.png", "", GERMAN[0])
    assert (status, out) == (0, "\nA dog sleeps.\n")
    assert "line 1 has no translation to draw" in err and not (tmp_path / "no.png").exists()


def test_evaluation_prints_what_it_writes(cli, home, tmp_path):
    outputs = "--result {tmp}/r.json --report {tmp}/r.html --hypotheses {tmp}/h.txt"
    _, out, _ = cli(f"evaluate {{run}} --data {{data}} --split test {outputs}")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["scores"]["BLEU"]["value"] == pytest.approx(100)
    assert "100.00" in out and "version:" in out
    assert result["training"]["step"] in (120, 240)
    assert result["training"]["settings"]["train"]["warmup"] == 20
    assert (tmp_path / "h.txt").read_text().splitlines() == ENGLISH
    page = (tmp_path / "r.html").read_text("utf-8")
    assert f"{home / 'run'}, beam 5, alpha 1" in page and "Translations: all" in page


def test_a_model_for_another_direction_is_warned_about(cli):
    cli(f"prepare {{out}} {PREPARE.format('en', 'de')} --train {{en}} {{de}} --val {{en}} {{de}}")
    assert cli("evaluate {run} --data {data}")[::2] == (0, "")
    warning = "warning: the model translates de to en, the data is en to de\n"
    assert cli("evaluate {run} --data {out}")[::2] == (0, warning)


def test_averaging_halves_and_keeps_what_it_learned(cli, home, tmp_path):
    status, out, _ = cli("average {out} {run} --last 1 --half")
    assert status == 0 and "the mean of 1: step-000240" in out
    folders = tmp_path / "out", home / "run" / "checkpoints" / "step-000240"
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes[0] < 0.6 * sizes[1]
    assert cli("translate {out}", GERMAN[1])[1] == f"{ENGLISH[1]}\n"
    assert "step-000120, step-000240" in cli("average {out} {run} --last 2 --force")[1]
    told = "mean of     step-000120, step-000240; below, the last of them"
    assert told in cli("info {out}")[1]


def test_the_mean_of_models_of_unknown_origin_is_evaluated_and_told(cli, home, tmp_path):
    model = Translator.from_pretrained(home / "run" / "checkpoints" / "step-000240")
    model.save(tmp_path / "bare")  # without a training.json
    assert cli("average {out} {tmp}/bare {tmp}/bare")[0] == 0
    (tmp_path / "out" / "README.md").write_text("| a |\n| b | c |\n| BLEU | high | x |\n")
    assert cli("evaluate {out} --data {data}")[::2] == (0, "")
    status, out, err = cli("info {out}")
    assert (status, err) == (0, "") and "mean of     bare, bare\n" in out and "high" not in out


def test_info_tells_what_a_model_is(cli, home):
    _, out, _ = cli("info {run}")
    model = Translator.open(home / "run").model
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in out
    step = "240 steps" if "step-000240" in out else "120 steps"
    assert all(words in out for words in ("d_model=32", "60 ids, SubwordVocab", step))
    assert "mean of" not in out
    _, out, _ = cli("info {run}/checkpoints/step-000240")
    told = re.findall(r"^validation  step (\d+): .*?(, the best)?$", out, re.M)
    assert [step for step, _ in told] == ["120", "240"]  # each once
    assert sum(bool(best) for _, best in told) == 1


def test_the_best_checkpoint_of_a_run_is_opened_else_the_newest(home, tmp_path):
    checkpoints = shutil.copytree(home / "run" / "checkpoints", tmp_path / "run" / "checkpoints")
    for best, opened in ((120, 120), (240, 240), (180, 240), (None, 240)):
        path = tmp_path / "run" / "best.json"
        path.write_text(json.dumps({"step": best})) if best else path.unlink()
        assert find_model(tmp_path / "run") == checkpoints / f"step-{opened:06d}"


def test_info_of_a_model_that_ships_has_the_scores_of_its_card(cli):
    _, out, _ = cli("info multi30k-en-de")
    card = (find_pretrained("multi30k-en-de") / "README.md").read_text("utf-8")
    for measure in ("BLEU", "BLEU, literature", "token accuracy, %"):
        (value,) = re.findall(rf"^\| {measure} \| (\S+) \|", card, re.M)
        assert re.search(rf"^  {measure} +{value}$", out, re.M)
    assert "mean of     step-" in out


def test_a_run_stops_after_so_many_steps_at_the_rate_of_the_whole(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("transformer_lib.train.trainer.Trainer.log_every", 10)
    command = f"train {{data}} {{out}} {SMALL} --steps 40 --cooldown 0.5 --warmup 5"
    status, out, _ = cli(f"{command} --max-steps 30")
    assert status == 0 and "30 steps are done" in out and "and more --max-steps" in out
    status, out, _ = cli(f"{command} --resume auto")
    assert status == 0 and "step 30" in out and "all steps done" in out
    log = map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines())
    rates = {line["step"]: line["rate"] for line in log if "rate" in line}
    assert rates[40] == 0
    assert rates[30] / rates[20] == pytest.approx(0.5 * (20 / 30) ** 0.5)  # cooled down by half


def test_more_steps_train_a_finished_run_further(cli, home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "out")
    status, out, _ = cli(f"{TRAIN} --steps 245 --resume auto")
    assert status == 0 and "step-000240, step 240" in out and "all steps done: step 245" in out


EVALUATE = "evaluate {run} --data {data} "
WRONG = {
    "translate nowhere x": "no folder nowhere, and no model of that name",
    "evaluate {run} --data {data} --split tset": "no split 'tset' here",
    "evaluate {run} --data {run}": "not a folder that this library wrote",
    "train {data} {out} --dropout 1.5": "dropout must be",
    "train {data} {out} --n-heads 7 --steps 0": "steps must be",
    "train {data} {out} --n-heads 7": "not divisible by n_heads=7",
    "train {data} {out} --cooldown 2": "--cooldown is a share",
    "train {data} {out} --validation x": "no split 'x' here",
    "prepare {out} --corpus files": "needs --source and --target",
    "prepare {out} --corpus files --source de --target en": "needs --train SOURCE TARGET",
    "prepare {data}": "data exists: choose another name, or add --force",
    "average {data} {run}": "data holds another kind, corpus",
    "average {data} {run} --force": "data holds another kind, corpus",
    "translate {run} ja --file {data}/corpus.json": "or --file, not both",
    "translate {run} --file {data}": "Is a directory",
    "translate {run} ja --attention {data}": "a picture is .png",
    "evaluate {run} --data {data} --result {data}": "is a folder",
    "evaluate {run} --data {data} --report x.doc": "a report is .html, .png",
    "train {data} {out} --warmup 0": "warmup must be at least 1",
    "train {data} {out} --threads 0": "--threads must be at least 1",
    "train {data} {out} --max-len 4": "max_len=4 is too small",
    "prepare {out} --source de --target de": "give two languages",
    "average {out} {run} --last 0": "--last must be at least 1",
    "average {out}": "needs one or more models",
    "translate {run} ja --alpha nan": "--alpha must be a number of at least 0",
    "evaluate {run} --data {data} --alpha -3": "--alpha must be a number",
    "prepare {out} --vocab words --vocab-size 0": "--vocab-size must be",
    "prepare {out} --vocab-size 9007199254740993": "--vocab-size must be below 2,147,483,648",
    "train {data} {out} --max-steps 0": "max_steps must be above 0",
    "train {data} {out} --peak-rate inf": "peak_rate and eps must be finite",
    "average {data}/sub {run}": "data, a folder of ours",
    "average {run}/checkpoints/step-000999 {run}": "checkpoints, a folder of ours",
    EVALUATE + "--result {run}/checkpoints/step-000240/training.pt --force": "a folder of ours",
    EVALUATE + "--hypotheses {data}/corpus.json --force": "a folder of ours",
    EVALUATE + "--result {run}/run.json --force": "belongs to a run",
    EVALUATE + "--result {out} --hypotheses {out}": "two outputs have the same name",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_input_is_one_line_and_a_2(cli, tmp_path, command):
    status, out, err = cli(command)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert WRONG[command] in err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_link_is_refused_and_a_pipe_is_written_to(cli, tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    status, _, err = cli(EVALUATE + "--result {out} --force")
    assert status == 2 and "is a link or a device" in err
    for flag, start in (("--result", b"{"), ("--hypotheses", b"A dog"), ("--report", b"<!doc")):
        os.mkfifo(pipe := tmp_path / f"pipe{flag}.html")
        reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
        assert cli(EVALUATE + f"{flag} {pipe}")[0] == 0
        assert reader.communicate(timeout=20)[0].startswith(start) and pipe.is_fifo()


def test_text_files_of_unequal_length_are_refused(cli, tmp_path):
    (tmp_path / "short").write_text("one line\n")
    files = "--train {de} {tmp}/short --val {de} {tmp}/short"
    status, _, err = cli(f"prepare {{out}} {PREPARE.format('de', 'en')} {files}")
    assert status == 2 and "has 4 lines, but" in err and err.count("\n") == 1


def test_an_unknown_flag_is_refused_with_a_suggestion(cli):
    status, _, err = cli("train {data} {out} --dropuot 0.1")
    assert (status, err.count("\n")) == (2, 1) and "--dropout" in err


def test_every_field_is_a_flag():
    def names(kind):
        return {field.name for field in fields(kind)}

    of_the_corpus = {"src_vocab_size", "tgt_vocab_size", "shared_vocabulary", "pad_id"}
    assert names(ModelFlags) == names(ModelConfig) - of_the_corpus
    assert names(TrainFlags) == names(TrainConfig) - {"pad_id"}
    assert not names(RunConfig) & (names(ModelFlags) | names(TrainFlags))


def test_the_defaults_are_the_papers():
    config = train_config(TrainFlags(), ModelConfig.base(100), steps=100_000)
    assert config == TrainConfig()
    assert train_config(TrainFlags(cooldown=0.5), ModelConfig.base(9), 10).cooldown == (5, 10)


def test_a_closed_pipe_is_no_traceback(home):
    command = f"{sys.executable} -m transformer_lib translate {home / 'run'} --beam 1 | head -1"
    script, lines = ["bash", "-c", f"set -o pipefail; {command}"], "Ja ja ja.\n" * 3000
    done = subprocess.run(script, input=lines, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("Yes yes yes.\n", "")


def test_help_teaches_and_the_version_is_told(cli, capsys):
    assert cli("--version") == (0, f"transformer-lib {version('transformer_lib')}\n", "")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for name in ("fetch", "prepare", "train", "evaluate", "translate", "average", "info", "export"):
        assert f"transformer-lib {name}" in out or f"• {name}" in out


# Fine-tuning

TUNE = "train {data} {out} --init {tmp}/model --threads 1 --peak-rate 1e-3 --warmup 1 --steps 4 "
TUNE += "--max-tokens 200 --validate-every 2"


@pytest.fixture
def shipped(home, tmp_path):
    """A model folder in half precision, as those that ship."""
    model = Translator.open(home / "run")
    model.save(tmp_path / "model", torch.float16)
    return tmp_path / "model"


def test_fine_tuning_starts_from_a_model_and_resumes_without_it(cli, shipped, tmp_path):
    """The weights, the sizes and the vocabularies are the model's, the optimizer is new."""
    before = Translator.open(shipped).model.state_dict()
    tiny_step = TUNE.replace("1e-3", "1e-9")
    assert cli(f"{tiny_step} --max-steps 1 --dropout 0.3")[0] == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["init"] == {"name": str(shipped), "sha256": contents_sha256(shipped)}
    assert run["model"]["d_model"] == 32 and run["model"]["dropout"] == 0.3
    after = Translator.open(tmp_path / "out")
    assert {weight.dtype for weight in after.model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(after.model.state_dict(), before, rtol=0, atol=1e-6)
    shutil.rmtree(shipped)
    resume = f"{tiny_step} --dropout 0.3 --resume auto"
    other = resume.replace("{tmp}/model", "another")
    assert cli(other)[::2] == (
        2,
        f"error: {tmp_path / 'out'} started from {shipped}, not from another: leave --init out\n",
    )
    without = re.sub(r"--init \S+", "", resume)  # the run knows where it started from
    for command, step in ((f"{resume} --max-steps 3", 3), (without, 4)):
        status, out, err = cli(command)
        assert status == 0 and f"step {step}" in out, err
    progress = json.loads((find_model(tmp_path / "out") / "training.json").read_text())
    assert progress["settings"]["init"] == run["init"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--d-model 64", "--d-model 64 contradicts {model}, which has 32"),
        ("--preset base", "--n-layers 6 contradicts {model}, which has 1"),
        ("--norm-first False --n-heads 2", "--n-heads 2 contradicts {model}, which has 4; --norm"),
        ("--smoothing 2", "smoothing must be"),
        ("--cooldown 2", "--cooldown is a share"),
    ],
)
def test_flags_that_contradict_the_model_are_refused(cli, shipped, tmp_path, flags, told):
    status, out, err = cli(f"{TUNE} {flags}")
    assert (status, out) == (2, "") and told.format(model=shipped) in err
    assert not (tmp_path / "out").exists()


def test_fine_tuning_needs_the_vocabularies_of_the_model_not_their_sizes(cli, shipped):
    """The same texts in the other direction: as many subwords, other ones."""
    other = PREPARE.format("en", "de")
    assert cli(f"prepare {{tmp}}/x {other} --train {{en}} {{en}} --val {{en}} {{en}}")[0] == 0
    status, _, err = cli(TUNE.replace("{data}", "{tmp}/x"))
    told = f"has other vocabularies than {shipped}: prepare it again with --vocab-from {shipped}\n"
    assert status == 2 and err.endswith(told) and err.count("\n") == 1


# Help, and what to do next


def test_help_needs_no_torch_and_has_words_for_every_default():
    """The import of torch takes a second, on a slow machine several."""
    code = f"""
import contextlib, io, sys
from transformer_lib.cli import main
for command in ([], *([name] for name in {[*COMMANDS]})):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*command, "--help"])
    print(" ".join(out.getvalue().replace("│", " ").split()))
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "default: None" not in done.stdout
    for words in (
        "preset's: tiny 128, base 512, big 1024",
        "(default: standard input)",
        "no limit",
    ):
        assert words in done.stdout


def test_a_command_takes_the_arguments_that_its_help_describes():
    assert get_args(Engine) == get_args(export.Engine)
    for name, command in COMMANDS.items():
        (module,) = re.findall(r'_run\("(\w+)\.', inspect.getsource(command))
        work = getattr(importlib.import_module(f"transformer_lib.cli.{module}"), name)
        assert [*inspect.signature(work).parameters] == [*inspect.signature(command).parameters]


def test_the_next_command_is_shown_and_works(cli, home, tmp_path):
    """With the real paths, quoted for a shell."""
    out, run = str(tmp_path / "my corpus"), str(tmp_path / "my run")
    text = f"{home}/a.de {home}/a.en"
    files = [*PREPARE.format("de", "en").split(), *f"--train {text} --val {text}".split()]
    _, printed, _ = cli("prepare", out, *files, *f"--test {text}".split())
    (train,) = re.findall(r"^to train on it: transformer-lib (.*)$", printed, re.M)
    assert shlex.split(train) == ["train", out, "runs/my corpus"]
    _, printed, _ = cli("train", out, run, *SMALL.split(), "--steps", "2")
    told = re.findall(r"^to (?:score|use) it: +transformer-lib (.*)$", printed, re.M)
    assert [shlex.split(command)[:2] for command in told] == [["evaluate", run], ["translate", run]]
    assert shlex.split(told[0])[-2:] == ["--split", "test"]
    for command in told:
        assert cli("", *shlex.split(command))[0] == 0
    files.remove("--vocab-size"), files.remove("60")
    _, printed, _ = cli("prepare", out, *files, "--vocab-from", run, "--force")
    assert re.search(r"^to train on it: .* --init '\S+/my run'$", printed, re.M)


# Fetching


@pytest.fixture
def replace_fetch(monkeypatch):
    """Let `fetch` call another function, or raise an error."""

    def replace(act):
        def fail(*_, **__):
            raise act

        act_or_fail = fail if isinstance(act, BaseException) else act
        monkeypatch.setattr("transformer_lib.cli.prepare.fetch_multi30k", act_or_fail)

    return replace


def test_fetch_hands_on_its_flags_and_tells_the_folder(cli, replace_fetch, tmp_path):
    def fetch(*options, say):
        say("[1/1] val.fr.gz: fetched")
        return options

    replace_fetch(fetch)
    options = (tmp_path, ("fr", "cs"), ("val",))
    told = f"[1/1] val.fr.gz: fetched\nMulti30k is in {options}\n"
    assert cli("fetch --folder {tmp} --languages fr cs --splits val") == (0, told, "")
    assert f"(None, ('de', 'en'), {SPLITS})" in cli("fetch")[1]


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ValueError("Multi30k has no language 'nl'"), 2, "Multi30k has no language 'nl'"),
        (RuntimeError("no connection\nat all"), 1, "no connection at all"),
        (KeyboardInterrupt(), 130, "interrupted; run it again to fetch the rest"),
    ],
)
def test_fetch_fails_in_one_line(cli, replace_fetch, error, status, told):
    replace_fetch(error)
    assert cli("fetch") == (status, "", f"error: {told}\n")


def test_fetch_goes_on_when_nobody_reads_its_output(replace_fetch, monkeypatch, tmp_path):
    def fetch(*_, say):
        say("[1/2] fetched")
        say("[2/2] fetched")
        (tmp_path / "whole").touch()
        return tmp_path

    replace_fetch(fetch)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert main(["fetch"]) == 0
    assert (tmp_path / "whole").exists()


# Many processes


@pytest.mark.parametrize("shared", [False, True])
def test_an_error_stays_quiet_only_if_another_process_tells_it(
    cli, replace_fetch, monkeypatch, shared
):
    """Some clusters set RANK in every shell."""
    replace_fetch(known_to_all(ValueError("x")) if shared else ValueError("x"))
    monkeypatch.setenv("RANK", "1")
    assert cli("fetch") == (2, "", "" if shared else "error: x\n")
    monkeypatch.setenv("RANK", "0")
    assert cli("fetch") == (2, "", "error: x\n")

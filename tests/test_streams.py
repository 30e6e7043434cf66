"""Standard streams that are closed, narrow or ASCII; what a terminal must not get; Ctrl-C early."""

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transformer_lib import __main__
from transformer_lib.cli import main, output


def command(*arguments, closed=(), **environment):
    """Start the command line in a shell without some of its streams."""
    closing = " ".join(f"{number}>&-" for number in closed)
    script = f'exec "$0" -m transformer_lib "$@" {closing}'
    return subprocess.Popen(
        ["bash", "-c", script, sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
    )


@pytest.mark.parametrize(
    ("closed", "arguments", "status", "err"),
    [
        ((1,), ["info", "x"], 1, "error: standard output is closed, and there is nowhere else"),
        ((0, 1), ["translate", "x"], 1, "error: standard output is closed"),
        ((1,), ["--version"], 1, "error: standard output is closed"),
        ((1,), ["train", "--help"], 1, "error: standard output is closed"),
        ((0, 2), ["train", "x", "--stps", "3"], 2, ""),
    ],
    ids=str,
)
def test_a_closed_stream_is_told_or_does_without(closed, arguments, status, err):
    done = command(*arguments, closed=closed)
    out, found = done.communicate(timeout=60)
    assert (done.returncode, out, found.count("\n")) == (status, "", bool(err))
    assert found.startswith(err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"]], ids=str)
def test_what_a_full_device_loses_is_told_in_one_line(arguments):
    script = 'unset PYTHONUNBUFFERED; exec "$0" -m transformer_lib "$@" > /dev/full'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: what was printed is lost: [Errno 28]")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize("errors", ["2> /dev/full", "2>&1 | exit 0", "2>&-"])
def test_the_status_tells_what_an_error_message_cannot(errors):
    script = f'"$0" -m transformer_lib nonsense {errors}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")


def test_an_error_that_quotes_a_long_text_stays_short(capsys):
    assert main(["info", "x" * 9000]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and len(line) < 2100


def test_the_help_fits_any_terminal_and_any_locale():
    done = command("train", "--help", COLUMNS="1", PYTHONIOENCODING="ascii")
    out, err = done.communicate(timeout=20)
    assert (done.returncode, err) == (0, "") and "(d_model" in out and "·" in out


def test_ctrl_c_while_modules_are_imported_is_one_line(monkeypatch, capsys):
    def interrupted(name, *_):
        if name == "transformer_lib.cli":
            raise KeyboardInterrupt
        return real(name, *_)

    real = importlib.import_module("builtins").__import__
    monkeypatch.setattr("builtins.__import__", interrupted)
    assert __main__.run() == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_unexpected_error_is_one_line_with_its_kind(monkeypatch, capsys):
    def fail(*_, **__):
        raise OverflowError("int too large\n\x1b[31m")

    monkeypatch.setattr("tyro.extras.subcommand_cli_from_dict", fail)
    assert main(["info", "x"]) == 1
    assert r"unexpected OverflowError: int too large \x1b[31m (" in capsys.readouterr().err


def test_control_characters_are_spelled_out(capsys):
    with output.printable():
        print("a\x1b]0;evil\x07\x9b31m", "ü\n\tb")
        print("\x00", file=sys.stderr)
    assert capsys.readouterr() == ("a\\x1b]0;evil\\x07\\x9b31m ü\n\tb\n", "\\x00\n")


def test_text_is_utf8_whatever_the_locale(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert output.open_streams() == set()
    print("Straße \udce4", flush=True)
    assert raw.getvalue() == "Straße \\udce4\n".encode()

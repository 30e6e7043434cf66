"""The command line: fetch and prepare a corpus, train on it, score, translate.

Every command is a plain function with documented arguments, which tyro turns into flags, see
`commands`. Whatever a user can do wrong ends in one line on standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from transformer_lib.data.extras import needs

__all__ = ["main"]

ABOUT = """Train a Transformer and translate with it.

A first training, from nothing to a translation:
  transformer-lib fetch
  transformer-lib prepare data/prepared/de-en --corpus multi30k --source de --target en
  transformer-lib train data/prepared/de-en runs/de-en --preset tiny --max-minutes 10
  transformer-lib evaluate runs/de-en --data data/prepared/de-en --split test_2016_flickr
  transformer-lib translate runs/de-en "Ein Hund läuft durch den Schnee."

Completion of commands and flags in bash (zsh: write zsh twice):
  source <(transformer-lib --tyro-print-completion bash)
"""

# What a user did wrong or has not installed. Any other error that we expect is a failed run.
WRONG_INPUT = (
    ValueError,
    ImportError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)

LONGEST = 2000  # characters of an error: what is quoted from a file may be of any length
PRINTING = (["evaluate"], ["info"], ["translate"])  # whose results are for standard output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 the run failed, 2 wrong input, 130 or 143 stopped by a signal.
    """
    arguments = sys.argv[1:] if arguments is None else [*arguments]
    try:
        try:
            status = _run(arguments)
        finally:  # also after a help text, which ends with SystemExit
            _flush()
        return status or 0
    except BrokenPipeError:  # the reader of our output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        return _failed(error if error.args else KeyboardInterrupt("interrupted"), 130)
    except FloatingPointError as error:  # some of which are ValueErrors, too
        return _failed(error, 1)
    except WRONG_INPUT as error:
        return _failed(error, 2)
    except (OSError, RuntimeError, MemoryError) as error:
        return _failed(error, 1)
    except Exception as error:  # a fault of ours
        if sys.flags.dev_mode:
            raise
        kind = type(error).__name__
        hint = "python -X dev -m transformer_lib … shows where"
        return _failed(RuntimeError(f"unexpected {kind}: {error} ({hint})"), 1)


def _flush() -> None:
    """Write what is still to be printed.

    Raises:
        OSError: it is lost. Then it is discarded, or Python would try again at its exit.
    """
    from transformer_lib.cli import output

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        output.discard(sys.stdout)
        raise OSError(f"what was printed is lost: {error}") from error


def _run(arguments: list[str]) -> int | None:
    from transformer_lib.cli import output

    prints = arguments[:1] in PRINTING or not {"--version", "--help", "-h"}.isdisjoint(arguments)
    if "stdout" in output.open_streams() and prints:
        raise OSError("standard output is closed, and there is nowhere else to print the result")
    if arguments == ["--version"]:
        print("transformer-lib", version("transformer_lib"))
        return 0
    with needs("cli"):
        import tyro

        from transformer_lib.cli.commands import COMMANDS

    with output.in_one_line():
        work = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="transformer-lib",
            description=ABOUT,
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    lines_are_the_work = arguments[:1] == ["translate"]  # which ends where nobody reads them
    with output.printable(), output.unbreakable_output(stdout=not lines_are_the_work) as lost:
        status = work()
    if lost and arguments[:1] in PRINTING:
        raise OSError(f"what was printed is lost: {lost[0]}")
    return status


def _failed(error: BaseException, status: int) -> int:
    """Print the error as one line; if all processes of a run raised it, rank 0 does so alone."""
    from transformer_lib.cli.output import Unbreakable, escape

    if not hasattr(error, "known_to_all") or os.environ.get("RANK", "0") == "0":
        message = " ".join(str(error).split()) or type(error).__name__
        if len(message) > LONGEST:
            message = f"{message[:LONGEST]} …"
        print("error:", escape(message), file=Unbreakable(sys.stderr, []), flush=True)
    return status

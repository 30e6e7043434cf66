"""The command line: prepare a corpus, train on it, score, translate.

Every command is a plain function with documented arguments; tyro turns them into flags. Whatever a
user can do wrong ends in one line on standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version

__all__ = ["main"]

ABOUT = """Train a Transformer and translate with it.

A first training, from nothing to a translation:
  transformer-lib prepare data/prepared/de-en --corpus multi30k --source de --target en
  transformer-lib train data/prepared/de-en runs/de-en --preset tiny --max-minutes 10
  transformer-lib evaluate runs/de-en --data data/prepared/de-en --split test_2016_flickr
  transformer-lib translate runs/de-en "Ein Hund läuft durch den Schnee."

Completion of commands and flags in bash (zsh: write zsh twice):
  source <(transformer-lib --tyro-print-completion bash)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0 done, 1 the run failed, 2 wrong input, 130 or 143 stopped by a signal.
    """
    import tyro

    from transformer_lib.cli import corpus, ending, export, models, training, translation

    commands = {
        "prepare": corpus.prepare,
        "train": training.train,
        "evaluate": models.evaluate,
        "translate": translation.translate,
        "average": models.average,
        "info": models.info,
        "export": export.export,
    }
    arguments = sys.argv[1:] if arguments is None else arguments
    if [*arguments] == ["--version"]:
        print("transformer-lib", version("transformer_lib"))
        return 0
    try:
        with ending.unbreakable_output() if arguments[:1] == ["train"] else nullcontext():
            status = tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="transformer-lib",
                description=ABOUT,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:  # whoever read our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (
        ValueError,
        FileNotFoundError,
        FileExistsError,
        IsADirectoryError,
        NotADirectoryError,
    ) as error:
        return _failed(error, 2)
    except (OSError, FloatingPointError, RuntimeError, MemoryError) as error:
        return _failed(error, 1)
    except KeyboardInterrupt as error:
        return _failed(str(error) or "interrupted", 130)


def _failed(error: object, status: int) -> int:
    # Started by torchrun, all processes fail alike: rank 0 tells, and whoever has failed alone.
    if os.environ.get("RANK", "0") == "0" or hasattr(error, "of_one_rank"):
        print("error:", " ".join(str(error).split()), file=sys.stderr)
    return status

"""`python -m transformer_lib`: the same as the command `transformer-lib`."""

import os
import sys

from transformer_lib.cli import main
from transformer_lib.train.run_config import AMONG_OTHERS

__all__ = ["run"]


def run() -> int:
    """Run the command of this process and return its exit status."""
    status = main()
    if os.environ.keys() >= AMONG_OTHERS:
        # Threads of gloo may still clear tensors away, and end the process with an error if
        # Python does so too. All is written, so there is nothing to wait for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(run())

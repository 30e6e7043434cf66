"""`python -m transformer_lib`: the same as the command `transformer-lib`."""

import os
import sys

__all__ = ["run"]


def run() -> int:
    """Run the command of this process and return its exit status."""
    try:
        from transformer_lib.cli import main  # here, since importing takes a while, too
        from transformer_lib.train.run_config import AMONG_OTHERS

        status = main()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    if os.environ.keys() >= AMONG_OTHERS:
        # Threads of gloo may still clear tensors away, and end the process with an error if
        # Python does so too. All is written, so there is nothing to wait for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(run())

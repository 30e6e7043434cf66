"""`python -m transformer_lib`: the same as the command `transformer-lib`."""

import sys

from transformer_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())

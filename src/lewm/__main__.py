"""`python -m lewm`, which `torchrun -m lewm` also runs."""

import sys

from lewm.cli import main

if __name__ == "__main__":
    sys.exit(main())

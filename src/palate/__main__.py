"""`python -m palate` is the `palate` command."""

import sys

from palate.cli import main

if __name__ == "__main__":
    sys.exit(main())

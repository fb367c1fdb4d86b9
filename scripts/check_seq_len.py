"""Token-length statistics and truncation analysis: the guide's command, `palate lengths` by another name."""

import sys

from palate.cli import main

if __name__ == "__main__":
    sys.exit(main(["lengths", *sys.argv[1:]]))

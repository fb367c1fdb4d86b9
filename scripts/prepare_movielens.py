"""MovieLens ratings to Alpaca files: the guide's command, `palate prepare` by another name."""

import sys

from palate.cli import guide

if __name__ == "__main__":
    sys.exit(guide("prepare"))

"""Token-length statistics and truncation analysis: the guide's command, `palate lengths` by another name."""

import sys

from palate.cli import guide

if __name__ == "__main__":
    sys.exit(guide("lengths"))

"""P(Yes) over the test split, with metrics and baselines: the guide's command, `palate evaluate` by another name."""

import sys

from palate.cli import guide

if __name__ == "__main__":
    sys.exit(guide("evaluate"))

"""Fine-tuning with LoRA or QLoRA: the guide's command, `palate train` by another name."""

import sys

from palate.cli import guide

if __name__ == "__main__":
    sys.exit(guide("train"))

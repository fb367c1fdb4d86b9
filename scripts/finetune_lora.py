"""Fine-tuning with LoRA or QLoRA: the guide's command, `palate train` by another name."""

import sys

from palate.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

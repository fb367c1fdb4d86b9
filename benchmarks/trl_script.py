"""A fine-tuning script as TRL's documentation has it; `first_step.py` starts it and times its first step.

It tokenizes all samples before it trains, in a process a core. What it made of them is written down once the first
step is done, and then it ends.
"""

import json
import sys
from pathlib import Path
from typing import Any

from datasets import load_dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTTrainer

from palate.config import Config
from palate.models.load import best_dtype
from sides import lora_of, sft_config


class First(TrainerCallback):  # type: ignore[misc]
    """Says that the first step is done, and ends the run."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (self.out / "first.jsonl").touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            (self.out / "first.jsonl").write_text(json.dumps({"loss": logs["loss"]}) + "\n")
            control.should_training_stop = True


def main(settings: dict[str, Any]) -> None:
    config, out = Config.model_validate(settings["config"]), Path(settings["out"])
    dtype = str(best_dtype(config.model.dtype)).removeprefix("torch.")
    args = sft_config(
        config,
        out,
        completion_only_loss=True,
        dataset_num_proc=settings["processes"],
        model_init_kwargs={"dtype": dtype},
    )
    trainer = SFTTrainer(
        settings["model"],
        args,
        train_dataset=load_dataset("json", data_files=settings["data"], split="train"),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        peft_config=lora_of(config),
        callbacks=[First(out)],
    )
    trainer.train()
    from baselines import gathered
    from first_step import digest

    made = gathered(trainer.train_dataset)
    (out / "tokens.json").write_text(json.dumps(digest(made.ids, made.labels, made.lengths)))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

"""Training checks: a training that was killed resumes, and two processes train what one does; `palate train` itself."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from palate.commands.device_checks import TINY, Bench, Check, within
from palate.errors import WorkError
from palate.models.adapter import TRAINING
from palate.store.artifacts import read_json

EVERY = 10
"""Steps between two checkpoints, a quarter of all."""
RESUMED, SHARED = 0.01, 0.05
"""Bounds of an adapter's difference in norms: of a resumed one, and of one that two processes trained."""


def runs(bench: Bench) -> Iterator[Check]:
    """Trainings in processes of their own: killed and resumed, and shared by two processes."""
    trainings = Trainings(bench)
    yield Check("killed and resumed", trainings.resumed)
    yield Check(f"two processes, {trainings.backend}", trainings.shared)


class Trainings:
    """`palate train` on a few invented examples with a tiny model, in a folder."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.folder = bench, bench.folder / "training"
        self.several = bench.on.type == "cuda" and torch.cuda.device_count() > 1
        self.backend = "NCCL" if self.several else "gloo"

    @cached_property
    def config(self) -> Path:
        """The config's file, beside its model and its data."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

        words = ["<unk>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant", "Yes", "No"]
        words += [f"film{n}" for n in range(100)]
        bare = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
        bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        bare.add_special_tokens(words[1:3])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|im_end|>", pad_token="<|im_end|>")
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        )
        torch.manual_seed(0)
        Qwen3ForCausalLM(Qwen3Config(**TINY | {"vocab_size": 128})).save_pretrained(self.folder / "model")
        tokenizer.save_pretrained(self.folder / "model")
        draw = np.random.default_rng(5)
        examples = []
        for _ in range(128):
            films = draw.integers(0, 100, 6)
            question = "\n".join(f"film{film}" for film in films)
            answer = "Yes" if films[-1] < 50 else "No"
            examples.append({"system": "S", "instruction": "I", "input": question, "output": answer})
        (self.folder / "data").mkdir()
        (self.folder / "data" / "train.json").write_text(json.dumps(examples), encoding="utf-8")
        every = {"save_steps": EVERY, "logging_steps": EVERY, "max_steps": 4 * EVERY}
        train = {"batch_size": 4, "gradient_accumulation": 1, "learning_rate": 1e-3, "lora": {"r": 4, "dropout": 0.0}}
        config = {"name": "check", "data_dir": str(self.folder / "data"), "train": train | every}
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(config | {"model": {"base": str(self.folder / "model")}}), encoding="utf-8")
        return file

    def start(self, run: str, *words: str, on_processor: bool = False) -> "subprocess.Popen[str]":
        """Start a training into the folder `run`."""
        command = [sys.executable, "-m", "palate", "train", "--config", str(self.config), *words]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if on_processor else {}
        log = (self.folder / f"{run}.log").open("a+", encoding="utf-8")
        return subprocess.Popen(
            [*command, "--out", str(self.folder / run)], env=os.environ | hidden, stdout=log, stderr=log, text=True
        )

    def adapter(self, run: str, *words: str, on_processor: bool = False) -> Any:
        """The weights of an adapter after the training has ended, in one vector; trains it if it is not there."""
        from safetensors.torch import load_file

        home = self.folder / run / "adapter"
        if not home.is_dir() and self._ended(self.start(run, *words, on_processor=on_processor)) != 0:
            lines = (self.folder / f"{run}.log").read_text(encoding="utf-8").strip().splitlines()
            raise WorkError(f"the training failed: {lines[-1] if lines else 'it said nothing'}")
        weights = load_file(home / "adapter_model.safetensors")
        return torch.cat([weights[name].float().flatten() for name in sorted(weights)])

    def resumed(self) -> tuple[str, str]:
        """The difference between an adapter whose training was killed and one whose training was not."""
        child = self.start("killed")
        first = self.folder / "killed" / "checkpoints" / f"checkpoint-{EVERY}" / "whole"
        try:
            while child.poll() is None and not first.is_file():
                time.sleep(0.005)
        finally:
            child.kill()
        child.wait()
        if not first.is_file():
            self.adapter("killed")  # raises with the reason
        found = self.adapter("killed")
        at = read_json(self.folder / "killed" / "adapter" / TRAINING)["resumed_at"]
        if not at:
            raise WorkError("the training had ended before it was killed")
        return self._same(found, self.adapter("whole"), RESUMED), f"{RESUMED:g}"

    def shared(self) -> tuple[str, str]:
        """The difference between an adapter that two processes trained and one that one process trained."""
        on_processor = not self.several
        found = self.adapter("shared", "--launch", "2", on_processor=on_processor)
        one = "whole" if self.several or self.bench.on.type == "cpu" else "processor"
        return self._same(found, self.adapter(one, on_processor=on_processor), SHARED), f"{SHARED:g}"

    @staticmethod
    def _ended(child: "subprocess.Popen[str]") -> int:
        """The exit code of a process, which does not outlive this one."""
        try:
            return child.wait()
        finally:
            child.kill()

    @staticmethod
    def _same(found: Any, expected: Any, bound: float) -> str:
        return within([float((found - expected).norm() / expected.norm())], [bound])

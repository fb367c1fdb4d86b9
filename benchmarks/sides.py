"""The two trainers that are compared, each in a process of its own that makes one step when it is told to.

Both have the same base model, the same first weights of the adapter, the same optimizer and number format, and train
the same sequences in the same steps. Palate packs them and computes what they share once; TRL gets each of them
as a row of prompt and completion, whose ids and labels are here already, as `SFTTrainer` leaves them.
"""

import gc
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from palate.commands.prepare import chat_of, tokens_of_ratings
from palate.config import Config
from palate.tokens.shared import SharedHistory
from palate.train.schedule import Schedule, schedule_of
from palate.train.training_prompts import prompts_of

MANY = 1_000
"""Steps that the learning rate's schedule is laid out for; few of them are made."""
IGNORED = -100
FREED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Tells glibc to give freed memory back at once, so that what is resident is what tensors hold."""


@dataclass(frozen=True)
class Case:
    """What one side is to train. A step has `config.train.batch_size × gradient_accumulation` samples."""

    side: str
    """Palate or TRL."""
    config: Config
    steps: int
    """How many steps there are rows for."""
    proved: int = 0
    """Samples of the first step whose loss and gradients are compared in float32."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Made(NamedTuple):
    """One optimizer step."""

    seconds: float
    """From the end of the step before: loading, passes, optimizer and logging."""
    loss: float
    tokens: int
    """Through the model, padding among them."""
    peak: int
    """Most resident memory since the trainer was ready, in bytes above what was resident then."""


class Side:
    """A trainer in a fresh process, which is started at once and waited for when something is asked of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update({"CUDA_VISIBLE_DEVICES": "", **case.environment})
        try:
            self._process = context.Process(target=_serve, args=(theirs, case), daemon=True)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    @cached_property
    def about(self) -> dict[str, Any]:
        """How it attends, the tokens of its passes, and what was resident when, in bytes."""
        found: dict[str, Any] = self._answer()
        return found

    def exact(self) -> tuple[float, Any]:
        """Loss and gradients (one flat array) of the first samples, in float32; before the first step."""
        _ = self.about
        self._pipe.send("exact")
        found: tuple[float, Any] = self._answer()
        return found

    def step(self) -> Made:
        """Make one step."""
        _ = self.about
        self._pipe.send("step")
        found: Made = self._answer()
        return found

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.case.side} ended without an answer") from None
        if isinstance(answer, Exception):
            raise SystemExit(f"{self.case.side} failed: {answer}")
        return answer


def warm_up(config: Config) -> SharedHistory:
    """Make the tables, so that both sides find them; the prompts that there are to train."""
    return _schedule(config)[1].prompts


def _serve(pipe: Any, case: Case) -> None:
    """Build the side, then do what is asked."""
    from transformers import PrinterCallback

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        try:
            trainer, exact, about, tokens = (_palate if case.side == "Palate" else _trl)(case, Path(folder))
            gc.collect()
            about["ready"] = resident()
            forget_peak()
            pipe.send(about)
            while pipe.recv() == "exact":
                pipe.send(exact())
                gc.collect()
                forget_peak()
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(_gate(pipe, tokens, about["ready"]))
            trainer.train()
        except (EOFError, BrokenPipeError):  # the benchmark has what it wants
            pass
        except Exception as error:  # whatever it is, the benchmark must not wait for it
            traceback.print_exc()
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _gate(pipe: Any, tokens: list[int], ready: int) -> Any:
    """A callback that times every step and lets the next one begin when it is asked for."""
    from transformers import TrainerCallback

    class Gate(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
            if "loss" not in logs:
                return
            seconds = time.perf_counter() - self.started
            peak = peak_resident() - ready
            pipe.send(Made(seconds, logs["loss"], tokens[(state.global_step - 1) % len(tokens)], peak))
            pipe.recv()
            self.started = time.perf_counter()

    return Gate()


def _schedule(config: Config) -> tuple[Any, Schedule, Any]:
    """What both sides train: the chat, the steps, and the prompts that they are of."""
    chat = chat_of(config)
    tokens = tokens_of_ratings(config, chat, ["train"])["train"]
    prompts = prompts_of(config, chat, tokens, None)
    return chat, schedule_of(config, prompts), prompts


def _first(schedule: Schedule, samples: int) -> Any:
    """The first `samples` samples of the first step, as pieces."""
    found = []
    for begin, end in schedule.pieces(0).tolist():
        end = min(end, begin + samples)
        found.append([begin, end])
        samples -= end - begin
        if not samples:
            break
    return np.array(found)


def _samples(pieces: Any) -> Any:
    return np.concatenate([np.arange(begin, end) for begin, end in pieces.tolist()])


def _base(case: Case) -> tuple[Any, Any, dict[str, Any]]:
    """The base model and its tokenizer, and what was resident before and after."""
    import peft  # noqa: F401 - what is loaded later would count as the trainer's
    import transformers  # noqa: F401

    from palate.models.load import load_base_model

    if case.side == "TRL":
        import trl.trainer.sft_trainer  # noqa: F401
    gc.collect()
    before = resident()
    model, tokenizer = load_base_model(case.config.model, for_training=True)
    gc.collect()
    return model, tokenizer, {"libraries": before, "model": resident()}


def _palate(case: Case, folder: Path) -> tuple[Any, Any, dict[str, Any], list[int]]:
    """Palate's own trainer, as `palate train` makes it."""
    from palate.models.load import quiet
    from palate.train import answers, attention  # noqa: F401
    from palate.train.finetune import _trainer

    chat, schedule, prompts = _schedule(case.config)
    model, _, about = _base(case)
    with quiet():
        trainer = _trainer(case.config, model, chat, schedule, prompts, folder)
    _adapter_begins(trainer.model)
    passes = [schedule.passes(step) for step in range(case.steps)]
    sizes = [[int(schedule.prompts.tokens(each.pieces).sum()) for each in step] for step in passes]

    def exact() -> tuple[float, Any]:
        packed = schedule.prompts.pack(_first(schedule, case.proved))
        with _in_float32(trainer.model):
            total, _ = trainer._losses(trainer.attention.logits(trainer.model, packed), packed)
            return _with_gradients(trainer.model, total / packed.targets.size)

    about |= {
        "attention": trainer.attention.way,
        "passes": sizes,
        "trained": [*map(schedule.trained, range(case.steps))],
    }
    return trainer, exact, about, [sum(step) for step in sizes]


def _trl(case: Case, folder: Path) -> tuple[Any, Any, dict[str, Any], list[int]]:
    """TRL's trainer over the same sequences in the same steps, those of a step sorted by length."""
    from datasets import Dataset, disable_progress_bars
    from peft import get_peft_model
    from transformers import set_seed
    from trl import SFTTrainer

    from palate.models.load import quiet

    disable_progress_bars()
    _, schedule, _ = _schedule(case.config)
    batch = case.config.train.batch_size
    rows, sizes = [], []
    for step in range(case.steps):
        mine = sorted(rows_of(schedule.prompts, _samples(schedule.pieces(step))), key=_length, reverse=True)
        sizes.append([batch * _length(mine[at]) for at in range(0, len(mine), batch)])
        rows += mine
    model, tokenizer, about = _base(case)
    set_seed(case.config.train_seed)
    with quiet():
        peft = get_peft_model(model, lora_of(case.config))
        _adapter_begins(peft)
        trainer = SFTTrainer(
            peft, sft_config(case.config, folder), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )

    def exact() -> tuple[float, Any]:
        proved = rows_of(schedule.prompts, _samples(_first(schedule, case.proved)))
        batch = trainer.data_collator(proved)
        with _in_float32(peft):
            return _with_gradients(peft, trainer.compute_loss(peft, batch))

    about |= {"attention": "sdpa", "passes": sizes}
    return trainer, exact, about, [sum(step) for step in sizes]


def rows_of(prompts: SharedHistory, samples: Any) -> list[dict[str, list[int]]]:
    """Whole sequences, each by itself, with labels on the response."""
    ids, offsets = prompts.sequences(samples)
    rows = []
    for (a, b), response in zip(pairwise(offsets.tolist()), prompts.responses[samples].tolist(), strict=True):
        row = ids[a:b].tolist()
        rows.append({"input_ids": row, "labels": [IGNORED] * (b - a - response) + row[-response:]})
    return rows


def _length(row: Mapping[str, list[int]]) -> int:
    return len(row["input_ids"])


def lora_of(config: Config) -> Any:
    """The adapter as Palate has it."""
    from peft import LoraConfig

    lora = config.train.lora
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )


def sft_config(config: Config, folder: Path, **changed: Any) -> Any:
    """TRL's options, as Palate's in whatever decides the weights, else at their fastest."""
    import torch
    from trl import SFTConfig

    from palate.models.load import best_dtype

    train = config.train
    options: dict[str, Any] = {
        "per_device_train_batch_size": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "max_steps": train.max_steps or MANY,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.scheduler,
        "warmup_steps": train.warmup_ratio,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": train.optimizer,
        "gradient_checkpointing": train.recomputes == "layers",
        "bf16": best_dtype(config.model.dtype) is torch.bfloat16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": config.train_seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
        "max_length": None,
    }
    return SFTConfig(str(folder), **options | changed)


def _adapter_begins(model: Any) -> None:
    """Draw lora_B, which begins as zero, so that every weight of the adapter has a gradient."""
    import torch

    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.01)


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Compute exactly: base weights in float32 and back, which loses nothing."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    kinds = [weight.dtype for weight in frozen]
    for weight in frozen:
        weight.data = weight.data.float()
    try:
        yield
    finally:
        for weight, dtype in zip(frozen, kinds, strict=True):
            weight.data = weight.data.to(dtype)


def _with_gradients(model: Any, loss: Any) -> tuple[float, Any]:
    """A loss, and its gradients by all trained weights as one array."""
    import torch

    model.zero_grad()
    loss.backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]
    model.zero_grad()
    return loss.item(), torch.cat(gradients).numpy()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most that were, since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])

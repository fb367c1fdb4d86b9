"""Examples a second and model FLOPs utilization on a CUDA GPU: a model of Qwen3-8B's shape with random weights.

Neither ratings nor a tokenizer are needed: sequences are random tokens, with the lengths that MovieLens prompts have
with Qwen3's tokenizer. TRL's row, where it is installed, packs the same sequences one by one (`packing=True`,
best-fit decreasing) with FlashAttention if there is one, else with the attention that transformers chooses.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from report import number, said, spread

TITLE = "Qwen3-8B's shape, random weights, bfloat16 LoRA"
STEP = 64
"""Labelled examples an optimizer step."""
PASS = 8_192
"""Tokens of a forward pass."""
SIZES = {"history": (410, 60), "candidate": (37, 6), "response": 7, "lead": 4}
"""Tokens of what K targets share and of what is each one's own, (mean, standard deviation)."""
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165.2e12}
"""Dense bfloat16 FLOP/s of the data sheets."""
QWEN3_8B = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": False,
}
TINY = {
    **QWEN3_8B, "vocab_size": 2_048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def measured(*, quick: bool, repeats: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and claims; none, and why, where there is no GPU. `quick` takes a tiny model, and a CPU where it must."""
    import torch

    if not torch.cuda.is_available() and not quick:
        print("gpu: skipped, PyTorch finds no CUDA device", file=sys.stderr)
        return [], []
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step, tokens = (8, 1_024) if quick else (STEP, PASS)
    model = model_on(on, TINY if quick else QWEN3_8B)
    rows = [palate_row(model, on, targets, step, tokens, repeats) for targets in (1, 16)]
    if importlib.util.find_spec("trl") is None:
        print("gpu: no row of TRL, it is not installed", file=sys.stderr)
    elif on.type == "cpu":
        print("gpu: no row of TRL, its packing needs a GPU", file=sys.stderr)
    else:
        rows.append(trl_row(model, on, step, tokens, repeats, rows[0]["first"]))
    claims = []
    if rows[-1]["name"] == "TRL, packing":
        for row, target in zip(rows, (1.0, 5.0), strict=False):
            times = row["examples_per_second"] / rows[-1]["examples_per_second"]
            claims.append(claim(f"times TRL's examples/s on a GPU, {row['name']}", times, target))
    if on.type == "cuda":
        claims += [claim(f"of the GPU's peak, {row['name']}", row["utilization"], 0.45) for row in rows[:2]]
    return rows, claims


def claim(what: str, found: float, target: float) -> dict[str, Any]:
    return {"what": what, "measured": found, "side": ">=", "target": target, "met": found >= target}


def model_on(on: Any, shape: Mapping[str, Any]) -> Any:
    """The model with its adapter, made where it is to be."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16
    with torch.device(on), default_dtype(dtype):
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    model.config._name_or_path = model.name_or_path = "random weights"
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
    peft = get_peft_model(model, lora)
    peft.enable_input_require_grads()
    return peft


@contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def prompts_of(targets: int, samples: int, vocabulary: int) -> Any:
    """Random prompts as `SharedHistory` has them: samples in prompts of `targets`, each with its own candidate."""
    from palate.tokens.shared import Rows, SharedHistory

    draw = np.random.default_rng(7)
    count = -(-samples // targets)
    history = np.maximum(64, draw.normal(*SIZES["history"], count)).astype(np.int64)
    own = np.maximum(8, draw.normal(*SIZES["candidate"], count * targets)).astype(np.int64)
    response = SIZES["response"]
    rows = []
    for k, size in enumerate(history.tolist()):
        head = draw.integers(1, vocabulary, size)
        for mine in own[k * targets : (k + 1) * targets].tolist():
            ids = np.concatenate([head, draw.integers(1, vocabulary, mine + response)])
            ids[-response + SIZES["lead"]] = draw.integers(1, 3)
            rows.append((ids, np.concatenate([np.full(ids.size - response, -100), ids[-response:]])))

    class Made(SharedHistory):
        def __init__(self) -> None:
            self.source, self.targets, self._plain = source, targets, {}
            self.order = np.arange(len(source))
            self.first = np.arange(0, len(source) + 1, targets)
            self.prefix = history if targets > 1 else np.zeros(count, np.int64)
            self.lengths = source.lengths.astype(np.int64)

        def sequences(self, samples: Any) -> Any:
            ids, _, offsets = self.source.ragged(np.asarray(samples))
            return ids, offsets

    source = Rows(rows, SIZES["lead"], 1, "random")
    return Made()


def palate_row(model: Any, on: Any, targets: int, step: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Palate's trainer; its loss is compared with that of the sequences one by one, in the first step."""
    from transformers import TrainingArguments

    from palate.train.answers import AnswerTrainer
    from palate.train.attention import choose_attention
    from palate.train.schedule import Schedule

    steps = repeats + 2
    prompts = prompts_of(targets, step * steps, model.get_base_model().config.vocab_size)
    schedule = Schedule(prompts, step, tokens, seed=0, max_steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, **options(on, steps), gradient_checkpointing=on.type == "cuda",
                                 gradient_checkpointing_kwargs={"use_reentrant": False})  # fmt: skip
        attention = choose_attention(model, "auto", targets, int(prompts.lengths.max()))
        trainer = AnswerTrainer(model, args, schedule, attention, (1, 2))
        first = (schedule.pieces(0), prompts)
        check_alone(model, attention, *first)
        seconds = timed(trainer, on)
    packed = [prompts.pack(each.pieces) for n in range(steps) for each in schedule.passes(n)]
    passed = sum(map(len, packed)) / steps
    flops = sum(flops_of(model, each) for each in packed) / steps
    return row_of(f"Palate, K = {targets}", step, seconds, passed, flops, on) | {
        "first": None,
        "attention": attention.way,
    }


def check_alone(model: Any, attention: Any, pieces: Any, prompts: Any) -> None:
    """End the benchmark if packed sequences do not have the loss that they have one by one."""
    import torch
    from torch.nn.functional import cross_entropy

    packed = prompts.pack(pieces[:1])
    targets = torch.from_numpy(packed.targets.astype(np.int64))
    base = model.get_base_model()
    own = base.config._attn_implementation
    with torch.no_grad():
        together = cross_entropy(attention.logits(model, packed).float().cpu(), targets).item()
        base.set_attn_implementation("sdpa")
        apart = []
        for i in range(packed.block.size):
            alone = packed.alone(i)
            ids = torch.from_numpy(alone.input_ids.astype(np.int64))[None].to(next(model.parameters()).device)
            logits = model(input_ids=ids, logits_to_keep=torch.from_numpy(alone.at), use_cache=False).logits[0]
            mine = torch.from_numpy(alone.targets.astype(np.int64))
            apart.append(cross_entropy(logits.float().cpu(), mine).item())
        base.set_attn_implementation(own)
    if not abs(together - statistics.mean(apart)) <= 0.02 * statistics.mean(apart):
        raise SystemExit(f"packed prompts have the loss {together}, one by one they have {statistics.mean(apart)}")


def trl_row(model: Any, on: Any, step: int, tokens: int, repeats: int, _: Any) -> dict[str, Any]:
    """TRL's trainer with packing, which wants FlashAttention; examples a step are what its packs come to."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    steps = repeats + 2
    prompts = prompts_of(1, step * steps * 2, model.get_base_model().config.vocab_size)
    ids, labels, offsets = prompts.source.ragged()
    rows = [{"input_ids": ids[a:b].tolist(), "labels": labels[a:b].tolist()} for a, b in pairwise(offsets.tolist())]
    flash = importlib.util.find_spec("flash_attn") is not None
    model.get_base_model().set_attn_implementation("flash_attention_2" if flash else "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(
            folder, **options(on, steps), gradient_checkpointing=True, packing=True, max_length=tokens,
            gradient_accumulation_steps=1,
        )  # fmt: skip
        trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=blank_tokenizer())
        packs = trainer.train_dataset["seq_lengths"]
        seconds = timed(trainer, on)
    examples = statistics.mean(len(pack) for pack in packs)
    passed = statistics.mean(sum(pack) for pack in packs)
    flops = dense_flops(model, passed, examples * SIZES["response"], statistics.mean(pairs(pack) for pack in packs))
    assert isinstance(trainer.processing_class, PreTrainedTokenizerFast)
    return row_of("TRL, packing", examples, seconds, passed, flops, on) | {
        "first": None,
        "attention": "flash_attention_2" if flash else "sdpa",
    }


def blank_tokenizer() -> Any:
    """A tokenizer that TRL asks for its padding, and for nothing else."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="<pad>")


def options(on: Any, steps: int) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "per_device_train_batch_size": 1,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "bf16": True,
        "use_cpu": on.type == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def timed(trainer: Any, on: Any) -> list[float]:
    """Seconds of each step but the first two, in which kernels are compiled and chosen."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on.type == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    return np.diff(ends)[1:].tolist() or np.diff(ends).tolist()


def flops_of(model: Any, packed: Any) -> float:
    """Model FLOPs of a packed pass."""
    prefix = packed.prefix_end - packed.prefix
    block = packed.block_end - packed.block
    seen = float(
        (prefix * (prefix + 1) // 2).sum() + (block * prefix[packed.prompt_of] + block * (block + 1) // 2).sum()
    )
    return dense_flops(model, len(packed), packed.targets.size, seen)


def pairs(lengths: Any) -> float:
    return float(sum(n * (n + 1) // 2 for n in lengths))


def dense_flops(model: Any, tokens: float, labelled: float, seen: float) -> float:
    """FLOPs of forward and backward pass that the model needs, whatever is computed again.

    A frozen weight multiplies once forward and once for the gradient of its input; an adapter's once more for its
    own. `seen` are the pairs of query and key.
    """
    config = model.get_base_model().config
    head = model.get_output_embeddings().weight.numel()
    embedded = model.get_input_embeddings().weight.numel()
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    every = {id(weight): weight.numel() for weight in model.parameters() if not weight.requires_grad}
    frozen = sum(every.values()) - embedded - (head if not config.tie_word_embeddings else 0)
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * seen
    return 4.0 * frozen * tokens + 6.0 * trained * tokens + 4.0 * head * labelled + attention


def row_of(name: str, examples: float, seconds: list[float], tokens: float, flops: float, on: Any) -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name(on) if on.type == "cuda" else "CPU"
    peak = next((peak for model, peak in PEAK.items() if model in device), None)
    middle = spread(seconds)["median"]
    return {
        "name": name,
        "device": device,
        "seconds": seconds,
        "tokens": tokens,
        "examples_per_second": examples / middle,
        "flops": flops,
        "utilization": flops / middle / peak if peak else 0.0,
        "memory": torch.cuda.max_memory_allocated() if on.type == "cuda" else 0,
    }


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["name"],
    "on": lambda row: row["device"],
    "attention": lambda row: row["attention"],
    "a step": lambda row: said(row["seconds"]),
    "examples/s": lambda row: number(row["examples_per_second"]),
    "tokens/s": lambda row: number(row["tokens"] / spread(row["seconds"])["median"]),
    "TFLOP/s": lambda row: number(row["flops"] / spread(row["seconds"])["median"] / 1e12),
    "of the peak": lambda row: f"{100 * row['utilization']:.0f} %" if row["utilization"] else "",
    "memory": lambda row: f"{row['memory'] / 1e9:.1f} GB" if row["memory"] else "",
}

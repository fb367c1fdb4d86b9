"""How fast models of SmolLM2's and Qwen3's shapes are trained: one and sixteen targets a prompt, and TRL with packing.

    python benchmarks/shapes.py --quick     # tiny shapes: does it all run?
    python benchmarks/shapes.py --save

Neither ratings nor a tokenizer are needed: weights are random, and sequences are random tokens, with the lengths that
MovieLens prompts have with Qwen3's tokenizer. TRL packs the same sequences one by one (`packing=True`, best-fit
decreasing), with FlashAttention if there is one, else with the attention that transformers chooses. Losses of packed
sequences are compared with those of the sequences alone, on both sides, before anything is timed.

On a CUDA GPU all of it is in bfloat16 with gradient checkpointing. On a processor passes are smaller. Where a model
does not fit into memory, some of its layers are measured, and what all of them would take is worked out from two
numbers of layers and called so. Each row is a process of its own, one after the other.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from report import Result, in_own_process, number, publish, python_peak, said, spread
from training import CLAIMS, claim

SIZES = {"history": (410, 60), "candidate": (37, 6)}
"""Tokens of what K targets share and of what is each one's own, (mean, standard deviation)."""
RESPONSE, LEAD = 7, 4
"""Tokens of the response, and those of them before the answer."""
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165.2e12}
"""Dense bfloat16 FLOP/s of the data sheets."""
TARGETS = (1, 16)
WARM = 2
"""Steps that are not timed, in which kernels are compiled and memory is asked for."""
FEW = (2, 4)
"""Layers that stand for a model that does not fit."""
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1_024, "intermediate_size": 3_072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "Qwen3-8B": {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 4_096, "intermediate_size": 12_288,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
TINY = {
    "model_type": "qwen3", "vocab_size": 2_048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False,
}  # fmt: skip


class Load(NamedTuple):
    """How much is trained at once."""

    steps: Mapping[int, int]
    """Labelled examples an optimizer step, by K."""
    tokens: int
    """Most tokens of a forward pass."""


ON_GPU = Load({1: 64, 16: 64}, 8_192)
ON_CPU = Load({1: 4, 16: 16}, 2_048)
QUICK = Load({1: 8, 16: 16}, 1_024)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast models of real sizes are trained, beside TRL.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each row (3)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few steps: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    rows = list(measured({"tiny": TINY} if args.quick else {name: SHAPES[name] for name in args.shapes}, args))
    peak = max(row["peak"] or 0.0 for row in rows)  # what was beside one measurement was not beside all
    rows = [row | {"peak": peak} for row in rows]
    device = rows[0]["device"]
    results = [Result(f"Random weights, LoRA of rank 16 on all linear layers, {rows[0]['dtype']}", rows, COLUMNS)]
    if found := list(claims(rows)):
        results.append(Result(f"Targets{'' if device == 'CPU' else f', {device}'}", found, CLAIMS))
    publish(f"shapes{'-quick' if args.quick else ''}", results, as_json=args.json, save=args.save)


def measured(shapes: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every shape, number of targets and trainer, and for each number of layers that stands for all."""
    trl = importlib.util.find_spec("trl") is not None
    if not trl:
        print("no rows of TRL, it is not installed", file=sys.stderr)
    for name, shape in shapes.items():
        whole = shape["num_hidden_layers"]
        depths = [whole] if in_own_process(fits, shape) else list(FEW)
        for targets in (*TARGETS, *([None] if trl else [])):
            rows = []
            for depth in depths:
                own = {**shape, "num_hidden_layers": depth}
                about = {"shape": name, "layers": depth, "of": whole, "worked_out": False}
                rows.append(about | in_own_process(row, own, targets, args.quick, args.repeats))
                line = f"{name}, {layers(rows[-1])} layers, {rows[-1]['name']}"
                print(f"{line}: {number(rows[-1]['examples_per_second'])} examples/s", file=sys.stderr)
            yield from rows
            if len(rows) > 1:
                yield worked_out(rows[0], rows[1], whole)


def fits(shape: Mapping[str, Any]) -> bool:
    """Whether the weights leave a third of the memory to work in."""
    import torch

    with torch.device("meta"):
        weights = sum(weight.numel() for weight in plain_model(shape).parameters())
    on, dtype = where()
    if on.type == "cuda":
        room = torch.cuda.get_device_properties(on).total_memory
    else:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return bool(weights * dtype.itemsize < room * 2 / 3)


def worked_out(few: Mapping[str, Any], more: Mapping[str, Any], whole: int) -> dict[str, Any]:
    """What all layers would take: each further one as much as those that two rows differ by."""
    times = (whole - few["layers"]) / (more["layers"] - few["layers"])

    def at(first: float, second: float) -> float:
        return float(first + times * (second - first))

    first, second = (spread(each["seconds"])["median"] for each in (few, more))
    seconds, flops = at(first, second), at(few["flops"], more["flops"])
    return {
        **more,
        "layers": whole,
        "worked_out": True,
        "seconds": [seconds],
        "examples_per_second": few["examples_per_second"] * first / seconds,
        "flops": flops,
        "memory": at(few["memory"], more["memory"]),
    }


def claims(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Beside TRL's row of the same shape; of a GPU's peak, too, in the largest shape."""
    whole = [each for each in rows if each["layers"] == each["of"]]
    for each in whole:
        theirs = next((one for one in whole if one["shape"] == each["shape"] and one["targets"] is None), None)
        if theirs is None or each is theirs:
            continue
        times = each["examples_per_second"] / theirs["examples_per_second"]
        what = f"times TRL's examples/s, packing, {each['shape']}, K = {each['targets']}{note(each)}"
        yield claim(what, times, ">=", 1.0 if each["targets"] == 1 else 5.0)
    for each in whole:
        if each["device"] != "CPU" and each["shape"] == "Qwen3-8B" and each["targets"] is not None:
            yield claim(f"of the GPU's peak, {each['shape']}, K = {each['targets']}", utilization(each), ">=", 0.45)


def row(shape: Mapping[str, Any], targets: int | None, quick: bool, repeats: int) -> dict[str, Any]:
    """One trainer on one shape; `targets` None is TRL with packing."""
    on, dtype = where()
    load = QUICK if quick else ON_GPU if on.type == "cuda" else ON_CPU
    model = adapted(shape, on, dtype)
    if targets is None:
        found = trl_row(model, on, load.steps[1], load.tokens, repeats)
    else:
        found = palate_row(model, on, targets, load.steps[targets], load.tokens, repeats)
    return found | {
        "targets": targets,
        "device": device_name(on),
        "dtype": str(dtype).removeprefix("torch."),
        "peak": peak_of(on, dtype),
        "memory": memory_of(on),
    }


def where() -> tuple[Any, Any]:
    """The device, and the number format that it is fast in."""
    from palate.models.load import best_dtype, device

    return device(), best_dtype("auto", device())


def device_name(on: Any) -> str:
    import torch

    return torch.cuda.get_device_name(on) if on.type == "cuda" else "CPU"


def peak_of(on: Any, dtype: Any) -> float | None:
    """FLOP/s: a GPU's by its data sheet, a processor's in a product of matrices."""
    from palate.plan.devices import product_speed

    if on.type != "cuda":
        return product_speed(dtype, on, 1.0)
    return next((peak for name, peak in PEAK.items() if name in device_name(on)), None)


def memory_of(on: Any) -> int:
    """Bytes at the peak: of a GPU what was allocated, else the whole process."""
    import torch

    return torch.cuda.max_memory_allocated(on) if on.type == "cuda" else python_peak()


def plain_model(shape: Mapping[str, Any]) -> Any:
    """A model with random weights in PyTorch's default format."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {name: value for name, value in shape.items() if name != "model_type"}
    config = AutoConfig.for_model(shape["model_type"], **values, max_position_embeddings=8_192)
    return AutoModelForCausalLM.from_config(config)


def adapted(shape: Mapping[str, Any], on: Any, dtype: Any) -> Any:
    """The model with its adapter, made where it is to be."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    with torch.device(on), default_dtype(dtype):
        model = plain_model(shape)
    model.config._name_or_path = model.name_or_path = "random weights"
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
    peft = get_peft_model(model, lora)
    if on.type == "cuda":
        peft.enable_input_require_grads()  # which gradient checkpointing wants
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
    from palate.tokens.shared import SharedHistory, SharedRows

    draw = np.random.default_rng(7)
    count = -(-samples // targets)
    history = np.maximum(64, draw.normal(*SIZES["history"], count)).astype(np.int64)
    own = np.maximum(8, draw.normal(*SIZES["candidate"], count * targets)).astype(np.int64)
    rows = []
    for k, size in enumerate(history.tolist()):
        head = draw.integers(1, vocabulary, size)
        for mine in own[k * targets : (k + 1) * targets].tolist():
            ids = np.concatenate([head, draw.integers(1, vocabulary, mine + RESPONSE)])
            ids[-RESPONSE + LEAD] = draw.integers(1, 3)
            rows.append((ids.tolist(), [-100] * (ids.size - RESPONSE) + ids[-RESPONSE:].tolist()))

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

    source = SharedRows(rows, LEAD, 1, "random")
    return Made()


def palate_row(model: Any, on: Any, targets: int, step: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Palate's trainer; its loss is compared with that of the sequences one by one, in the first step."""
    from transformers import TrainingArguments

    from palate.train.answers import AnswerTrainer
    from palate.train.attention import choose_attention
    from palate.train.schedule import Schedule

    steps = repeats + WARM
    prompts = prompts_of(targets, step * steps, model.get_base_model().config.vocab_size)
    schedule = Schedule(prompts, step, tokens, seed=0, max_steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, **options(model, on, steps))
        attention = choose_attention(model, "auto", targets, int(prompts.lengths.max()))
        trainer = AnswerTrainer(model, args, schedule, (1, 2))
        trainer.attention = attention
        check_alone(model, attention, schedule.pieces(0), prompts)
        seconds = timed(trainer, on)
    packed = [prompts.pack(each.pieces) for n in range(steps) for each in schedule.passes(n)]
    passed = sum(map(len, packed)) / steps
    flops = sum(flops_of(model, each) for each in packed) / steps
    return row_of(f"Palate, K = {targets}", step, seconds, passed, flops) | {"attention": attention.way}


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
    same_loss("a packed prompt", together, statistics.mean(apart))


def trl_row(model: Any, on: Any, step: int, tokens: int, repeats: int) -> dict[str, Any]:
    """TRL's trainer with packing; examples a step are what its packs come to."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    steps = repeats + WARM
    prompts = prompts_of(1, step * steps * 2, model.get_base_model().config.vocab_size)
    ids, labels, offsets = prompts.source.ragged()
    rows = [{"input_ids": ids[a:b].tolist(), "labels": labels[a:b].tolist()} for a, b in pairwise(offsets.tolist())]
    way = "flash_attention_2" if importlib.util.find_spec("flash_attn") is not None else "sdpa"
    model.get_base_model().set_attn_implementation(way)
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(folder, **options(model, on, steps), packing=True, max_length=tokens)
        trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=blank_tokenizer())
        check_packs(trainer, way)
        packs = trainer.train_dataset["seq_lengths"]
        seconds = timed(trainer, on)
    examples = statistics.mean(len(pack) for pack in packs)
    passed = statistics.mean(sum(pack) for pack in packs)
    flops = dense_flops(model, passed, examples * RESPONSE, statistics.mean(pairs(pack) for pack in packs))
    return row_of("TRL, packing", examples, seconds, passed, flops) | {"attention": way}


def check_packs(trainer: Any, way: str) -> None:
    """End the benchmark if TRL's first pack does not have the loss that its sequences have one by one."""
    import torch

    pack = next(iter(trainer.get_train_dataloader()))
    model, ids, labels = trainer.model, pack["input_ids"], pack["labels"]
    ends = [*(pack["position_ids"][0] == 0).nonzero()[:, 0].tolist(), ids.shape[1]]
    base = model.get_base_model()
    with torch.no_grad():
        together = model(input_ids=ids, labels=labels, position_ids=pack["position_ids"]).loss.item()
        base.set_attn_implementation("sdpa")
        alone = [model(input_ids=ids[:, a:b], labels=labels[:, a:b]).loss.item() for a, b in pairwise(ends)]
        base.set_attn_implementation(way)
    same_loss("TRL's pack", together, statistics.mean(alone))  # all have as many labelled tokens


def same_loss(what: str, together: float, alone: float) -> None:
    """End the benchmark if packed sequences have another loss than they have one by one."""
    if not abs(together - alone) <= 0.02 * alone:
        raise SystemExit(f"{what} has the loss {together}, its sequences one by one have {alone}")


def blank_tokenizer() -> Any:
    """A tokenizer that TRL asks for its padding, and for nothing else."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="<pad>")


def options(model: Any, on: Any, steps: int) -> dict[str, Any]:
    """What both trainers are told."""
    import torch

    return {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "bf16": next(model.parameters()).dtype is torch.bfloat16,
        "gradient_checkpointing": on.type == "cuda",
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if on.type == "cuda" else None,
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

    class Clock(TrainerCallback):  # type: ignore[misc]
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
    return float(4.0 * frozen * tokens + 6.0 * trained * tokens + 4.0 * head * labelled + attention)


def row_of(name: str, examples: float, seconds: list[float], tokens: float, flops: float) -> dict[str, Any]:
    middle = spread(seconds)["median"]
    return {
        "name": name,
        "seconds": seconds,
        "tokens": tokens,
        "examples_per_second": examples / middle,
        "flops": flops,
    }


def layers(row: Mapping[str, Any]) -> str:
    """How many layers, and whether they were measured."""
    return f"{row['layers']} of {row['of']}" if row["layers"] < row["of"] else "all" + note(row)


def utilization(row: Mapping[str, Any]) -> float:
    """The share of the peak; 0 if that is not known."""
    return float(row["flops"] / spread(row["seconds"])["median"] / row["peak"]) if row["peak"] else 0.0


def note(row: Mapping[str, Any]) -> str:
    """What is said of a row that was not measured."""
    return ", worked out" if row["worked_out"] else ""


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "shape": lambda row: row["shape"],
    "layers": layers,
    "": lambda row: row["name"],
    "attention": lambda row: row["attention"],
    "a step": lambda row: said(row["seconds"]),
    "examples/s": lambda row: number(row["examples_per_second"]),
    "tokens/s": lambda row: number(row["tokens"] / spread(row["seconds"])["median"]),
    "TFLOP/s": lambda row: number(row["flops"] / spread(row["seconds"])["median"] / 1e12),
    "of the peak": lambda row: f"{100 * utilization(row):.0f} %" if row["peak"] else "",
    "memory": lambda row: f"{row['memory'] / 1e9:.1f} GB",
}


if __name__ == "__main__":
    main()

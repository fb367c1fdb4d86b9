"""Show a plan on the terminal or as JSON."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palate.plan.devices import MARGIN, OPERATION, UTILIZATION
from palate.plan.flops import FLOPS
from palate.plan.memory import FRAMEWORK, PARTS, is_known
from palate.plan.predict import Estimate, Plan
from palate.progress import clock

MEANING = {
    "base weights": "frozen",
    "adapter": "LoRA",
    "gradients": "of the adapter",
    "optimizer": "its states",
    "activations": "kept for the backward pass",
    "logits": "labelled tokens × vocabulary",
    "working": "short-lived, in the backward pass",
    "framework": "allowance for CUDA and the allocator",
}
COMPUTED = {
    "linear": "linear layers, frozen",
    "attention": "attention scores",
    "head": "vocabulary head",
    "lora": "LoRA",
}


def plan_tables(plan: Plan, source: str) -> RenderableType:
    """The plan's tables, for a terminal of at least 80 columns."""
    shape, lora = plan.shape, plan.config.train.lora
    what = "all layers" if plan.config.train.method == "full" else f"LoRA r = {lora.r}"
    about = f"  {_si(shape.weights)} weights, {shape.layers} layers; {what}: {_si(shape.adapter_weights)} trained"
    parts = ([Text.assemble((shape.name, "bold"), about)], _tokens(plan, source), _flops(plan), _memory(plan))
    return Group(*(line for part in parts for line in (*part, Text())), *_devices(plan))


def as_json(plan: Plan, source: str) -> dict[str, Any]:
    """The plan as JSON: tokens, FLOPs, bytes, seconds."""
    work, times, compute, shape = plan.workload, plan.schedule, plan.compute, plan.shape
    dtypes = dict.fromkeys(estimate.dtype for estimate in plan.estimates)
    return {
        "data": source,
        "model": {
            "name": shape.name,
            "weights": shape.weights,
            "adapter_weights": shape.adapter_weights,
            "layers": shape.layers,
            "vocabulary": shape.vocabulary,
        },
        "tokens": {
            "samples": work.samples,
            "sequences": int(work.size.size),
            "labelled": work.labelled,
            "forward": work.tokens(),
            "forward_without_sharing": work.tokens(shared=False),
            "padded": work.padded(plan.config.train.batch_size, plan.config.seed)[0],
            "longest_sequence": work.longest_sequence,
            "attention_pairs": work.pairs(),
            "attention_pairs_without_sharing": work.pairs(shared=False),
        },
        "run": {
            "steps": times.steps,
            "samples": times.samples,
            "samples_a_step": times.step_samples,
            "micro_batches_a_step": times.micro_batches,
            "tokens_a_pass_at_most": times.pass_tokens,
            "epochs": times.epochs,
            "tokens": round(work.tokens() * times.epochs),
        },
        "flops": {
            "forward": compute.forward,
            "forward_and_backward": compute.total,
            "total": compute.sum,
            "a_step": plan.flops_a_step,
            "without_sharing": compute.separate,
            "padded_with_full_head": compute.usual,
        },
        "memory": {
            dtype: {name: round(size) for name, size in (memory.parts | {"total": memory.total}).items()}
            for dtype, memory in ((dtype, plan.memory(dtype)) for dtype in dtypes)
        },
        "devices": [_estimate_json(estimate) for estimate in plan.estimates],
    }


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    device = estimate.device
    return {
        "name": device.name,
        "dtype": estimate.dtype,
        "peak_flops": device.speed(estimate.dtype) / device.utilization,
        "utilization": device.utilization,
        "memory": device.memory,
        "needed": round(estimate.memory.total),
        "fits": estimate.fits,
        "remedy": estimate.remedy,
        "seconds_a_step": estimate.seconds_a_step,
        "seconds": estimate.seconds,
        "cost": estimate.cost,
    }


def _table(*right: str, left: int = 1) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for n, name in enumerate(right):
        table.add_column(name, justify="left" if n < left else "right", style="cyan" if n == 0 else None, no_wrap=True)
    return table


def _tokens(plan: Plan, source: str) -> list[RenderableType]:
    work, times, train = plan.workload, plan.schedule, plan.config.train
    table = _table("", "an epoch", "the run", "× forward")
    forward = work.tokens()

    def row(name: str, value: int, ratio: bool = False) -> None:
        share = f"{value / forward:.2f}" if ratio else ""
        table.add_row(name, f"{value:,}", f"{round(value * times.epochs):,}", share)

    row("samples", work.samples)
    row("labelled tokens", work.labelled)
    row("forward tokens", forward, ratio=True)
    if work.size.size < work.samples:
        row("… without sharing", work.tokens(shared=False), ratio=True)
    row("… padded, each sample whole", work.padded(train.batch_size, plan.config.seed)[0], ratio=True)
    text = (
        f"{times.steps:,} steps of {times.step_samples} samples in {times.micro_batches:.3g} "
        f"{'pass' if times.micro_batches == 1 else 'passes'} of at most {times.pass_tokens:,} tokens, "
        f"{times.epochs:.3g} {'epoch' if times.epochs == 1 else 'epochs'}"
    )
    return [Text(f"Tokens of {source}", style="bold"), table, Text(text)]


def _flops(plan: Plan) -> list[RenderableType]:
    compute = plan.compute
    table = _table("", "forward", "with backward", "share")
    full = plan.config.train.method == "full"
    for part in FLOPS:
        if full and part == "linear":
            continue  # none is frozen
        table.add_row(
            "linear layers, trained" if full and part == "lora" else COMPUTED[part],
            _si(compute.forward[part]),
            _si(compute.total[part]),
            f"{compute.total[part] / compute.sum:.1%}",
        )
    table.add_row("all", _si(sum(compute.forward.values())), _si(compute.sum), "", style="bold")
    if plan.workload.size.size < plan.workload.samples:
        table.add_row("… without sharing", "", _si(compute.separate), f"{compute.separate / compute.sum:.2f} ×")
    table.add_row("… padded, head at every token", "", _si(compute.usual), f"{compute.usual / compute.sum:.2f} ×")
    how = ", the forward pass twice" if plan.config.train.recomputes == "layers" else ""
    return [Text.assemble(("FLOPs of the run", "bold"), how), table]


def _memory(plan: Plan) -> list[RenderableType]:
    config = plan.config
    dtype = "bfloat16" if config.model.dtype == "auto" else config.model.dtype
    memory = plan.memory(dtype)
    meaning = dict(MEANING)
    meaning["base weights"] += ", NF4" if config.model.quantization == "nf4" else f", {dtype}"
    if config.train.method == "full":
        meaning |= {"base weights": "as they were, float32", "adapter": "the layers as trained, float32"}
        meaning["gradients"] = "of the layers"
    else:
        meaning["adapter"] += " in float32"
    known = is_known(config.train.optimizer)
    meaning["optimizer"] = config.train.optimizer + ("" if known else ", unknown: taken for AdamW")
    meaning["activations"] += f", {memory.tokens:,} tokens"
    if config.train.recomputes != "nothing":
        kept = "the layers' inputs" if config.train.recomputes == "layers" else "inputs and matrix products"
        meaning["activations"] = f"{kept}, {memory.tokens:,} tokens"
        meaning["working"] = "one layer computed again, and its gradients"
    table = _table("", "GB", "share")
    table.add_column("", no_wrap=True)
    for part in PARTS:
        size = memory.parts[part]
        shown = (f"{size / 1e9:.2f}", f"{size / memory.total:.0%}") if size else ("–", "–")
        words = meaning[part] if size else f"{meaning[part]}: none at the peak"
        table.add_row(part, *shown, Text(words, style="dim"))
    table.add_row("all", f"{memory.total / 1e9:.2f}", "", "", style="bold")
    return [Text("Memory at the peak", style="bold"), table]


def _devices(plan: Plan) -> list[RenderableType]:
    priced = any(estimate.cost is not None for estimate in plan.estimates)
    table = _table("", "peak", "used", "memory", "needed", "", "a step", "the run", *(["cost"] if priced else []))
    remedies: dict[str, list[str]] = {}
    slow = []
    for estimate in plan.estimates:
        device = estimate.device
        if estimate.dtype == "float32" and "bfloat16" not in device.flops and plan.config.model.dtype == "auto":
            slow.append(device.name)
        row: list[Any] = [
            device.name,
            _short(device.speed(estimate.dtype) / device.utilization / 1e12),
            f"{device.utilization:.0%}" if device.utilization >= 0.1 else f"{device.utilization:.1%}",
            f"{device.memory / 1e9:.0f}",
            f"{estimate.memory.total / 1e9:.1f}",
            Text("fits", style="green") if estimate.fits else Text("too small", style="red"),
            _duration(estimate.seconds_a_step),
            _duration(estimate.seconds),
        ]
        if priced:
            row.append("" if estimate.cost is None else f"{estimate.cost:,.2f}")
        table.add_row(*row, style=None if estimate.fits else "dim")
        if plan.config.train.gradient_checkpointing == "auto" and estimate.checkpointing and estimate.fits:
            taken = f"auto is train.gradient_checkpointing={str(estimate.checkpointing).lower()}"
            remedies.setdefault(taken, []).append(device.name)
        if not estimate.fits:
            remedies.setdefault(_remedy(estimate.remedy), []).append(device.name)
    notes: list[RenderableType] = []
    for remedy, names in remedies.items():
        notes.append(Text.assemble((", ".join(names), "cyan"), ": ", remedy))
    measured = any(estimate.device.framework is not None for estimate in plan.estimates)
    note = (
        f"Peak in TFLOP/s, memory in GB; it fits where {MARGIN:.0%} of the memory suffice. {UTILIZATION:.0%} of a "
        f"GPU's peak, {OPERATION * 1e6:.0f} µs an operation and {FRAMEWORK / 1e9:.0f} GB for CUDA are assumptions"
        + ("; this machine is measured." if measured else ".")
        + (" Where it fits with other options, the time is with them." if any(e.remedy for e in plan.estimates) else "")
        + (f" {', '.join(slow)}: no bfloat16, so float32." if slow else "")
        + ("" if priced else " --price H100=2.50 adds the cost at a price an hour.")
    )
    return [Text("Time, on one device", style="bold"), table, *notes, Text(note, style="dim")]


def _remedy(options: Mapping[str, object] | None) -> str:
    if options is None:
        return "nothing helps: a smaller model, or a shorter prompt"
    words = " ".join(f"{key}={str(value).lower()}" for key, value in options.items())
    return f"fits with {words}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else clock(seconds)


def _si(value: float) -> str:
    """A number with three digits and a prefix."""
    for limit, prefix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g}"

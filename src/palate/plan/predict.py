"""Predict tokens, FLOPs, memory, seconds and cost from a config, a workload and a model's shape."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from palate.config import Config
from palate.models.load import best_dtype
from palate.plan.devices import DEVICES, MARGIN, OPERATION, THIS, Device
from palate.plan.flops import flops, kernels
from palate.plan.memory import FRAMEWORK, Batch, Memory, activations_moved, memory_of, weights_moved
from palate.plan.shape import ModelShape, load_shape
from palate.plan.workload import Workload
from palate.train.processes import sharding
from palate.train.schedule import Schedule, samples_in_step

log = logging.getLogger(__name__)

TRAFFIC = 2.6
"""Bytes that the kernels of a step read and write, for each byte of weights and kept activations that it moves: what
`benchmarks/roofline.py` counts in a step of Qwen3-0.6B, whose products do not outweigh them."""
ROUNDED = 64
"""A recommended size of a pass is rounded down to a multiple of this number of tokens."""


@dataclass(frozen=True)
class StepCounts:
    """The steps and passes of a run on one device."""

    steps: int
    step_samples: int
    """Labelled samples in an optimizer step."""
    micro_batches: float
    """Average number of forward passes in a step."""
    pass_tokens: int
    """Maximum number of tokens in a forward pass."""
    pass_labelled: int
    """Labelled tokens in a pass of this size."""
    samples: int
    """Labelled samples of the whole run over all epochs."""
    epochs: float


@dataclass(frozen=True)
class Compute:
    """FLOPs of the whole run, by `FLOPS`."""

    forward: Mapping[str, float]
    total: Mapping[str, float]
    """Forward and backward."""
    separate: float
    """Total FLOPs without shared prefixes."""
    usual: float
    """Total FLOPs with padded batches and the vocabulary projection at every position."""

    @property
    def sum(self) -> float:
        """FLOPs of the run."""
        return sum(self.total.values())


@dataclass(frozen=True)
class Estimate:
    """A run on one device."""

    device: Device
    dtype: str
    memory: Memory
    fits: bool
    seconds_a_step: float
    """If there is a `remedy`, the seconds and the cost are those with it, since the run does not fit without."""
    seconds: float
    cost: float | None
    """In the currency of the price; None: no price was given."""
    remedy: Mapping[str, object] | None
    """Options that make the run fit; None if it fits already, or if no option helps."""
    checkpointing: bool | str = False
    """`train.gradient_checkpointing`, on this device if it is `auto`."""


@dataclass(frozen=True)
class Plan:
    """The predicted cost of a run."""

    config: Config
    workload: Workload
    shape: ModelShape
    schedule: StepCounts
    compute: Compute
    estimates: Sequence[Estimate] = ()

    @property
    def flops_a_step(self) -> float:
        """FLOPs of an average optimizer step."""
        return self.compute.sum / max(1, self.schedule.steps)

    @property
    def largest(self) -> Batch:
        """The largest pass."""
        tokens, labelled = self.schedule.pass_tokens, self.schedule.pass_labelled
        rows = max(1, round(tokens / max(1, min(self.workload.longest_sequence, tokens))))
        return Batch(rows, ceil(tokens / rows), min(labelled, tokens))

    def memory(self, dtype: str, framework: float = FRAMEWORK, *, on_gpu: bool = True) -> Memory:
        """Peak bytes by part in `dtype`, with `framework` bytes in use before the model is loaded."""
        return memory_of(self.shape, self.config, dtype, self.largest, framework=framework, on_gpu=on_gpu)

    def seconds_a_step(self, flops_a_second: float) -> float:
        """Seconds of an average step at this speed."""
        return self.flops_a_step / flops_a_second


def predict(
    config: Config,
    workload: Workload,
    *,
    shape: ModelShape | None = None,
    devices: Sequence[Device] = DEVICES,
    prices: Mapping[str, float] | None = None,
) -> Plan:
    """Predict a training on `workload`, the samples of one epoch, for each device.

    `prices` are prices per hour by device name. Raises as `load_shape` does.
    """
    shape = shape or load_shape(config)
    counts = schedule(config, workload)
    plan = Plan(config, workload, shape, counts, _compute(config, workload, shape, counts.epochs))
    return replace(plan, estimates=[_estimate(plan, device, (prices or {}).get(device.name)) for device in devices])


def schedule(config: Config, workload: Workload) -> StepCounts:
    """The steps and passes that `palate.train.schedule` would make."""
    train, n = config.train, workload.samples
    each = workload.tokens() / n
    step_samples = samples_in_step(train, each)
    an_epoch = max(1, ceil(n / step_samples))
    steps = train.max_steps or ceil(train.epochs * an_epoch)
    whole, rest = divmod(steps, an_epoch)
    samples = whole * n + min(n, rest * step_samples)
    budget = train.tokens_per_batch or train.batch_size * int(workload.lengths.max())
    pass_tokens = workload.largest or min(
        max(budget, workload.longest_sequence), step_samples * int(workload.lengths.max())
    )
    micro = workload.passes or ceil(each * step_samples / pass_tokens)
    labelled = min(step_samples, ceil(pass_tokens / each)) * workload.trained
    return StepCounts(steps, step_samples, micro, pass_tokens, ceil(labelled), samples, samples / n)


def _compute(config: Config, workload: Workload, shape: ModelShape, epochs: float) -> Compute:
    """The run's FLOPs: an epoch's, times the epochs."""
    # Eager attention also multiplies above the diagonal; fused implementations do not.
    causal = 2 if config.model.attn_implementation == "eager" else 1

    def run(tokens: int, pairs: int, labelled: int) -> tuple[dict[str, float], dict[str, float]]:
        return flops(shape, config, epochs * tokens, epochs * causal * pairs, epochs * labelled)

    forward, total = run(workload.tokens(), workload.pairs(), workload.labelled)
    separate = run(workload.tokens(shared=False), workload.pairs(shared=False), workload.labelled)[1]
    padded, pairs = workload.padded(config.train.batch_size, config.seed)
    usual = run(padded, pairs, padded)[1]
    return Compute(forward, total, sum(separate.values()), sum(usual.values()))


def _estimate(plan: Plan, device: Device, price: float | None) -> Estimate:
    auto, plan = plan.config.train.gradient_checkpointing == "auto", with_checkpointing(plan, device)
    dtype = device.dtype(plan.config.model.dtype)
    memory = _memory(plan, device)
    fits = memory.total <= device.memory * MARGIN
    remedy = None if fits else _remedy(plan, device)
    run = plan if remedy is None else _with(plan, remedy)
    step = run.seconds_a_step(device.speed(dtype))
    if device.bandwidth is not None:  # or products at the peak between kernels that move bytes, or the start of kernels
        counts = run.schedule
        tokens = run.workload.tokens() / run.workload.samples * counts.step_samples
        moved = counts.micro_batches * weights_moved(run.shape, run.config, dtype)
        largest = run.largest
        moved += activations_moved(run.shape, run.config, dtype, largest) * tokens / (largest.rows * largest.length)
        compiled = device.gpu and compiles(run.config, counts.steps)
        started = counts.micro_batches * kernels(run.shape, run.config, dtype, compiled=compiled) * OPERATION
        products = run.seconds_a_step(device.speed(dtype) / device.utilization)
        step = max(step, products + TRAFFIC * moved / device.bandwidth, started)
    seconds = step * plan.schedule.steps
    cost = None if price is None else price * seconds / 3600
    checkpointing = plan.config.train.gradient_checkpointing
    if remedy is not None and auto and checkpointing:
        remedy = {**remedy, "train.gradient_checkpointing": checkpointing}
    return Estimate(device, dtype, memory, fits, step, seconds, cost, remedy, checkpointing)


def compiles(config: Config, steps: int) -> bool:
    """Whether a run of so many steps on a GPU compiles the model's layers."""
    from palate.train.layers import MANY_STEPS

    many = config.train.kernels == "auto" and steps >= MANY_STEPS and sharding() is None
    return many or config.train.kernels == "compile"


def with_checkpointing(plan: Plan, device: Device) -> Plan:
    """The plan with `train.gradient_checkpointing: auto` resolved: on a GPU the fastest that fits, elsewhere none."""
    if plan.config.train.gradient_checkpointing != "auto":
        return plan
    for choice in (False, "selective") if device.gpu else ():
        tried = _with(plan, {"train.gradient_checkpointing": choice})
        if _memory(tried, device).total <= device.memory * MARGIN:
            return tried
    return _with(plan, {"train.gradient_checkpointing": device.gpu})


def fitted(config: Config, schedule: Schedule) -> Config:
    """The config with `train.gradient_checkpointing: auto` resolved for a GPU of this machine that holds the model."""
    from palate.models.load import device as here

    on = here()
    if config.train.gradient_checkpointing != "auto" or on.type != "cuda" or sharding() in ("fsdp2", "zero3"):
        return config
    import torch

    dtype = str(best_dtype(config.model.dtype, on)).removeprefix("torch.")
    memory = float(torch.cuda.get_device_properties(on).total_memory)
    plan = predict(config, Workload.of_schedule(schedule), devices=[])
    found = with_checkpointing(plan, Device(THIS, {"float32": 1.0, dtype: 1.0}, memory, None)).config
    log.debug("gradient checkpointing: %s, by the estimate of memory", found.train.gradient_checkpointing)
    return found


def _memory(plan: Plan, device: Device) -> Memory:
    framework = FRAMEWORK if device.framework is None else device.framework
    return plan.memory(device.dtype(plan.config.model.dtype), framework, on_gpu=device.gpu)


def _with(plan: Plan, options: Mapping[str, object]) -> Plan:
    """The plan with some options of the config changed; the options have dotted names."""
    config, workload = plan.config, plan.workload
    for name, value in options.items():
        section, _, key = name.partition(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={key: value})})
    if "train.tokens_per_batch" in options:  # the workload's passes have another size
        workload = replace(workload, largest=None, passes=None)
    return predict(config, workload, shape=plan.shape, devices=[])


def _remedy(plan: Plan, device: Device) -> Mapping[str, object] | None:
    """The cheapest options that make the run fit: smaller passes cost nothing, checkpointing time, NF4 accuracy."""
    quantized, checkpointing = plan.config.model.quantization == "nf4", plan.config.train.recomputes == "layers"
    for nf4 in dict.fromkeys((quantized, quantized or plan.config.train.method == "lora")):
        for again in dict.fromkeys((checkpointing, True)):
            options: dict[str, object] = {"model.quantization": "nf4"} if nf4 and not quantized else {}
            if again and not checkpointing:
                options["train.gradient_checkpointing"] = True
            tried = _with(plan, options)
            memory, room = _memory(tried, device), device.memory * MARGIN
            if memory.total <= room:
                return options
            tokens = int((room - memory.fixed) / ((memory.total - memory.fixed) / memory.tokens))
            if tokens >= plan.workload.longest_sequence:
                size = max(plan.workload.longest_sequence, tokens // ROUNDED * ROUNDED)
                return {"train.tokens_per_batch": size} | options
    return None

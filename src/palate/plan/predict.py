"""Predict: a config, a workload and a model's shape become tokens, FLOPs, memory, seconds and money."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from palate.config import Config
from palate.plan.devices import DEVICES, MARGIN, OPERATION, Device
from palate.plan.memory import BYTES, FRAMEWORK, Memory, base_bytes, memory_of
from palate.plan.shape import ModelShape, load_shape
from palate.plan.simulate import FLOPS, Pass, simulate
from palate.plan.workload import Workload

ROUNDED = 64
"""Tokens to which a recommended size of a pass is rounded down."""


@dataclass(frozen=True)
class StepCounts:
    """How the samples are gone through on one device."""

    steps: int
    step_samples: int
    """Labelled samples an optimizer step."""
    micro_batches: float
    """Forward passes a step, on average."""
    pass_tokens: int
    """Most tokens in one forward pass."""
    pass_labelled: int
    """Labelled tokens of such a pass."""
    samples: int
    """Labelled samples of the whole run, repeated epochs counted."""
    epochs: float


@dataclass(frozen=True)
class Compute:
    """FLOPs of the whole run, by `FLOPS`."""

    forward: Mapping[str, float]
    total: Mapping[str, float]
    """Forward and backward."""
    separate: float
    """All of it without shared prefixes."""
    usual: float
    """All of it with padded batches and the vocabulary projection at every position."""

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
    """With `remedy` where there is one, as are those of the run and their cost: without it nothing would run."""
    seconds: float
    cost: float | None
    """In the currency of the price; None: no price was given."""
    remedy: Mapping[str, object] | None
    """Options that make it fit; None where it fits, or where nothing helps."""


@dataclass(frozen=True)
class Plan:
    """What a run takes."""

    config: Config
    workload: Workload
    shape: ModelShape
    schedule: StepCounts
    compute: Compute
    estimates: Sequence[Estimate]
    _passes: "_Passes" = field(repr=False, compare=False)

    @property
    def flops_a_step(self) -> float:
        """FLOPs of an average optimizer step."""
        return self.compute.sum / max(1, self.schedule.steps)

    def memory(self, dtype: str, framework: float = FRAMEWORK, *, on_gpu: bool = True) -> Memory:
        """Peak bytes by part in `dtype`, with `framework` bytes for what is there before the model."""
        return memory_of(self.shape, self.config, dtype, self._passes(dtype, on_gpu=on_gpu), framework)

    def seconds_a_step(self, flops_a_second: float) -> float:
        """Seconds of an average step at a speed that was measured."""
        return self.flops_a_step / flops_a_second


def predict(
    config: Config,
    workload: Workload,
    *,
    shape: ModelShape | None = None,
    devices: Sequence[Device] = DEVICES,
    prices: Mapping[str, float] | None = None,
) -> Plan:
    """What training on `workload`, one epoch's samples, takes on each device; `prices` an hour by device name.

    Raises what `load_shape` raises.
    """
    shape = shape or load_shape(config)
    plan = schedule(config, workload)
    passes = _Passes(config, shape, plan, workload.longest_sequence)
    dtype = "bfloat16" if config.model.dtype == "auto" else config.model.dtype
    compute = _compute(config, workload, plan, passes(dtype))
    estimates = [_estimate(config, workload, shape, plan, compute, passes, device, prices or {}) for device in devices]
    return Plan(config, workload, shape, plan, compute, estimates, passes)


def schedule(config: Config, workload: Workload) -> StepCounts:
    """Steps and passes as `palate.train.schedule` makes them."""
    train, n = config.train, workload.samples
    step_samples = train.batch_size * train.gradient_accumulation
    an_epoch = max(1, ceil(n / step_samples))
    steps = train.max_steps or ceil(train.epochs * an_epoch)
    whole, rest = divmod(steps, an_epoch)
    samples = whole * n + min(n, rest * step_samples)
    each = workload.tokens() / n
    budget = train.tokens_per_batch or train.batch_size * int(workload.lengths.max())
    pass_tokens = workload.largest or min(
        max(budget, workload.longest_sequence), step_samples * int(workload.lengths.max())
    )
    micro = workload.passes or ceil(each * step_samples / pass_tokens)
    labelled = min(step_samples, ceil(pass_tokens / each)) * workload.trained
    return StepCounts(steps, step_samples, micro, pass_tokens, ceil(labelled), samples, samples / n)


class _Passes:
    """The largest pass of a run, simulated once for each dtype, with and without checkpointing."""

    def __init__(self, config: Config, shape: ModelShape, plan: StepCounts, longest: int) -> None:
        self._config, self._shape = config, shape
        self._rows = max(1, round(plan.pass_tokens / max(1, min(longest, plan.pass_tokens))))
        self._length, self._labelled = ceil(plan.pass_tokens / self._rows), ceil(plan.pass_labelled / self._rows)
        self._known: dict[tuple[str, bool, bool], Pass] = {}

    def __call__(self, dtype: str, checkpointing: bool | None = None, *, on_gpu: bool = True) -> Pass:
        if checkpointing is None:
            checkpointing = self._config.train.gradient_checkpointing
        key = (dtype, checkpointing, on_gpu)
        if key not in self._known:
            train = self._config.train.model_copy(update={"gradient_checkpointing": checkpointing})
            self._known[key] = simulate(
                self._shape.config,
                self._config.model_copy(update={"train": train}),
                dtype,
                rows=self._rows,
                length=self._length,
                labelled=min(self._labelled, self._length),
                layers=self._shape.layers if self._shape.alike else None,
                on_gpu=on_gpu,
            )
        return self._known[key]


def flops_of(
    measured: Pass, flops: Mapping[str, float], tokens: float, pairs: float, labelled: float
) -> dict[str, float]:
    """FLOPs by part of other numbers of tokens, pairs and labelled tokens than those of the pass that was measured."""
    of = {"attention": pairs / measured.pairs, "head": labelled / measured.labelled}
    return {part: flops[part] * of.get(part, tokens / measured.tokens) for part in FLOPS}


def _compute(config: Config, workload: Workload, plan: StepCounts, measured: Pass) -> Compute:
    """The run's FLOPs: an epoch's, times the epochs."""
    # Eager attention multiplies above the diagonal, too; every fused one leaves that out.
    causal = 2 if config.model.attn_implementation == "eager" else 1

    def run(flops: Mapping[str, float], tokens: int, pairs: int, labelled: int) -> dict[str, float]:
        epoch = flops_of(measured, flops, tokens, causal * pairs, labelled)
        return {part: value * plan.epochs for part, value in epoch.items()}

    shared = (workload.tokens(), workload.pairs(), workload.labelled)
    separate = (workload.tokens(shared=False), workload.pairs(shared=False), workload.labelled)
    size, seed = config.train.batch_size, config.seed
    padded = workload.padded_tokens(size, seed)
    usual = (padded, workload.padded_pairs(size, seed), padded)
    return Compute(
        run(measured.forward, *shared),
        run(measured.flops, *shared),
        sum(run(measured.flops, *separate).values()),
        sum(run(measured.flops, *usual).values()),
    )


def _estimate(
    config: Config,
    workload: Workload,
    shape: ModelShape,
    plan: StepCounts,
    compute: Compute,
    passes: _Passes,
    device: Device,
    prices: Mapping[str, float],
) -> Estimate:
    dtype = device.dtype(config.model.dtype)
    framework = FRAMEWORK if device.framework is None else device.framework
    memory = memory_of(shape, config, dtype, passes(dtype, on_gpu=device.gpu), framework)
    room = device.memory * MARGIN
    fits = memory.total <= room
    remedy = None if fits else _remedy(config, workload, shape, dtype, passes, room, framework, on_gpu=device.gpu)
    flops, micro = compute.sum, plan.micro_batches
    if remedy is not None:
        config = _with(config, remedy)
        if "train.gradient_checkpointing" in remedy:
            flops = _compute(config, workload, plan, passes(dtype, True, on_gpu=device.gpu)).sum
        if config.train.tokens_per_batch:
            tokens = workload.tokens() / workload.samples * plan.step_samples
            micro = max(micro, ceil(tokens / config.train.tokens_per_batch))
    step = flops / max(1, plan.steps) / device.speed(dtype)
    if device.bandwidth is not None:
        moved = _weights_moved(config, shape, dtype) / device.bandwidth
        operations = passes(dtype, config.train.gradient_checkpointing, on_gpu=device.gpu).operations
        step = max(step, micro * max(moved, operations * OPERATION))
    seconds = step * plan.steps
    price = prices.get(device.name)
    cost = None if price is None else price * seconds / 3600
    return Estimate(device, dtype, memory, fits, step, seconds, cost, remedy)


def _with(config: Config, options: Mapping[str, object]) -> Config:
    """The config with some options, by their names with a dot, changed."""
    sections: dict[str, dict[str, object]] = {}
    for name, value in options.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def _weights_moved(config: Config, shape: ModelShape, dtype: str) -> float:
    """Bytes of weights that a pass forward and backward reads; of those in 4 bits also what expanding them writes."""
    times = 3 if config.train.gradient_checkpointing else 2
    moved = base_bytes(shape, dtype, config.model.quantization)
    if config.model.quantization == "nf4":
        moved += 2 * BYTES[dtype] * sum(shape.linear.values())
    return times * moved


def _remedy(
    config: Config,
    workload: Workload,
    shape: ModelShape,
    dtype: str,
    passes: _Passes,
    room: float,
    framework: float,
    *,
    on_gpu: bool,
) -> Mapping[str, object] | None:
    """The cheapest options that make it fit: smaller passes are free, checkpointing costs time, NF4 accuracy."""
    train, quantized = config.train, config.model.quantization == "nf4"
    for nf4 in dict.fromkeys((quantized, True)):
        for checkpointing in dict.fromkeys((train.gradient_checkpointing, True)):
            model = config.model.model_copy(update={"quantization": "nf4" if nf4 else "none"})
            tried = config.model_copy(update={"model": model})
            largest = passes(dtype, checkpointing, on_gpu=on_gpu)
            memory = memory_of(shape, tried, dtype, largest, framework)
            options: dict[str, object] = {}
            if nf4 and not quantized:
                options["model.quantization"] = "nf4"
            if checkpointing and not train.gradient_checkpointing:
                options["train.gradient_checkpointing"] = True
            if memory.total <= room:
                return options
            tokens = int((room - memory.fixed) / ((memory.total - memory.fixed) / largest.tokens))
            if tokens >= workload.longest_sequence:
                return _smaller(workload, tokens) | options
    return None


def _smaller(workload: Workload, tokens: int) -> dict[str, object]:
    """Options for passes of at most `tokens` tokens, with as many samples a step as before."""
    longest = workload.longest_sequence
    return {"train.tokens_per_batch": max(longest, tokens // ROUNDED * ROUNDED)}

"""Device checks: whether training and scoring on a device are right, as fast as it allows, and survive a kill.

`palate doctor --gpu` runs them on random weights of two layers in the widths of Qwen3-0.6B and Qwen3-8B, `--device cpu`
on tiny ones. Each group of checks is a function that yields a `Check` for each row; an error in it is a failed row.
"""

import getpass
import os
import re
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from palate.config import Config, LoraConfig, ModelConfig, TrainConfig
from palate.errors import WorkError, first_line
from palate.models.load import load_model, quiet
from palate.models.logits import exact_logits
from palate.models.method import attach, leave_casts_to_autocast
from palate.plan.devices import DEVICES, product_speed
from palate.plan.flops import flops, kernels
from palate.plan.memory import Batch, memory_of
from palate.plan.shape import shape_of
from palate.progress import working
from palate.score.local import LocalBackend
from palate.tokens.packed import Packed, pack, tensors
from palate.train.attention import Attention, Way, choose_attention, ways_on
from palate.train.layers import MANY_STEPS, choose_kernels, compiling_pays, recompute
from palate.train.probe import GRADIENTS, TOLERANCE

QWEN3 = {"vocab_size": 8_192, "num_hidden_layers": 2, "head_dim": 128, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "0.6B": QWEN3 | {"hidden_size": 1_024, "intermediate_size": 3_072, "num_attention_heads": 16},
    "8B": QWEN3 | {"hidden_size": 4_096, "intermediate_size": 12_288, "num_attention_heads": 32},
}
TINY = {"vocab_size": 512, "num_hidden_layers": 2, "head_dim": 16, "num_key_value_heads": 2, "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4}  # fmt: skip
VOCABULARY = 151_936
"""Rows of Qwen3's embeddings, of which memory depends; the comparisons need fewer."""
HISTORY, CANDIDATE, RESPONSE = 410, 37, 7
"""Tokens of a MovieLens prompt: what its targets share, what each has of its own, and the response."""
PLANNED, RANKED = 0.2, 0.05
"""Bounds of the difference of memory and kernels to the plan, and of the answers' log P, in standard deviations."""
SHARP = 3.0
"""Factor of random queries, which else attend to all tokens alike: errors of the attention would not show."""
KINDS = ("bfloat16", "checkpointing", "nf4")
"""How a model is held; with nf4, checkpointing is selective."""


@dataclass(frozen=True)
class Result:
    """One row: a `figure` of at most `bound`, or the reason why there is none."""

    name: str
    outcome: Literal["ok", "failed", "skipped"]
    figure: str = ""
    bound: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Check:
    """A check of one row; `measure` returns its figure and its bound, or raises."""

    name: str
    measure: Callable[[], tuple[str, str]]

    def run(self) -> Result:
        """The row, whatever happens in the check."""
        begun = time.monotonic()
        try:
            with working(self.name), quiet():
                found = Result(self.name, "ok", *self.measure())
        except SkipError as skip:
            found = Result(self.name, "skipped", reason=str(skip))
        except Exception as error:  # of kernels, compilers and drivers
            found = Result(self.name, "failed", reason=public(first_line(error)))
        return replace(found, seconds=round(time.monotonic() - begun, 1))


class SkipError(Exception):
    """A check that this device cannot run, and why."""


@dataclass(frozen=True)
class Bench:
    """A device, the models that are checked there, and a folder for files."""

    on: torch.device
    folder: Path
    held: dict[tuple[str, str, int | None], Any] = field(default_factory=dict)
    """The last model of `adapted`: two might not fit."""

    @property
    def shapes(self) -> Mapping[str, Mapping[str, Any]]:
        """The models' configs by name."""
        return SHAPES if self.on.type == "cuda" else {"tiny": TINY}

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of prompts that are compared; kernels often differ at multiples of 128."""
        return (97, 384, 1_000) if self.on.type == "cuda" else (48, 128, 201)

    @property
    def tokens(self) -> int:
        """Tokens of a pass that is measured."""
        return 8_192 if self.on.type == "cuda" else 1_200

    def autocast(self) -> Any:
        """The context of a training's passes."""
        return torch.autocast(self.on.type, torch.bfloat16)

    def base(self, shape: str, kind: str = "bfloat16", *, vocabulary: int | None = None) -> Any:
        """A model with random weights in bfloat16; with `nf4` it is loaded from the disk, as any other."""
        from transformers import Qwen3Config, Qwen3ForCausalLM

        sizes = dict(self.shapes[shape]) | ({"vocab_size": vocabulary} if vocabulary else {})
        torch.manual_seed(0)
        config = Qwen3Config(**sizes, max_position_embeddings=8_192, tie_word_embeddings=shape != "8B")
        with torch.device(self.on):
            model = Qwen3ForCausalLM(config).to(torch.bfloat16)
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.data *= SHARP
        if kind != "nf4":
            return model.train()
        home = self.folder / shape
        model.save_pretrained(home)
        del model
        settings = ModelConfig(base=str(home), dtype="bfloat16", quantization="nf4")
        return load_model(settings, for_training=True, on=self.on)

    def adapted(self, shape: str, kind: str = "bfloat16", *, vocabulary: int | None = None) -> Any:
        """The model with an adapter whose matrices are all random: its gradients are none of them zero."""
        key = shape, kind, vocabulary
        if key not in self.held:
            self.held.clear()
            model = attach(self.base(shape, kind, vocabulary=vocabulary), OPTIONS)
            torch.manual_seed(1)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.02)
            leave_casts_to_autocast(model)
            again = {"bfloat16": False, "checkpointing": True, "nf4": "selective"}[kind]
            recompute(model, OPTIONS.model_copy(update={"gradient_checkpointing": again}))
            self.held[key] = model
        return self.held[key]


OPTIONS = TrainConfig(lora=LoraConfig(dropout=0.0))


def prompts(lengths: Sequence[int], targets: int, own: int, vocabulary: int) -> Packed:
    """Prompts of random tokens with `targets` each, of these lengths with one target; `own` tokens are a target's."""
    draw = np.random.default_rng(5)
    heads = [draw.integers(1, vocabulary, max(1, length - own)) for length in lengths]
    rows = [np.r_[head, draw.integers(1, vocabulary, own)] for head in heads for _ in range(targets)]
    count, size = len(rows), np.array([row.size for row in rows])
    return pack(
        np.concatenate(rows).astype(np.int32), size, np.array([head.size for head in heads]),
        np.arange(0, count + 1, targets), np.full(count, min(RESPONSE, own - 1)), 0, False, np.zeros(count, bool),
        np.arange(count),
    )  # fmt: skip


def backward(bench: Bench, packed: Packed, logits_of: Callable[[Packed], Any]) -> Any:
    """Pass forward and backward as a training does; returns the logits (r, vocabulary)."""
    with bench.autocast():
        logits = logits_of(packed)
    targets = torch.from_numpy(packed.targets.astype(np.int64)).to(logits.device, non_blocking=True)
    cross_entropy(logits.float(), targets, reduction="sum").backward()
    return logits


def learn(bench: Bench, model: Any, parts: Sequence[Packed], logits_of: Callable[[Packed], Any]) -> tuple[Any, Any]:
    """The logits of some passes, and the gradients of their loss, all weights' in one vector; both float32."""
    model.zero_grad(set_to_none=True)
    found = torch.cat([backward(bench, packed, logits_of).detach().float() for packed in parts])
    return found, torch.cat([w.grad.float().flatten() for w in model.parameters() if w.grad is not None])


def attention(bench: Bench) -> Iterator[Check]:
    """Every implementation of the attention against sequences alone: logits, gradients, and blocks kept apart."""
    for shape in bench.shapes:
        for kind in KINDS:
            for way in get_args(Way):
                yield Check(f"attention {way}, {shape}, {kind}", partial(_compared, bench, shape, kind, way))


def _compared(bench: Bench, shape: str, kind: str, way: Way) -> tuple[str, str]:
    """The largest differences over the lengths, after the probe of a training has passed."""
    if way not in ways_on(bench.on):
        raise SkipError("needs CUDA")
    model, targets = bench.adapted(shape, kind), 3 if Attention(way, "").several else 1
    base, worst = model.get_base_model(), np.zeros(2)
    own = base.config._attn_implementation
    try:
        for length in bench.lengths:
            chosen = choose_attention(model, way, targets, length, bench.autocast)
            packed = prompts([length, length // 2], targets, 12, base.config.vocab_size)
            logits, grown = learn(bench, model, [packed], partial(chosen.logits, model))
            base.set_attn_implementation("sdpa")
            alone = [packed.alone(i) for i in range(packed.block.size)]
            expected, theirs = learn(bench, model, alone, partial(_alone, model))
            apart = [(logits - expected).abs().mean() / expected.std(), (grown - theirs).norm() / theirs.norm()]
            worst = np.maximum(worst, [float(value) for value in apart])
    finally:
        base.set_attn_implementation(own)
        model.zero_grad(set_to_none=True)
    bounds = TOLERANCE["other"][0], GRADIENTS["other"][0]
    return within(worst, bounds), f"{bounds[0]:g}, {bounds[1]:g}"


def _alone(model: Any, packed: Packed) -> Any:
    with exact_logits(model):
        return model(**tensors(packed, model.device), use_cache=False).logits[0]


def within(figures: Sequence[float] | Any, bounds: Sequence[float]) -> str:
    """The figures as text; raises `WorkError` if one exceeds its bound."""
    shown = ", ".join(f"{figure:.2g}" for figure in figures)
    if not all(figure <= bound for figure, bound in zip(figures, bounds, strict=True)):
        raise WorkError(f"{shown}, expected at most {', '.join(f'{bound:g}' for bound in bounds)}")
    return shown


def ranking(bench: Bench) -> Iterator[Check]:
    """Candidates behind a shared prefix against whole prompts: log P of the answers."""
    for shape in bench.shapes:
        for kind in ("bfloat16", "nf4"):
            yield Check(f"ranking, {shape}, {kind}", partial(_ranked, bench, shape, kind))


def _ranked(bench: Bench, shape: str, kind: str) -> tuple[str, str]:
    backend = LocalBackend(bench.base(shape, kind).eval(), 1, 2)
    draw = np.random.default_rng(5)
    prefix = draw.integers(1, 500, bench.lengths[-1]).tolist()
    rests = [draw.integers(1, 500, size).tolist() for size in draw.integers(5, 40, 32)]
    reason = backend.reason(len(prefix) + 40)
    if reason is not None:
        raise WorkError(reason)
    shared = backend.answers_behind(prefix, rests, 16, lambda _: None)
    whole = backend.answers_behind((), [[*prefix, *rest] for rest in rests], 16, lambda _: None)
    return within([np.abs(shared - whole).mean() / whole.std()], [RANKED]), f"{RANKED:g}"


def speed(bench: Bench) -> Iterator[Check]:
    """Passes as a training makes them: with the kernels that a plan counts, then with those of a long training."""
    for shape in bench.shapes:
        for targets in (1, 16):
            measured = Measured(bench, shape, targets)
            what = f"{shape}, K = {targets}"
            yield Check(f"kernels, {what}", measured.kernels)
            yield Check(f"memory, {what}", measured.memory)
            yield Check(f"compiled again, {what}", measured.compiled)
            yield Check(f"utilization, {what}", measured.utilization)
            yield Check(f"synchronizations, {what}", measured.synchronizations)
            bench.held.clear()  # its layers may be compiled


class Measured:
    """Optimizer steps of one pass each, of prompts with K targets."""

    def __init__(self, bench: Bench, shape: str, targets: int) -> None:
        self.bench, self.shape, self.targets = bench, shape, targets
        self.config = Config(train=OPTIONS)

    @property
    def model(self) -> Any:
        """The model, with as many embeddings as Qwen3."""
        return self.bench.adapted(self.shape, vocabulary=VOCABULARY if self.bench.on.type == "cuda" else None)

    @cached_property
    def attention(self) -> Attention:
        """The implementation that a training would take."""
        return choose_attention(self.model, "auto", self.targets, HISTORY + CANDIDATE, self.bench.autocast)

    @cached_property
    def optimizer(self) -> Any:
        """AdamW, as a training has it."""
        return torch.optim.AdamW([weight for weight in self.model.parameters() if weight.requires_grad])

    def packed(self, share: float = 1.0) -> Packed:
        """Prompts for a share of a full pass."""
        own = CANDIDATE + RESPONSE
        length = HISTORY + own
        count = max(1, int(share * self.bench.tokens) // (HISTORY + self.targets * own))
        return prompts([length] * count, self.targets, own, self.model.get_base_model().config.vocab_size)

    def step(self, packed: Packed) -> None:
        """One pass forward and backward, and the update."""
        backward(self.bench, packed, partial(self.attention.logits, self.model))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def kernels(self) -> tuple[str, str]:
        """Operations that start a kernel in a pass of one prompt, beside those of the plan."""
        own = CANDIDATE + RESPONSE
        packed = prompts([HISTORY + own], self.targets, own, self.model.get_base_model().config.vocab_size)
        self.step(packed)  # compiles FlexAttention
        with Started() as started:
            backward(self.bench, packed, partial(self.attention.logits, self.model))
        shape = shape_of(self.model.get_base_model().config, self.config)
        return planned(started.count, kernels(shape, self.config, "bfloat16"), f"{started.count:,}", "{:,.0f}")

    def compiled(self) -> tuple[str, str]:
        """Graphs compiled in steps of other lengths than the first ones had; on CUDA also those of the layers."""
        from torch._dynamo.utils import counters

        attention, on = self.attention, self.bench.on
        longest = HISTORY + CANDIDATE
        chosen = choose_kernels(self.model, OPTIONS, attention, longest, MANY_STEPS, self.bench.autocast)
        if chosen == "none" and compiling_pays(on, MANY_STEPS):
            raise WorkError("compiled layers fail the probe, or do not compile")
        before = counters["stats"]["unique_graphs"]
        for share in (1.0, 0.8, 0.6):
            self.step(self.packed(share))
        first = counters["stats"]["unique_graphs"] - before
        for share in (0.9, 0.7, 0.5, 0.3):
            self.step(self.packed(share))
        again = counters["stats"]["unique_graphs"] - before - first
        if again:
            raise WorkError(f"{again} graphs after the first {first}, expected none")
        if not first:
            raise SkipError(f"nothing is compiled on {on.type}")
        return f"0 after {first}", "0"

    def memory(self) -> tuple[str, str]:
        """The peak of a step, as a share of what `palate plan` says."""
        if self.bench.on.type != "cuda":
            raise SkipError("a processor's memory is not counted")
        packed = self.packed()
        self.step(packed)
        torch.cuda.reset_peak_memory_stats(self.bench.on)
        self.step(packed)
        peak = torch.cuda.max_memory_allocated(self.bench.on)
        batch = Batch(1, len(packed), packed.targets.size)
        shape = shape_of(self.model.get_base_model().config, self.config)
        expected = memory_of(shape, self.config, "bfloat16", batch, framework=0.0).total
        return planned(peak / 1e9, expected / 1e9, f"{peak / 1e9:.2f} GB", "{:.2f}")

    def utilization(self) -> tuple[str, str]:
        """FLOPs of the model as a share of the device's peak."""
        packed, on, times = self.packed(), self.bench.on, 5 if self.bench.on.type == "cuda" else 2
        for _ in range(2):
            self.step(packed)
        if on.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(times):
                self.step(packed)
            end.record()
            torch.cuda.synchronize(on)
            seconds = begin.elapsed_time(end) / 1e3 / times
        else:
            begun = time.perf_counter()
            for _ in range(times):
                self.step(packed)
            seconds = (time.perf_counter() - begun) / times
        shape = shape_of(self.model.get_base_model().config, self.config)
        pairs = float(packed.mask().sum())
        done = sum(flops(shape, self.config, len(packed), pairs, packed.targets.size)[1].values())
        return f"{done / seconds / peak_of(on):.1%}, {len(packed) / seconds:,.0f}/s", ""

    def synchronizations(self) -> tuple[str, str]:
        """Times that a step makes the host wait for the GPU."""
        if self.bench.on.type != "cuda":
            raise SkipError("needs CUDA")
        packed = self.packed()
        self.step(packed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.step(packed)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        count = sum("called a synchronizing" in str(each.message) for each in caught)
        return within([count], [0]), "0"


class Started(TorchDispatchMode):  # type: ignore[misc]
    """Counts operations that start a kernel: all but views and allocations."""

    supports_higher_order_operators = True  # FlexAttention is one
    count = 0

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Else PyTorch would not run what it has compiled."""
        return True

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        name = operation.__name__.partition(".")[0]
        starts = not getattr(operation, "is_view", False) and "empty" not in name and "view" not in name
        self.count += starts and name not in ("detach", "device")
        return operation(*args, **(kwargs or {}))


def planned(figure: float, expected: float, shown: str, form: str) -> tuple[str, str]:
    """A figure and what the plan says of it; raises `WorkError` if they are too far apart."""
    bound = f"{form.format(expected)} ± {PLANNED:.0%}"
    if not abs(figure / expected - 1) <= PLANNED:
        raise WorkError(f"{shown}, expected {bound}")
    return shown, bound


def peak_of(on: torch.device) -> float:
    """FLOP/s in bfloat16: those of the data sheet, or of a product of matrices for another device."""
    name = torch.cuda.get_device_name(on).replace("RTX ", "RTX") if on.type == "cuda" else ""
    for device in DEVICES:
        if re.search(rf"\b{device.name}\b", name) and "bfloat16" in device.flops:
            return device.flops["bfloat16"]
    return product_speed(torch.bfloat16, on, 1.0)


@contextmanager
def bench_on(device: str) -> Iterator[Bench]:
    """The bench on `cuda` or `cpu`, with a folder that is removed at the end, and the cache in it."""
    before = os.environ.get("PALATE_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="palate-doctor-") as folder:
        os.environ["PALATE_CACHE_DIR"] = str(Path(folder) / "cache")
        try:
            yield Bench(torch.device(device, torch.cuda.current_device() if device == "cuda" else None), Path(folder))
        finally:
            del os.environ["PALATE_CACHE_DIR"]
            if before is not None:
                os.environ["PALATE_CACHE_DIR"] = before


def public(text: str) -> str:
    """A message in which a path has only its last part, without the names of the machine and its user."""
    text = re.sub(r"(?<!\w)(?:~|[A-Za-z]:)?[/\\](?:[^\s:,;'\"]| (?=\S*[/\\]))*[/\\]", "…/", text)
    try:
        private = [socket.gethostname(), getpass.getuser()]
    except (OSError, KeyError):  # a user without a name
        private = [socket.gethostname()]
    for word in filter(None, private):
        text = re.sub(rf"\b{re.escape(word)}\b", "…", text)
    return text

"""Devices: their compute speed, memory and bandwidth from data sheets, and a measurement of this machine."""

import difflib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palate.config import Config
from palate.errors import InputError
from palate.models.load import best_dtype, device
from palate.models.method import held_in, leave_casts_to_autocast
from palate.plan.flops import flops
from palate.plan.shape import adapted, shape_of

THIS = "this machine"
UTILIZATION = 0.35
"""Share of the peak that fine-tuning reaches on a GPU: an assumption. Large models without fused kernels reach 0.3 to
0.5; small models and short batches less."""
OPERATION = 5e-6
"""Seconds that PyTorch takes to start an operation on a GPU: an assumption. Small models and short passes wait for it
on any GPU."""
MARGIN = 0.95
"""Share of the memory that may be filled, since the allocator's blocks leave gaps."""


@dataclass(frozen=True)
class Device:
    """One accelerator, or this machine."""

    name: str
    flops: Mapping[str, float]
    """Dense peak by dtype, FLOP/s; without `bfloat16` if the device does not support it."""
    memory: float
    """Bytes."""
    bandwidth: float | None
    """Memory bandwidth in bytes per second; None: unknown."""
    utilization: float = UTILIZATION
    """Share of the peak that training reaches: assumed, or measured."""
    framework: float | None = None
    """Bytes in use before a model is loaded, if measured."""
    gpu: bool = True
    """Whether the device is a GPU, which decides what dropout keeps."""

    def dtype(self, wanted: str) -> str:
        """The dtype for `model.dtype`, as `palate.models.load.best_dtype` decides."""
        return wanted if wanted != "auto" else "bfloat16" if "bfloat16" in self.flops else "float32"

    def speed(self, dtype: str) -> float:
        """FLOP/s that training reaches."""
        return self.flops.get(dtype, self.flops["float32"]) * self.utilization


def _gpu(name: str, bfloat16: float, float32: float, memory: float, bandwidth: float) -> Device:
    """A device from TFLOP/s, GB and GB/s, the units of data sheets."""
    flops = {"float32": float32 * 1e12} | ({"bfloat16": bfloat16 * 1e12} if bfloat16 else {})
    return Device(name, flops, memory * 1e9, bandwidth * 1e9)


# Dense TFLOP/s, half of the data sheets' values "with sparsity"; float32 without TF32, PyTorch's default.
DEVICES = (
    _gpu("H200", 989, 67, 141, 4800),  # NVIDIA H200 data sheet, SXM: 1,979 with sparsity
    _gpu("H100", 989, 67, 80, 3350),  # NVIDIA H100 data sheet, SXM: 1,979 with sparsity
    _gpu("A100", 312, 19.5, 80, 2039),  # NVIDIA A100 data sheet, SXM 80 GB
    _gpu("A100-40GB", 312, 19.5, 40, 1555),  # the same, 40 GB
    _gpu("MI300X", 1307.4, 163.4, 192, 5300),  # AMD Instinct MI300X data sheet; float32 as matrix operations
    _gpu("L40S", 362, 91.6, 48, 864),  # NVIDIA L40S data sheet: 733 with sparsity
    _gpu("RTX4090", 165.2, 82.6, 24, 1008),  # NVIDIA Ada architecture white paper, float32 accumulation
    _gpu("L4", 121, 30.3, 24, 300),  # NVIDIA L4 data sheet: 242 with sparsity
    _gpu("T4", 0, 8.1, 16, 320),  # NVIDIA T4 data sheet; 65 in float16, which is not trained in, and no bfloat16
)


def find_device(name: str, option: str = "device") -> str:
    """The device's name in the table; raises `InputError` with the place `option` for an unknown name."""
    names = {_plain(device.name): device.name for device in DEVICES} | {_plain(THIS): THIS}
    if (found := names.get(_plain(name))) is not None:
        return found
    near = difflib.get_close_matches(_plain(name), names, n=1)
    hint = f"did you mean {names[near[0]]!r}?" if near else f"expected one of: {', '.join(names.values())}"
    raise InputError(f"unknown device {name!r}, {hint}", option)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def this_machine(model_config: Any, config: Config, tokens: int, seconds: float = 1.0) -> Device:
    """Measure the speed of this machine with matrix products and with two of the model's layers.

    The layers have the model's widths, the config's adapter, random weights and a small vocabulary. They pass up to
    `tokens` tokens forward and backward for about `seconds`. The speed of a matrix product is the peak; the layers'
    speed gives the utilization.
    """
    import torch

    on = device()
    dtype = best_dtype(config.model.dtype, on)
    name = str(dtype).removeprefix("torch.")
    peak = product_speed(dtype, on, seconds / 3)
    utilization = _layers_speed(model_config, config, on, tokens, peak, seconds) / peak
    speeds = {"float32": peak, name: peak}
    if on.type == "cuda":
        memory = float(torch.cuda.get_device_properties(on).total_memory)
        return Device(THIS, speeds, memory, None, utilization)
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if hasattr(os, "sysconf") else 0.0
    return Device(THIS, speeds, memory, None, utilization, resident(), gpu=False)


def resident() -> float:
    """Bytes of this process, which Python and the libraries use before a model is loaded; 0 if unknown."""
    try:
        with open("/proc/self/statm") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0.0


def product_speed(dtype: Any, on: Any, seconds: float) -> float:
    """FLOP/s of products of square matrices."""
    import torch

    n = 4096 if on.type == "cuda" else 1024
    a = torch.ones(n, n, dtype=dtype, device=on)
    return 2 * n**3 / _time(lambda: a @ a, on, seconds)


def _layers_speed(model_config: Any, config: Config, on: Any, tokens: int, peak: float, seconds: float) -> float:
    """FLOP/s of two layers, forward and backward."""
    import torch

    from palate.train.layers import recompute

    small = type(model_config)(**(model_config.to_dict() | {"vocab_size": 256}))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    text = small.get_text_config()
    text.num_hidden_layers = 2
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:2]
    dtype = str(best_dtype(config.model.dtype, on)).removeprefix("torch.")
    shape = shape_of(small, config)
    afford = int(peak * seconds / 4 / sum(flops(shape, config, 1, 0, 0)[1].values()))
    length = max(64, min(tokens, afford, 1024))
    model = adapted(small, config, held_in(config.train, dtype)).to_empty(device=on)
    recompute(model, config.train)
    if dtype == "bfloat16":
        leave_casts_to_autocast(model)
    some = torch.randn(2**16, device=on) / 50
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(some.repeat(-(-tensor.numel() // some.numel()))[: tensor.numel()].view(tensor.shape))
    ids = torch.zeros(1, length, dtype=torch.long, device=on)

    def step() -> None:
        with torch.autocast(on.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=ids, logits_to_keep=1, use_cache=False).logits
        logits.float().sum().backward()

    taken = _time(step, on, seconds)
    return sum(flops(shape, config, length, length**2, 1)[1].values()) / taken


def _time(work: Any, on: Any, seconds: float) -> float:
    """Median seconds of a call, from calls for about `seconds` after a warm-up call."""
    import torch

    def once() -> float:
        started = time.perf_counter()
        work()
        if on.type == "cuda":
            torch.cuda.synchronize(on)
        return time.perf_counter() - started

    once()
    times, until = [once()], time.perf_counter() + seconds
    while time.perf_counter() < until:
        times.append(once())
    return sorted(times)[len(times) // 2]

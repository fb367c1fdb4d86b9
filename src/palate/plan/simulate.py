"""One forward and backward pass of the real model class without a number in it.

The model and its adapter are PEFT's and transformers' own, but their tensors have shapes and no contents
(`torch._subclasses.FakeTensorMode`). Every operation that the pass would do is seen: its FLOPs are counted, and each
storage is followed from its creation to its end. So FLOPs and memory hold for any architecture, for LoRA on any
modules, under autocast, with and without gradient checkpointing. No formula of ours knows what a layer keeps.
"""

import contextlib
import copy
import functools
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from palate.config import Config
from palate.errors import InputError
from palate.models.load import quiet

FLOPS = ("linear", "attention", "head", "lora")
"""The parts of the compute: frozen weights, attention scores and their sums, vocabulary projection, adapter."""
MEMORY = ("activations", "logits", "working")
"""The parts of a pass's memory: kept for the backward pass, of the vocabulary's width, and short-lived."""
EXTRAPOLATED = (2, 3)
"""Numbers of layers that are simulated where all layers are alike; the others cost what the third does."""


@dataclass(frozen=True)
class Pass:
    """What one forward and backward pass takes."""

    tokens: int
    pairs: int
    """Of queries and keys as counted: `tokens` × sequence length, without a causal kernel's saving."""
    labelled: int
    forward: Mapping[str, float]
    """FLOPs of the forward pass, by `FLOPS`."""
    flops: Mapping[str, float]
    """FLOPs of forward and backward pass, by `FLOPS`; what checkpointing computes again is among them."""
    memory: Mapping[str, float]
    """Bytes at the moment when most is held, beside weights, gradients and optimizer; by `MEMORY`."""
    kept: float
    """Bytes that the forward pass leaves for the backward pass, logits among them."""
    operations: float
    """Operations that start a kernel, forward and backward; views do not."""

    @property
    def peak(self) -> float:
        """Bytes at the moment when most is held."""
        return sum(self.memory.values())


def adapted(model_config: Any, config: Config, dtype: str, layers: int | None = None) -> Any:
    """The model with its adapter on the meta device, with its own number of layers or `layers`.

    Raises `InputError` for an architecture that is not a causal language model and target modules that it lacks.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from palate.models.method import attach, held_in

    if layers is not None:
        model_config = copy.deepcopy(model_config)
        text = model_config.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    # Only eager attention holds the scores; all others hold what PyTorch's own fused attention does.
    attention = {"attn_implementation": "eager"} if config.model.attn_implementation == "eager" else {}
    held = getattr(torch, held_in(config.train, dtype))
    with quiet(), torch.device("meta"):
        try:
            base = AutoModelForCausalLM.from_config(model_config, dtype=held, **attention)
        except (ValueError, KeyError, ImportError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"no model can be made of its config: {reason}", config.model.base) from error
        base.train()
        model = attach(base, config.train)
        if config.model.quantization == "nf4":  # as TRL does, after the QLoRA paper
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.to(torch.bfloat16)
        if config.train.gradient_checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def simulate(
    model_config: Any,
    config: Config,
    dtype: str,
    *,
    rows: int,
    length: int,
    labelled: int,
    layers: int | None = None,
    depth: int | None = None,
    on_gpu: bool = True,
) -> Pass:
    """A pass over `rows` sequences of `length` tokens, `labelled` of each trained.

    With `layers` the model is as deep as that, all layers being alike: passes through a model of two and of three
    layers tell what another layer adds. With `depth` the model is cut down to so many layers.
    `on_gpu` decides what dropout keeps: a byte an element, or on a CPU a number.
    """
    if layers is None or layers <= max(EXTRAPOLATED):
        return _run(adapted(model_config, config, dtype, depth), dtype, rows, length, labelled, on_gpu)
    few, more = (
        _run(adapted(model_config, config, dtype, n), dtype, rows, length, labelled, on_gpu) for n in EXTRAPOLATED
    )

    def deep(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
        return {name: a[name] + (layers - EXTRAPOLATED[0]) * (b[name] - a[name]) for name in a}

    whole = deep({"kept": few.kept, "operations": few.operations}, {"kept": more.kept, "operations": more.operations})
    return Pass(
        few.tokens,
        few.pairs,
        few.labelled,
        deep(few.forward, more.forward),
        deep(few.flops, more.flops),
        deep(few.memory, more.memory),
        **whole,
    )


def _run(model: Any, dtype: str, rows: int, length: int, labelled: int, on_gpu: bool) -> Pass:
    """The pass itself, as `palate.train.answers.AnswerTrainer` does it under the trainer's autocast."""
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
    from torch.nn.functional import cross_entropy

    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    with quiet(), _one_sequence_a_row(), FakeTensorMode(allow_non_fake_inputs=True):
        materialize(model)
        if on_gpu:
            _fuse_dropout(model)
        for weight in model.parameters():
            if weight.requires_grad:  # gradients add up over the micro-batches, so they are there from the second on
                weight.grad = torch.zeros_like(weight)
        ids = torch.zeros(rows, length, dtype=torch.long)
        positions = torch.arange(labelled)
        targets = torch.zeros(rows * labelled, dtype=torch.long)
        with _meter(model, vocabulary) as meter:
            try:
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                    logits = model(input_ids=ids, logits_to_keep=positions, use_cache=False).logits.float()
                loss = cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
                forward, kept = dict(meter.flops), sum(meter.live.values())
                meter.backward = True
                loss.backward()
            except (DataDependentOutputException, DynamicOutputShapeException) as error:
                raise InputError(
                    f"what {model.config.model_type} computes depends on the tokens, so it cannot be planned",
                    model.config.name_or_path or "model.base",
                ) from error
    return Pass(
        tokens=rows * length,
        pairs=rows * length**2,
        labelled=rows * labelled,
        forward=forward,
        flops=dict(meter.flops),
        memory=dict(meter.at_peak),
        kept=kept,
        operations=meter.operations,
    )


@contextlib.contextmanager
def _one_sequence_a_row() -> Iterator[None]:
    """Keep transformers from making an attention mask, which it does where it cannot read the positions.

    With numbers in the tensors it sees that no row holds two sequences, and asks for causal attention without a mask.
    """
    from transformers import masking_utils

    name = "find_packed_sequence_indices"
    found = getattr(masking_utils, name, None)
    if found is None:
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, found)


def _fuse_dropout(model: Any) -> None:
    """Let dropout keep a mask of bools, as CUDA's does; the CPU's keeps a mask in the dtype of what it drops from."""
    import torch

    def fused(module: Any, value: Any) -> Any:
        return torch.native_dropout(value, module.p, True)[0]

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and module.p > 0:
            module.forward = functools.partial(fused, module)


def materialize(model: Any, on: Any = "cpu") -> None:
    """Put uninitialized tensors in place of those on the meta device; tied ones stay tied."""
    import torch

    made: dict[int, Any] = {}

    def filled(tensor: Any) -> Any:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=on)
            is_weight = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
        return made[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = filled(tensor)


def _meter(model: Any, vocabulary: int) -> Any:
    """A dispatch mode that counts FLOPs by part, and the bytes of all storages that live."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten

    class Meter(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.backward = False
            self.operations = 0
            self.flops = dict.fromkeys(FLOPS, 0)
            self.live = Counter(dict.fromkeys(MEMORY, 0))
            self.at_peak = dict(self.live)
            self.peak = 0
            self.known: set[int] = set()
            self.role: dict[int, str] = {}
            head = model.get_output_embeddings().weight
            for tensor in (*model.parameters(), *model.buffers()):
                key = tensor.untyped_storage()._cdata
                self.known.add(key)
                self.role[key] = "lora" if tensor.requires_grad else "head" if tensor is head else "linear"
                if tensor.grad is not None:
                    self.known.add(tensor.grad.untyped_storage()._cdata)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            packet = func._overloadpacket
            self.operations += not func.is_view and packet not in (aten.empty_like, aten.empty, aten._unsafe_view)
            if packet is aten._to_copy and (role := self._role_of(args[0])):
                self.role[out.untyped_storage()._cdata] = role  # autocast's copy of a weight
            elif "attention" in packet.__name__:
                self.flops["attention"] += _attention_flops(packet.__name__, args)
            elif packet in flop_registry:
                flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
                # A product with no weight in it is a LoRA weight's gradient, or attention where that is spelled out.
                free = "lora" if packet in (aten.mm, aten.addmm) else "attention"
                self.flops[next(filter(None, map(self._role_of, args)), free)] += flops
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    self._see(tensor)
            return out

        def _role_of(self, value: Any) -> str | None:
            return self.role.get(value.untyped_storage()._cdata) if isinstance(value, torch.Tensor) else None

        def _see(self, tensor: Any) -> None:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self.known:
                return
            self.known.add(key)
            wide = tensor.ndim > 1 and tensor.shape[-1] == vocabulary
            part = "logits" if wide else "working" if self.backward else "activations"
            self.live[part] += size
            weakref.finalize(storage, self._gone, key, part, size)
            if (total := sum(self.live.values())) > self.peak:
                self.peak, self.at_peak = total, dict(self.live)

        def _gone(self, key: int, part: str, size: int) -> None:
            self.known.discard(key)
            self.role.pop(key, None)
            self.live[part] -= size

    return Meter()


def _attention_flops(name: str, args: Any) -> int:
    """Of a fused attention: two products forward, five backward (the scores are computed again), every pair."""
    backward = "backward" in name
    query, key, value = (tensor.shape for tensor in (args[1:4] if backward else args[:3]))
    rows, heads, length, width = query
    scores = 2 * rows * heads * length * key[-2]
    return int(scores * (3 * width + 2 * value[-1]) if backward else scores * (width + value[-1]))

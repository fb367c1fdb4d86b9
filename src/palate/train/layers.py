"""How the layers of a model run in training: what their backward passes compute again, and by which kernels.

transformers has a hook in each decoder layer, through which it runs under gradient checkpointing. Compiled layers use
the same hook. PyTorch's compiler breaks a layer at its attention, whose arguments have new sizes in every pass.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from palate.config import TrainConfig
from palate.errors import WorkError, first_line
from palate.models.method import transformer
from palate.train.attention import FLEX, FUNCTIONS, Attention
from palate.train.probe import (
    GRADIENTS,
    TOLERANCE,
    Autocast,
    Learned,
    Precision,
    as_in_training,
    compare_gradients,
    compare_logits,
    dtype_of,
    learn,
    probe_prompts,
)
from palate.train.processes import sharding

log = logging.getLogger(__name__)

Kernels = Literal["none", "compile"]
MANY_STEPS = 200
"""Steps of a run from which `auto` compiles: compilation takes a minute or two."""
HOOK = "_gradient_checkpointing_func"
"""transformers' name of the function through which a layer runs in training."""


def recompute(model: Any, options: TrainConfig) -> None:
    """Set what the backward pass of each layer of a model with an adapter computes again."""
    if options.recomputes == "nothing":
        return
    how: dict[str, Any] = {"use_reentrant": False}
    if options.recomputes == "selected":
        how["context_fn"] = _selected(0 if options.method == "full" else options.lora.r)
    transformer(model).gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    # Checkpointing without re-entry needs no gradient of the embeddings, which would cost the first layer products.
    transformer(model).disable_input_require_grads()


def _selected(rank: int) -> Callable[[], Any]:
    """The contexts of selective checkpointing: matrix products and fused attention are kept.

    An adapter's second product costs `rank` multiplications an element, and is as wide as its layer's: to keep it would
    double what is kept.
    """
    aten = torch.ops.aten
    products = {aten.mm.default: 1, aten.addmm.default: 2}  # and the place of the second factor
    names = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
    kept = {getattr(aten, f"_scaled_dot_product_{name}").default for name in names}
    # By name: their modules may not be loaded.
    elsewhere = {"torch_attn._varlen_attn.default", "inductor_compiled_code", "bitsandbytes.gemm_4bit.default"}
    elsewhere |= {"bitsandbytes.int8_scaled_mm.default", "bitsandbytes.int8_mixed_scaled_mm.default"}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        place = products.get(operation)
        wide = place is not None and args[place].shape[0] > rank
        if wide or operation in kept or str(operation) in elsewhere:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return partial(create_selective_checkpoint_contexts, policy)


def choose_kernels(
    model: Any, options: TrainConfig, attention: Attention, longest: int, steps: int, autocast: Autocast = nullcontext
) -> Kernels:
    """Compile a model's layers if that is wanted, or pays; warns if compiled layers fail the probe.

    The attention must be chosen, and `recompute` called. The probe compares logits and gradients with those of the
    layers as they are, within the bounds of the attention's probe.
    """
    on = next(model.parameters()).device
    wanted = options.kernels
    if wanted == "auto":
        wanted = "compile" if compiling_pays(on, steps) else "none"
        log.debug("kernels: %s, on %s for %d steps", wanted, on.type, steps)
    if wanted == "none":
        return "none"
    rows = transformer(model).get_input_embeddings().weight.shape[0]
    packed = probe_prompts(rows, longest, attention.several, False)

    def learned() -> Learned:
        with as_in_training(model):
            return learn(model, autocast, [(packed, lambda: attention.logits(model, packed))], True)

    with autocast():
        cast = torch.is_autocast_enabled(on.type)
    precision: Precision = "other" if cast or dtype_of(model) != torch.float32 else "float32"
    plain = learned()
    undo: Callable[[], None] | None = None
    try:
        undo = compile_layers(model, options)
        ours = learned()
        compare_logits(ours[0], plain[0], TOLERANCE[precision][0])
        compare_gradients(ours[1], plain[1], GRADIENTS[precision])
    except Exception as error:  # compilers raise exceptions of all kinds
        if undo is not None:
            undo()
        log.warning("kernels: not compile: %s; PyTorch's own, which are slower, take its place", first_line(error))
        return "none"
    return "compile"


def compiling_pays(device: Any, steps: int) -> bool:
    """Whether `auto` compiles: not on a CPU, in a short run, or where other programs wrap each layer."""
    return device.type == "cuda" and steps >= MANY_STEPS and sharding() is None


def compile_layers(model: Any, options: TrainConfig) -> Callable[[], None]:
    """Compile a model's decoder layers in training mode, for all lengths; returns a function that undoes it.

    The compiler keeps the results of products and computes element-wise work again in the backward pass, as selective
    checkpointing does. Raises `WorkError` for a model without transformers' hook.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise WorkError("the model's layers have no hook for it")
    before = [(layer.gradient_checkpointing, getattr(layer, HOOK, None)) for layer in layers]
    compiled = torch.compile(_call, dynamic=True)

    def again(function: Any, *args: Any) -> Any:
        return checkpoint(partial(compiled, function), *args, use_reentrant=False)

    for name, function in FUNCTIONS.items():
        if name != FLEX:  # which is compiled with the layer
            AttentionInterface.register(name, torch.compiler.disable(function))
    for layer in layers:
        layer.gradient_checkpointing = True
        setattr(layer, HOOK, again if options.recomputes == "layers" else compiled)

    def undo() -> None:
        for layer, (checkpointed, hook) in zip(layers, before, strict=True):
            layer.gradient_checkpointing = checkpointed
            setattr(layer, HOOK, hook)

    return undo


def _call(function: Any, *args: Any) -> Any:
    """Run a layer: one function for all of them, so that they share their compiled code."""
    return function(*args)

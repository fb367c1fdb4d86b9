"""The trained weights: a low-rank adapter, or all weights of the layers.

Both are in PEFT's format, beside an unchanged base. So fully trained weights can be resumed, checked after loading,
compared with the base and merged in the same way as an adapter.
"""

import warnings
from typing import Any

from palate.config import TrainConfig
from palate.errors import InputError


def held_in(options: TrainConfig, computed_in: str) -> str:
    """The dtype of the base's weights in memory; full training needs float32, since 16 bits round small steps away."""
    return "float32" if options.method == "full" else computed_in


def attach(model: Any, options: TrainConfig) -> Any:
    """The model as a `PeftModel` with the trained weights.

    With `method="full"` the model must be in the dtype of `held_in`. The trained weights are then copies of all linear
    layers and norms (PEFT's `modules_to_save` and layer-norm tuning), without embeddings and vocabulary head.

    Raises `InputError` if `lora.target_modules` names no layer, and for full training of a base in 4 bits.
    """
    from peft import LNTuningConfig, LoraConfig, get_peft_model

    if options.method == "full":
        if getattr(model, "is_quantized", False):
            raise InputError(
                "a base in 4 bits cannot be trained, expected lora, or model.quantization=none", "train.method"
            )
        linear, norms = _layers(model)
        whole = LNTuningConfig(task_type="CAUSAL_LM", target_modules=norms, modules_to_save=linear)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unsupported layer type")  # of norms other than torch's own
            return _in_order(get_peft_model(model, whole))
    lora = options.lora
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    try:
        return _in_order(get_peft_model(model, settings))
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        name = getattr(model, "name_or_path", "") or "the model"
        raise InputError(
            f"{lora.target_modules!r} names no layer of {name}, expected all-linear or names of its layers",
            "train.lora.target_modules",
        ) from error


def _in_order(adapted: Any) -> Any:
    """The model, whose config lists the layers in order: PEFT keeps them as a set, whose order differs by process."""
    settings = adapted.active_peft_config
    if not isinstance(settings.target_modules, str):
        settings.target_modules = sorted(settings.target_modules)
    return adapted


def leave_casts_to_autocast(adapted: Any) -> None:
    """Let LoRA layers pass on their inputs in 16 bits; call it only for a model that computes under autocast.

    PEFT casts each input to the adapter's float32, and autocast casts it back: two kernels a layer in each direction,
    and a copy of the input for each layer that reads it, where now they share one. The numbers are the same, as every
    bfloat16 is a float32. This is the switch of PEFT's `disable_input_dtype_casting`, for the model's whole life.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def detach(adapted: Any, *, merged: bool) -> Any:
    """The plain base model without PEFT's wrappers, unchanged or with the trained weights `merged` into it."""
    from peft.utils.other import ModulesToSaveWrapper

    model = adapted.merge_and_unload(safe_merge=True) if merged else adapted.unload()
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # PEFT removes these wrappers only for LoRA
            plain = module.modules_to_save[module.active_adapter] if merged else module.original_module
            model.set_submodule(name, plain)
    return model


def transformer(model: Any) -> Any:
    """The transformers model within an adapter, or the model itself without one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _layers(model: Any) -> tuple[list[str], list[str]]:
    """The names of a model's linear layers, without the vocabulary head, and of its norms; each once."""
    import torch

    head = model.get_output_embeddings()
    linear: dict[str, None] = {}
    norms: dict[str, None] = {}
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Linear) and module is not head:
            linear[last] = None
        elif type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None:
            norms[last] = None
    return list(linear), list(norms)

"""Merge an adapter into its base model's weights, and write and read the result as a plain Hugging Face folder.

`write_merged` holds one file of the result in memory, and the adapter. The base stays in its files: the model that the
adapter is attached to maps them (`in_float32`). Where tensors of the files are not those of the model one by one,
`merge` and `write_model` hold the whole model in float32.
"""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from palate.errors import WorkError, first_line
from palate.models.load import quiet
from palate.models.method import detach
from palate.snapshot import WEIGHTS

LARGEST = 4_000_000_000
"""Bytes of a written file, unless one tensor has more."""


def merge(adapted: Any) -> Any:
    """Add a `PeftModel`'s deltas to its base's weights, W + (alpha / r)·B·A; returns the plain base model.

    The sum has the number format of the weights, so they should be float32. Tied embeddings stay tied.
    """
    with quiet():
        return detach(adapted, merged=True)


@contextmanager
def in_float32() -> Iterator[None]:
    """Let models compute in float32 whatever their weights are stored in: a module's are widened while it computes."""
    import torch
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    narrow: dict[Any, list[tuple[Any, Any]]] = {}

    def widen(module: Any, inputs: Any) -> None:
        own = [weight for weight in module.parameters(recurse=False) if weight.dtype in (torch.bfloat16, torch.float16)]
        narrow[module] = [(weight, weight.data) for weight in own]
        for weight in own:
            weight.data = weight.data.float()

    def restore(module: Any, inputs: Any, output: Any) -> None:
        for weight, stored in narrow.pop(module, ()):
            weight.data = stored

    hooks = [register_module_forward_pre_hook(widen), register_module_forward_hook(restore, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def stored_alike(base: Path) -> Literal["bfloat16", "float32"]:
    """The dtype in which a base's weights stay in their files when they are loaded: float32 if they differ."""
    stored = {kind for _, _, kind in _stored(base).values()}
    return "bfloat16" if stored == {"BF16"} else "float32"


def write_merged(adapted: Any, base: Path, tokenizer: Any, folder: Path, dtype: str) -> None:
    """Write the weights of a `PeftModel` merged as `merge` does, rounded once to `dtype`, with all that `write_model`
    writes.

    `base` is the folder from which the base was loaded. Raises `OSError` if the files cannot be written.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = _files(adapted, base, getattr(torch, dtype))
    if files is None:
        write_model(merge(adapted.float()), tokenizer, folder, dtype)
        return
    model, where = adapted.get_base_model(), dict[str, str]()
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for n, names in enumerate(files, 1):
            file = "model.safetensors" if len(files) == 1 else f"model-{n:05}-of-{len(files):05}.safetensors"
            held = {}
            for name, source in names:
                with safe_open(source, "pt") as stored:
                    held[name] = _merged(model, name, stored.get_tensor(name)).to(getattr(torch, dtype))
            save_file(held, folder / file, {"format": "pt"})
            where |= dict.fromkeys(held, file)
        if len(files) > 1:
            size = sum((folder / file).stat().st_size for file in set(where.values()))
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        config = copy.deepcopy(model.config)
        config.dtype, config.architectures = getattr(torch, dtype), [type(model).__name__]
        config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _stored(base: Path) -> dict[str, tuple[Path, list[int], str]]:
    """The tensors in a folder's safetensors: file, shape and dtype by name."""
    from safetensors import safe_open

    found = {}
    for file in next(filter(None, (sorted(base.glob(kind)) for kind in WEIGHTS)), []):
        if file.suffix != ".safetensors":
            return {}
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                part = tensors.get_slice(name)
                found[name] = file, list(part.get_shape()), str(part.get_dtype())
    return found


def _files(adapted: Any, base: Path, dtype: Any) -> list[list[tuple[str, Path]]] | None:
    """The tensors of each file to write, with the base's file of each: as the base's files, of `LARGEST` bytes at most.

    None if a weight of the model is no tensor of the base's files, or the adapter changes more than single tensors.
    """
    from peft.tuners.lora import LoraLayer

    model, stored = adapted.get_base_model(), _stored(base)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    plain = {name: weight for name, weight in model.state_dict().items() if not _of_adapter(name)}
    wanted = {name.replace(".base_layer.", ".").replace(".original_module.", "."): w for name, w in plain.items()}
    wanted = {name: weight for name, weight in wanted.items() if name not in model.all_tied_weights_keys}
    whole = all(name in stored and stored[name][1] == list(weight.shape) for name, weight in wanted.items())
    if not whole or any(
        f"{name}.weight" not in wanted or any(layer.lora_bias.values()) for name, layer in layers.items()
    ):
        return None
    files: list[list[tuple[str, Path]]] = []
    last, size = None, 0
    for name, (file, shape, _) in stored.items():
        if name not in wanted:
            continue
        own = math.prod(shape) * dtype.itemsize
        if file != last or size + own > LARGEST:
            files.append([])
            last, size = file, 0
        files[-1].append((name, file))
        size += own
    return files


def _of_adapter(name: str) -> bool:
    return any(f".{part}." in name for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B",
               "lora_magnitude_vector", "modules_to_save", "ln_tuning_layers"))  # fmt: skip


def _merged(model: Any, name: str, stored: Any) -> Any:
    """A base's tensor with its delta, or the trained one in its place, float32; as it is if the adapter has neither."""
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper

    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, ModulesToSaveWrapper):
        return getattr(module.modules_to_save[module.active_adapter], leaf).data
    if hasattr(module, "ln_tuning_layers"):
        return getattr(module.ln_tuning_layers[module.active_adapters[0]], leaf).data
    if not isinstance(module, LoraLayer) or leaf != "weight":
        return stored
    layer = module.get_base_layer()
    mapped = layer.weight
    layer.weight = torch.nn.Parameter(stored.float(), requires_grad=False)
    try:
        module.merge(safe_merge=True)
        return layer.weight.data
    finally:
        layer.weight = mapped
        module.merged_adapters.clear()


def write_model(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    """Write weights (safetensors), configs, tokenizer and chat template, as `from_pretrained` and vLLM read them.

    The model's weights are rounded to the torch dtype of this name, in place. Raises `OSError` if they cannot be
    written.
    """
    import torch

    model.to(getattr(torch, dtype))
    with _writing(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn the libraries' errors of a full disk into `OSError`; let others read the weights."""
    from safetensors import SafetensorError

    try:
        with quiet(stderr=True):
            yield
        # safetensors makes files that only their owner can read; a server is often another user.
        for weights in folder.glob("*.safetensors"):
            weights.chmod((folder / "config.json").stat().st_mode)
    except SafetensorError as error:
        raise OSError(first_line(error)) from error
    except Exception as error:
        if "(os error " not in str(error):
            raise
        raise OSError(first_line(error)) from error  # tokenizers has no class for it


def read_model(folder: Path, gguf: str | None = None) -> Any:
    """Load a written model on the CPU, from its file `gguf` in float32, else from safetensors, in which weights stay.

    Raises `WorkError` if the file lacks a weight of the model, or has one too many.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if gguf else "auto"
    place = folder / gguf if gguf else folder
    options = {"gguf_file": gguf} if gguf else {}
    try:
        with quiet(stderr=True):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=dtype, output_loading_info=True, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise WorkError(
            f"{place.name}: was written and cannot be read back: {first_line(error)}; export again"
        ) from error
    for state in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[state]:
            first = sorted(map(str, report[state]))[0]
            kind = state.removesuffix("_keys")
            raise WorkError(f"{place.name}: was written with {kind} weights ({len(report[state])}, first: {first})")
    return model.eval()

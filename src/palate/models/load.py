"""Load base models by name, in the right number format and with their tokenizer.

A GGUF file is converted once into a folder of safetensors in the cache, which loads in a fraction of a second.
"""

import contextlib
import datetime
import functools
import hashlib
import io
import logging
import os
import shutil
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from palate.config import Config, ModelConfig
from palate.errors import InputError, WorkError, first_line, is_out_of_memory
from palate.models.quantized import check_quantization, loading_options, method_of
from palate.progress import working
from palate.prompt.template import DATE
from palate.prompt.tokenizer import dated, load_tokenizer, tokenizer_at, why_not_loaded
from palate.snapshot import WEIGHTS, snapshot
from palate.store.artifacts import hidden, remove_abandoned, sha256_of
from palate.store.hub import Location, converted_folder, locate, weights_digest

log = logging.getLogger(__name__)

COMPUTES = (
    *("hidden_act", "rms_norm_eps", "layer_norm_eps", "norm_topk_prob", "num_experts_per_tok"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "layer_types", "sliding_window"),
    *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "logits_scaling"),
    *("attention_multiplier", "embedding_multiplier", "residual_multiplier"),
)
"""Keys of a model's config that its output depends on; other keys name files, tokens or versions."""

NOISY = ("transformers", "peft", "accelerate", "bitsandbytes", "datasets", "huggingface_hub", "torchao", "torch")
DIGEST = "_palate_weights_digest"  # the attribute of a loaded model


def load_base_model(
    config: ModelConfig, *, for_training: bool = False, on: Any = None, template_date: datetime.date = DATE
) -> tuple[Any, Any]:
    """A causal language model from `load_model`, and its tokenizer.

    The chat template writes `template_date` as today's date. Raises as `load_model`, and `InputError` for a tokenizer
    without a chat template.
    """
    location = locate(config.base)
    place = location if location.path is None else Location(model_folder(config))
    tokenizer = dated(tokenizer_at(place, config.revision), template_date)
    if not tokenizer.chat_template:
        where = location.path or config.base
        raise InputError("the tokenizer has no chat template, expected an instruct or chat model", where)
    tokenizer.name_or_path = base_name(config)
    return load_model(config, for_training=for_training, on=on), tokenizer


def load_model(config: ModelConfig, *, for_training: bool = False, on: Any = None) -> Any:
    """Load a causal language model; it is in eval mode unless `for_training`.

    The model is moved to the torch device `on` (None: that of `device`). `best_dtype` decides `dtype: auto`. With
    `quantization: nf4` the linear layers have 4-bit weights with double quantization (QLoRA, arXiv 2305.14314) and
    compute in that dtype. The model's `name_or_path` is its hub id if it has one, so that an adapter names its base
    portably.

    Raises `InputError` for an unknown name and a folder without readable weights; `WorkError` if the weights do not fit
    into memory.
    """
    _bound_kernel_caches()
    location, folder = locate(config.base), model_folder(config)
    with working(f"loading {base_name(config)}"):
        model = _load(folder, config, location.path or config.base, on or device())
    model.config._name_or_path = model.name_or_path = base_name(config)
    model.config._commit_hash = folder.name if location.path is None else None
    setattr(model, DIGEST, _files_digest(location.path or folder))
    model.train(for_training)
    return model


def _bound_kernel_caches() -> None:
    """Limit oneDNN's cache, which else keeps a kernel with its buffers for each of a thousand shapes.

    Packed prompts have a new shape in every pass. On a processor that computes in bfloat16, the demo's training grew to
    9.6 GB; with these limits it takes 6.3 GB and no more time (`make demo`). oneDNN and PyTorch read the limits once,
    at the first product.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "128")


def tokenizer_of(config: Config) -> Any:
    """The config's tokenizer; `model.revision` applies to it if it is from the model's repository."""
    name, base = config.tokenizer_name, config.model.base
    same = name == base or locate(name, tokenizer=True).hub_id == base
    return load_tokenizer(name, config.model.revision if same else None, config.tokens.template_date)


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raise `InputError` for a tokenizer with more ids than the model has embeddings."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"has {len(tokenizer)} tokens, {model.name_or_path} embeds {rows}: expected the model's own tokenizer",
            tokenizer.name_or_path,
        )


def base_name(config: ModelConfig) -> str:
    """The base model's portable name: its hub id, else its path."""
    location = locate(config.base)
    return location.hub_id or str(location.path)


def device() -> Any:
    """The torch device for models: the current CUDA device, Apple's GPU, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(wanted: Literal["auto", "float32", "bfloat16"], on: Any = None) -> Any:
    """The torch dtype to compute in.

    `auto` is bfloat16 on GPUs that support it and on CPUs with bfloat16 instructions (AMX or AVX512-BF16,
    where it is several times as fast as float32); elsewhere bfloat16 is emulated and slower.
    """
    import torch

    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    on = on or device()
    if on.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif on.type == "cpu":
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(getattr(torch.cpu, name, lambda: False)() for name in names)
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def weights_fingerprint(model: Any) -> str:
    """A hash that identifies a base model, equal for loading in float32, bfloat16 and 4 bits: 32 hexadecimal digits.

    It covers all weights and the config's keys `COMPUTES`. The weights are the files that `load_model` read, or the
    tensors of a model that was built in memory. The same weights stored in another dtype, or as GGUF, are another base.
    """
    files: str | None = getattr(model, DIGEST, None)
    config = model.config.get_text_config()
    computes = {name: value for name in COMPUTES if (value := getattr(config, name, None)) is not None}
    return sha256_of([config.model_type, computes, files or _tensors_digest(model)])[:32]


def quantization_of(model: Any) -> str:
    """The quantization of a loaded model's weights: `none`, `nf4` or `fp4`, else its checkpoint's method (`gptq`).

    A checkpoint can be stored quantized, independent of `model.quantization`.
    """
    if not getattr(model, "is_quantized", False):
        return "none"
    stored = model.config.quantization_config
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    if stored.get("load_in_4bit"):
        return str(stored.get("bnb_4bit_quant_type", "fp4"))
    method = stored.get("quant_method", "unknown")
    return str(getattr(method, "value", method))


def _tensors_digest(model: Any) -> str:
    """SHA-256 over all tensors of a model, by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _files_digest(place: Path) -> str:
    """A hash over the weight files of a base model: a GGUF file, or those of a folder."""
    kinds = (sorted(place.glob(kind)) for kind in WEIGHTS)
    files = [place] if place.is_file() else next(filter(None, kinds), [])
    return sha256_of([weights_digest(file) for file in files])


@contextlib.contextmanager
def quiet(*, stderr: bool = False) -> Iterator[None]:
    """Suppress the libraries' warnings and progress bars, but not their exceptions.

    With `stderr`, output to it is dropped too, since some progress bars have no other switch.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    levels = {name: logging.getLogger(name).level for name in NOISY}
    had_bars, hub_had_bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    sink = contextlib.redirect_stderr(io.StringIO()) if stderr else contextlib.nullcontext()
    with warnings.catch_warnings(), sink:
        warnings.simplefilter("ignore")
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()
        disable_progress_bars()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if had_bars:
                transformers_logging.enable_progress_bar()
            if hub_had_bars:
                enable_progress_bars()


def model_folder(config: ModelConfig) -> Path:
    """The folder of a base model's config, tokenizer and weights; converts a GGUF file, downloads a repository.

    Raises as `check_at_hand` and `snapshot`.
    """
    location = locate(config.base)
    if location.path is not None and location.path.suffix == ".gguf":
        return converted(location.path)
    if location.path is not None and not (location.path / "config.json").is_file():
        raise InputError("has no config.json, expected a model folder", location.path)
    check_at_hand(config)
    return location.path or snapshot(str(location.hub_id), config.revision, weights=True)


def check_at_hand(config: ModelConfig) -> ModelConfig:
    """The config, with `nf4` for a base model that is stored in 4 bits.

    Of a repository it downloads config and tokenizer. Raises `InputError` for a format that Palate does not load, and
    as `snapshot`.
    """
    location = locate(config.base)
    folder = location.path or snapshot(str(location.hub_id), config.revision)
    if not (folder / "config.json").is_file():
        return config
    check_quantization(folder, config, location.path or config.base)
    return config.model_copy(update={"quantization": "nf4"}) if method_of(folder) == "bnb-4bit" else config


def commit_of(config: ModelConfig) -> str | None:
    """The commit of a base model from the hub, to which its revision leads; None for a local one."""
    location = locate(config.base)
    return snapshot(str(location.hub_id), config.revision).name if location.path is None else None


def load_config(config: ModelConfig) -> Any:
    """The transformers config of a base model: of a folder, a GGUF file, or a repository of the hub.

    Raises `InputError` for an unknown name and a folder without a readable `config.json`; `WorkError` for a model that
    is not cached if the hub cannot be reached.
    """
    from transformers import AutoConfig

    location = locate(config.base)
    options: dict[str, Any] = {}
    folder = location.path or snapshot(str(location.hub_id), config.revision)
    if folder.suffix == ".gguf":
        folder, options = folder.parent, {"gguf_file": folder.name}
    elif not (folder / "config.json").is_file():
        raise InputError("has no config.json, expected a model folder", location.path or config.base)
    try:
        with quiet(stderr=True):
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"no model config can be read, expected the files of a chat model: {why_not_loaded(error)}",
            location.path or config.base,
        ) from error


def stored_dtype(config: ModelConfig) -> Any:
    """The torch dtype of a base model's stored weights, from its config; float32 if the config has none."""
    import torch

    path = locate(config.base).path
    if path is not None and path.suffix == ".gguf":
        return torch.float32  # the dtype of a conversion
    return load_config(config).get_text_config().dtype or torch.float32


def _load(folder: Path, config: ModelConfig, place: str | Path, on: Any) -> Any:
    """The model, read tensor by tensor into the memory of its device."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    dtype = best_dtype(config.dtype, on)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": config.attn_implementation}
    options |= {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet():
            options |= loading_options(folder, config, dtype)
            if on.type != "cpu" or len(options) > 4:  # DeepSpeed's ZeRO 3 takes none, and loads plain weights here
                options["device_map"] = {"": on}
            return AutoModelForCausalLM.from_pretrained(str(folder), **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, MemoryError) as error:
        if is_out_of_memory(error):
            raise WorkError(f"{place}: does not fit into the memory of {on}, try model.quantization=nf4") from error
        raise InputError(
            f"no model can be loaded, expected whole files of a chat model: {why_not_loaded(error)}", place
        ) from error


def converted(gguf: Path) -> Path:
    """The folder of safetensors for a GGUF file, written at the first use; several processes may call this at once."""
    folder = converted_folder(gguf)
    if (folder / "config.json").is_file():
        return folder
    log.info("converting %s to %s, once", gguf.name, folder)
    partial = hidden(folder, "partial")
    try:
        remove_abandoned(folder)
        partial.mkdir(parents=True, exist_ok=True)
        with working(f"converting {gguf.name}"):
            _convert(gguf, partial)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was first
                raise
    except OSError as error:
        raise WorkError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantize a GGUF file and write it with its tokenizer in transformers' format."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet(stderr=True), _read_once():
            tokenizer = tokenizer_at(Location(gguf))
            model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, struct.error) as error:
        raise InputError(
            f"no model can be loaded, expected a whole GGUF file of a chat model: {first_line(error)}", gguf
        ) from error
    # The weights are plain float32 now, but these attributes still mark the model as quantized and prevent training.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    with quiet(stderr=True):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers read a GGUF file's fields once: it does so three times, at two seconds each."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader

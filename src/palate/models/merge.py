"""Merge an adapter into its base model's weights, and write and read the result as a plain Hugging Face folder."""

from pathlib import Path
from typing import Any

from palate.errors import WorkError, first_line
from palate.models.load import quiet
from palate.models.method import detach


def merge(adapted: Any) -> Any:
    """Add a `PeftModel`'s deltas to its base's weights, W + (alpha / r)·B·A; returns the plain base model.

    The sum has the number format of the weights, so they should be float32. Tied embeddings stay tied.
    """
    with quiet():
        return detach(adapted, merged=True)


def write_model(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    """Write weights (safetensors), configs, tokenizer and chat template, as `from_pretrained` and vLLM read them.

    The model's weights are rounded to the torch dtype of this name, in place. Raises `OSError` if they cannot be
    written.
    """
    import torch
    from safetensors import SafetensorError

    model.to(getattr(torch, dtype))
    try:
        with quiet(stderr=True):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
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
    """Load a written model from the disk into float32 on the CPU, from safetensors or from its file `gguf`.

    Raises `WorkError` if the file lacks a weight of the model, or has one too many.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    place = folder / gguf if gguf else folder
    options = {"gguf_file": gguf} if gguf else {}
    try:
        with quiet(stderr=True):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=torch.float32, output_loading_info=True, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise WorkError(f"{place.name}: was written and cannot be read back: {first_line(error)}") from error
    for state in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[state]:
            first = sorted(map(str, report[state]))[0]
            kind = state.removesuffix("_keys")
            raise WorkError(f"{place.name}: was written with {len(report[state])} {kind} weights (first: {first})")
    return model.eval()

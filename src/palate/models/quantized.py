"""Checkpoints that are stored quantized: which of them Palate loads, and as what.

Frozen weights of bitsandbytes stay in 4 or 8 bits. FP8 and MXFP4 become plain weights of `model.dtype` while they are
read: their kernels need certain GPUs, and the same weights must give the same scores everywhere. Other methods need
packages that Palate does not test with; they are refused before their weights are downloaded.
"""

import re
from pathlib import Path
from typing import Any

from palate.config import ModelConfig
from palate.errors import InputError
from palate.store.artifacts import read_json

NAMES = {"bnb-4bit": "bitsandbytes' 4 bits", "bnb-8bit": "bitsandbytes' 8 bits"} | {
    name: name.upper() for name in ("fp8", "mxfp4", "awq", "gptq")
}
DEQUANTIZED = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
"""Methods that are read as plain weights, and transformers' class of their options."""
SUFFIX = re.compile(
    r"[-_.](awq|gptq|hqq|aqlm|torchao|quanto|compressed[-_]tensors|(fbgemm[-_])?fp8|mxfp4|nvfp4|bnb|[48]bit|int[48]|"
    r"w\d+a\d+|unsloth|quantized)\b.*",
    re.IGNORECASE,
)
"""What names of quantized checkpoints append to the model's."""


def method_of(folder: Path) -> str | None:
    """How a model folder's weights are stored, such as `bnb-4bit`, `fp8` or `awq`; None: not quantized."""
    settings = read_json(folder / "config.json")
    stored = settings.get("quantization_config") or (settings.get("text_config") or {}).get("quantization_config")
    if not isinstance(stored, dict):
        return None
    if stored.get("load_in_4bit") or stored.get("load_in_8bit"):
        return "bnb-4bit" if stored.get("load_in_4bit") else "bnb-8bit"
    return str(stored.get("quant_method", "an unknown format"))


def check_quantization(folder: Path, config: ModelConfig, place: str | Path) -> None:
    """Raise `InputError` for a checkpoint that Palate does not load; reads `config.json` alone."""
    method = method_of(folder)
    if method in (None, "bnb-4bit"):
        return
    name = NAMES.get(method, method)
    plain = SUFFIX.sub("", own := Path(str(place)).name)
    plain = f"the unquantized {plain}" if plain != own else "an unquantized checkpoint of the model"
    if method not in (*DEQUANTIZED, "bnb-8bit"):
        raise InputError(
            f"is stored in {name}, which Palate does not load, expected {plain}; "
            "model.quantization=nf4 holds that in 4 bits",
            place,
        )
    if config.quantization != "none":
        raise InputError(
            f"is stored in {name} and cannot be put into {config.quantization}, expected model.quantization=none, "
            f"or {plain}",
            place,
        )


def loading_options(folder: Path, config: ModelConfig, dtype: Any) -> dict[str, Any]:
    """The arguments of `from_pretrained` by which weights are held in 4 bits, or read out of a quantized checkpoint."""
    import transformers

    method = method_of(folder)
    if method in DEQUANTIZED:
        return {"quantization_config": getattr(transformers, DEQUANTIZED[method])(dequantize=True)}
    if method == "bnb-4bit":  # its config has the dtype to compute in of another machine
        settings = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        settings.quantization_config["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
        return {"config": settings}
    if config.quantization == "nf4":
        four_bits = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        return {"quantization_config": four_bits}
    return {}

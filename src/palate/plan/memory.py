"""Memory: what is held when most is held, by part."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from palate.config import Config
from palate.models.method import held_in
from palate.plan.shape import ModelShape
from palate.plan.simulate import MEMORY, Pass

BYTES = {"float32": 4, "bfloat16": 2}
FRAMEWORK = 1.0e9
"""Bytes of CUDA's context, its libraries' workspaces and the allocator's gaps: an allowance, not measured."""
PARTS = ("base weights", "adapter", "gradients", "optimizer", *MEMORY, "framework")

# Bytes of state a weight, as multiples of the weight's own bytes ("own") or absolute ("fixed"): torch keeps states in
# the weight's dtype, bitsandbytes in float32 or in 8 bits with a float32 scale for every 256 of them.
_8BIT = 1 + 4 / 256
OWN = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"), 2.0),
    **dict.fromkeys(("adagrad", "rmsprop"), 1.0),
    "sgd": 0.0,
}
FIXED = {
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), 2 * _8BIT),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), _8BIT),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_32bit"), 4.0),
    "paged_adamw_32bit": 8.0,
}
SMALL = 4096
"""Weights below which bitsandbytes keeps a tensor's states in 32 bits."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the moment when most is held, on one device; by `PARTS`."""

    parts: Mapping[str, float]
    kept: float
    """What the forward pass leaves for the backward pass."""
    tokens: int
    """Tokens of the largest forward pass."""
    labelled: int
    """Labelled tokens of the same."""

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def fixed(self) -> float:
        """Bytes that do not depend on how much is passed at once."""
        return self.total - sum(self.parts[name] for name in MEMORY)


def memory_of(shape: ModelShape, config: Config, dtype: str, largest: Pass, framework: float = FRAMEWORK) -> Memory:
    """Put weights, gradients, optimizer and the largest pass together."""
    nf4 = config.model.quantization == "nf4"
    # PEFT holds LoRA weights in float32 (`autocast_adapter_dtype`); for a base in 4 bits TRL makes them bfloat16.
    each = 2 if nf4 else 4
    working = largest.memory["working"]
    if nf4:  # a layer's weights are expanded to compute with them, then dropped
        working += BYTES[dtype] * max(shape.linear.values(), default=0)
    parts = {
        "base weights": base_bytes(shape, held_in(config.train, dtype), config.model.quantization),
        "adapter": each * shape.adapter_weights,
        "gradients": each * shape.adapter_weights,
        "optimizer": optimizer_bytes(config.train.optimizer, shape, each),
        "activations": largest.memory["activations"],
        "logits": largest.memory["logits"],
        "working": working,
        "framework": framework,
    }
    return Memory(parts, largest.kept, largest.tokens, largest.labelled)


def base_bytes(shape: ModelShape, dtype: str, quantization: str) -> float:
    """Bytes of the base model.

    NF4 with double quantization (arXiv 2305.14314, section 3): half a byte a weight, an 8-bit scale for every 64
    weights, a float32 for every 256 scales; 16 + 256 + 1 float32 of code and offset for each layer. Embeddings, norms
    and the vocabulary head stay in `dtype`.
    """
    if quantization != "nf4":
        return shape.weights * BYTES[dtype]
    small = sum(
        -(-n // 2) + -(-n // 64) + 4 * (-(-n // (64 * 256))) + 4 * (16 + 256 + 1) for n in shape.linear.values()
    )
    return small + (shape.weights - sum(shape.linear.values())) * BYTES[dtype]


def optimizer_bytes(name: str, shape: ModelShape, each: int) -> float:
    """Bytes of the optimizer's states, for weights of `each` bytes; an unknown one is taken for AdamW."""
    if name == "adafactor":  # one mean a row and one a column
        return each * sum(sum(s) if len(s) > 1 else prod(s) for s in shape.adapter)
    if name not in FIXED:
        return OWN.get(name, OWN["adamw"]) * each * shape.adapter_weights
    in_32bit = 8.0 if "adam" in name else 4.0
    return sum(prod(s) * (FIXED[name] if prod(s) >= SMALL else in_32bit) for s in shape.adapter)


def is_known(name: str) -> bool:
    """Whether the optimizer's states are known."""
    return name in OWN or name in FIXED or name == "adafactor"

"""Memory: peak bytes by part, and the bytes that a pass moves."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from palate.config import Config
from palate.models.method import held_in
from palate.plan.shape import ModelShape

BYTES = {"float32": 4, "bfloat16": 2}
FRAMEWORK = 1.0e9
"""Bytes of CUDA's context, its libraries' workspaces and the allocator's gaps: an allowance, not measured."""
PASS = ("activations", "logits", "working")
"""The parts of a pass: tensors kept for the backward pass, tensors of the vocabulary's width, short-lived tensors."""
PARTS = ("base weights", "adapter", "gradients", "optimizer", *PASS, "framework")
ADAPTER = 4
"""Bytes of a trained weight, of its gradient and of a state: PEFT trains in float32, even with a base in 4 bits."""

# Bytes of optimizer state per weight; bitsandbytes has states in 8 bits with a float32 scale for every 256 of them.
_8BIT = 1 + 4 / 256
STATES = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "paged_adamw_32bit"), 8.0),
    **dict.fromkeys(("adagrad", "rmsprop", "lion_32bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_32bit"), 4.0),
    "sgd": 0.0,
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), 2 * _8BIT),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), _8BIT),
}
SMALL = 4096
"""Weights below which bitsandbytes keeps a tensor's states in 32 bits."""


class Batch(NamedTuple):
    """The input of one pass: `rows` sequences of `length` tokens, with `labelled` tokens in total."""

    rows: int
    length: int
    labelled: int


@dataclass(frozen=True)
class Memory:
    """Peak bytes on one device by `PARTS`."""

    parts: dict[str, float]
    kept: float
    """Bytes that the forward pass keeps for the backward pass."""
    tokens: int
    """Tokens of the largest forward pass."""
    fixed: float
    """Bytes that do not depend on the size of a pass."""

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


def memory_of(
    shape: ModelShape, config: Config, dtype: str, batch: Batch, *, framework: float = FRAMEWORK, on_gpu: bool = True
) -> Memory:
    """The memory of weights, gradients, optimizer and the pass of `batch`.

    Dropout keeps a byte for each element `on_gpu`, and a number of the dtype on a CPU.
    """
    tokens, size, held = batch.rows * batch.length, BYTES[dtype], held_in(config.train, dtype)
    layers = kept_in_layers(shape, config, dtype, batch, on_gpu=on_gpu)
    checkpointing = config.train.recomputes != "nothing"
    # The first layer's input and the last norm's; with checkpointing every layer's.
    kept = float(tokens) * shape.hidden * (4 + (BYTES[held] * shape.layers if checkpointing else 0))
    if config.train.recomputes == "selected":
        kept += tokens * products_kept(shape, config, size)
    wide = float(batch.labelled * shape.vocabulary)
    logits, working = 16 * wide, 0.0  # projected, as float32, normalized, and their gradients; float32 each
    copies = 2.0 * shape.adapter_weights if size == 2 else 0.0  # of trained weights, by autocast
    if checkpointing:
        # Of what the MLP's last layer reads: gradients, and with LoRA beside it casts of both to float32 and back.
        gradient = 12 if size == 2 and shape.last.adapted else 6
        # Autocast's copies live until the forward pass ends; going backward, one layer is computed again.
        again = (layers + copies) / shape.layers + gradient * shape.last.inputs * tokens
        if copies + 8 * wide > max(again + 4 * wide, logits):
            working, logits = copies, 8 * wide
        elif again + 4 * wide > logits:
            working, logits = again, 4 * wide
    else:
        kept += layers + copies
    # A layer's weights in 4 bits are expanded to compute with them, then dropped.
    expanded = size * max(shape.frozen, default=0) if config.model.quantization == "nf4" else 0
    parts = {
        "base weights": base_bytes(shape, held, config.model.quantization),
        "adapter": ADAPTER * shape.adapter_weights,
        "gradients": ADAPTER * shape.adapter_weights,
        "optimizer": optimizer_bytes(config.train.optimizer, shape),
        "activations": kept,
        "logits": logits,
        "working": working + expanded,
        "framework": framework,
    }
    fixed = sum(bytes for part, bytes in parts.items() if part not in PASS) + copies + expanded
    return Memory(parts, kept, tokens, fixed)


def kept_in_layers(shape: ModelShape, config: Config, dtype: str, batch: Batch, *, on_gpu: bool) -> float:
    """Bytes that autograd saves in all layers: inputs of trained weights, norms, attention and the gated product."""
    tokens, size, full = batch.rows * batch.length, BYTES[dtype], config.train.method == "full"
    dropout = 0 if full or not config.train.lora.dropout else 1 if on_gpu else size
    # Of a norm the input in float32, and its output where its scale is trained.
    each = sum(shape.norms) * (4 + (size if full else 0))
    learning = [linear for linear in shape.linears if linear.adapted or linear.trained]
    if not dropout and (
        size == 4 or not full
    ):  # layers that read the same tensor save it once, and attention has saved its result
        inputs = {(linear.block, linear.inputs): linear.inputs for linear in learning}
        each += size * (sum(inputs.values()) - (shape.queries * shape.layers if learning else 0))
    else:
        each += (size + dropout) * sum(linear.inputs for linear in learning)
    each += size * config.train.lora.r * sum(linear.adapted for linear in shape.linears)
    attention = size * (2 * shape.queries + 2 * shape.keys) + 4 * shape.heads
    each += shape.layers * (attention + size * shape.product)
    kept = float(each * tokens)
    if config.model.attn_implementation == "eager":  # the scores' softmax in float32, and in bfloat16
        kept += shape.layers * shape.heads * batch.rows * batch.length**2 * (4 if size == 4 else 6)
    return kept


def products_kept(shape: ModelShape, config: Config, size: int) -> float:
    """Bytes a token that selective checkpointing keeps: results of layers, of an adapter's first part, of attention."""
    narrow = config.train.lora.r * sum(linear.adapted for linear in shape.linears)
    attention = shape.layers * (size * shape.queries + 4 * shape.heads)
    return float(size * (sum(linear.outputs for linear in shape.linears) + narrow) + attention)


def base_bytes(shape: ModelShape, dtype: str, quantization: str) -> float:
    """Bytes of the base model.

    NF4 with double quantization (arXiv 2305.14314, section 3): half a byte a weight, an 8-bit scale for every 64
    weights, a float32 for every 256 scales; 16 + 256 + 1 float32 of code and offset for each layer. Embeddings, norms
    and the vocabulary head stay in `dtype`.
    """
    if quantization != "nf4":
        return shape.weights * BYTES[dtype]
    small = sum(-(-n // 2) + -(-n // 64) + 4 * (-(-n // (64 * 256))) + 4 * (16 + 256 + 1) for n in shape.frozen)
    return small + (shape.weights - sum(shape.frozen)) * BYTES[dtype]


def optimizer_bytes(name: str, shape: ModelShape) -> float:
    """Bytes of the optimizer's states; an unknown optimizer counts as AdamW."""
    if name == "adafactor":  # one mean a row and one a column
        return ADAPTER * sum(sum(s) if len(s) > 1 else prod(s) for s in shape.adapter)
    each = STATES.get(name, STATES["adamw"])
    wide = 8.0 if "adam" in name else 4.0
    small = wide if 0 < each < wide else each
    return sum(prod(s) * (each if prod(s) >= SMALL else small) for s in shape.adapter)


def is_known(name: str) -> bool:
    """Whether the optimizer's states are known."""
    return name in STATES or name == "adafactor"


def weights_moved(shape: ModelShape, config: Config, dtype: str) -> float:
    """Bytes of weights that a forward and backward pass reads, and the bytes of expanding weights in 4 bits."""
    times = 3 if config.train.recomputes == "layers" else 2
    expanded = 2 * BYTES[dtype] * sum(shape.frozen) if config.model.quantization == "nf4" else 0
    return times * (base_bytes(shape, dtype, config.model.quantization) + expanded)


def activations_moved(shape: ModelShape, config: Config, dtype: str, batch: Batch) -> float:
    """Bytes of activations that a pass writes and reads.

    A kept tensor is written, read twice, and a gradient of its size is written; checkpointing repeats two of these.
    """
    times = 4 if config.train.recomputes == "nothing" else 6
    return kept_in_layers(shape, config, dtype, batch, on_gpu=True) * times

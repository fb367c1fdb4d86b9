"""Attention of many blocks to shared prefixes: the model computes a prefix's keys and values once.

A forward pass over prefixes stores the keys and values of each layer. In later passes over batches of blocks, each
query attends to the prefix of its block, without a copy per block, and causally to its own block, never to another
block. The normalizers of the two softmaxes join the two results:

    softmax([s, t]) [V; W] = σ(l − m) softmax(s) V + σ(m − l) softmax(t) W,   l = log Σ exp(s), m = log Σ exp(t),

as in FlashAttention (arXiv 2205.14135) and cascade inference. Attention scores take the memory of one batch of blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from palate.errors import WorkError
from palate.models.method import transformer
from palate.train.attention import check_plain, check_window, for_each_head

BEHIND = "palate_behind"
"""The name under which transformers finds this module's attention."""


@dataclass
class Prefixes:
    """Keys and values of b prefixes of up to p tokens, by attention module: (b, kv heads, p, head size) each."""

    layers: dict[Any, tuple[Any, Any]] = field(default_factory=dict)

    def each(self, lengths: Sequence[int]) -> "list[Prefix]":
        """The prefixes by themselves; raises `WorkError` if no layer stored its keys and values."""
        if not self.layers:
            raise WorkError("its attention cannot be replaced")
        alone = len(lengths) == 1  # a slice of several would keep all of them in memory
        found = []
        for b, n in enumerate(lengths):
            own = {module: [x[b : b + 1, :, :n] for x in pair] for module, pair in self.layers.items()}
            kept = {module: (k, v) if alone else (k.clone(), v.clone()) for module, (k, v) in own.items()}
            found.append(Prefix(kept, n))
        return found


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prefix of `length` tokens, by attention module: (1, kv heads, length, head size) each."""

    layers: dict[Any, tuple[Any, Any]]
    length: int

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return sum(x.numel() * x.element_size() for pair in self.layers.values() for x in pair)


Behind = Sequence[tuple[Prefix, int]]
"""The prefixes of a batch's rows: that of the first rows and their number, that of the next, and so on."""


@contextmanager
def shared_prefix(model: Any) -> Iterator[None]:
    """Switch a model to this module's attention; inside the block callers pass it `palate_prefix=`.

    `Prefixes` collect the keys and values of the batch, `Behind` says which prefix is before each row.
    """
    base = transformer(model)
    original = base.config._attn_implementation
    if original == BEHIND:  # within another block; to switch takes as long as some layers
        yield
        return
    try:
        base.set_attn_implementation(BEHIND)
        yield
    finally:
        base.set_attn_implementation(original)


def check_shareable(config: Any, longest: int) -> None:
    """Raise `WorkError` if a layer's attention window or positional encoding depends on the prompt's length.

    `longest` is the length of the longest prompt. Dynamic and long RoPE change their frequencies beyond the pretraining
    length: the prefix would then have one encoding and the blocks another.
    """
    check_window(config, longest)
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    changing = [kind for kind in kinds if kind.get("rope_type") in ("dynamic", "longrope")]
    for kind in changing:
        limit = kind.get("original_max_position_embeddings") or text.max_position_embeddings
        if longest > limit:
            raise WorkError(f"its positional encoding changes beyond {limit} tokens, the longest prompt has {longest}")


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    palate_prefix: Prefixes | Behind | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """Attention as transformers calls it: query (n, heads, t, d), key and value (n, kv heads, t, d) → (n, t, heads, d).

    The n rows are blocks of t tokens or prefixes, padded on the right.
    """
    check_plain(palate_prefix, others)
    assert palate_prefix is not None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(palate_prefix, Prefixes):
        palate_prefix.layers[module] = key, value
        keys, values = for_each_head(query, key, value)
        out = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale)
    else:
        before = [(*prefix.layers[module], rows) for prefix, rows in palate_prefix]
        out = _behind(query, key, value, scale, before)
    return out.transpose(1, 2).contiguous(), None


def _behind(query: Any, key: Any, value: Any, scale: float, before: Sequence[tuple[Any, Any, int]]) -> Any:
    """Attention of the queries to their prefixes and to their own blocks, joined: (n, heads, t, d)."""
    near, near_sum = _attention(query, *for_each_head(query, key, value), causal=True, scale=scale)
    far, far_sum = [], []
    first = 0
    for keys, values, rows in before:
        found = _far(query.narrow(0, first, rows), keys, values, scale)
        far.append(found[0])
        far_sum.append(found[1])
        first += rows
    share = (torch.cat(far_sum) - near_sum.reshape(query.shape[:3])).sigmoid().unsqueeze(-1)
    return near.lerp(torch.cat(far).reshape(near.shape), share.to(near.dtype))


def _far(query: Any, before: Any, values_before: Any, scale: float) -> tuple[Any, Any]:
    """Attention of the queries to one prefix, (n, heads, t, d), and the logarithm of each softmax' sum."""
    n, heads, t, d = query.shape
    shared = before.shape[1]
    group = heads // shared
    # One row holds every query of one prefix head: n blocks × heads of a group × t tokens.
    row = query.reshape(n, shared, group, t, d).transpose(0, 1).reshape(1, shared, n * group * t, d)
    far, far_sum = _attention(row, before, values_before, causal=False, scale=scale)
    far = far.reshape(shared, n, group, t, -1).transpose(0, 1).reshape(n, heads, t, -1)
    return far, far_sum.reshape(shared, n, group, t).transpose(0, 1).reshape(n, heads, t)


def _attention(query: Any, key: Any, value: Any, *, causal: bool, scale: float) -> tuple[Any, Any]:
    """Scaled dot-product attention (n, heads, t, d), and the logarithm of each softmax' sum (n, heads, t), float32."""

    fused = _fused(query, key, value, causal=causal, scale=scale)
    return _matrix_attention(query, key, value, causal=causal, scale=scale) if fused is None else fused


def _fused(query: Any, key: Any, value: Any, *, causal: bool, scale: float) -> tuple[Any, Any] | None:
    """As `_attention`, by a kernel of `scaled_dot_product_attention`, whose public function does not return the sums.

    None where no such kernel takes the tensors. On CUDA it was not run; a probe compares it with whole prompts.
    """
    kind, size, aten = query.device.type, query.shape[-1], torch.ops.aten
    if size != value.shape[-1]:
        return None
    if kind == "cpu":
        out, sums = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)
        return out, sums
    if kind != "cuda" or size % 8:
        return None
    if query.dtype != torch.float32 and size <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0):
        out, sums, *_ = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)
        return out, sums
    out, sums, *_ = aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, causal, scale=scale
    )
    return out, sums.narrow(-1, 0, query.shape[2])  # its rows are padded to 32


def _matrix_attention(query: Any, key: Any, value: Any, *, causal: bool, scale: float) -> tuple[Any, Any]:
    """As `_attention`, by matrix products: for devices without that kernel."""
    scores = (query @ key.transpose(-1, -2) * scale).float()
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores.masked_fill_(later, float("-inf"))
    sums = scores.logsumexp(-1)
    return scores.softmax(-1).to(value.dtype) @ value, sums


AttentionInterface.register(BEHIND, attend)

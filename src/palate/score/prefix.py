"""Many blocks behind one prefix: the prefix' keys and values are computed once, and no block sees another.

A forward pass over the prefix keeps what each layer's attention is given. In the passes that follow, a batch of
blocks, each query attends to the prefix, which all share and nobody copies, and causally to its own block; the two
results are joined by the sums of exponentials that they were divided by:

    softmax([s, t]) [V; W] = σ(l − m) softmax(s) V + σ(m − l) softmax(t) W,   l = log Σ exp(s), m = log Σ exp(t),

as in FlashAttention (arXiv 2205.14135) and cascade inference. Memory for scores is that of one batch of blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from palate.errors import WorkError
from palate.train.attention import check_window

BEHIND = "palate_behind"
"""What transformers calls the attention of this module."""


@dataclass
class Prefix:
    """Keys and values of a prefix of p tokens: of each attention module (1, kv heads, p, head size)."""

    kept: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    complete: bool = False

    def close(self) -> None:
        """Take no more in; raises `WorkError` if no layer has given any."""
        if not self.kept:
            raise WorkError("its attention cannot be exchanged")
        self.complete = True


@contextmanager
def shared_prefix(model: Any) -> Iterator[Prefix]:
    """Let a model's layers attend as this module does; it then has to be called with `palate_prefix=`."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = base.config._attn_implementation
    try:
        base.set_attn_implementation(BEHIND)
        yield Prefix()
    finally:
        base.set_attn_implementation(own)


def check_shareable(config: Any, longest: int) -> None:
    """Raise `WorkError` if layers that see less than the whole prompt, or see it otherwise, would be left alone.

    `longest` is the length of the longest prompt. Some positional encodings change where a prompt grows beyond
    what the model was pretrained on: the prefix would be encoded in one way and the blocks in the other.
    """
    check_window(config, longest)
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    changing = [kind for kind in kinds if kind.get("rope_type") in ("dynamic", "longrope")]
    for kind in changing:
        reach = kind.get("original_max_position_embeddings") or text.max_position_embeddings
        if longest > reach:
            raise WorkError(f"its positions change beyond {reach} tokens, the longest prompt has {longest}")


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    palate_prefix: Prefix | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """Attention as transformers calls it: query (n, heads, t, d), key and value (n, kv heads, t, d) → (n, t, heads, d).

    The n rows are blocks of t tokens, padded on the right, or the prefix by itself.
    """
    from torch.nn.functional import scaled_dot_product_attention

    if palate_prefix is None:
        raise ValueError("the model does not pass the prefix on")
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise ValueError(f"the model's attention has a {name}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if palate_prefix.complete:
        out = _behind(query, key, value, scale, *palate_prefix.kept[module])
    else:
        palate_prefix.kept[module] = key, value
        keys, values = _for_each_head(query, key, value)
        out = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale)
    return out.transpose(1, 2).contiguous(), None


def _behind(query: Any, key: Any, value: Any, scale: float, before: Any, values_before: Any) -> Any:
    """What queries take from the prefix and from their own blocks, (n, heads, t, d)."""
    n, heads, t, d = query.shape
    shared = before.shape[1]
    group = heads // shared
    # All that attend to one head of the prefix, in one row: n blocks, the heads of a group, t tokens.
    row = query.view(n, shared, group, t, d).transpose(0, 1).reshape(1, shared, n * group * t, d)
    far, far_sum = _attention(row, before, values_before, causal=False, scale=scale)
    near, near_sum = _attention(query, *_for_each_head(query, key, value), causal=True, scale=scale)
    far = far.reshape(shared, n, group, t, -1).transpose(0, 1).reshape(near.shape)
    far_sum = far_sum.reshape(shared, n, group, t).transpose(0, 1).reshape(n, heads, t)
    share = (far_sum - near_sum.reshape(n, heads, t)).sigmoid()[..., None]
    return near.lerp(far, share.to(near.dtype))


def _for_each_head(query: Any, *shared: Any) -> list[Any]:
    """Keys and values (n, kv heads, t, d) → (n, heads, t, d), as grouped-query attention shares them."""
    times = query.shape[1] // shared[0].shape[1]
    return [x if times == 1 else x.repeat_interleave(times, dim=1) for x in shared]


def _attention(query: Any, key: Any, value: Any, *, causal: bool, scale: float) -> tuple[Any, Any]:
    """Scaled dot-product attention (n, heads, t, d), and the logarithm of each softmax' sum (n, heads, t), float32."""
    import torch

    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        # PyTorch's own kernel for `scaled_dot_product_attention`; the public function keeps the sums to itself.
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, sums = fused(query, key, value, 0.0, causal, scale=scale)
        return out, sums
    return _by_hand(query, key, value, causal=causal, scale=scale)


def _by_hand(query: Any, key: Any, value: Any, *, causal: bool, scale: float) -> tuple[Any, Any]:
    """The same where there is no such kernel, by matrix products."""
    import torch

    scores = (query @ key.transpose(-1, -2) * scale).float()
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores.masked_fill_(later, float("-inf"))
    sums = scores.logsumexp(-1)
    return scores.softmax(-1).to(value.dtype) @ value, sums


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(BEHIND, attend)


_register()

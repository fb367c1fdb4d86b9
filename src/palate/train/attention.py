"""Attention over packed prompts: several implementations of one mask, and the choice among them.

`Packed.mask` defines which tokens attend to which. Each implementation must pass the probe (`palate.train.probe`). A
warning names each one that fails and the reason.

- `varlen`: PyTorch's flash attention for sequences of unequal lengths, for prompts of one target; for CUDA.
- `flex`: PyTorch's FlexAttention with a block mask; compiled, for CUDA.
- `segments`: scaled dot-product attention over one prompt after the other, the prefix causally, then the blocks
  behind it. Needs only PyTorch, and computes few masked scores.
- `mask`: the model's own attention with a mask of all tokens by all tokens.
- `padded`: one target a row, padded on the right: no mask at all, and so only for prompts of one target.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from palate.errors import InputError, WorkError, first_line
from palate.models.logits import exact_logits
from palate.models.method import transformer
from palate.tokens.packed import Packed, tensors, upload
from palate.train.block_mask import block_mask
from palate.train.probe import Autocast, dtype_of, probe

log = logging.getLogger(__name__)

Way = Literal["varlen", "flex", "segments", "mask", "padded"]
SEGMENTS, FLEX, VARLEN = "palate_segments", "palate_flex", "palate_varlen"
"""Our attention functions, by their names in transformers."""
CHUNK = 256
"""Tokens of blocks in one attention call: with a larger chunk there are fewer calls and more masked scores."""
ONE_KERNEL = {"FORCE_USE_FLEX_ATTENTION": True}
"""Below 128 tokens FlexAttention would use its decoding kernel, which rejects some ratios of grouped heads."""


@dataclass(frozen=True)
class Attention:
    """One implementation, on one model. Made by `choose_attention`."""

    way: Way
    implementation: str
    """Its name in transformers."""
    refused: tuple[str, ...] = ()
    """The implementations that failed the probe before, each with the reason."""

    @property
    def several(self) -> bool:
        """Whether it keeps several targets of a prompt apart."""
        return self.way not in ("varlen", "padded")

    @property
    def fused(self) -> bool:
        """Whether its kernels are made for one precision."""
        return self.way in ("varlen", "flex")

    def warn(self) -> None:
        """Log a warning for each implementation that failed the probe."""
        for reason in self.refused:
            log.warning("attention: not %s; %s, which may be slower, takes its place", reason, self.way)

    def logits(self, model: Any, packed: Packed) -> Any:
        """The model's logits at `packed.at`, (r, vocabulary), in float32 from the last hidden state on.

        The model may be wrapped for several devices.
        """
        device = next(model.parameters()).device
        with exact_logits(model):
            if self.way == "padded":
                return _padded(model, packed, device)
            inputs = tensors(packed, device)
            if self.way == "segments":
                inputs["segments"] = segments_of(packed, device)
            elif self.way == "flex":
                inputs["block_mask"] = block_mask(packed, device)
            elif self.way == "varlen":
                inputs["sequences"] = sequences_of(packed, device)
            else:
                inputs["attention_mask"] = _dense(packed, device, self.implementation, dtype_of(model))
            return model(**inputs, use_cache=False).logits[0]


def choose_attention(
    model: Any, wanted: Way | Literal["auto"], targets: int, longest: int, autocast: Autocast = nullcontext
) -> Attention:
    """Set a model (with or without its adapter) to the first implementation that passes the probe.

    `auto` tries those of `ways_on`. `longest` is the length of the longest training sequence, `autocast` makes the
    context in which the trainer calls the model. Gradient checkpointing must be as in training. Each failure is a
    warning. Raises `InputError` if the named implementation, or every one, fails: with `targets` > 1 none may fit a
    model with layers other than attention. Raises the error of a lack of memory instead, if one failed for that.
    """
    base = transformer(model)
    own = base.config._attn_implementation
    own = "sdpa" if own in (SEGMENTS, FLEX, VARLEN) else own
    if targets > 1 and wanted != "auto" and not Attention(wanted, "").several:
        raise InputError("cannot keep the targets of a prompt apart, expected auto", "train.attention")
    on = next(model.parameters()).device
    refused: list[str] = []
    exhausted: Exception | None = None
    for way in ways_on(on) if wanted == "auto" else [wanted]:
        for implementation in _implementations(way, own):
            attention = Attention(way, implementation)
            if targets > 1 and not attention.several:
                continue
            try:
                if way != "padded":
                    check_window(base.config, longest)
                if way == "flex":
                    check_compiler(on)
                base.set_attn_implementation(implementation)
                probe(model, attention, own, longest, autocast)
            except Exception as error:  # kernels and compilers raise exceptions of all kinds
                base.set_attn_implementation(own)
                refused.append(f"{way} ({implementation}): {first_line(error)}")
                if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                    exhausted = error
                continue
            log.debug("attention: %s (%s), checked against sequences alone", way, implementation)
            attention = replace(attention, refused=tuple(refused))
            attention.warn()
            return attention
    if exhausted is not None:
        raise exhausted
    place = "train.attention" if wanted != "auto" else "train.targets_per_prompt"
    raise InputError(f"{_name(base)} does not keep packed prompts apart: {'; '.join(refused)}", place)


def ways_on(device: Any) -> list[Way]:
    """The implementations that `auto` tries on a device, in this order."""
    fused: list[Way] = ["varlen", "flex"] if device.type == "cuda" else []
    return [*fused, "segments", "mask", "padded"]


def check_compiler(device: Any) -> None:
    """Raise `WorkError` on CUDA without Triton, which compiles FlexAttention: PyTorch would compute all scores."""
    if device.type == "cuda" and find_spec("triton") is None:
        raise WorkError("Triton, which compiles it, is not installed")


@dataclass(frozen=True)
class Segments:
    """The pieces of a packed sequence, for `segments` attention.

    Consecutive pieces have `sizes` tokens: of each prompt the prefix, if it has one, then its blocks in chunks.
    `prompts` holds for each whether it has a prefix, and the masks (queries, keys) of its chunks, over prefix and
    chunk; None for a prompt that is one causal sequence.
    """

    sizes: list[int]
    prompts: Sequence[tuple[bool, Sequence[Any]]]


def segments_of(packed: Packed, device: Any) -> Segments:
    """The segments of a packed sequence, masks on `device`."""
    sizes: list[int] = []
    prompts: list[tuple[bool, list[Any]]] = []
    for k, (begin, end) in enumerate(zip(packed.prefix.tolist(), packed.prefix_end.tolist(), strict=True)):
        mine = np.flatnonzero(packed.prompt_of == k)
        if mine.size == 1 and begin == end:
            sizes.append(int(packed.block_end[mine[0]]) - begin)
            prompts.append((False, [None]))
            continue
        sizes += [end - begin] if end > begin else []
        masks = []
        for blocks in _chunks(packed, mine):
            size = packed.block_end[blocks] - packed.block[blocks]
            of = upload(np.repeat(np.arange(size.size), size), device)
            own = (of[:, None] == of).tril()
            masks.append(torch.cat([own.new_ones(own.shape[0], end - begin), own], dim=1))
            sizes.append(int(size.sum()))
        prompts.append((end > begin, masks))
    return Segments(sizes, prompts)


def _chunks(packed: Packed, blocks: Any) -> list[Any]:
    """Blocks of one prompt in runs of about CHUNK tokens."""
    ends = packed.block_end[blocks] - packed.block[blocks[0]]
    return [blocks[ends // CHUNK == run] for run in np.unique(ends // CHUNK)]


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """Attention over segments, as transformers calls it: query (1, heads, t, d) → (1, t, heads, d)."""
    check_plain(segments, others)
    assert segments is not None
    key, value = for_each_head(query, key, value)

    def among(queries: Any, keys: Any, values: Any, mask: Any = None) -> Any:
        return scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
        )

    # One split instead of slices: the gradient of each slice would be a tensor of the whole size.
    pieces = zip(*(x.split(segments.sizes, dim=2) for x in (query, key, value)), strict=True)
    found = []
    for prefix, masks in segments.prompts:
        before = None
        if prefix:
            before = next(pieces)
            found.append(among(*before))
        for mask in masks:
            queries, keys, values = next(pieces)
            if before is not None:
                keys, values = torch.cat([before[1], keys], dim=2), torch.cat([before[2], values], dim=2)
            found.append(among(queries, keys, values, mask))
    out = found[0] if len(found) == 1 else torch.cat(found, dim=2)
    return out.transpose(1, 2).contiguous(), None


def check_plain(layout: Any, others: dict[str, Any], dropout: float = 0.0) -> None:
    """Raise `ValueError` for a model whose attention has more to it than our functions compute."""
    if layout is None:
        raise ValueError("the model does not pass on the layout of the prompts")
    if dropout:
        raise ValueError("the model's attention has dropout")
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise ValueError(f"the model's attention has a {name}")


def _alike(*inputs: Any) -> tuple[Any, ...]:
    """Queries, keys and values in one dtype, that of autocast: trained norms and rotations return float32."""
    kind = inputs[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs[-1].dtype
    return tuple(x.to(dtype) for x in inputs)


def attend_flex(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    block_mask: Any = None,
    **others: Any,
) -> tuple[Any, None]:
    """FlexAttention, as transformers calls it: query (1, heads, t, d) → (1, t, heads, d)."""
    from torch.nn.attention.flex_attention import flex_attention

    check_plain(block_mask, others, dropout)
    query, key, value = _alike(query, key, value)
    heads = query.shape[1]
    if heads & (heads - 1):  # as transformers does: grouped heads are in use for powers of two only
        key, value = for_each_head(query, key, value)
    flex = flex_attention if torch.compiler.is_compiling() else _flex()
    out = flex(
        query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=heads != key.shape[1],
        kernel_options=ONE_KERNEL,
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None


@cache
def _flex() -> Any:
    """FlexAttention, compiled once for all lengths.

    transformers compiles it for the first length, then for others. Past the recompile limit, PyTorch would compute and
    keep all scores, with a warning only.
    """
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


@dataclass(frozen=True)
class Sequences:
    """The bounds of prompts of one target, for `varlen` attention."""

    bounds: Any
    """(n + 1,) int32 on the device: sequence i has the tokens `bounds[i]` to `bounds[i + 1]`."""
    longest: int


def sequences_of(packed: Packed, device: Any) -> Sequences:
    """The sequences of packed prompts of one target."""
    bounds = np.append(packed.block[:1], packed.block_end)
    return Sequences(upload(bounds.astype(np.int32), device), int(np.diff(bounds).max()))


def attend_varlen(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    sequences: Sequences | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """Causal attention within sequences, as transformers calls it: query (1, heads, t, d) → (1, t, heads, d)."""
    from torch.nn.attention.varlen import varlen_attn

    check_plain(sequences, others, dropout)
    assert sequences is not None
    rows = (x[0].transpose(0, 1) for x in _alike(query, key, value))
    bounds, longest = sequences.bounds, sequences.longest
    out = varlen_attn(
        *rows, bounds, bounds, longest, longest, window_size=(-1, 0), scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out[None], None


def for_each_head(query: Any, *shared: Any) -> list[Any]:
    """Keys and values (n, kv heads, t, d) → (n, heads, t, d), as grouped-query attention shares them."""
    times = query.shape[1] // shared[0].shape[1]
    return [x if times == 1 else x.repeat_interleave(times, dim=1) for x in shared]


def _dense(packed: Packed, device: Any, implementation: str, dtype: Any) -> Any:
    """The mask as a (1, 1, t, t) tensor; added to the scores by an eager attention."""
    mask = upload(packed.mask(), device)[None, None]
    if implementation != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min)


def _padded(model: Any, packed: Packed, device: Any) -> Any:
    """The logits of sequences of one target each, a row each: causal attention ignores padding on the right."""
    length = packed.block_end - packed.block
    ids = np.zeros((length.size, int(length.max())), np.int64)
    for row, (begin, end) in enumerate(zip(packed.block.tolist(), packed.block_end.tolist(), strict=True)):
        ids[row, : end - begin] = packed.input_ids[begin:end]
    of = np.searchsorted(packed.block_end, packed.at, side="right")
    keep, place = np.unique(packed.at - packed.block[of], return_inverse=True)
    every = model(input_ids=upload(ids, device), logits_to_keep=upload(keep, device), use_cache=False).logits
    return every[upload(of, device), upload(place, device)]


def _implementations(way: Way, own: str) -> list[str]:
    """The names in transformers of a way's implementations."""
    named: dict[Way, list[str]] = {"varlen": [VARLEN], "flex": [FLEX], "segments": [SEGMENTS], "padded": [own]}
    return named.get(way, ["sdpa", "eager"])


def check_window(config: Any, longest: int) -> None:
    """Raise `WorkError` if the longest sequence exceeds a model's attention window: packing moves its edge."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or [])
    local = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    if "layer_types" not in dir(text) and getattr(text, "sliding_window", None):
        kinds.add("sliding_attention")
    for kind, option in local.items():
        reach = getattr(text, option, None)
        if kind in kinds and reach is not None and reach < longest:
            raise WorkError(f"its layers see {reach} tokens back, the longest sequence has {longest}")


def _name(base: Any) -> str:
    return str(getattr(base, "name_or_path", "") or type(base).__name__)


FUNCTIONS = {SEGMENTS: attend, FLEX: attend_flex, VARLEN: attend_varlen}
for _name_there, _function in FUNCTIONS.items():
    AttentionInterface.register(_name_there, _function)

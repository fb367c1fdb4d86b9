"""How a model attends over packed prompts: which tokens see which, kept by one of several implementations.

The definition is `Packed.mask`. Here are the ways to keep it, and a probe that runs before training: prompts that
were packed must give the logits that their sequences give alone, and a change in one block must change no other.
An implementation that does not is not used; nothing falls back silently.

- `segments`: scaled dot-product attention over one prompt after the other, the prefix causally, then the blocks
  behind it. Needs nothing but PyTorch, and computes little that is masked.
- `flex`: PyTorch's FlexAttention with a block mask; compiled, for CUDA.
- `mask`: the model's own attention with a mask of all tokens by all tokens.
- `padded`: one target a row, padded on the right: no mask at all, and so only for prompts of one target.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from palate.errors import InputError, WorkError
from palate.projection import exact_logits
from palate.tokens.packed import Packed, pack, tensors

log = logging.getLogger(__name__)

Way = Literal["segments", "flex", "mask", "padded"]
SEGMENTS = "palate_segments"
CHUNK = 256
"""Tokens of blocks that are attended over at once: what is computed and masked grows with it, the calls shrink."""
TOLERANCE = {"float32": (1e-3, 1e-5), "other": (0.15, 0.02)}
"""Mean difference of a probe's logits in standard deviations: to the sequence alone, and after a change elsewhere."""


@dataclass(frozen=True)
class Attention:
    """One way, on one model. Made by `choose_attention`."""

    way: Way
    implementation: str
    """What transformers calls it."""

    def logits(self, model: Any, packed: Packed) -> Any:
        """The model's logits at `packed.at`, (r, vocabulary), in float32 from the last hidden state on.

        The model may be wrapped for several devices.
        """
        with exact_logits(model):
            return self._logits(model, packed)

    def _logits(self, model: Any, packed: Packed) -> Any:
        device = next(model.parameters()).device
        if self.way == "padded":
            return _padded(model, packed, device)
        inputs = tensors(packed, device)
        if self.way == "segments":
            inputs["segments"] = segments_of(packed, device)
        elif self.way == "flex":
            inputs["attention_mask"] = block_mask(packed, device)
        else:
            inputs["attention_mask"] = _dense(packed, device, self.implementation, _dtype(model))
        return model(**inputs, use_cache=False).logits[0]


def choose_attention(model: Any, wanted: Way | Literal["auto"], targets: int, longest: int) -> Attention:
    """Set a model (with or without its adapter) to the first way that passes the probe; `auto` tries all that fit.

    `longest` is the length of the longest sequence that will be trained. Raises `InputError` if the way that was
    named, or every way, fails: with `targets` > 1 there may be none for a model whose layers do not attend.
    """
    base = _transformer(model)
    own = base.config._attn_implementation
    own = "sdpa" if own == SEGMENTS else own
    if wanted == "padded" and targets > 1:
        raise InputError("cannot keep the targets of a prompt apart, expected auto", "train.attention")
    names = ways_on(next(model.parameters()).device) if wanted == "auto" else [wanted]
    reasons: list[str] = []
    for way in names:
        if way == "padded" and targets > 1:
            continue
        for implementation in _implementations(way, own):
            attention = Attention(way, implementation)
            try:
                if way != "padded":
                    check_window(base.config, longest)
                base.set_attn_implementation(implementation)
                probe(model, attention, own)
            except (InputError, WorkError, RuntimeError, ValueError, TypeError, ImportError, AttributeError) as error:
                base.set_attn_implementation(own)
                reasons.append(
                    f"{way} ({implementation}): {(str(error).strip() or type(error).__name__).splitlines()[0]}"
                )
                continue
            for reason in reasons:
                log.warning("attention: not %s", reason)
            log.info("attention: %s (%s), checked against sequences alone", way, implementation)
            return attention
    place = "train.attention" if wanted != "auto" else "train.targets_per_prompt"
    raise InputError(f"{_name(base)} does not keep packed prompts apart: {'; '.join(reasons)}", place)


def ways_on(device: Any) -> list[Way]:
    """What `auto` tries on a device, in this order; FlexAttention is compiled by Triton, for CUDA."""
    flex: list[Way] = ["flex"] if device.type == "cuda" and find_spec("triton") is not None else []
    return [*flex, "segments", "mask", "padded"]


def probe(model: Any, attention: Attention, own: str) -> None:
    """Raise `WorkError` unless packed prompts give what their sequences give alone with the attention `own`."""
    import torch

    base = _transformer(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    context = ExitStack()
    vocabulary = base.get_input_embeddings().weight.shape[0]
    several = attention.way != "padded"
    packed, changed = (_probe_prompts(vocabulary, several, change) for change in (False, True))
    implementation = base.config._attn_implementation
    try:
        context.enter_context(without_dropout(model))
        with torch.set_grad_enabled(bool(trained)):
            together = attention.logits(model, packed).float()
        if trained:  # one that cannot be differentiated says so now
            torch.autograd.grad(together.mean(), trained, allow_unused=True)
            together = together.detach()
        with torch.no_grad():
            elsewhere = attention.logits(model, changed).float()
            base.set_attn_implementation(own)
            alone = torch.cat(_alone(model, packed, together.device))
    finally:
        base.set_attn_implementation(implementation)
        context.close()
    scale = alone.std()
    tolerance, still = TOLERANCE["float32" if _dtype(model) == torch.float32 else "other"]
    apart = float((together - alone).abs().mean() / scale)
    if not apart <= tolerance:
        raise WorkError(f"the probe's logits are {apart:.2g} standard deviations off those of sequences alone")
    same = torch.ones(len(alone), dtype=torch.bool, device=alone.device)
    first = packed.targets.size // packed.block.size
    same[:first] = False  # the tokens of the first block, in which something was changed
    moved = float((together - elsewhere)[same].abs().mean() / scale)
    if not moved <= still:
        raise WorkError(f"a change in one block moves the logits of others by {moved:.2g} standard deviations")
    if not (together - elsewhere)[~same].abs().mean() / scale > 10 * still * moved:
        raise WorkError("a change in a block does not change its own logits")


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Let a model compute what it does in eval mode, in the mode that it is in.

    In eval mode bitsandbytes packs 4-bit weights anew for the CPU, and trains wrongly with them from then on.
    """
    import torch

    dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.training]
    attending = [m for m in model.modules() if getattr(m, "attention_dropout", 0) and m.training]
    shares = [m.attention_dropout for m in attending]
    for module in dropouts:
        module.training = False
    for module in attending:
        module.attention_dropout = 0.0
    try:
        yield
    finally:
        for module in dropouts:
            module.training = True
        for module, share in zip(attending, shares, strict=True):
            module.attention_dropout = share


def _alone(model: Any, packed: Packed, device: Any) -> list[Any]:
    """The logits of each sequence (r, vocabulary), by itself but for a batch of others that are as long."""
    import torch

    sequences = [packed.alone(i) for i in range(packed.block.size)]
    lengths = np.array([sequence.input_ids.size for sequence in sequences])
    found: dict[int, Any] = {}
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length).tolist()
        inputs = [tensors(sequences[row], device) for row in rows]
        shared = {name: torch.cat([each[name] for each in inputs]) for name in ("input_ids", "position_ids")}
        logits = model(**shared, logits_to_keep=inputs[0]["logits_to_keep"], use_cache=False).logits.float()
        found |= dict(zip(rows, logits, strict=True))
    return [found[row] for row in range(len(sequences))]


def _probe_prompts(vocabulary: int, several: bool, change: bool) -> Packed:
    """Prompts of random tokens; with `change`, a token of the first block is another."""
    draw = np.random.default_rng(5)
    sizes = [3, 1, 2] if several else [1, 1, 1]
    sequences, shared = [], []
    for size in sizes:
        prefix = draw.integers(0, vocabulary, 9)
        shared.append(prefix.size)
        sequences += [np.concatenate([prefix, draw.integers(0, vocabulary, 6 + k)]) for k in range(size)]
    if change:
        sequences[0][shared[0] + 1] = (sequences[0][shared[0] + 1] + vocabulary // 2) % vocabulary
    n = len(sequences)
    length = np.array([sequence.size for sequence in sequences])
    return pack(
        np.concatenate(sequences).astype(np.int32), length, np.array(shared), np.cumsum([0, *sizes]),
        np.full(n, 2), 0, False, np.zeros(n, bool), np.arange(n),
    )  # fmt: skip


@dataclass(frozen=True)
class Segments:
    """How a packed sequence falls into pieces, for `segments` attention.

    The pieces follow each other, of `sizes` tokens: of each prompt the prefix, if it has one, then its blocks in
    chunks. `prompts` says of each whether it has a prefix, and the masks of its chunks (queries, keys), over prefix
    and chunk; None where a prompt is one causal sequence.
    """

    sizes: list[int]
    prompts: Sequence[tuple[bool, Sequence[Any]]]


def segments_of(packed: Packed, device: Any) -> Segments:
    """The segments of a packed sequence, masks on `device`."""
    import torch

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
            of = torch.from_numpy(np.repeat(np.arange(size.size), size)).to(device)
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
    """Attention over packed prompts, as transformers calls it: query (1, heads, t, d) → (1, t, heads, d)."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if segments is None:
        raise ValueError("the model does not pass on who sees whom")
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise ValueError(f"the model's attention has a {name}")
    if query.shape[1] != key.shape[1]:
        key, value = (_repeat(x, query.shape[1] // x.shape[1]) for x in (key, value))

    def among(queries: Any, keys: Any, values: Any, mask: Any = None) -> Any:
        return scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
        )

    # Split at once, not cut piece by piece: the gradient of each cut would be a tensor as large as the whole.
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


def _repeat(x: Any, times: int) -> Any:
    """(1, h, t, d) → (1, h × times, t, d), as grouped-query attention shares keys and values."""
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, times, length, size).reshape(batch, heads * times, length, size)


def block_mask(packed: Packed, device: Any) -> Any:
    """FlexAttention's block mask of a packed sequence."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    prompt, block = (torch.from_numpy(owner).to(device) for owner in packed.owners())

    def sees(batch: Any, head: Any, q: Any, k: Any) -> Any:
        return (k <= q) & (prompt[q] == prompt[k]) & ((block[k] < 0) | (block[q] == block[k]))

    return create_block_mask(sees, None, None, len(packed), len(packed), device=device)


def _dense(packed: Packed, device: Any, implementation: str, dtype: Any) -> Any:
    """The mask as a (1, 1, t, t) tensor; added to the scores by an eager attention."""
    import torch

    mask = torch.from_numpy(packed.mask()).to(device)[None, None]
    if implementation != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min)


def _padded(model: Any, packed: Packed, device: Any) -> Any:
    """The logits of sequences of one target each, a row each: a causal model does not see what pads on the right."""
    import torch

    length = packed.block_end - packed.block
    ids = torch.zeros(length.size, int(length.max()), dtype=torch.long)
    for row, (begin, end) in enumerate(zip(packed.block.tolist(), packed.block_end.tolist(), strict=True)):
        ids[row, : end - begin] = torch.from_numpy(packed.input_ids[begin:end].astype(np.int64))
    of = np.searchsorted(packed.block_end, packed.at, side="right")
    keep, place = np.unique(packed.at - packed.block[of], return_inverse=True)
    every = model(input_ids=ids.to(device), logits_to_keep=torch.from_numpy(keep).to(device), use_cache=False).logits
    return every[torch.from_numpy(of).to(device), torch.from_numpy(place).to(device)]


def _implementations(way: Way, own: str) -> list[str]:
    """What transformers calls the implementations of a way."""
    named: dict[Way, list[str]] = {"segments": [SEGMENTS], "flex": ["flex_attention"], "padded": [own]}
    return named.get(way, ["sdpa", "eager"])


def check_window(config: Any, longest: int) -> None:
    """A model that sees only so far back would see what it must not, or the other way round, in packed prompts."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or [])
    local = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    if "layer_types" not in dir(text) and getattr(text, "sliding_window", None):
        kinds.add("sliding_attention")
    for kind, option in local.items():
        reach = getattr(text, option, None)
        if kind in kinds and reach is not None and reach < longest:
            raise WorkError(f"its layers see {reach} tokens back, the longest sequence has {longest}")


def _transformer(model: Any) -> Any:
    """The transformers model within an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _dtype(model: Any) -> Any:
    return _transformer(model).get_input_embeddings().weight.dtype


def _name(base: Any) -> str:
    return str(getattr(base, "name_or_path", "") or type(base).__name__)


def _register(function: Callable[..., Any]) -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(SEGMENTS, function)


_register(attend)

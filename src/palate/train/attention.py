"""How a model attends over packed prompts: which tokens see which, kept by one of several implementations.

The definition is `Packed.mask`. Here are the ways to keep it, and a probe that runs before training: prompts that
were packed must give the logits and gradients that their sequences give alone, and a change in one block must change
no other. It computes as training does: sequences as long, within the same autocast, with gradient checkpointing.
An implementation that does not is not used; nothing falls back silently.

- `segments`: scaled dot-product attention over one prompt after the other, the prefix causally, then the blocks
  behind it. Needs nothing but PyTorch, and computes little that is masked.
- `flex`: PyTorch's FlexAttention with a block mask; compiled, for CUDA.
- `mask`: the model's own attention with a mask of all tokens by all tokens.
- `padded`: one target a row, padded on the right: no mask at all, and so only for prompts of one target.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from palate.errors import InputError, WorkError
from palate.projection import exact_logits
from palate.tokens.packed import Packed, pack, tensors

log = logging.getLogger(__name__)

Way = Literal["segments", "flex", "mask", "padded"]
Autocast = Callable[[], AbstractContextManager[Any]]
SEGMENTS = "palate_segments"
CHUNK = 256
"""Tokens of blocks that are attended over at once: what is computed and masked grows with it, the calls shrink."""
TOLERANCE = {"float32": (1e-3, 1e-5), "other": (0.15, 0.02)}
"""Mean difference of a probe's logits in standard deviations: to the sequence alone, and after a change elsewhere."""
GRADIENT_TOLERANCE = {"float32": 1e-2, "other": 0.3}
"""Difference of a weight's gradient to that of the sequences alone, as a share of its norm."""


@dataclass(frozen=True)
class Attention:
    """One way, on one model. Made by `choose_attention`."""

    way: Way
    implementation: str
    """What transformers calls it."""
    refused: tuple[str, ...] = ()
    """The ways that `auto` would have preferred, each with why it was not taken."""

    def warn(self) -> None:
        """Warn of each way that was expected and is not used."""
        for reason in self.refused:
            log.warning("attention: not %s; trains with %s (%s)", reason, self.way, self.implementation)

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


def choose_attention(
    model: Any, wanted: Way | Literal["auto"], targets: int, longest: int, autocast: Autocast = nullcontext
) -> Attention:
    """Set a model (with or without its adapter) to the first way that passes the probe; `auto` tries all that fit.

    `longest` is the length of the longest sequence that will be trained, `autocast` what the trainer computes within.
    Gradient checkpointing is probed where the model has it enabled. Raises `InputError` if the way that was
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
                probe(model, attention, own, longest, autocast)
            except (InputError, WorkError, RuntimeError, ValueError, TypeError, ImportError, AttributeError) as error:
                base.set_attn_implementation(own)
                reasons.append(
                    f"{way} ({implementation}): {(str(error).strip() or type(error).__name__).splitlines()[0]}"
                )
                continue
            log.info("attention: %s (%s), checked against sequences alone", way, implementation)
            chosen = Attention(way, implementation, tuple(reasons))
            chosen.warn()
            return chosen
    place = "train.attention" if wanted != "auto" else "train.targets_per_prompt"
    raise InputError(f"{_name(base)} does not keep packed prompts apart: {'; '.join(reasons)}", place)


def ways_on(device: Any) -> list[Way]:
    """What `auto` tries on a device, in this order; FlexAttention is compiled by Triton, for CUDA."""
    flex: list[Way] = ["flex"] if device.type == "cuda" and find_spec("triton") is not None else []
    return [*flex, "segments", "mask", "padded"]


def probe(model: Any, attention: Attention, own: str, longest: int, autocast: Autocast = nullcontext) -> None:
    """Raise `WorkError` unless packed prompts give what their sequences give alone with the attention `own`.

    Logits and gradients, in training mode and within `autocast`; the longest sequence has `longest` tokens.
    """
    import torch

    base = _transformer(model)
    implementation = base.config._attn_implementation
    vocabulary = base.get_input_embeddings().weight.shape[0]
    several = attention.way != "padded"
    packed, changed = (_probe_prompts(vocabulary, longest, several, change) for change in (False, True))
    training = model.training
    try:
        model.train()  # in eval mode there is no gradient checkpointing
        with without_dropout(model):
            together, gradient = _differentiated(model, lambda: attention.logits(model, packed), packed, autocast)
            with torch.no_grad(), autocast():
                elsewhere = attention.logits(model, changed).float()
                exact = _dtype(model) == torch.float32 and not torch.is_autocast_enabled(together.device.type)
            base.set_attn_implementation(own)
            alone, expected = _alone(model, packed, autocast)
    finally:
        base.set_attn_implementation(implementation)
        model.train(training)
    precision = "float32" if exact else "other"
    tolerance, still = TOLERANCE[precision]
    scale = alone.std()
    rows = packed.targets.size // packed.block.size  # of each block
    apart = float(((together - alone).abs() / scale).view(packed.block.size, -1).mean(1).max())
    if not apart <= tolerance:
        raise WorkError(f"the probe's logits are {apart:.2g} standard deviations off those of sequences alone")
    moved = float((together - elsewhere)[rows:].abs().mean() / scale)
    if not moved <= still:
        raise WorkError(f"a change in one block moves the logits of others by {moved:.2g} standard deviations")
    if not (together - elsewhere)[:rows].abs().mean() / scale > 10 * still * moved:
        raise WorkError("a change in a block does not change its own logits")
    off = _gradients_apart(gradient, expected)
    if not off <= GRADIENT_TOLERANCE[precision]:
        raise WorkError(f"the probe's gradients differ by {off:.2g} of their norm from those of sequences alone")


def _differentiated(model: Any, logits_of: Callable[[], Any], packed: Packed, autocast: Autocast) -> tuple[Any, Any]:
    """Logits in float32, and the gradients of their loss for the trained weights, None for those without."""
    import torch
    from torch.nn.functional import cross_entropy

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.set_grad_enabled(bool(trained)):
        with autocast():
            logits = logits_of()
        logits = logits.float()
        if not trained:
            return logits, []
        targets = torch.from_numpy(packed.targets.astype(np.int64)).to(logits.device)
        loss = cross_entropy(logits, targets, reduction="sum")
    return logits.detach(), list(torch.autograd.grad(loss, trained, allow_unused=True))


def _gradients_apart(found: list[Any], expected: list[Any]) -> float:
    """The largest difference of a weight's gradients, relative to their norm; nan if one is not finite.

    A gradient that is smaller than the weights' root mean square is compared with that: the bias of a key has none.
    """
    import torch

    pairs = [
        tuple(torch.zeros_like(other) if g is None else g.float() for g, other in ((f, e), (e, f)))
        for f, e in zip(found, expected, strict=True)
        if f is not None or e is not None
    ]
    if not pairs:
        return 0.0
    norms = torch.stack([e.norm() for _, e in pairs])
    differences = torch.stack([(f - e).norm() for f, e in pairs])
    usual = norms.square().mean().sqrt()
    return float((differences / norms.clamp(min=usual.clamp(min=1e-12))).max())


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


def _alone(model: Any, packed: Packed, autocast: Autocast) -> tuple[Any, list[Any]]:
    """The logits of each sequence by itself (r, vocabulary), and the sum of their losses' gradients."""
    import torch

    device = next(model.parameters()).device
    logits: list[Any] = []
    total: list[Any] = []
    for i in range(packed.block.size):
        sequence = packed.alone(i)
        forward = partial(_forward, model, tensors(sequence, device))
        found, gradient = _differentiated(model, forward, sequence, autocast)
        logits.append(found)
        pairs = zip(total or [None] * len(gradient), gradient, strict=True)
        total = [one if other is None else other if one is None else one + other for one, other in pairs]
    return torch.cat(logits), total


def _forward(model: Any, inputs: dict[str, Any]) -> Any:
    with exact_logits(model):
        return model(**inputs, use_cache=False).logits[0]


def _probe_prompts(vocabulary: int, longest: int, several: bool, change: bool) -> Packed:
    """Prompts of random tokens: short ones, in which a leak shows most, one of 160 tokens, one with the longest.

    No sequence has more than `longest` tokens. With `change`, a token of the first block is another.
    """
    draw = np.random.default_rng(5)
    sizes = [3, 1, 2] if several else [1, 1, 1]
    sequences, shared = [], []
    for size, whole in zip(sizes, (18, 160, longest), strict=True):
        block = 6 if whole == 18 else max(6, min(40, longest // 4))
        prefix = draw.integers(0, vocabulary, max(2, min(whole, longest) - block - size + 1))
        shared.append(prefix.size)
        sequences += [np.concatenate([prefix, draw.integers(0, vocabulary, block + k)]) for k in range(size)]
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

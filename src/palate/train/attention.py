"""Attention over packed prompts: several implementations of one mask, and a probe that chooses among them.

`Packed.mask` defines which tokens attend to which. The probe runs before training, on prompts of the training's length
and under its autocast: packed prompts must give the logits and gradients of their separate sequences, and a change in
one block must change no other block. A warning names each implementation that fails and the reason.

- `segments`: scaled dot-product attention over one prompt after the other, the prefix causally, then the blocks
  behind it. Needs only PyTorch, and computes few masked scores.
- `flex`: PyTorch's FlexAttention with a block mask; compiled, for CUDA.
- `mask`: the model's own attention with a mask of all tokens by all tokens.
- `padded`: one target a row, padded on the right: no mask at all, and so only for prompts of one target.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface

from palate.errors import InputError, WorkError, first_line
from palate.models.logits import exact_logits
from palate.tokens.packed import Packed, pack, tensors

log = logging.getLogger(__name__)

Way = Literal["segments", "flex", "mask", "padded"]
Precision = Literal["float32", "other"]
SEGMENTS = "palate_segments"
CHUNK = 256
"""Tokens of blocks in one attention call: with a larger chunk there are fewer calls and more masked scores."""
ONE_KERNEL = {"FORCE_USE_FLEX_ATTENTION": True}
"""Below 128 tokens FlexAttention would use its decoding kernel, which rejects some ratios of grouped heads."""
TOLERANCE: dict[Precision, tuple[float, float]] = {"float32": (1e-3, 1e-5), "other": (0.15, 0.02)}
"""Mean difference of the probe's logits in standard deviations: to the sequence alone, and after a change elsewhere."""
GRADIENTS: dict[Precision, tuple[float, float, float]] = {"float32": (0.01, 0.03, 1e-3), "other": (0.15, 0.5, 0.03)}
"""Difference of a weight's gradient to that of the sequences alone, in norms: the mean over the weights, the largest,
and the floor of a weight's norm as a share of the mean norm: the gradient of a key's bias is rounding error only."""
Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Attention:
    """One implementation, on one model. Made by `choose_attention`."""

    way: Way
    implementation: str
    """Its name in transformers."""
    refused: tuple[str, ...] = ()
    """The implementations that failed the probe before, each with the reason."""

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
                inputs |= {"attention_mask": block_mask(packed, device), "kernel_options": ONE_KERNEL}
            else:
                inputs["attention_mask"] = _dense(packed, device, self.implementation, _dtype(model))
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
    base = _transformer(model)
    own = base.config._attn_implementation
    own = "sdpa" if own == SEGMENTS else own
    if wanted == "padded" and targets > 1:
        raise InputError("cannot keep the targets of a prompt apart, expected auto", "train.attention")
    on = next(model.parameters()).device
    refused: list[str] = []
    exhausted: Exception | None = None
    for way in ways_on(on) if wanted == "auto" else [wanted]:
        if way == "padded" and targets > 1:
            continue
        for implementation in _implementations(way, own):
            attention = Attention(way, implementation)
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
    flex: list[Way] = ["flex"] if device.type == "cuda" else []
    return [*flex, "segments", "mask", "padded"]


def check_compiler(device: Any) -> None:
    """Raise `WorkError` on CUDA without Triton, which compiles FlexAttention: PyTorch would compute all scores."""
    if device.type == "cuda" and find_spec("triton") is None:
        raise WorkError("Triton, which compiles it, is not installed")


def probe(model: Any, attention: Attention, own: str, longest: int, autocast: Autocast = nullcontext) -> None:
    """Raise `WorkError` unless packed prompts give the results of their sequences alone with the attention `own`.

    Compares logits and gradients on prompts of up to `longest` tokens, in training mode, so that gradient checkpointing
    is as in training. Weights in float32 compare their gradients without the autocast, and so within narrow bounds:
    in bfloat16, rounding can turn a small gradient of a correct pass around. FlexAttention is compiled for the
    precision of training alone. Clears the gradients of the weights.
    """
    with autocast():
        cast = torch.is_autocast_enabled(next(model.parameters()).device.type)
    trained = [weight.dtype for weight in model.parameters() if weight.requires_grad]
    exactly = cast and {torch.float32, _dtype(model)} == {torch.float32, *trained} and attention.way != "flex"
    if exactly:
        _probe(model, attention, own, longest, nullcontext, "float32", gradients=True)
    precision: Precision = "other" if cast or _dtype(model) != torch.float32 else "float32"
    _probe(model, attention, own, longest, autocast, precision, gradients=not exactly)


def _probe(
    model: Any,
    attention: Attention,
    own: str,
    longest: int,
    autocast: Autocast,
    precision: Precision,
    *,
    gradients: bool,
) -> None:
    """Compare logits, and gradients if asked for, under `autocast`, within the bounds of a precision."""
    base = _transformer(model)
    vocabulary = base.get_input_embeddings().weight.shape[0]
    packed, changed = (
        _probe_prompts(vocabulary, longest, attention.way != "padded", change) for change in (False, True)
    )
    implementation = base.config._attn_implementation
    with _as_in_training(model):
        together, ours = _learn(model, autocast, [(packed, lambda: attention.logits(model, packed))], gradients)
        with torch.no_grad(), autocast():
            elsewhere = attention.logits(model, changed).float()
        base.set_attn_implementation(own)
        try:
            alone, theirs = _learn(model, autocast, _alone(model, packed), gradients)
        finally:
            base.set_attn_implementation(implementation)
    _compare_logits(packed, together, alone, elsewhere, TOLERANCE[precision])
    _compare_gradients(ours, theirs, GRADIENTS[precision])


def _compare_logits(packed: Packed, together: Any, alone: Any, elsewhere: Any, tolerance: tuple[float, float]) -> None:
    """Compare the logits (r, vocabulary) of sequences packed, alone, and packed with a change in the first block."""
    scale = alone.std()
    largest, still = tolerance
    apart = float((together - alone).abs().mean() / scale)
    if not apart <= largest:
        raise WorkError(f"the probe's logits are {apart:.2g} standard deviations off those of sequences alone")
    same = torch.ones(len(alone), dtype=torch.bool, device=alone.device)
    first = packed.targets.size // packed.block.size
    same[:first] = False  # the first block has the change
    moved = float((together - elsewhere)[same].abs().mean() / scale)
    if not moved <= still:
        raise WorkError(f"a change in one block moves the logits of others by {moved:.2g} standard deviations")
    if not (together - elsewhere)[~same].abs().mean() / scale > 10 * still * moved:
        raise WorkError("a change in a block does not change its own logits")


def _compare_gradients(ours: dict[str, Any], theirs: dict[str, Any], tolerance: tuple[float, float, float]) -> None:
    """Compare each weight's gradient with packed prompts and with sequences alone."""
    average, largest, least = tolerance
    norms = {name: float(gradient.norm()) for name, gradient in theirs.items()}
    least *= sum(norms.values()) / max(1, len(norms))
    off: dict[str, float] = {}
    for name in {**theirs, **ours}:
        if name not in theirs or name not in ours:
            raise WorkError(f"{name} has no gradient {'alone' if name in ours else 'in packed prompts'}")
        apart, norm = float((ours[name] - theirs[name]).norm()), max(norms[name], least)
        off[name] = apart / norm if norm else apart
    for name, norms_off in off.items():
        if not norms_off <= largest:
            raise WorkError(f"the probe's gradient of {name} is {norms_off:.2g} norms off that of sequences alone")
    mean = sum(off.values()) / max(1, len(off))
    if not mean <= average:
        raise WorkError(f"the probe's gradients are {mean:.2g} norms off those of sequences alone")


def _learn(
    model: Any, autocast: Autocast, passes: Iterable[tuple[Packed, Callable[[], Any]]], gradients: bool
) -> tuple[Any, Any]:
    """The logits (r, vocabulary) of all passes, in float32, and the gradients of their loss by name of the weight."""
    trained = {name: weight for name, weight in model.named_parameters() if gradients and weight.requires_grad}
    found = []
    model.zero_grad(set_to_none=True)
    try:
        for packed, compute in passes:
            with torch.set_grad_enabled(bool(trained)):
                with autocast():
                    logits = compute()
                targets = torch.from_numpy(packed.targets.astype(np.int64)).to(logits.device)
                loss = cross_entropy(logits.float(), targets, reduction="sum")
            if trained:
                loss.backward()
            found.append(logits.detach().float())
        return torch.cat(found), {name: w.grad for name, w in trained.items() if w.grad is not None}
    finally:
        model.zero_grad(set_to_none=True)


@contextmanager
def _as_in_training(model: Any) -> Iterator[None]:
    """Set a model to training mode without dropout."""
    with _attributes((module, "training", True) for module in model.modules()), without_dropout(model):
        yield


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Let a model compute as in eval mode without a change of its mode.

    In eval mode bitsandbytes packs 4-bit weights anew for the CPU, and trains wrongly with them from then on.
    """
    modules = [module for module in model.modules() if module.training]
    dropouts = [(module, "training", False) for module in modules if isinstance(module, torch.nn.Dropout)]
    attending = [(m, "attention_dropout", 0.0) for m in modules if getattr(m, "attention_dropout", 0)]
    with _attributes([*dropouts, *attending]):
        yield


@contextmanager
def _attributes(values: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of modules for the length of the context."""
    before = []
    for module, name, value in values:
        before.append((module, name, getattr(module, name)))
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _alone(model: Any, packed: Packed) -> Iterator[tuple[Packed, Callable[[], Any]]]:
    """Each sequence by itself, and a function that computes its logits (r, vocabulary)."""
    for i in range(packed.block.size):
        sequence = packed.alone(i)
        inputs = tensors(sequence, next(model.parameters()).device)

        def compute(inputs: dict[str, Any] = inputs) -> Any:
            with exact_logits(model):
                return model(**inputs, use_cache=False).logits[0]

        yield sequence, compute


def _probe_prompts(vocabulary: int, longest: int, several: bool, change: bool) -> Packed:
    """Prompts of random tokens, the first of `longest`; `change` replaces one token of the first block.

    The others are short: a pass in training may have room for only one prompt of that length.
    """
    draw = np.random.default_rng(5)
    sizes = [2, 1, 3] if several else [1, 1]
    tail = min(32, max(6, longest // 16))
    sequences, shared = [], []
    for prompt, size in enumerate(sizes):
        prefix = draw.integers(0, vocabulary, 9 if prompt else max(9, longest - tail - size + 1))
        shared.append(prefix.size)
        block = 6 if prompt else tail
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
    if segments is None:
        raise ValueError("the model does not pass on the segments")
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise ValueError(f"the model's attention has a {name}")
    if query.shape[1] != key.shape[1]:
        key, value = (_repeat(x, query.shape[1] // x.shape[1]) for x in (key, value))

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


def _repeat(x: Any, times: int) -> Any:
    """(1, h, t, d) → (1, h × times, t, d), as grouped-query attention shares keys and values."""
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, times, length, size).reshape(batch, heads * times, length, size)


def block_mask(packed: Packed, device: Any) -> Any:
    """FlexAttention's block mask of a packed sequence."""
    from torch.nn.attention.flex_attention import create_block_mask

    prompt, block = (torch.from_numpy(owner).to(device) for owner in packed.owners())

    def sees(batch: Any, head: Any, q: Any, k: Any) -> Any:
        return (k <= q) & (prompt[q] == prompt[k]) & ((block[k] < 0) | (block[q] == block[k]))

    return create_block_mask(sees, None, None, len(packed), len(packed), device=device)


def _dense(packed: Packed, device: Any, implementation: str, dtype: Any) -> Any:
    """The mask as a (1, 1, t, t) tensor; added to the scores by an eager attention."""
    mask = torch.from_numpy(packed.mask()).to(device)[None, None]
    if implementation != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min)


def _padded(model: Any, packed: Packed, device: Any) -> Any:
    """The logits of sequences of one target each, a row each: causal attention ignores padding on the right."""
    length = packed.block_end - packed.block
    ids = torch.zeros(length.size, int(length.max()), dtype=torch.long)
    for row, (begin, end) in enumerate(zip(packed.block.tolist(), packed.block_end.tolist(), strict=True)):
        ids[row, : end - begin] = torch.from_numpy(packed.input_ids[begin:end].astype(np.int64))
    of = np.searchsorted(packed.block_end, packed.at, side="right")
    keep, place = np.unique(packed.at - packed.block[of], return_inverse=True)
    every = model(input_ids=ids.to(device), logits_to_keep=torch.from_numpy(keep).to(device), use_cache=False).logits
    return every[torch.from_numpy(of).to(device), torch.from_numpy(place).to(device)]


def _implementations(way: Way, own: str) -> list[str]:
    """The names in transformers of a way's implementations."""
    named: dict[Way, list[str]] = {"segments": [SEGMENTS], "flex": ["flex_attention"], "padded": [own]}
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


def _transformer(model: Any) -> Any:
    """The transformers model within an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _dtype(model: Any) -> Any:
    return _transformer(model).get_input_embeddings().weight.dtype


def _name(base: Any) -> str:
    return str(getattr(base, "name_or_path", "") or type(base).__name__)


AttentionInterface.register(SEGMENTS, attend)

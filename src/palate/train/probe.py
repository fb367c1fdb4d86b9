"""Probe: packed prompts, computed as in training, against their separate sequences.

It runs before training, on prompts of the training's length and under its autocast. It compares logits and gradients,
and tests that a change in one block changes no other block.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from palate.errors import WorkError
from palate.models.logits import exact_logits
from palate.models.method import transformer
from palate.tokens.packed import Packed, pack, tensors

Precision = Literal["float32", "other"]
TOLERANCE: dict[Precision, tuple[float, float]] = {"float32": (1e-3, 1e-5), "other": (0.15, 0.02)}
"""Mean difference of the probe's logits in standard deviations: to the sequence alone, and after a change elsewhere."""
GRADIENTS: dict[Precision, tuple[float, float, float]] = {"float32": (0.01, 0.03, 1e-3), "other": (0.15, 0.5, 0.03)}
"""Difference of a weight's gradient to that of the sequences alone, in norms: the mean over the weights, the largest,
and the floor of a weight's norm as a share of the mean norm: the gradient of a key's bias is rounding error only."""
Autocast = Callable[[], AbstractContextManager[Any]]
Learned = tuple[Any, dict[str, Any]]
"""Logits (r, vocabulary), and gradients by name of the weight."""


class Probed(Protocol):
    """An attention, as `palate.train.attention` has it."""

    @property
    def several(self) -> bool:
        """Whether it keeps several targets of a prompt apart."""

    @property
    def fused(self) -> bool:
        """Whether its kernels are made for one precision."""

    def logits(self, model: Any, packed: Packed) -> Any:
        """The model's logits at `packed.at`, (r, vocabulary)."""


def probe(model: Any, attention: Probed, own: str, longest: int, autocast: Autocast = nullcontext) -> None:
    """Raise `WorkError` unless packed prompts give the results of their sequences alone with the attention `own`.

    Compares logits and gradients on prompts of up to `longest` tokens, in training mode, so that gradient checkpointing
    is as in training. Weights in float32 compare their gradients without the autocast, and so within narrow bounds:
    in bfloat16, rounding can turn a small gradient of a correct pass around. Fused attentions have kernels for, or are
    compiled for, the precision of training alone. Clears the gradients of the weights.
    """
    with autocast():
        cast = torch.is_autocast_enabled(next(model.parameters()).device.type)
    trained = [weight.dtype for weight in model.parameters() if weight.requires_grad]
    exactly = cast and {torch.float32, dtype_of(model)} == {torch.float32, *trained} and not attention.fused
    if exactly:
        _probe(model, attention, own, longest, nullcontext, "float32", gradients=True)
    precision: Precision = "other" if cast or dtype_of(model) != torch.float32 else "float32"
    _probe(model, attention, own, longest, autocast, precision, gradients=not exactly)


def _probe(
    model: Any,
    attention: Probed,
    own: str,
    longest: int,
    autocast: Autocast,
    precision: Precision,
    *,
    gradients: bool,
) -> None:
    """Compare logits, and gradients if asked for, under `autocast`, within the bounds of a precision."""
    base = transformer(model)
    vocabulary = base.get_input_embeddings().weight.shape[0]
    packed, changed = (probe_prompts(vocabulary, longest, attention.several, change) for change in (False, True))
    implementation = base.config._attn_implementation
    with as_in_training(model):
        together, ours = learn(model, autocast, [(packed, lambda: attention.logits(model, packed))], gradients)
        with torch.no_grad(), autocast():
            elsewhere = attention.logits(model, changed).float()
        base.set_attn_implementation(own)
        try:
            alone, theirs = learn(model, autocast, _alone(model, packed), gradients)
        finally:
            base.set_attn_implementation(implementation)
    _compare_logits(packed, together, alone, elsewhere, TOLERANCE[precision])
    compare_gradients(ours, theirs, GRADIENTS[precision])


def _compare_logits(packed: Packed, together: Any, alone: Any, elsewhere: Any, tolerance: tuple[float, float]) -> None:
    """Compare the logits (r, vocabulary) of sequences packed, alone, and packed with a change in the first block."""
    largest, still = tolerance
    compare_logits(together, alone, largest)
    scale = alone.std()
    same = torch.ones(len(alone), dtype=torch.bool, device=alone.device)
    first = packed.targets.size // packed.block.size
    same[:first] = False  # the first block has the change
    moved = float((together - elsewhere)[same].abs().mean() / scale)
    if not moved <= still:
        raise WorkError(f"a change in one block moves the logits of others by {moved:.2g} standard deviations")
    if not (together - elsewhere)[~same].abs().mean() / scale > 10 * still * moved:
        raise WorkError("a change in a block does not change its own logits")


def compare_logits(ours: Any, theirs: Any, largest: float) -> None:
    """Raise `WorkError` if logits (r, vocabulary) are on average `largest` standard deviations apart."""
    apart = float((ours - theirs).abs().mean() / theirs.std())
    if not apart <= largest:
        raise WorkError(f"the probe's logits are {apart:.2g} standard deviations off those of sequences alone")


def compare_gradients(ours: dict[str, Any], theirs: dict[str, Any], tolerance: tuple[float, float, float]) -> None:
    """Raise `WorkError` if weights' gradients, of packed prompts and of sequences alone, are further apart."""
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


def learn(
    model: Any, autocast: Autocast, passes: Iterable[tuple[Packed, Callable[[], Any]]], gradients: bool
) -> Learned:
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
def as_in_training(model: Any) -> Iterator[None]:
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


def probe_prompts(vocabulary: int, longest: int, several: bool, change: bool) -> Packed:
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


def dtype_of(model: Any) -> Any:
    """The dtype of a model's input embeddings."""
    return transformer(model).get_input_embeddings().weight.dtype

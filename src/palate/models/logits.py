"""A model's last layer in float32: a logit of 20 has steps of 0.125 in bfloat16.

SmolLM2-135M gave 6 distinct probabilities to 32 prompts with logits in bfloat16, and 32 with these.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

ROWS = 16_384
"""Rows of the vocabulary in one projection: in float32 all rows of Qwen3-8B would take 2.5 GB."""


Kept = dict[int, Any]
"""The weights of layers in float32, by the identity of the layer."""


@contextmanager
def exact_logits(model: Any, kept: Kept | None = None) -> Iterator[None]:
    """Make a model, wrapped or not, compute its logits and their gradients in float32 from the last hidden state.

    The body and the model's scaling of its logits are unchanged. The last layer may be a linear layer, LoRA on one, or
    a trained copy of one; for others a warning is logged that their logits are rounded. `kept` keeps the weights in
    float32 from pass to pass, for a model that does not change: their conversion is half of a pass over few tokens.
    """
    import torch

    while isinstance(getattr(model, "module", None), torch.nn.Module):  # as data parallelism and DeepSpeed wrap it
        model = model.module
    head = model.get_output_embeddings()
    other = _not_linear(head)
    if other is not None and _rounds(head):
        _warn(f"logits are rounded to 16 bits: the last layer has a {other}, expected linear layers or LoRA on them")
    with ExitStack() as stack:
        for layer in head.modules() if other is None else ():
            if isinstance(layer, torch.nn.Linear):
                stack.enter_context(_projected(layer, kept))
        yield


def _not_linear(head: Any) -> str | None:
    """A name for the first part of a last layer that is not linear, such as quantized weights or DoRA; else None."""
    import torch

    if head is None:
        return "form that transformers does not name"
    for module in head.modules():
        linear = isinstance(module, torch.nn.Linear) and module.weight.is_floating_point()
        if not linear and any(True for _ in module.parameters(recurse=False)):
            return type(module).__name__
    return None


def _rounds(head: Any) -> bool:
    """Whether an unchanged last layer computes in 16 bits."""
    import torch

    weights = [] if head is None else list(head.parameters())
    types = {weight.device.type for weight in weights}
    return any(w.dtype != torch.float32 for w in weights) or any(torch.is_autocast_enabled(kind) for kind in types)


@cache
def _warn(message: str) -> None:
    """Log a warning once a process, since a model is called for every batch."""
    log.warning("%s", message)


@contextmanager
def _projected(layer: Any, kept: Kept | None) -> Iterator[None]:
    # accelerate's hooks, which spread weights over devices, keep the layer's forward under this name.
    name = "_old_forward" if hasattr(layer, "_old_forward") else "forward"
    original = layer.__dict__.get(name)
    setattr(layer, name, lambda hidden: _project(layer, hidden, kept))
    try:
        yield
    finally:
        if original is None:
            delattr(layer, name)
        else:
            setattr(layer, name, original)


def _project(head: Any, hidden: Any, kept: Kept | None) -> Any:
    import torch
    from torch.nn.functional import linear

    class Projection(torch.autograd.Function):  # type: ignore[misc]
        """Keeps no weights in float32 for the backward pass."""

        @staticmethod
        def forward(ctx: Any, hidden: Any) -> Any:
            ctx.dtype = hidden.dtype
            hidden = hidden.float()
            return torch.cat([linear(hidden, rows.float()) for rows in head.weight.split(ROWS)], dim=-1)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            parts = zip(gradient.split(ROWS, dim=-1), head.weight.split(ROWS), strict=True)
            total = torch.zeros((), device=gradient.device)
            for part, rows in parts:
                total = total + part @ rows.float()
            return total.to(ctx.dtype)

    with torch.autocast(hidden.device.type, enabled=False):
        if head.weight.requires_grad and torch.is_grad_enabled():
            logits = linear(hidden.float(), head.weight.float())
        elif kept is not None:
            weight = kept.get(id(head))
            if weight is None:
                weight = kept[id(head)] = head.weight.detach().float()
            logits = linear(hidden.float(), weight)
        else:
            logits = Projection.apply(hidden)
        return logits if head.bias is None else logits + head.bias.float()

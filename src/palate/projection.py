"""A model's last layer in float32: a logit of 20 has steps of 0.125 in bfloat16.

SmolLM2-135M gave 6 distinct probabilities to 32 prompts with logits in bfloat16, and 32 with these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ROWS = 16_384
"""Words of the vocabulary that are projected at once: in float32 all of Qwen3-8B's would take 2.5 GB."""


@contextmanager
def exact_logits(model: Any) -> Iterator[None]:
    """Let a model, wrapped or not, compute its logits in float32 from the last hidden state on, gradients too.

    The body stays as it is, and so does the model's own scaling of its logits.
    """
    import torch

    while isinstance(getattr(model, "module", None), torch.nn.Module):  # as data parallelism and DeepSpeed wrap it
        model = model.module
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or not head.weight.is_floating_point():
        yield
        return
    # Within the hooks of whoever spreads the weights over devices; accelerate keeps the layer's own under this name.
    name = "_old_forward" if hasattr(head, "_old_forward") else "forward"
    own = head.__dict__.get(name)
    setattr(head, name, lambda hidden: _project(head, hidden))
    try:
        yield
    finally:
        if own is None:
            delattr(head, name)
        else:
            setattr(head, name, own)


def _project(head: Any, hidden: Any) -> Any:
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
        else:
            logits = Projection.apply(hidden)
        return logits if head.bias is None else logits + head.bias.float()

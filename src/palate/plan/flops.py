"""FLOPs and kernels of forward and backward passes, by formulas."""

from palate.config import Config
from palate.plan.shape import ModelShape

FLOPS = ("linear", "attention", "head", "lora")
"""The parts of the compute: frozen weights, attention scores and their sums, vocabulary projection, trained weights."""


def flops(
    shape: ModelShape, config: Config, tokens: float, pairs: float, labelled: float
) -> tuple[dict[str, float], dict[str, float]]:
    """FLOPs by `FLOPS`: those of the forward pass, and of forward and backward pass with checkpointing's recomputation.

    A weight costs two for each token, attention four for each (query, key) pair and unit of the queries' width. In the
    backward pass frozen weights cost the same again, trained weights twice; fused attention recomputes its scores.
    """
    trained = sum(each.inputs * each.outputs for each in shape.linears if each.trained)
    rank = 0 if config.train.method == "full" else config.train.lora.r
    trained += sum(rank * (each.inputs + each.outputs) for each in shape.linears if each.adapted)
    forward = {
        "linear": 2.0 * sum(shape.frozen) * tokens,
        "attention": 4.0 * shape.layers * shape.queries * pairs,
        "head": 2.0 * shape.hidden * shape.vocabulary * labelled,
        "lora": 2.0 * trained * tokens,
    }
    fused = config.model.attn_implementation != "eager"
    times = {"linear": 2.0, "attention": 3.5 if fused else 3.0, "head": 2.0, "lora": 3.0}
    again = config.train.recomputes == "layers"
    return forward, {part: forward[part] * (times[part] + (again and part != "head")) for part in FLOPS}


COMPILED = 0.46
"""Kernels of a compiled layer as a share of a plain one's: 116 of 255, counted by `benchmarks/roofline.py`."""


def kernels(shape: ModelShape, config: Config, dtype: str, *, compiled: bool = False) -> float:
    """Kernels of a forward and backward pass: a count of PyTorch's eager operations other than views and `empty`.

    Of `compiled` layers it is an estimate; they compute nothing else again under selective checkpointing.
    """
    narrow, full = dtype == "bfloat16", config.train.method == "full"  # casts under autocast are kernels, too
    norm = (24 if narrow else 21) if full else 22 if narrow else 18
    lora = (18 if narrow else 14) - (0 if config.train.lora.dropout else 2)
    count = 40 * shape.layers + norm * len(shape.norms)
    for each in shape.linears:
        count += (8 if narrow else 4) if each.trained else 2 + lora * each.adapted
    if compiled:
        return count * COMPILED * (1.36 if config.train.recomputes == "layers" else 1.0)
    return count * {"nothing": 1.0, "selected": 1.3, "layers": 1.36}[config.train.recomputes]

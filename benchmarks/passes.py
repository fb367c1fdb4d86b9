"""Kernels, bytes, FLOPs and least seconds of passes on fake tensors of a CUDA device, for `roofline.py`.

    python benchmarks/passes.py LIBRARY < CASES

LIBRARY is tests/train/fake_cuda.cpp, compiled; CASES is JSON, as `roofline.cases_of` makes them.
"""

import ctypes
import json
import operator
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1])  # before torch is imported

import numpy as np
import torch
from tests.train.a_step import CUDA, Counted, model_of, pretend
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._subclasses.fake_tensor import FakeTensorMode

from palate.plan.devices import DEVICES
from recipes import GPUS as KINDS
from recipes import transformers_config

GPUS = {device.name: device for device in DEVICES if device.name in {name for name, _ in KINDS.values()}}
COUNTED = ("kernels", "bytes", "flops", "seconds")
GATHERS = ("embedding", "index", "index_select", "gather")
"""Operations that read as much as they write, not all of their input."""
SUMS = ("sum", "mean", "amax", "var_mean", "cat", "clone", "_to_copy", "copy", "slice_backward", "full", "zeros_like")
"""Operations that PyTorch's compiler joins, beside those that it tags as point-wise."""


class Roofline(Counted):
    """Counts, and the least time of each kernel on a device."""

    def __init__(self, case: Mapping[str, Any], pairs: float) -> None:
        super().__init__()
        self.case, self.pairs, self.flops, self.paused = case, pairs, 0.0, False
        self.seconds = dict.fromkeys(GPUS, 0.0)

    def count(self, name: str, given: list[Any], made: list[Any]) -> None:
        """Add a kernel, unless it is part of a compiled layer, which adds its own."""
        if not self.paused:
            self.add(name, given, made, size(made) * 2 if name in GATHERS else size(given) + size(made))

    def add(self, name: str, given: Sequence[Any], made: Sequence[Any], moved: float) -> None:
        """Add a kernel that moves so many bytes."""
        work = self.work(name, given, made)
        dtype = str(made[0].dtype).removeprefix("torch.") if made else "float32"
        self.kernels += 1
        self.bytes += int(moved)
        self.flops += work
        for gpu, device in GPUS.items():
            least = work / device.flops.get(dtype, device.flops["float32"]), moved / (device.bandwidth or 1.0)
            self.seconds[gpu] += max(least)

    def work(self, name: str, given: Sequence[Any], made: Sequence[Any]) -> float:
        """FLOPs of matrix products and attention."""
        if name in ("mm", "addmm", "bmm"):
            return float(2 * made[0].numel() * given[name == "addmm"].shape[-1])
        back = "backward" in name
        if name.startswith("_scaled_dot_product"):
            queries, keys = given[back : back + 2]
            pairs = queries.shape[-2] * keys.shape[-2] / (1 + (queries.shape[-2] == keys.shape[-2]))
        elif "_varlen_attn" in name or name.startswith("flex_attention"):
            queries, pairs = given[back], self.pairs
        else:
            return 0.0
        shape = self.case["shape"]
        return float(4 * shape["num_attention_heads"] * shape["head_dim"] * pairs * (2.5 if back else 1))


COUNTS: list[Roofline] = []
"""The counts of the present pass."""


def size(tensors: Sequence[Any]) -> int:
    """Bytes of tensors on the device."""
    return sum(t.numel() * t.element_size() for t in tensors if t.device.type == "cuda")


class Joined(torch.fx.Interpreter):  # type: ignore[misc]
    """Runs a compiled graph, and counts its products and attention, and runs of other operations as one kernel each.

    Operations are joined if one reads the other's result, and as many products are before both.
    """

    def __init__(self, graph: Any, counts: Roofline) -> None:
        super().__init__(graph)
        self.counts, self.made = counts, dict[Any, Any]()

    def run(self, *args: Any) -> Any:
        """The graph's results."""
        self.counts.paused, before = True, self.counts.paused
        try:
            found = super().run(*args, enable_io_processing=False)
        finally:
            self.counts.paused = before
        self.account()
        return found

    def run_node(self, n: Any) -> Any:
        """Run a node, and remember its result."""
        self.made[n] = super().run_node(n)
        return self.made[n]

    def account(self) -> None:
        """Add the kernels to the counts."""
        source, level, group = dict[Any, Any](), dict[Any, int](), dict[Any, Any]()

        def head(n: Any) -> Any:
            while group[n] is not n:
                n = group[n]
            return n

        for n in self.module.graph.nodes:
            tensors = [source[each] for each in n.all_input_nodes if each in source]
            kind = kind_of(n)
            if kind == "view" and tensors:
                source[n] = tensors[0]
                continue
            source[n], group[n] = n, n
            level[n] = max((level[each] + (kind_of(each) == "product") for each in tensors), default=0)
            if kind == "joined":
                for each in tensors:
                    if kind_of(each) == "joined" and level[each] == level[n]:
                        group[head(each)] = n
        members: dict[Any, list[Any]] = {}
        for n in group:
            if kind_of(n) in ("joined", "product"):
                members.setdefault(head(n), []).append(n)
        for own in members.values():
            inside = set(own)
            read = {source[each] for n in own for each in n.all_input_nodes if each in source} - inside
            written = [n for n in own if any(user not in inside for user in readers(n, source))]
            given, made = (torch.utils._pytree.tree_leaves([self.made.get(n) for n in of]) for of in (read, written))
            given, made = ([t for t in of if isinstance(t, torch.Tensor)] for of in (given, made))
            if not any(t.device.type == "cuda" for t in (*given, *made)):
                continue
            last = own[-1]
            name = last.target.__name__.partition(".")[0] if kind_of(last) == "product" else "joined"
            order = torch.utils._pytree.tree_leaves([self.made.get(each) for each in last.all_input_nodes])
            order = [t for t in order if isinstance(t, torch.Tensor)]
            self.counts.add(name, order, made, size(given) + size(made))


def readers(n: Any, source: Mapping[Any, Any]) -> list[Any]:
    """The nodes that read a node's result, through views or not."""
    found = []
    for user in n.users:
        found += readers(user, source) if kind_of(user) == "view" and user in source else [user]
    return found


def kind_of(n: Any) -> str:
    """Whether a node is a `product` (or attention), is `joined` with others, only a `view`, or an `input`."""
    if n.op != "call_function":
        return "input"
    name = getattr(n.target, "__name__", str(n.target)).partition(".")[0]
    if n.target is operator.getitem or getattr(n.target, "is_view", False) or "view" in name or name == "detach":
        return "view"
    if "sym_" in name or getattr(n.target, "__module__", "") in ("_operator", "math"):
        return "input"
    if name in SUMS or torch.Tag.pointwise in getattr(n.target, "tags", ()):
        return "joined"
    return "product" if "empty" not in name else "input"


def of_layers(case: Mapping[str, Any], layers: int) -> list[dict[str, dict[str, Any]]]:
    """The counts of passes of each number of prompts, and of an update, with some layers."""
    from palate.commands.device_checks import CANDIDATE, HISTORY, RESPONSE, Bench, backward, prompts
    from palate.config import TrainConfig
    from palate.train.attention import Attention, Way, _implementations
    from palate.train.layers import compile_layers, recompute

    own = CANDIDATE + RESPONSE
    torch._dynamo.reset()
    way: Way = "segments" if not case["now"] else "flex" if case["targets"] > 1 else "varlen"
    lora = {"dropout": 0.0 if case["now"] else 0.05}
    options = TrainConfig.model_validate({"gradient_checkpointing": case["checkpointing"], "lora": lora})
    shape = {name: value for name, value in case["shape"].items() if name != "model_type"}
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = model_of(options, fake, shape=shape | {"num_hidden_layers": layers})
    recompute(model, options)
    if case["now"]:
        compile_layers(model, options)
    else:
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = True
    bench, (implementation, *_) = Bench(CUDA, Path()), _implementations(way, "sdpa")
    attention, found = Attention(way, implementation), []
    with fake:
        model.get_base_model().set_attn_implementation(implementation)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, foreach=True)  # as on CUDA; fake tensors take the loop

        def update() -> None:
            torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
            optimizer.step()

        for number in np.repeat(case["prompts"], 2).tolist():  # in the first, layers are compiled, and states are made
            packed = prompts([HISTORY + own] * number, case["targets"], own, 1_000)
            pairs = float(packed.mask().sum())
            each = {"needed": needed(case, layers, packed)}
            optimizer.zero_grad()
            with counting(case, pairs) as counts:
                backward(bench, packed, lambda packed: attention.logits(model, packed))
            of_pass = {name: getattr(counts, name) for name in COUNTED}
            with counting(case, pairs) as counts:
                update()
            of_update = {name: getattr(counts, name) for name in COUNTED} | {"needed": 0.0}
            found.append({"pass": of_pass | each, "update": of_update})
    return found[1::2]


def counting(case: Mapping[str, Any], pairs: float) -> Roofline:
    """New counts, to which compiled graphs add theirs as well."""
    COUNTS[:] = [Roofline(case, pairs)]
    return COUNTS[0]


def joined(graph: Any, inputs: Any) -> Any:
    """Compile a graph: PyTorch's compiler needs a GPU."""
    return make_boxed_func(lambda *args: Joined(graph, COUNTS[0]).run(*args))


def needed(case: Mapping[str, Any], layers: int, packed: Any) -> float:
    """FLOPs of a pass forward and backward, without what is computed again."""
    from palate.config import Config
    from palate.plan.flops import flops
    from palate.plan.shape import shape_of

    config = Config.model_validate({"train": {"gradient_checkpointing": False}})
    shape = shape_of(transformers_config(case["shape"] | {"num_hidden_layers": layers}), config)
    return sum(flops(shape, config, len(packed), float(packed.mask().sum()), packed.targets.size)[1].values())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    pretend(aot_autograd(fw_compiler=joined, bw_compiler=joined, partition_fn=min_cut_rematerialization_partition))
    print(json.dumps([[of_layers(case, layers) for layers in (1, 2)] for case in json.load(sys.stdin)]))

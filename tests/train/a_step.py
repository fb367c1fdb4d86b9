"""Whole training steps on fake tensors of a CUDA device; prints what each starts, casts and moves.

    python -m tests.train.a_step LIBRARY FOLDER CASES

LIBRARY is tests/train/fake_cuda.cpp, compiled. CASES is a JSON list of cases, as `tests.train.test_step` has them. A
step that waits for the device fails: it reads a number or a size of a result, or copies from the device, or to it from
memory that is not pinned.
"""

import contextlib
import ctypes
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1])

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

SHAPE = {
    **{"num_hidden_layers": 2, "hidden_size": 1024, "intermediate_size": 3072, "vocab_size": 151936},
    **{"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
}
"""Two layers of Qwen3-0.6B; wider models do the same on more bytes."""
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique_consecutive")
CUDA = torch.device("cuda", 0)


class Counted(TorchDispatchMode):  # type: ignore[misc]
    """Counts kernels, casts and bytes on the device; raises `RuntimeError` where the host would wait for it."""

    supports_higher_order_operators = True  # FlexAttention is one

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Else PyTorch compiles nothing under it."""
        return True

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.casts = self.bytes = self.products = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation.__name__.partition(".")[0]
        found = operation(*args, **kwargs)
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        given, made = ([t for t in of if isinstance(t, torch.Tensor)] for of in (leaves, _tensors(found)))
        here = [t for t in (*given, *made) if t.device.type == "cuda"]
        if name in READS and here:
            raise RuntimeError(f"{name} waits for the device")
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], found) if name == "_to_copy" else (args[1], args[0])
            if source.device != target.device:
                pinned = kwargs.get("non_blocking") or True in args[2:]
                if source.device.type == "cuda" or not pinned:
                    raise RuntimeError(f"a copy from {source.device} to {target.device} waits for the device")
        elif any(t.ndim and t.device.type == "cpu" for t in given) and here:
            raise RuntimeError(
                f"{name} copies {[tuple(t.shape) for t in given if t.device.type == 'cpu']} to the device"
            )
        if (
            here
            and not getattr(operation, "is_view", False)
            and "empty" not in name
            and "view" not in name
            and name not in ("detach", "device")  # the latter reads an attribute of a fake tensor
        ):
            self.count(name, given, made)
        return found

    def count(self, name: str, given: list[Any], made: list[Any]) -> None:
        """Add a kernel that reads the tensors `given` and writes those `made`."""
        self.kernels += 1
        self.casts += name == "_to_copy" and given[0].dtype != made[0].dtype
        self.bytes += sum(t.numel() * t.element_size() for t in (*given, *made) if t.device.type == "cuda")
        self.products += name in ("mm", "addmm", "bmm", "gemm_4bit")


def _tensors(found: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(found)


def pretend(backend: Any = "aot_eager") -> None:
    """Let Python's part of PyTorch, too, take the fake device for one; `backend` takes the place of its compiler."""
    import torch.amp.autocast_mode
    from transformers import Trainer, TrainingArguments, masking_utils

    from palate.train import attention

    torch.amp.autocast_mode.torch.cuda.is_bf16_supported = lambda *args, **kwargs: True
    for module in (torch.cuda.amp.common, torch.amp.autocast_mode):
        if hasattr(module, "amp_definitely_not_available"):
            module.amp_definitely_not_available = lambda: False
    torch.Tensor.pin_memory = lambda self: self
    TrainingArguments.device = CUDA
    Trainer._move_model_to_device = lambda self, model, device: model
    # For fake tensors transformers builds a mask; else it reads from the device that rows are one sequence each.
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    attention.scaled_dot_product_attention = torch.nn.functional.scaled_dot_product_attention = fused
    compile = torch.compile
    torch.compile = lambda function, **options: compile(function, **{**options, "backend": backend})


def fused(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """The kernels that PyTorch takes on CUDA; for a device that it does not know it computes all scores."""
    query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]
    bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    bias = bias.expand(query.shape[0], query.shape[1], *attn_mask.shape[-2:])
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scale)[0]


def model_of(options: Any, fake: FakeTensorMode, *, nf4: bool = False, shape: Mapping[str, Any] = SHAPE) -> Any:
    """The model with the trained weights; with `nf4` its linear layers are bitsandbytes'."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from palate.models.method import attach, leave_casts_to_autocast

    with torch.device("meta"):
        held = torch.float32 if options.method == "full" else torch.bfloat16
        base = Qwen3ForCausalLM._from_config(Qwen3Config(**shape), dtype=held)
        if nf4:
            in_4_bits(base)
        model = attach(base.train(), options)
    leave_casts_to_autocast(model)
    with fake:
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    there = torch.empty(weight.shape, dtype=weight.dtype, device=CUDA)
                    module._parameters[name] = torch.nn.Parameter(there, weight.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
            if nf4 and hasattr(module, "quant_state"):
                module.weight.quant_state = state_of(module)
    return model


def in_4_bits(base: Any) -> None:
    """Replace the linear layers as transformers does for `model.quantization: nf4`."""
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    replace_with_bnb_linear(base, ["lm_head"], options)
    base.is_loaded_in_4bit = True


def state_of(layer: Any) -> Any:
    """The scales of a layer in 4 bits, in two levels."""
    from bitsandbytes.functional import QuantState

    blocks, kind = layer.in_features * layer.out_features // 64, {"device": CUDA}
    levels = QuantState(
        torch.empty(-(-blocks // 256), **kind), blocksize=256, code=torch.empty(256, **kind), dtype=torch.float32
    )
    return QuantState(
        torch.empty(blocks, dtype=torch.uint8, **kind), torch.Size((layer.out_features, layer.in_features)),
        torch.empty(16, **kind), 64, "nf4", torch.bfloat16, torch.empty((), **kind), levels,
    )  # fmt: skip


class Ended(Exception):  # noqa: N818
    """The step that is counted is over."""


def step(case: dict[str, Any], folder: Path) -> dict[str, int]:
    """What an optimizer step does in transformers' training loop: compose, forward, loss, backward, clip, update.

    The second one of varlen and flex, the first one of others.
    """
    from tests.train.test_answers import prompts_for, trainer_on
    from transformers import TrainerCallback

    from palate.config import TrainConfig
    from palate.train.answers import Steps
    from palate.train.attention import Attention, _implementations
    from palate.train.layers import compile_layers, recompute
    from palate.train.offset import Offset
    from palate.train.schedule import Schedule

    way, targets = case["attention"], case["targets"]
    options = TrainConfig.model_validate({"method": case["method"], "gradient_checkpointing": case["checkpointing"]})
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = model_of(options, fake, nf4=case.get("quantization") == "nf4")
    prompts = prompts_for("gpt2_like", folder / f"{targets}", targets, train_on="answer")
    schedule = Schedule(prompts, 32, 4000, seed=0, max_steps=4)  # the last one would be logged and saved
    logit = np.zeros(prompts.order.size)
    recompute(model, options)
    if case.get("kernels") == "compile":
        torch._dynamo.reset()
        compile_layers(model, options)
    # The first measures the offset and makes the optimizer's states, whatever the attention; FlexAttention is
    # compiled in it.
    counted, begin = Counted(), 1 if way in ("varlen", "flex") else 0

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == begin:
                counted.__enter__()
            elif state.global_step > begin:
                counted.__exit__(None, None, None)
                raise Ended

    with fake:
        (implementation, *_) = _implementations(way, "sdpa")
        model.get_base_model().set_attn_implementation(implementation)
        others = {"offset": Offset(CUDA, train=logit)} if case["method"] == "lora" else {"taught": logit}
        trainer = trainer_on(
            model, schedule, Attention(way, implementation), folder,
            ranking_weight=0.5 * (targets > 1), **others,
        )  # fmt: skip
        trainer.compute_loss_context_manager = lambda: torch.autocast("cuda", torch.bfloat16)
        steps = Steps(schedule, 0, 1)
        trainer.get_train_dataloader = lambda: [steps[0]] * 3
        trainer.accelerator.device_placement = False
        trainer.args.optim, trainer.args.logging_nan_inf_filter = options.optimizer, False
        trainer.add_callback(Watch())
        with contextlib.suppress(Ended):
            trainer.train()
    return {name: getattr(counted, name) for name in ("kernels", "casts", "products", "bytes")}


def graphs_of_flex(lengths: Sequence[int]) -> int:
    """How often FlexAttention is compiled for prompts of these lengths, forward and backward."""
    from torch._dynamo.utils import counters

    from palate.train.attention import attend_flex
    from palate.train.block_mask import block_mask
    from palate.train.probe import probe_prompts

    torch._dynamo.reset()
    counters.clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for length in lengths:
            packed = probe_prompts(512, length, True, False)
            shape = {"dtype": torch.bfloat16, "device": CUDA, "requires_grad": True}
            query, key = (torch.empty(1, heads, len(packed), 128, **shape) for heads in (16, 8))
            mask = block_mask(packed, CUDA)
            attend_flex(None, query, key, key, None, scaling=0.1, block_mask=mask)[0].sum().backward()
    return int(counters["stats"]["unique_graphs"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    pretend()
    found = [step(case, Path(sys.argv[2])) for case in json.loads(sys.argv[3])]
    print(json.dumps({"steps": found, "graphs": graphs_of_flex(range(60, 2060, 300))}))

"""Layers that are computed again or compiled give the results of plain ones, and keep or start less."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_folder, tiny_model
from tests.train.test_attention import bf16
from torch._dynamo.utils import counters
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from palate.config import ModelConfig, TrainConfig
from palate.models.load import load_model
from palate.models.method import attach, leave_casts_to_autocast, transformer
from palate.train import layers
from palate.train.attention import SEGMENTS, Attention, choose_attention
from palate.train.layers import choose_kernels, compile_layers, compiling_pays, recompute
from palate.train.probe import as_in_training, learn, probe_prompts

RANK = 4


def options(full: bool, **train: Any) -> TrainConfig:
    lora = {"r": RANK, "alpha": 8, "dropout": 0.0}
    return TrainConfig.model_validate({"method": "full" if full else "lora", "lora": lora, **train})


def trained(kind: str = "qwen3", dtype: torch.dtype = torch.float32, full: bool = False) -> Any:
    """A model with random trained weights."""
    model = attach(tiny_model(kind).to(dtype), options(full))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def segments(model: Any) -> Attention:
    """The model's attention, which `tests.train.test_attention` checks."""
    transformer(model).set_attn_implementation(SEGMENTS)
    return Attention("segments", SEGMENTS)


def learned(model: Any, autocast: Any = nullcontext, length: int = 150) -> tuple[Any, Any]:
    """Logits and gradients of the probe's prompts."""
    attention = segments(model)
    packed = probe_prompts(512, length, True, False)
    with as_in_training(model):
        return learn(model, autocast, [(packed, lambda: attention.logits(model, packed))], gradients=True)


def check_equal(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    assert torch.equal(ours[0], theirs[0])
    assert len(theirs[1]) > 10
    assert all(torch.equal(ours[1][name], gradient) for name, gradient in theirs[1].items())


class Operations(TorchDispatchMode):  # type: ignore[misc]
    """Counts products over more than `RANK` columns, fused attentions and casts; sums the bytes still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.attentions = self.casts = 0
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation._overloadpacket.__name__
        self.products += name in ("mm", "addmm") and RANK not in (*args[-2].shape, *args[-1].shape)
        self.attentions += name.startswith("_scaled_dot_product") and "backward" not in name
        self.casts += name == "_to_copy"
        found = operation(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple) else (found,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return found

    @property
    def alive(self) -> int:
        return sum(size for storage, size in self.storages.values() if not storage.expired())


def a_pass(model: Any, autocast: Any = nullcontext, longest: int = 300) -> tuple[Operations, int, Operations]:
    """The operations of a forward pass, the bytes that it keeps, and the operations of its backward pass."""
    attention = segments(model)
    packed = probe_prompts(512, longest, True, False)
    with as_in_training(model):
        with Operations() as forward, autocast():
            loss = attention.logits(model, packed).float().sum()
        kept = forward.alive
        with Operations() as backward:
            loss.backward()
    model.zero_grad(set_to_none=True)
    return forward, kept, backward


def test_an_adapter_that_casts_no_input_computes_the_same_with_fewer_casts() -> None:
    model = trained(dtype=torch.bfloat16)
    theirs, (forward, kept, backward) = learned(model, bf16), a_pass(model, bf16)
    leave_casts_to_autocast(model)
    check_equal(learned(model, bf16), theirs)
    after = a_pass(model, bf16)
    adapters = 2 * 7  # each cast its input up, and autocast cast it down; three inputs have no gradient
    assert forward.casts - after[0].casts == 2 * adapters
    assert backward.casts - after[2].casts == 2 * (adapters - 3)
    assert after[1] < 0.95 * kept


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize(("autocast", "dtype"), [(nullcontext, torch.float32), (bf16, torch.bfloat16)])
def test_selective_checkpointing_computes_no_product_again(autocast: Any, dtype: Any, kind: str, full: bool) -> None:
    model = trained(kind, torch.float32 if full else dtype, full)
    if autocast is bf16:
        leave_casts_to_autocast(model)
    plain = learned(model, autocast), a_pass(model, autocast)
    recompute(model, options(full, gradient_checkpointing="selective"))
    check_equal(learned(model, autocast), plain[0])
    (_, kept, backward), (_, less, ours) = plain[1], a_pass(model, autocast)
    assert (ours.products, ours.attentions) == (backward.products, 0)
    assert less < 0.75 * kept
    recompute(model, options(full, gradient_checkpointing=True))
    check_equal(learned(model, autocast), plain[0])
    (_, least, again) = a_pass(model, autocast)
    assert again.products > backward.products
    assert least < less


def test_layers_in_4_bits_compute_the_same_however_they_are_run(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path, hidden=128)
    loaded = load_model(ModelConfig(base=str(base), quantization="nf4", dtype="bfloat16"), for_training=True)
    model = attach(loaded, options(full=False))
    plain = learned(model, bf16)
    leave_casts_to_autocast(model)
    check_equal(learned(model, bf16), plain)
    for checkpointing in ("selective", True):
        recompute(model, options(full=False, gradient_checkpointing=checkpointing))
        check_equal(learned(model, bf16), plain)


def with_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Start without compiled code, and compile with a backend of PyTorch."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile(function, backend=backend, **options))
    torch._dynamo.reset()
    counters.clear()


def test_compiled_layers_are_compiled_once_for_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    with_backend(monkeypatch, "eager")
    model = trained()
    plain = {length: learned(model, length=length) for length in range(100, 300, 30)}
    undo = compile_layers(model, options(full=False))
    compiled = []
    for length, theirs in plain.items():
        check_equal(learned(model, length=length), theirs)
        compiled.append(counters["frames"]["ok"])
    assert 0 < compiled[0] == compiled[-1]  # 10 parts of a layer; Python 3.13 has others
    before = counters["frames"]["total"]
    undo()
    check_equal(learned(model, length=130), plain[130])
    assert counters["frames"]["total"] == before


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "autocast"), [(False, nullcontext), (True, bf16), ("selective", bf16)])
def test_compiled_layers_pass_the_probe(checkpointing: Any, autocast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_backend(monkeypatch, "inductor")
    model = trained(dtype=torch.float32 if autocast is nullcontext else torch.bfloat16)
    how = options(full=False, gradient_checkpointing=checkpointing, kernels="compile")
    recompute(model, how)
    if autocast is bf16:
        leave_casts_to_autocast(model)
    attention = choose_attention(model, "segments", 4, 150, autocast)
    assert choose_kernels(model, how, attention, 150, 1, autocast) == "compile"
    assert counters["frames"]["ok"] > 0


@pytest.mark.parametrize("fault", ["the probe's logits are", "the model's layers have no hook for it"])
def test_kernels_that_fail_the_probe_are_not_used(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *args: 1.5 * function(*args))
    if "hook" in fault:
        monkeypatch.setattr(layers, "GradientCheckpointingLayer", torch.nn.Conv3d)
    model = trained()
    attention = choose_attention(model, "segments", 4, 150)
    theirs = learned(model)
    assert choose_kernels(model, options(full=False, kernels="compile"), attention, 150, 1) == "none"
    assert f"kernels: not compile: {fault}" in caplog.text
    check_equal(learned(model), theirs)


def test_auto_compiles_long_runs_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert compiling_pays(cuda, 1000)
    assert not compiling_pays(cuda, 20)
    assert not compiling_pays(torch.device("cpu"), 1000)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not compiling_pays(cuda, 1000)

"""The formulas of FLOPs and memory, against real models that compute with numbers."""

from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model

from palate.config import Config
from palate.models.method import attach, held_in, leave_casts_to_autocast
from palate.plan import load_shape
from palate.plan.flops import flops, kernels
from palate.plan.memory import Batch, base_bytes, memory_of, optimizer_bytes
from palate.train.layers import recompute

ROWS, LENGTH, LABELLED = 2, 96, 3


def described(folder: Path, kind: str, layers: int = 2, **train: Any) -> Config:
    """A config whose model is a folder with config.json alone."""
    shape = tiny_phi3() if kind == "phi3" else tiny_model(kind).config
    shape.num_hidden_layers = layers
    if getattr(shape, "layer_types", None):
        shape.layer_types = ["full_attention"] * layers
    shape.architectures = [{"llama": "LlamaForCausalLM", "phi3": "Phi3ForCausalLM"}.get(kind, "Qwen3ForCausalLM")]
    shape.save_pretrained(folder)
    return Config.model_validate({"model": {"base": str(folder), "dtype": "float32"}, "train": train})


def tiny_phi3() -> Any:
    """A shape whose queries, keys and values are one product, and gate and up another."""
    from transformers import Phi3Config

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return Phi3Config(hidden_size=64, intermediate_size=128, **heads, **tokens)


def real(config: Config, dtype: str) -> Any:
    """The same model with weights, and PEFT's adapter; or all layers' own weights to be trained."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(config.model.base), dtype=getattr(torch, dtype)
    ).train()
    if config.train.method == "full":
        for name, weight in base.named_parameters():
            weight.requires_grad = "layers" in name or name.endswith(".norm.weight")
        return base
    model = attach(base, config.train)
    recompute(model, config.train)
    if dtype == "bfloat16":
        leave_casts_to_autocast(model)
    return model


def loss_of(model: Any, dtype: str) -> Any:
    import torch

    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(input_ids=ids, logits_to_keep=torch.arange(LABELLED), use_cache=False).logits.float()
    targets = torch.zeros(ROWS * LABELLED, dtype=torch.long)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True}, {"method": "full"}], ids=["lora", "checkpointing", "full"]
)
def test_flops_are_those_that_pytorch_counts(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = described(tmp_path, kind, **options)
    shape = load_shape(config)
    forwards, both = flops(shape, config, ROWS * LENGTH, ROWS * LENGTH**2, ROWS * LABELLED)

    model = real(config, "float32")
    # PyTorch counts no FLOPs of the CPU's fused attention, but those of the products that it is made of.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = loss_of(model, "float32")
        forward = counter.get_total_flops()
        loss.backward()
    assert sum(forwards.values()) == pytest.approx(forward, rel=0.001)
    # Fused attention computes the scores once more in its backward pass.
    again = forwards["attention"] / 2
    assert sum(both.values()) - again == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize(("kind", "within"), [("llama", 0.12), ("qwen3", 0.1), ("phi3", 0.2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", [{"lora": {"r": 8, "dropout": 0.05}}, {"lora": {"dropout": 0.0}}, {"method": "full"}])
def test_what_is_kept_for_the_backward_pass_is_what_autograd_saves(
    tmp_path: Path, kind: str, within: float, dtype: str, train: dict[str, Any]
) -> None:
    import torch

    config = described(tmp_path, kind, **train)
    found = memory_of(load_shape(config), config, dtype, Batch(ROWS, LENGTH, ROWS * LABELLED), on_gpu=False)

    model = real(config, held_in(config.train, dtype))
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, dtype)
    assert loss.isfinite()
    assert found.kept == pytest.approx(sum(storage.nbytes() for storage in saved.values()), rel=within)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_kernels_are_what_pytorch_starts(tmp_path: Path, method: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):  # type: ignore[misc]
        started = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            allocates = "empty" in func._overloadpacket.__name__ or "_unsafe_view" in func._overloadpacket.__name__
            self.started += func.namespace == "aten" and not func.is_view and not allocates
            return func(*args, **(kwargs or {}))

    config = described(tmp_path, "qwen3", layers=6, method=method)
    model = real(config, "float32")
    with Counter() as counter:
        loss_of(model, "float32").backward()

    assert kernels(load_shape(config), config, "float32") == pytest.approx(counter.started, rel=0.1)


def test_checkpointing_trades_activations_for_a_forward_pass(tmp_path: Path) -> None:
    (plain, once), (checked, twice) = (
        (
            memory_of(load_shape(c), c, "float32", Batch(1, 512, 2), framework=0.0),
            flops(load_shape(c), c, 512, 512**2, 2),
        )
        for c in (described(tmp_path, "llama", 12), described(tmp_path, "llama", 12, gradient_checkpointing=True))
    )

    assert checked.total - checked.fixed < (plain.total - plain.fixed) / 3
    assert twice[1]["linear"] == once[1]["linear"] + once[0]["linear"]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "options",
    [{"lora": {"r": 4}}, {"lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]}}, {"method": "full"}],
    ids=["all linear", "some", "full"],
)
def test_weights_are_counted_as_peft_counts_them(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    config = described(tmp_path, kind, layers=5, **options)
    shape, weights = load_shape(config), list(real(config, "float32").parameters())
    trained, every = sum(w.numel() for w in weights if w.requires_grad), sum(w.numel() for w in weights)

    assert shape.adapter_weights == trained
    assert shape.weights == (every if config.train.method == "full" else every - trained)


def test_quantized_weights_take_what_bitsandbytes_makes_of_them(tmp_path: Path) -> None:
    from tests.tiny import tiny_folder

    from palate.models.load import load_base_model

    base = tiny_folder(tmp_path / "model", "qwen3", hidden=128)
    config = Config.model_validate({"model": {"base": str(base), "quantization": "nf4", "dtype": "bfloat16"}})
    model, _ = load_base_model(config.model)
    held = 0
    for weight in model.parameters():
        held += weight.numel() * weight.element_size()
        state = getattr(weight, "quant_state", None)
        if state is not None:
            nested = [state.state2.absmax, state.state2.code] if state.nested else []
            held += sum(t.numel() * t.element_size() for t in (state.absmax, state.code, *nested))

    assert base_bytes(load_shape(config), "bfloat16", "nf4") == pytest.approx(held, rel=0.02)


def test_optimizers_hold_what_they_say(tmp_path: Path) -> None:
    import torch

    config = described(tmp_path, "llama")
    shape, model = load_shape(config), real(config, "float32")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    loss_of(model, "float32").backward()
    for name, optimizer in (
        ("adamw_torch", torch.optim.AdamW(trained)),
        ("sgd", torch.optim.SGD(trained)),
        ("rmsprop", torch.optim.RMSprop(trained)),
    ):
        optimizer.step()
        held = sum(
            value.numel() * value.element_size()
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.ndim
        )
        assert optimizer_bytes(name, shape) == held
    # bitsandbytes leaves small tensors in 32 bits, which all of these are.
    assert optimizer_bytes("adamw_8bit", shape) == optimizer_bytes("adamw_torch", shape)
    wide = load_shape(described(tmp_path, "llama", lora={"r": 128}))
    assert optimizer_bytes("adamw_8bit", wide) == pytest.approx(optimizer_bytes("adamw_torch", wide) / 4, rel=0.1)

"""The logits of training are those of float32, whatever the model's number format and the trainer's autocast."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.tiny import tiny_model
from tests.train.test_answers import adapted, prompts_for
from torch.nn.functional import linear

from palate.models import logits as module
from palate.train.attention import choose_attention


@pytest.mark.parametrize("rows", [500, 16_384])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_and_gradients_of_training_are_projected_in_float32(
    dtype: torch.dtype, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    model = adapted(tiny_model("qwen3", 2048).to(dtype))
    prompts = prompts_for("gpt2_like", tmp_path, 4)
    packed = prompts.pack(prompts.pieces()[:3])
    attention = choose_attention(model, "segments", 4, 400)
    head, seen = model.get_output_embeddings(), []

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen.append(inputs[0])

    hook = head.register_forward_pre_hook(keep)
    with torch.autocast("cpu", torch.bfloat16):
        logits = attention.logits(model, packed)
    hook.remove()
    hidden = seen[0].detach().float().requires_grad_()
    exact = linear(hidden, head.weight.float())[0]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, rtol=1e-5, atol=1e-5)
    logits.logsumexp(-1).sum().backward()
    exact.logsumexp(-1).sum().backward()
    torch.testing.assert_close(seen[0].grad, hidden.grad.to(seen[0].dtype), rtol=1e-2, atol=1e-4)
    assert "forward" not in vars(head)


@pytest.mark.parametrize("wrapped", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_last_layer_with_an_adapter_is_projected_in_float32(wrapped: dict[str, Any], autocast: bool) -> None:
    options = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"], **wrapped}
    model = get_peft_model(tiny_model("qwen3", 2048).to(torch.bfloat16), LoraConfig(**options))
    head, seen = model.get_output_embeddings(), []
    torch.manual_seed(1)
    for name, weight in head.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.05)

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen.append(inputs[0])

    hook = head.register_forward_pre_hook(keep)
    model.enable_input_require_grads()
    with module.exact_logits(model), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(torch.arange(40)[None]).logits
    hook.remove()
    exactly = copy.deepcopy(head).float()
    hidden = seen[0].detach().float().requires_grad_()
    exact = exactly(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, rtol=1e-5, atol=1e-5)
    assert not torch.equal(exact, exact.bfloat16().float())
    logits.logsumexp(-1).sum().backward()
    exact.logsumexp(-1).sum().backward()
    torch.testing.assert_close(seen[0].grad, hidden.grad.to(seen[0].dtype), rtol=2e-2, atol=1e-3)
    trained = {name: weight for name, weight in head.named_parameters() if weight.requires_grad}
    assert trained
    for name, weight in exactly.named_parameters():
        if name in trained:
            torch.testing.assert_close(trained[name].grad.float(), weight.grad, rtol=1e-2, atol=1e-2)
    assert all("forward" not in vars(layer) for layer in head.modules())


def test_a_last_layer_that_stays_rounded_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    module._warn.cache_clear()
    options = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["lm_head"], "use_dora": True}
    for dtype, warnings in ((torch.float32, 0), (torch.bfloat16, 1), (torch.bfloat16, 1)):
        model = get_peft_model(tiny_model("qwen3").to(dtype), LoraConfig(**options))
        with module.exact_logits(model):
            model(torch.arange(4)[None])
        assert len(caplog.records) == warnings
    assert "logits are rounded to 16 bits: the last layer has a DoraLinearLayer, expected linear" in caplog.text

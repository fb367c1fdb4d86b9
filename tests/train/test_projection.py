"""The logits of training are those of float32, whatever the model's number format and the trainer's autocast."""

from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model
from tests.train.test_answers import adapted, prompts_for
from torch.nn.functional import linear

from palate import projection
from palate.train.attention import choose_attention


@pytest.mark.parametrize("rows", [500, 16_384])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_and_gradients_of_training_are_projected_in_float32(
    dtype: torch.dtype, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "ROWS", rows)
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

"""Who sees whom: every implementation against the definition, and implementations that do not keep to it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model
from tests.train.test_answers import adapted, prompts_for

from palate.errors import InputError
from palate.train import attention
from palate.train.attention import block_mask, choose_attention, probe, segments_of


def test_flex_attentions_block_mask_is_the_mask(tmp_path: Path) -> None:
    prompts = prompts_for("gpt2_like", tmp_path, 4)
    packed = prompts.pack(prompts.pieces()[:3])
    mask = block_mask(packed, "cpu")
    at = torch.arange(len(packed))
    seen = mask.mask_mod(0, 0, at[:, None], at[None])
    assert torch.equal(seen, torch.from_numpy(packed.mask()))


@pytest.mark.parametrize("chunk", [8, 60, 256])
def test_segments_are_the_mask_in_pieces(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK", chunk)
    prompts = prompts_for("gpt2_like", tmp_path, 5)
    packed = prompts.pack(prompts.pieces()[:4])
    mask = torch.zeros(len(packed), len(packed), dtype=torch.bool)
    found, at = segments_of(packed, "cpu"), 0
    sizes = iter(found.sizes)
    for prefix, masks in found.prompts:
        before = slice(at, at)
        if prefix:
            before = slice(at, at := at + next(sizes))
            mask[before, before] = torch.ones(at - before.start, at - before.start).tril().bool()
        for part in masks:
            own = slice(at, at := at + next(sizes))
            shown = torch.ones(at - own.start, at - own.start).tril().bool() if part is None else part
            mask[own, before] = shown[:, : before.stop - before.start]
            mask[own, own] = shown[:, before.stop - before.start :]
    assert torch.equal(mask, torch.from_numpy(packed.mask()))


def test_flex_attention_computes_the_same(tmp_path: Path) -> None:
    """Compiled for the CPU, where it has a forward pass only."""
    model = tiny_model("qwen3", 2048)
    for weight in model.parameters():
        weight.requires_grad = False
    prompts = prompts_for("gpt2_like", tmp_path, 4)
    packed = prompts.pack(prompts.pieces()[:3])
    with torch.no_grad():
        plain = choose_attention(model, "mask", 4, 400).logits(model, packed)
        try:
            flex = choose_attention(model, "flex", 4, 400).logits(model, packed)
        except InputError as error:
            pytest.skip(f"FlexAttention cannot be compiled here: {error}")
    torch.testing.assert_close(flex, plain, rtol=1e-4, atol=1e-5)


def test_an_attention_that_ignores_the_mask_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def careless(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)

    model = adapted(tiny_model("llama"))
    AttentionInterface.register("careless", careless)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SEGMENTS", "careless")
        with pytest.raises(InputError, match=r"train.attention: LlamaForCausalLM does not keep packed prompts apart"):
            choose_attention(model, "segments", 4, 100)
        with caplog.at_level("INFO", "palate"):
            assert choose_attention(model, "auto", 4, 100).way == "mask"
    assert "attention: not segments (careless): the probe's logits are" in caplog.text


class HalfGradient(torch.autograd.Function):
    """The same values, half the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Any) -> Any:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient / 2


def wrong_for_long(query: Any, out: Any) -> Any:
    return out.flip(1) if query.shape[2] > 500 else out


def wrong_gradient(query: Any, out: Any) -> Any:
    return HalfGradient.apply(out)


def wrong_in_autocast(query: Any, out: Any) -> Any:
    return out.flip(1) if torch.is_autocast_enabled("cpu") else out


def wrong_when_computed_again(query: Any, out: Any) -> Any:
    """The backward pass of gradient checkpointing computes a layer a second time."""
    return out * 2 if torch._C._current_graph_task_id() != -1 else out


def within_bfloat16() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(
    ("fault", "harmless", "harmful"),
    [
        (wrong_for_long, {"longest": 150}, {"longest": 400}),
        (wrong_gradient, None, {}),
        (wrong_in_autocast, {}, {"autocast": within_bfloat16}),
        (wrong_when_computed_again, {}, {"checkpointing": True}),
    ],
)
def test_a_way_that_is_wrong_only_as_training_computes_is_refused(
    fault: Any, harmless: dict[str, Any] | None, harmful: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AttentionInterface

    def faulty(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        return fault(query, attention.attend(module, query, *args, **kwargs)[0]), None

    AttentionInterface.register("faulty", faulty)
    monkeypatch.setattr(attention, "SEGMENTS", "faulty")

    def choose(longest: int = 150, checkpointing: bool = False, **options: Any) -> Any:
        model = adapted(tiny_model("qwen3", 1024))
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return choose_attention(model, "auto", 4, longest, **options)

    if harmless is not None:
        assert choose(**harmless).way == "segments"
    chosen = choose(**harmful)
    assert chosen.way == "mask"
    assert "faulty" in chosen.refused[0]


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("longest", [20, 60, 400])
def test_the_probe_is_as_long_as_what_is_trained(several: bool, longest: int) -> None:
    packed = attention._probe_prompts(512, longest, several, False)
    lengths = [packed.alone(i).input_ids.size for i in range(packed.block.size)]
    assert max(lengths) == longest - 1  # the last token has nothing to predict
    assert min(lengths) < 20


def test_a_leak_between_blocks_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Causal over a whole prompt: the first block is right, later ones see those before them."""
    model = tiny_model("qwen3")
    right = choose_attention(model, "segments", 4, 100)

    def as_if_one(mask: Any) -> Any:
        return None if mask is None else torch.ones_like(mask).tril(mask.shape[1] - mask.shape[0])

    def leaky(packed: Any, device: Any) -> Any:
        found = segments_of(packed, device)
        prompts = [(prefix, [as_if_one(mask) for mask in masks]) for prefix, masks in found.prompts]
        return attention.Segments(found.sizes, prompts)

    monkeypatch.setattr(attention, "segments_of", leaky)
    with pytest.raises(attention.WorkError, match="standard deviations"):
        probe(model, right, "sdpa", 100)


def test_a_model_that_sees_only_so_far_back_is_not_packed(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**shape, sliding_window=64)).eval()
    assert choose_attention(model, "auto", 4, 60).way == "segments"
    assert choose_attention(model, "auto", 1, 100).way == "padded"
    with pytest.raises(InputError, match=r"train.targets_per_prompt: .* its layers see 64 tokens back"):
        choose_attention(model, "auto", 4, 100)


def test_attention_with_more_to_it_takes_another_way() -> None:
    """Gemma 2 caps its scores, which the segments' kernel does not do."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=4096, initializer_range=0.2, attn_logit_softcapping=5.0,
    )  # fmt: skip
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    chosen = choose_attention(model, "auto", 4, 100)
    assert (chosen.way, chosen.implementation) == ("mask", "eager")


def test_several_targets_cannot_be_padded() -> None:
    with pytest.raises(InputError, match=r"train.attention: cannot keep the targets of a prompt apart"):
        choose_attention(tiny_model(), "padded", 2, 100)


def test_flex_attention_comes_first_where_it_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: object())
    assert attention.ways_on(torch.device("cuda"))[0] == "flex"
    assert attention.ways_on(torch.device("cpu"))[0] == "segments"
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    assert attention.ways_on(torch.device("cuda"))[0] == "segments"

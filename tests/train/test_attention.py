"""Who sees whom: every implementation against the definition, and implementations that do not keep to it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.examples import mostly_slow
from tests.tiny import tiny_model, toy_config, toy_dataset
from tests.train.test_answers import adapted, prompts_for

from palate.config import TrainConfig
from palate.errors import InputError
from palate.train import attention
from palate.train.attention import attend, choose_attention, segments_of
from palate.train.block_mask import block_mask
from palate.train.finetune import train
from palate.train.layers import recompute
from palate.train.probe import probe


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("targets", [1, 4, 16])
def test_flex_attentions_block_mask_is_the_mask(targets: int, count: int, tmp_path: Path) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    prompts = prompts_for("gpt2_like", tmp_path, targets)
    packed = prompts.pack(prompts.pieces()[:count])
    found = block_mask(packed, "cpu")
    at = torch.arange(len(packed))
    assert torch.equal(found.mask_mod(0, 0, at[:, None], at[None]), torch.from_numpy(packed.mask()))
    plain = create_block_mask(found.mask_mod, None, None, len(packed), len(packed), device="cpu")
    assert found.as_tuple(flatten=True)[:2] == plain.as_tuple(flatten=True)[:2]
    parts = [
        f"{full}{side}_{what}" for full in ("", "full_") for side in ("kv", "q") for what in ("num_blocks", "indices")
    ]
    for part in parts:
        assert torch.equal(getattr(found, part), getattr(plain, part)), part


def by_sequence(query: Any, key: Any, value: Any, bounds: Any, *others: Any, scale: float, **options: Any) -> Any:
    """PyTorch's flash attention for sequences of unequal lengths, one after the other."""
    assert query.dtype == key.dtype == value.dtype
    assert options == {"window_size": (-1, 0), "enable_gqa": query.shape[1] != key.shape[1]}
    assert torch.equal(bounds, others[0])
    assert others[1:] == (int(bounds.diff().max()),) * 2
    pieces = zip(
        *(x.transpose(0, 1)[None].split(bounds.diff().tolist(), dim=2) for x in (query, key, value)), strict=True
    )
    found = [
        torch.nn.functional.scaled_dot_product_attention(*each, is_causal=True, scale=scale, enable_gqa=True)
        for each in pieces
    ]
    return torch.cat(found, dim=2)[0].transpose(0, 1)


@pytest.mark.parametrize("autocast", [nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
@pytest.mark.parametrize("longest", [40, 384])
def test_sequences_of_unequal_lengths_are_where_flash_attention_takes_them(
    longest: int, autocast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.nn.attention import varlen

    seen = set()

    def spy(query: Any, *args: Any, **options: Any) -> Any:
        seen.add(query.dtype)
        return by_sequence(query, *args, **options)

    monkeypatch.setattr(varlen, "varlen_attn", spy)
    assert choose_attention(adapted(tiny_model()), "varlen", 1, longest, autocast).refused == ()
    assert seen == {torch.float32 if autocast is nullcontext else torch.bfloat16}


def test_flash_attention_is_not_taken_where_it_cannot_compute() -> None:
    """It has no kernel for the CPU."""
    with pytest.raises(InputError, match=r"train.targets_per_prompt|train.attention"):
        choose_attention(adapted(tiny_model()), "varlen", 1, 100)


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


@pytest.mark.slow
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
    for way in ("padded", "varlen"):
        with pytest.raises(InputError, match=r"train.attention: cannot keep the targets of a prompt apart"):
            choose_attention(tiny_model(), way, 2, 100)  # type: ignore[arg-type]


def test_flex_attention_comes_first_on_cuda_and_is_missed_without_its_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    assert attention.ways_on(cpu)[0] == "segments"
    attention.check_compiler(cpu)
    assert attention.ways_on(cuda)[:2] == ["varlen", "flex"]
    with pytest.raises(attention.WorkError, match="Triton, which compiles it, is not installed"):
        attention.check_compiler(cuda)
    monkeypatch.setattr(attention, "ways_on", lambda device: ["flex", "segments"])
    check = attention.check_compiler
    monkeypatch.setattr(attention, "check_compiler", lambda device: check(cuda))
    chosen = choose_attention(tiny_model(), "auto", 4, 100)
    assert chosen.way == "segments"
    assert chosen.refused == ("flex (palate_flex): Triton, which compiles it, is not installed",)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "attention: not flex (palate_flex): Triton" in caplog.text


def faulty(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """Let `segments` be computed by `function`."""
    from transformers import AttentionInterface

    AttentionInterface.register("faulty", function)
    monkeypatch.setattr(attention, "SEGMENTS", "faulty")


def bf16() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("longest", mostly_slow([40, 130, 700], [40, 130]))
@pytest.mark.parametrize("autocast", [nullcontext, bf16])
@pytest.mark.parametrize("checkpointed", [True, False, "selective"])
@pytest.mark.parametrize("way", ["segments", "mask", "padded"])
def test_right_ways_pass_the_probe_at_all_lengths(way: Any, checkpointed: Any, autocast: Any, longest: int) -> None:
    model = adapted(tiny_model("llama"))
    recompute(model, TrainConfig(gradient_checkpointing=checkpointed))
    modes = [module.training for module in model.modules()]
    assert choose_attention(model, way, 1, longest, autocast).refused == ()
    assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())


def test_a_way_that_is_right_for_short_prompts_and_wrong_for_long_ones_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short_sighted(module: Any, query: Any, *args: Any, scaling: float, **others: Any) -> Any:
        return attend(module, query, *args, scaling=scaling / 2 if query.shape[2] > 256 else scaling, **others)

    faulty(monkeypatch, short_sighted)
    model = adapted(tiny_model())
    choose_attention(model, "segments", 4, 100)
    with pytest.raises(InputError, match=r"the probe's logits are .* standard deviations off"):
        choose_attention(model, "segments", 4, 400)


def test_a_way_that_only_takes_long_prompts_is_used_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def long_sighted(module: Any, query: Any, *args: Any, **others: Any) -> Any:
        if query.shape[2] < 128:
            raise NotImplementedError("128 tokens at least")
        return attend(module, query, *args, **others)

    faulty(monkeypatch, long_sighted)
    assert choose_attention(adapted(tiny_model()), "auto", 4, 200).way == "segments"


def without_gradient_of(name: str) -> Any:
    def careless(module: Any, query: Any, key: Any, value: Any, *args: Any, **others: Any) -> Any:
        of = {"query": query, "key": key, "value": value}
        return attend(module, *(of | {name: of[name].detach()}).values(), *args, **others)

    return careless


@pytest.mark.parametrize("autocast", [nullcontext, bf16])
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_a_way_with_right_logits_and_wrong_gradients_is_refused(
    name: str, autocast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, without_gradient_of(name))
    with pytest.raises(InputError, match=r"no gradient in packed prompts|probe's gradient of .* norms off"):
        choose_attention(adapted(tiny_model()), "segments", 4, 200, autocast)


@pytest.mark.parametrize("autocast", [nullcontext, bf16])
def test_a_way_without_the_gradients_of_one_prompt_is_refused(autocast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight has a gradient, from the other prompts."""

    def partly(module: Any, query: Any, *args: Any, **others: Any) -> Any:
        found, weights = attend(module, query, *args, **others)
        first = 210
        return torch.cat([found[:, :first].detach(), found[:, first:]], dim=1), weights

    faulty(monkeypatch, partly)
    with pytest.raises(InputError, match=r"probe's gradients? (of .* is|are) .* norms off"):
        choose_attention(adapted(tiny_model()), "segments", 4, 200, autocast)


def wrong_in_autocast(module: Any, query: Any, *args: Any, scaling: float, **others: Any) -> Any:
    return attend(module, query, *args, scaling=scaling / 4 if torch.is_autocast_enabled("cpu") else scaling, **others)


def wrong_when_recomputed(module: Any, query: Any, *args: Any, scaling: float, **others: Any) -> Any:
    backward = torch._C._current_graph_task_id() >= 0
    return attend(module, query, *args, scaling=scaling / 4 if backward else scaling, **others)


def test_a_way_that_fails_only_under_autocast_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, wrong_in_autocast)
    model = adapted(tiny_model())
    choose_attention(model, "segments", 4, 200)
    with pytest.raises(InputError, match=r"the probe's logits are .* standard deviations off"):
        choose_attention(model, "segments", 4, 200, bf16)


def test_a_way_that_fails_only_when_layers_are_checkpointed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, wrong_when_recomputed)
    model = adapted(tiny_model())
    choose_attention(model, "segments", 4, 200)
    recompute(model, TrainConfig(gradient_checkpointing=True))
    with pytest.raises(InputError, match=r"the probe's gradient of .* norms off"):
        choose_attention(model, "segments", 4, 200)


@pytest.mark.parametrize(
    ("fault", "dtype", "checkpointed"),
    [(wrong_in_autocast, "bfloat16", False), (wrong_when_recomputed, "float32", True)],
)
def test_a_run_probes_what_its_trainer_does_and_says_twice_what_it_did_not_take(
    fault: Any, dtype: str, checkpointed: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    faulty(monkeypatch, fault)
    options = {"max_steps": 1, "gradient_checkpointing": checkpointed}
    config = toy_config(base, model={"dtype": dtype}, train=options)
    result = train(config, toy_dataset(8, config), None, tmp_path)
    assert result.attention == "mask"
    (reason,) = result.attention_refused
    assert reason.startswith("segments (faulty): the probe's ")
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings.count(f"attention: not {reason}; mask, which may be slower, takes its place") == 2


def test_a_probe_without_memory_is_not_called_a_wrong_attention(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausting(*args: Any, **others: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    faulty(monkeypatch, exhausting)
    assert choose_attention(tiny_model(), "auto", 4, 100).way == "mask"
    config = toy_config(base, train={"attention": "segments"})
    with pytest.raises(attention.WorkError, match=r"out of memory: try .* train.gradient_checkpointing=true"):
        train(config, toy_dataset(8, config), None, tmp_path)


def test_a_gradient_a_tenth_too_large_is_noticed_beside_the_rounding_of_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights in float32 compare gradients without the autocast, whose rounding would hide this."""

    def bfloat16() -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    class TooLarge(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Any) -> Any:
            return values.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return 1.1 * gradient

    model = tiny_model("qwen3")
    right = choose_attention(model, "segments", 4, 100, bfloat16)
    attend = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention, "scaled_dot_product_attention", lambda q, k, v, **kwargs: attend(q, k, TooLarge.apply(v), **kwargs)
    )
    with pytest.raises(attention.WorkError, match="norms off"):
        probe(model, right, "sdpa", 100, bfloat16)

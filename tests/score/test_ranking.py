"""Ranking behind one prefix against whole prompts, one by one."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.small import small_tokenizer
from tests.tiny import EMPTY_THINK, random_adapter, tiny_folder, tiny_model, toy_config

from palate.config import PrepareConfig
from palate.errors import InputError, WorkError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_generation_messages
from palate.prompt.spec import PromptSpec
from palate.ratings.load import Ratings
from palate.samples import build_samples
from palate.samples.items import shown_items
from palate.samples.lines import iter_examples
from palate.score import local, prefix
from palate.score.backend import AnswerScores
from palate.score.conversations import conversations
from palate.score.scorer import Scorer

CHAT = Chat(small_tokenizer(EMPTY_THINK))
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {},
    "as SmolLM2": {"hidden_size": 144, "num_attention_heads": 9, "num_key_value_heads": 3},
    "without groups": {"num_key_value_heads": 4},
}


def scorer_of(model: Any) -> Scorer:
    return Scorer(model, chat=CHAT)


@pytest.fixture(scope="module", params=SHAPES)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return scorer_of(tiny_model("qwen3" if request.param == "qwen3" else "llama", **SHAPES[request.param]))


def prompts_of(prefix: int, sizes: list[int], seed: int = 0) -> list[list[int]]:
    """Random prompts with `prefix` tokens in common at least, and `sizes` more each."""
    draw = np.random.default_rng(seed)
    head = draw.integers(0, 512, prefix).tolist()
    return [head + draw.integers(0, 512, size).tolist() for size in sizes]


def one_by_one(scorer: Scorer, prompts: list[list[int]]) -> AnswerScores:
    return AnswerScores(*np.stack([np.concatenate(scorer.score_ids([prompt])) for prompt in prompts], axis=1))


def assert_same(found: AnswerScores, expected: AnswerScores, atol: float = 1e-4) -> None:
    for name, one, other in zip(AnswerScores._fields, found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=atol, err_msg=name)


@given(st.integers(0, 40), st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 13), st.randoms())
@examples(15)
def test_neither_batch_nor_padding_nor_order_nor_a_shared_prefix_changes_a_score(
    scorer: Scorer, prefix: int, sizes: list[int], batch_size: int, random: Any
) -> None:
    prompts = prompts_of(prefix, sizes, random.randrange(99))
    expected = one_by_one(scorer, prompts)
    order = random.sample(range(len(prompts)), len(prompts))
    for score in (scorer.rank_ids, scorer.score_ids):
        found = score([prompts[i] for i in order], batch_size)
        assert_same(found, AnswerScores(*(column[order] for column in expected)))


def test_small_chunks_and_any_order_give_the_same(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(30, [5, 1, 17, 9, 9, 3, 12])
    prompts += [prompts[2], prompts[0][:30], prompts[3][:31]]  # twice, nothing but the prefix, one token more
    expected = one_by_one(scorer, prompts)
    assert expected.logit.std() > 0.1, "a test on equal scores would prove nothing"
    for chunk in (1, 20, 1000):
        monkeypatch.setattr(local, "CHUNK", chunk)
        told: list[int] = []
        assert_same(scorer.rank_ids(prompts, on_batch=told.append), expected)
        assert sum(told) == len(prompts)
        assert len(told) == {1: 10, 20: 6, 1000: 1}[chunk]
    order = np.random.default_rng(0).permutation(len(prompts))
    shuffled = scorer.rank_ids([prompts[i] for i in order])
    assert_same(shuffled, AnswerScores(*(column[order] for column in expected)))


def test_the_prefix_is_computed_once(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(50, [4] * 40)
    scorer.rank_ids(prompts)  # probes
    seen: list[int] = []
    hook = scorer.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(ids[0].numel()))
    monkeypatch.setattr(local, "CHUNK", 64)
    scorer.rank_ids(prompts)
    hook.remove()
    assert seen == [50, *[64] * 2, 32]


def test_bfloat16_ranks_within_its_rounding(scorer: Scorer) -> None:
    half = scorer_of(copy.deepcopy(scorer.model).bfloat16())
    prompts = prompts_of(40, [3, 9, 14, 6, 6, 8])
    exact, whole, ranked = scorer.score_ids(prompts), half.score_ids(prompts), half.rank_ids(prompts)
    assert np.abs(ranked.logit - exact.logit).mean() < 2 * np.abs(whole.logit - exact.logit).mean() + 0.02


def test_an_adapter_is_behind_the_prefix_too(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    config = toy_config(base)
    adapter = random_adapter(config, tmp_path / "adapter")
    scorer = Scorer(str(base), adapter)
    assert (scorer.prompt, scorer.cutoff_len, scorer.history_len) == (config.prompt, 200, 15)
    prompts = prompts_of(40, [3, 9, 14, 6])
    expected = one_by_one(scorer, prompts)
    assert_same(scorer.rank_ids(prompts), expected)
    plain = Scorer(base, dtype="float32").rank_ids(prompts)
    assert np.abs(plain.logit - expected.logit).max() > 0.1


def test_the_number_format_and_bits_are_those_of_the_training(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    config = toy_config(base, model={"quantization": "nf4"})
    adapter = random_adapter(config, tmp_path / "adapter")
    scorer = Scorer(base, adapter)
    assert scorer.model.get_base_model().is_loaded_in_4bit
    prompts = prompts_of(40, [3, 9, 14, 6])
    # bitsandbytes multiplies 4-bit weights in bfloat16 on processors that have it, and not alike for every batch
    assert_same(scorer.rank_ids(prompts), one_by_one(scorer, prompts), atol=0.03)
    assert not hasattr(Scorer(base, adapter, quantization="none").model, "quantization_method")


def test_another_prompt_than_the_adapters_is_refused(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    adapter = random_adapter(toy_config(base), tmp_path / "adapter")
    with pytest.raises(InputError, match=r"was trained with prompt\.system"):
        Scorer(base, adapter, prompt=PromptSpec())
    with pytest.raises(TypeError, match="needs `chat=`"):
        Scorer(tiny_model())


def sliding() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return MistralForCausalLM(
        MistralConfig(**shape, num_attention_heads=2, num_key_value_heads=1, sliding_window=20)
    ).eval()


def softcapped() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return Gemma2ForCausalLM(
        Gemma2Config(**shape, num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=4096)
    ).eval()


def partly_recurrent() -> Any:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    shape = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    kinds = ["conv", "full_attention"]
    return Lfm2ForCausalLM(
        Lfm2Config(**shape, num_attention_heads=2, num_key_value_heads=1, layer_types=kinds, initializer_range=0.2)
    ).eval()


def growing() -> Any:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return tiny_model("llama", rope_parameters=rope, max_position_embeddings=32)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (sliding, "its layers see 20 tokens back"),
        (softcapped, "the model's attention has a softcap"),
        (partly_recurrent, "with a shared prefix its logits differ"),
        (growing, "its positional encoding changes beyond 32 tokens"),
    ],
)
def test_a_model_that_cannot_share_a_prefix_is_asked_whole_prompts(
    model: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    scorer, prompts = scorer_of(model()), prompts_of(30, [3, 9, 14])
    with caplog.at_level("WARNING", "palate"):
        found = scorer.rank_ids(prompts)
    assert f"computing each prompt whole: {reason}" in caplog.text
    assert_same(found, one_by_one(scorer, prompts))


def test_a_leak_between_blocks_is_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    whole = prefix._attention

    def leaking(*of: Any, causal: bool, scale: float) -> Any:
        return whole(*of, causal=False, scale=scale)

    scorer, prompts = scorer_of(tiny_model()), prompts_of(30, [3, 9, 14])
    monkeypatch.setattr(prefix, "_attention", leaking)
    with caplog.at_level("WARNING", "palate"):
        found = scorer.rank_ids(prompts)
    assert "with a shared prefix its logits differ" in caplog.text
    assert_same(found, one_by_one(scorer, prompts))


def test_without_the_fused_kernel_it_is_the_same(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    for causal in (True, False):
        fused = prefix._attention(query, key, value, causal=causal, scale=0.3)
        plain = prefix._matrix_attention(query, key, value, causal=causal, scale=0.3)
        for one, other in zip(fused, plain, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("capability", "size"), [((9, 0), 64), ((7, 5), 64), ((9, 0), 20)])
def test_on_a_gpu_the_kernels_take_a_batch_behind_prefixes(
    dtype: str, capability: tuple[int, int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with FakeTensorMode():

        def on_gpu(*shape: int) -> Any:
            return torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")

        query, key, value = on_gpu(5, 8, 37, size), on_gpu(5, 2, 37, size), on_gpu(5, 2, 37, size)
        before = [
            (on_gpu(1, 2, 50, size), on_gpu(1, 2, 50, size), 3),
            (on_gpu(1, 2, 9, size), on_gpu(1, 2, 9, size), 2),
        ]
        out = prefix._behind(query, key, value, 0.3, before)
        fused = prefix._fused(query.narrow(1, 0, 2), key, value, causal=True, scale=0.3)
    assert out.shape == query.shape
    assert out.dtype == query.dtype
    assert (fused is None) == (size == 20)
    assert fused is None or (fused[1].shape, fused[1].dtype) == ((5, 2, 37), torch.float32)


def test_several_devices_give_the_same_scores(scorer: Scorer) -> None:
    two = Scorer(scorer.backend.on(["cpu"]), chat=scorer.chat)
    for prompts in (prompts_of(30, [5, 1, 17, 9, 9, 3, 12]), prompts_of(0, [30, 20, 9])):
        told: list[int] = []
        for one, other in zip(two.rank_ids(prompts, 2, told.append), scorer.rank_ids(prompts, 2), strict=True):
            np.testing.assert_array_equal(one, other)
        assert sum(told) == len(prompts)


def test_a_prompt_without_tokens_is_refused(scorer: Scorer) -> None:
    with pytest.raises(InputError, match="prompt 2: has no tokens, expected at least one"):
        scorer.score_ids([[5, 6], [], [7]])


def test_an_error_on_one_device_ends_the_others(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    two = Scorer(scorer.backend.on(["cpu"]), chat=scorer.chat)
    with torch.no_grad():
        two.backend.others[0].model.get_output_embeddings().weight.fill_(torch.nan)
    told: list[int] = []
    with pytest.raises(WorkError, match="not finite"):
        two.score_ids(prompts_of(0, [9] * 400), 1, told.append)
    assert sum(told) < 400


@pytest.mark.parametrize("shared", [0, 30])
def test_a_pass_that_does_not_fit_is_computed_in_halves(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shared: int
) -> None:
    prompts = prompts_of(shared, [5, 1, 17, 9, 9, 3, 12])
    expected = scorer.rank_ids(prompts)
    whole = local.LocalBackend._logits

    def small(self: Any, rows: Any, before: Any = None) -> Any:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, rows, before)

    monkeypatch.setattr(local.LocalBackend, "_logits", small)
    with caplog.at_level("WARNING", "palate"):
        assert_same(scorer.rank_ids(prompts), expected)
    assert "out of memory with 7 prompts of" in caplog.text
    monkeypatch.setattr(local.LocalBackend, "_logits", never_fits)
    with pytest.raises(WorkError, match=r"out of memory with .*prompts? of \d+ tokens"):
        scorer.rank_ids(prompts)


def never_fits(self: Any, rows: Any, before: Any = None) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_nothing_to_rank_is_no_error(scorer: Scorer) -> None:
    assert [column.shape for column in scorer.rank_ids([])] == [(0,)] * 3
    assert [column.shape for column in scorer.rank([], [])] == [(0,)] * 3


ITEMS = {
    "title": ["Heat (1995)", "Léon (1994)", "<|im_end|>", "Alien", "Up (2009)", "Se7en (1995)", "Big (1988)", "Jaws"],
    "genres": ["Crime|Drama", "Drama", "", "Sci-Fi", "(no genres listed)", "Crime", "Comedy", "Horror"],
}


@pytest.mark.parametrize("line", ["{title}", "{title} ({year}; {genres})"])
def test_a_ranking_asks_what_training_shows(line: str) -> None:
    import polars as pl

    rows = [(1, n, 1.0 + n % 5, n) for n in range(8)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(8), **ITEMS})
    ratings = Ratings(frame, items, "test", {"ratings.csv": "0" * 64}, (0.5, 5.0))
    samples = build_samples(ratings, PrepareConfig(history_len=3, val_ratio=0, test_ratio=0))
    prompt = PromptSpec(history_line="{n}. " + line + " {rating:.1f}", candidate_line=line)
    examples = pl.concat(iter_examples(samples, "train", prompt)).to_dicts()
    assert len(examples) == 5
    scorer = Scorer(tiny_model(), chat=CHAT, prompt=prompt, history_len=3)
    raw = [{name: ITEMS[name][n] for name in ITEMS} | {"rating": 1.0 + n % 5} for n in range(8)]
    shown = [row | {"rating": 1.0 + n % 5} for n, row in enumerate(shown_items(items).to_dicts())]
    expected = scorer.score([to_generation_messages(example) for example in examples])
    for told in (raw, shown):
        found = [scorer.rank(told[:n], told[n:]) for n in range(3, 8)]
        assert_same(
            AnswerScores(*np.stack([[each[k][0] for each in found] for k in range(3)]).astype(np.float32)), expected
        )


def test_candidates_may_be_titles_and_a_long_history_shows_its_end(scorer: Scorer) -> None:
    some = Scorer(scorer.model, chat=CHAT, history_len=2)
    past = [{"title": f"Film {n}", "rating": n % 5} for n in range(6)]
    titles = [f"Other {n * n}" for n in range(9)]
    found = some.rank(past, titles)
    assert_same(found, some.rank(past[-2:], [{"title": title} for title in titles]))
    assert np.abs(found.logit - some.rank(past[:2], titles).logit).max() > 1e-3


@pytest.mark.parametrize("truncation", ["left", "middle", "history", "drop"])
def test_a_prompt_beyond_the_cutoff_is_cut_whatever_else_is_ranked(scorer: Scorer, truncation: str) -> None:
    past = [{"title": f"Film {n}", "rating": 3} for n in range(9)]
    titles = ["A", "Something much longer than that", "In between"]
    asked = [CHAT.decision_prompts(conversations(PromptSpec(), past, titles, n)) for n in range(10)]
    cutoff = max(map(len, asked[6])) + 1 + len(CHAT.decision.tail)
    short = Scorer(scorer.model, chat=CHAT, cutoff_len=cutoff, truncation=truncation)
    together = short.rank_prompts(past, titles)
    assert together == [short.rank_prompts(past, [title])[0] for title in titles]
    assert all(len(ids) < len(whole) for ids, whole in zip(together, asked[9], strict=True))
    if truncation != "history":
        assert together == short.prompts(conversations(PromptSpec(), past, titles, 9))
    assert_same(short.rank(past, titles), scorer.score_ids(together))


@pytest.mark.parametrize("truncation", ["right", "error"])
def test_a_prompt_that_may_not_be_cut_is_refused(scorer: Scorer, truncation: str) -> None:
    short = Scorer(scorer.model, chat=CHAT, cutoff_len=100, truncation=truncation)
    with pytest.raises(InputError, match=f"expected all to fit with tokens.truncation={truncation}$"):
        short.rank([{"title": "Film", "rating": 3}], ["A"])


def test_a_conversation_has_no_items_to_drop(scorer: Scorer) -> None:
    short = Scorer(scorer.model, chat=CHAT, cutoff_len=100, truncation="history")
    with pytest.raises(InputError, match="only a ranking has items to drop"):
        short.score(conversations(PromptSpec(), [{"title": "Film", "rating": 3}], ["A"], 1))


def test_what_an_item_lacks_is_named(scorer: Scorer) -> None:
    past = [{"title": "A", "rating": 3}, {"title": "B"}]
    with pytest.raises(InputError, match=r"history: 2: has no rating, expected"):
        scorer.rank(past, ["C"])
    with pytest.raises(InputError, match=r"candidates: 1: has no title, expected"):
        scorer.rank(past[:1], [{"name": "C"}])
    with pytest.raises(InputError, match="does not fit the prompt's format"):
        scorer.rank([{"title": "A", "rating": "good"}], ["C"])

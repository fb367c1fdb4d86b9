"""The loops as Python runs them against the compiled ones."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.titles import TITLES
from tests.tokens.test_dataset import PROMPTS, TOKENIZERS, composed, samples_of
from tests.tokens.test_shared import with_users

from palate import tokens
from palate.prompt.chat import Chat
from palate.tokens import kernel
from palate.tokens.dataset import TokenDataset
from palate.tokens.shared import SharedHistory


@pytest.fixture
def plain_python(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The kernel as it is loaded where numba is absent."""
    spec = importlib.util.spec_from_file_location("palate.tokens.uncompiled", kernel.__file__)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        spec.loader.exec_module(module)
    return module


def everything(dataset: TokenDataset) -> list[Any]:
    """All that is composed of a dataset, and of its prompts of several targets."""
    backwards = dataset.ragged(np.arange(len(dataset))[::-1])
    shared = SharedHistory(dataset, 3)
    packed = shared.pack(shared.pieces()[::2])
    return [*dataset.ragged(), *backwards, packed.input_ids, packed.targets, shared.prefix, shared.lengths]


@pytest.mark.parametrize("options", [{}, {"train_on": "answer"}, {"truncation": "history"}], ids=str)
@pytest.mark.parametrize("prompt", ["guide", "rating first", "many fields", "counted"])
@pytest.mark.parametrize("name", ["byte_level_bpe", "trimming", "phi3_like"])
def test_samples_are_composed_the_same_without_a_compiler(
    plain_python: ModuleType,
    name: str,
    prompt: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, samples = PROMPTS[prompt], with_users(samples_of(TITLES[:60]))
    chat = Chat(TOKENIZERS[name], spec.yes, spec.no)
    whole = composed(samples, spec, chat, tmp_path)["train"]
    cutoff = int(np.quantile(whole.lengths, 0.4))
    dataset = composed(samples, spec, chat, tmp_path, **{"cutoff_len": cutoff, **options})["train"]
    compiled = everything(dataset)
    monkeypatch.setattr(tokens, "kernel", plain_python)

    for got, wanted in zip(everything(dataset), compiled, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype

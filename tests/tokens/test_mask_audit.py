from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.small import all_small
from tests.titles import TITLES
from tests.tokens.test_dataset import samples_of

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.spec import PromptSpec
from palate.tokens import mask_audit
from palate.tokens.dataset import Options, Ragged, TokenDataset, token_datasets
from palate.tokens.mask_audit import audit_mask
from palate.tokens.plain import IGNORED

TOKENIZERS = all_small()


def dataset(name: str = "byte_level_bpe", users: int = 4, **options: Any) -> TokenDataset:
    samples = samples_of(TITLES, users=users)
    asked = Options(**{"cutoff_len": 100_000, **options})
    data = {"test": f"audit {name} {users}"}
    return token_datasets(samples, PromptSpec(), Chat(TOKENIZERS[name]), asked, data=data, splits=["train"])["train"]


@pytest.mark.parametrize("train_on", ["response", "answer"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_trained_is_what_the_rows_train(name: str, train_on: Any) -> None:
    tokens = dataset(name, train_on=train_on)
    found = audit_mask(tokens)
    trained = [[label for label in row["labels"].tolist() if label != IGNORED] for row in tokens]
    total = sum(len(row["labels"]) for row in tokens)

    assert (found.samples, found.samples_composed, found.tokens) == (len(tokens), len(tokens), total)
    assert found.masked_share == pytest.approx(1 - sum(map(len, trained)) / total)
    assert {t.ids: t.samples for t in found.trained} == {tuple(t): trained.count(t) for t in trained}
    assert [t.text for t in found.trained] == [tokens.chat.tokenizer.decode(t.ids) for t in found.trained]
    assert len(found.trained) == 2


def test_of_many_samples_some_are_composed_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = dataset(users=40)
    monkeypatch.setattr(mask_audit, "DRAWN", 30)
    monkeypatch.setattr(mask_audit, "BATCH", 7)
    whole, drawn = audit_mask(tokens), audit_mask(tokens, seed=3, limit=100)

    assert (drawn.samples, drawn.samples_composed, whole.samples_composed) == (len(tokens), 30, len(tokens))
    assert sum(t.samples for t in drawn.trained) == 30
    assert sum(t.samples for t in whole.trained) == len(tokens)
    assert drawn.masked_share == whole.masked_share
    assert drawn == audit_mask(tokens, seed=3, limit=100)


def spoilt(
    spoil: Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any], int, int], None], **options: Any
) -> TokenDataset:
    """A dataset whose third sample of five is spoilt, given as ids, labels, and where it begins and ends."""
    tokens = dataset(**options)
    plain = tokens.ragged

    def ragged(indices: Any = None) -> Ragged:
        found = plain(indices)
        spoil(found.input_ids, found.labels, int(found.offsets[2]), int(found.offsets[3]))
        return found

    chosen = tokens.select([9, 7, 5, 3, 1])
    plain = chosen.ragged
    chosen.ragged = ragged  # type: ignore[method-assign]
    return chosen


def mask_all(ids: Any, labels: Any, begin: int, end: int) -> None:
    labels[begin:end] = IGNORED


def train_the_prompt(ids: Any, labels: Any, begin: int, end: int) -> None:
    labels[begin:end] = ids[begin:end]


def train_another_token(ids: Any, labels: Any, begin: int, end: int) -> None:
    labels[end - 1] += 1


def leave_out_the_end(ids: Any, labels: Any, begin: int, end: int) -> None:
    labels[end - 1] = IGNORED


def leave_a_gap(ids: Any, labels: Any, begin: int, end: int) -> None:
    labels[end - 2] = IGNORED


def answer_otherwise(ids: Any, labels: Any, begin: int, end: int) -> None:
    for values in (ids, labels):
        values[begin:end] = np.where(values[begin:end] == values[end - 3], values[end - 2], values[begin:end])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (mask_all, "does not train exactly its response"),
        (train_another_token, "does not train exactly its response"),
        (train_the_prompt, "does not train exactly its response"),
        (leave_out_the_end, "does not train exactly its response"),
        (leave_a_gap, "does not train exactly its response"),
        (answer_otherwise, "has another answer in its tokens"),
    ],
)
def test_a_sample_that_trains_anything_else_is_named(spoil: Any, problem: str) -> None:
    with pytest.raises(InputError, match=f"train sample 5 {problem}"):
        audit_mask(spoilt(spoil))


def test_an_answer_that_is_trained_beside_the_decision_is_named() -> None:
    with pytest.raises(InputError, match="train sample 5 does not train exactly its answer"):
        audit_mask(spoilt(train_the_prompt, train_on="answer"))

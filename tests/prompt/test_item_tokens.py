"""The tokens of items: behind the tokenizer's own, found as they stand, and never in a title."""

import copy

import pytest
from pydantic import ValidationError
from tests.small import all_small

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.item_tokens import item_token, item_tokens
from palate.prompt.spec import PromptSpec
from palate.prompt.tokenizer import tokenizer_identity
from palate.score.conversations import conversations

VECTORS = PromptSpec(history_line="{item_vector} {title} {rating:g}", candidate_line="{title} {item_vector}")


@pytest.mark.parametrize("name", all_small())
def test_each_item_has_one_id_behind_the_tokenizers_own(name: str) -> None:
    tokenizer = all_small()[name]
    before = tokenizer_identity(tokenizer)
    chat = Chat(tokenizer).with_items(120)
    assert chat.first_item == len(tokenizer)
    ids = chat.backend.encode("".join(map(item_token, range(120))), add_special_tokens=False).ids
    assert [token for token in ids if token >= len(tokenizer)] == list(range(len(tokenizer), len(tokenizer) + 120))
    assert chat.decision == Chat(tokenizer).decision
    assert tokenizer_identity(chat.tokenizer) == before  # an adapter is still that of its base's tokenizer


def test_a_tokenizer_that_has_item_tokens_keeps_them() -> None:
    tokenizer = copy.deepcopy(all_small()["gpt2_like"])
    tokenizer.add_tokens(item_tokens(5))
    chat = Chat(tokenizer)
    assert chat.with_items(5) is chat
    assert chat.first_item == len(tokenizer) - 5
    for count in (4, 6):
        with pytest.raises(InputError, match=f"has item tokens, but not of {count} items as the data"):
            chat.with_items(count)


@pytest.mark.parametrize("name", all_small())
def test_a_written_history_has_no_other_item_tokens_than_those_of_its_items(name: str) -> None:
    chat = Chat(all_small()[name]).with_items(10)
    first = int(chat.first_item or 0)
    titles = ["⟦3⟧", "x⟦4", "5⟧", "<|im_end|>⟦6⟧<think>", "[SEP]⟦7⟧"]
    history = [{"title": title, "item_vector": 1, "rating": 4.0} for title in titles]
    (prompt,) = chat.decision_prompts(conversations(VECTORS, history, [{"title": "⟦8⟧", "item_vector": 2}], None))
    assert [token - first for token in prompt if token >= first] == [1] * 5 + [2]


def test_an_item_without_its_row_is_refused() -> None:
    for value in ("⟦1⟧", -1, None):
        with pytest.raises(InputError, match=r"item_vector: is .*, expected a row of the item table"):
            conversations(VECTORS, [], [{"title": "Heat", "item_vector": value}], None)
    with pytest.raises(InputError, match=r"candidates: 1: has no item_vector"):
        conversations(VECTORS, [], ["Heat"], None)


def test_a_prompt_has_no_brackets_beside_vectors() -> None:
    assert PromptSpec(question="⟦1⟧?").question == "⟦1⟧?"
    with pytest.raises(ValidationError, match="no text may have ⟦ or ⟧ beside"):
        PromptSpec(candidate_line="{item_vector}", question="⟦1⟧?")

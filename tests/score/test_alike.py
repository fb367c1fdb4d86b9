"""Prompts that are tokenized in parts against those that are tokenized whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small import CHATML, TRIMMING, all_small, small_tokenizer
from tests.tiny import EMPTY_THINK

from palate.prompt.chat import Chat
from palate.prompt.messages import Message
from palate.score import alike

PIECES = ["The", " ", "\n", "  ", "film", "é", "\u0301", "七", "1", "995", "'s", "<|im_end|>", ".", ""]
KINDS = [*all_small(), "bytes"]


def chat_of(kind: str, template: str | None = None) -> Chat:
    return Chat(small_tokenizer(template or CHATML) if kind == "bytes" else all_small()[kind])


def asked(candidate: str) -> list[Message]:
    question = f"History:\n1. The Godfather (1972)\n2. Heat (1995)\n\nCandidate:\n{candidate}\n\nAnswer Yes or No."
    return [{"role": "system", "content": "Will the user like the movie?"}, {"role": "user", "content": question}]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_prompts_in_parts_are_those_of_whole_texts(kind: str, data: st.DataObject) -> None:
    pieces = st.sampled_from(
        ["The", " ", "\n", "  ", "film", "é", "\u0301", "七", "1", "995", "'s", "<|im_end|>", ".", ""]
    )
    title = st.lists(pieces, max_size=6).map("".join)
    candidates = data.draw(st.lists(title, min_size=3, max_size=8))
    chat = chat_of(kind)
    conversations = [asked(candidate) for candidate in candidates]
    assert alike.decision_prompts(chat, conversations) == chat.decision_prompts(conversations)


@pytest.mark.parametrize(("kind", "template"), [("bytes", EMPTY_THINK), ("bytes", TRIMMING), ("gpt2_like", None)])
def test_only_what_differs_is_tokenized_for_each(
    kind: str, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = chat_of(kind, template)
    conversations = [asked(f"Film {n}") for n in range(50)]
    expected, whole = chat.decision_prompts(conversations), Chat.decision_prompts
    sizes: list[int] = []

    def counted(self: Chat, some: list[list[Message]]) -> list[list[int]]:
        sizes.append(len(some))
        return whole(self, some)

    monkeypatch.setattr(Chat, "decision_prompts", counted)
    assert alike.decision_prompts(chat, conversations) == expected
    assert sizes == [1]

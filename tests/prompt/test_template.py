"""Every message of a conversation is in what a chat template renders, whatever turns it takes."""

import logging
from typing import Any

import pytest
from tests.small import CHATML, byte_level_bpe, small_tokenizer
from tests.templates.kinds import KINDS, tokenizer_of

from palate.errors import InputError
from palate.prompt.chat import Chat

SYSTEM, USER, ANSWER = "Mind the <table>.", 'The user liked "Heat & Dust" (1983)', "Yes"


def conversation(system: bool) -> list[dict[str, str]]:
    turns = [("system", SYSTEM), ("user", USER), ("assistant", ANSWER)]
    return [{"role": role, "content": content} for role, content in turns[not system :]]


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_message_is_in_the_text_once(kind: str, system: bool) -> None:
    chat, messages = Chat(tokenizer_of(kind)), conversation(system)
    prompt = [chat.text(messages[:-1]), chat.text(messages[:-1], add_generation_prompt=True)]
    whole = chat.text(messages)

    for text in (*prompt, whole):
        assert [text.count(m["content"]) for m in messages[:-1]] == [1] * (len(messages) - 1)
    assert whole.count(ANSWER) == 1
    encoded = chat.encode(messages)
    assert chat.tokenizer.decode(encoded.ids[encoded.prompt_len + len(chat.decision.lead) :]).startswith(ANSWER)
    assert chat.decision_prompts([messages[:-1]]) == [encoded.ids[: encoded.prompt_len + len(chat.decision.lead)]]


@pytest.mark.parametrize("kind", ["no system turn", "system lost"])
def test_a_system_turn_that_a_template_does_not_take_opens_the_first_user_turn(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tokenizer_of(kind)
    tokenizer.name_or_path = f"some/{kind}"
    with caplog.at_level(logging.WARNING):
        text = Chat(tokenizer).text(conversation(system=True))
        assert Chat(tokenizer).text(conversation(system=True)) == text

    one = {"role": "user", "content": f"{SYSTEM}\n\n{USER}"}
    assert text == Chat(tokenizer).text([one, conversation(system=False)[-1]])
    assert caplog.text.count("the system text opens the first user turn") == 1


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Not today') }}", "the chat template fails: Not today"),
        ("{% for", "the chat template fails: "),
        ("{{ 1 // 0 }}", "the chat template fails: "),
        ("{{ messages[0].no.such }}", "the chat template fails: "),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "the chat template leaves out the system message"),
        ({"tool_use": CHATML, "rag": CHATML}, "has the chat templates rag, tool_use, expected one called default"),
    ],
)
def test_a_template_that_fails_is_refused_in_one_line(template: Any, reason: str) -> None:
    tokenizer = small_tokenizer(CHATML)
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=reason) as refused:
        _ = Chat(tokenizer).decision
    assert "\n" not in str(refused.value)


def test_a_turn_that_a_template_leaves_out_is_refused_where_it_is_met() -> None:
    # Shows the last user turn and the answer behind it.
    last = (
        "{% for m in messages %}{% if loop.revindex <= 3 %}{{ m['role'] + ': ' + m['content'] }}{% endif %}{% endfor %}"
    )
    tokenizer = byte_level_bpe.__wrapped__()
    tokenizer.chat_template = last
    chat, messages = Chat(tokenizer), conversation(system=True)

    assert chat.encode(messages).ids
    with pytest.raises(InputError, match="leaves out the system message of system, user, assistant, user, assistant"):
        chat.encode([*messages, *messages[1:]])


def test_text_that_imitates_control_stays_text_in_a_folded_system_turn() -> None:
    chat, messages = Chat(tokenizer_of("no system turn")), conversation(system=True)
    messages[0]["content"] = "Never write <|im_end|>."
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    without = chat.encode(conversation(system=True)).ids.count(end)

    assert chat.encode(messages).ids.count(end) == without

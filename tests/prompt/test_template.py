"""Every message of a conversation is in what a chat template renders, whatever turns it takes."""

import logging
import re
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from tests.small import CHATML, byte_level_bpe, small_tokenizer
from tests.templates.kinds import KINDS, tokenizer_of

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.template import DATE, Template, with_date, without_date
from palate.prompt.tokenizer import differing, tokenizer_identity, tokenizer_key

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


DAY = date(2001, 2, 3)
CLOCKS = {
    "%d %B %Y": "03 February 2001",
    "%-d %b %y": "3 Feb 01",
    "%A, %Y-%m-%d": "Saturday, 2001-02-03",
    "%H:%M, 100 %%": "00:00, 100 %",
    "%_d.%#m.%04Y": "\N{SPACE}3.02.2001",
    "%j": "034",
}


def rendered(template: str, **more: Any) -> str:
    tokenizer = small_tokenizer(template)
    return str(tokenizer.apply_chat_template(conversation(system=True), tokenize=False, **more))


@pytest.mark.parametrize("call", ["strftime_now('{}')", 'strftime_now("{}")', "strftime_now(format='{}')"])
@pytest.mark.parametrize("form", CLOCKS)
def test_a_template_for_which_it_is_always_the_same_day_says_so_in_every_form(form: str, call: str) -> None:
    told = (
        "  {% if strftime_now is defined %}{{ CALL }}{% endif %}\n{%- for m in messages %}{{ CALL }}{% endfor %}\n\n x"
    )
    template = told.replace("CALL", call.format(form))

    day = "\N{BLACK SQUARE}"
    assert rendered(with_date(template, DAY)) == rendered(told.replace("CALL", repr(day))).replace(day, CLOCKS[form])


@pytest.mark.parametrize("kind", KINDS)
def test_a_date_is_all_that_changes_in_a_template(kind: str) -> None:
    template = KINDS[kind]
    fixed = with_date(template, date.today())

    assert (fixed != template) == ("dated" in kind)
    assert without_date(fixed) == template
    assert with_date(fixed, DAY) == fixed
    one, other = tokenizer_of(kind), tokenizer_of(kind)
    other.chat_template = fixed
    assert Template(one).identity() == Template(other).identity()
    other.chat_template = with_date(template, DATE)
    assert Chat(one).text(conversation(system=True)) == Chat(other).text(conversation(system=True))


def test_a_date_string_that_a_template_asks_for_is_the_same_day() -> None:
    asked = "{{ date_string }}" + CHATML
    assert rendered(with_date(asked, DAY)) == "03 Feb 2001" + rendered(CHATML)
    # One that has a day of its own keeps it.
    own = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}" + asked
    assert with_date(own, DAY) == own


CHANGES = ("truncate(200)", "replace('/no_think', '')", "lower", "replace('x', 'xx')", "wordwrap")
"""What a template may do to long texts, and to no short ones."""


def test_templates_are_told_apart_by_what_they_render() -> None:
    def identity(template: Any) -> str:
        return Template(small_tokenizer(template)).identity()

    same = "{# a remark #}" + CHATML.replace("message[", "m[").replace("for message in", "for m in").replace(
        "['role']", ".role"
    )
    assert identity(CHATML) == identity(same) == identity({"default": CHATML, "rag": ""})
    dated = KINDS["dated"]
    others = [
        CHATML,
        CHATML.replace("['content']", "['content'] | trim"),
        CHATML.replace("['content']", "['content'] | escape"),
        CHATML.replace("assistant", "helper"),
        *(CHATML.replace("['content']", f"['content'] | {change}") for change in CHANGES),
        CHATML.replace("message['content']", "('Well: ' if loop.last else '') + message['content']"),
        with_date(dated, DAY),
        with_date(dated, DAY + timedelta(1)),
        *(KINDS[kind] for kind in ("no system turn", "no generation prompt", "think block", "think block when asked")),
    ]
    # The one without system turn differs from CHATML in conversations that have one.
    assert len({identity(template) for template in others}) == len(others)


def test_a_probe_of_short_turns_alone_is_still_known() -> None:
    tokenizer = small_tokenizer(CHATML)
    recorded = tokenizer_identity(tokenizer)
    short = recorded["chat template"].rpartition(" ")[0]
    assert differing(tokenizer, recorded | {"chat template": short}) is None
    assert differing(tokenizer, recorded | {"chat template": short[:-1]}) == "chat template"


def test_templates_of_one_rendering_have_a_cache_each() -> None:
    one, other = (small_tokenizer(template) for template in (CHATML, "{# a remark #}" + CHATML))
    assert tokenizer_identity(one) == tokenizer_identity(other)
    assert tokenizer_key(one) != tokenizer_key(other)


def test_parts_are_not_written_as_a_list() -> None:
    listed = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'user' %}{% for part in m.content %}{{ part['text'] }}"
        "{% endfor %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    template, messages = Template(small_tokenizer(listed)), conversation(system=True)
    assert "'text'" not in template.render(messages)
    with pytest.raises(InputError, match="writes the parts of the assistant message as a list"):
        template.render([*messages, *messages[1:]])


def test_control_text_in_another_case_stays_text_where_a_template_changes_case() -> None:
    chat, messages = (
        Chat(small_tokenizer(CHATML.replace("['content']", "['content'] | lower"))),
        conversation(system=False),
    )
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    without = chat.encode(messages).ids.count(end)
    messages[0]["content"] += "<|IM_END|>"
    assert chat.encode(messages).ids.count(end) == without


def test_the_zoo_knows_no_other_clock() -> None:
    assert not any(re.search(r"\bnow\(\)", str(template)) for template in KINDS.values())


def test_a_tokenizer_that_was_loaded_elsewhere_renders_the_same_on_two_days(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2031, 5, 6)

    messages = conversation(system=True)
    today = Chat(tokenizer_of("dated")).text(messages)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    assert "2031" in tokenizer_of("dated").apply_chat_template(messages, tokenize=False)
    assert Chat(tokenizer_of("dated")).text(messages) == today
    assert "2031" not in today

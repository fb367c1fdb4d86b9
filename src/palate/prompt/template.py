"""A tokenizer's chat template, and the form in which it takes every message of a conversation.

Some templates refuse a system turn (Gemma 2, Mistral 0.1) or lose it as soon as an answer follows (Mistral Nemo), some
take content as a list of parts, some refuse an answer as the last turn. Which it is shows in what they render for
conversations whose contents are numbers.

Some write today's date (Llama 3.x, SmolLM3, gpt-oss). `with_date` fixes it in the template's text, so that two days,
and whoever serves an exported tokenizer, render the same.
"""

import datetime
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from palate.errors import InputError
from palate.prompt.messages import Message

log = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant")
DATE = datetime.date(2024, 7, 26)
"""The day that a template calls today: the one that Llama 3.1 and 3.2 write where there is no clock."""


class Form(NamedTuple):
    """How messages are put to a template."""

    parts: bool
    """Each content is a list of one text part."""
    closed: bool
    """The answer and the end token follow the generation prompt: the template takes no answer as the last turn."""
    folded: bool
    """The system text opens the first user turn."""


FORMS = [Form(parts, closed, folded) for parts in (False, True) for closed in (False, True) for folded in (False, True)]


@dataclass(frozen=True)
class Template:
    """Renders conversations by a tokenizer's chat template.

    Raises `InputError` where the template fails, or leaves out a message in every form.
    """

    tokenizer: Any
    _known: set[tuple[str, ...]] = field(default_factory=set, repr=False)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """A conversation as one string; every message is in it."""
        form, roles = self.form, tuple(message["role"] for message in messages)
        if roles not in self._known:
            probe = _probe(roles)
            text = self._render(probe, form, add_generation_prompt)
            lost, listed = _lost(probe, text), _listed(probe, text) if form.parts else None
            if lost or listed:
                found = (
                    f"leaves out the {lost} message" if lost else f"writes the parts of the {listed} message as a list"
                )
                raise InputError(f"the chat template {found} of {', '.join(roles)}", self._name)
            self._known.add(roles)
        return self._render(messages, form, add_generation_prompt)

    @cached_property
    def form(self) -> Form:
        """The simplest form in which the template writes each message once, else that in which it leaves out none."""
        faults = {form: self._fault(form) for form in FORMS}
        form = next((form for form in FORMS if faults[form] is None), None)
        form = form or next((form for form in FORMS if (faults[form] or "").startswith("repeats")), None)
        if form is None:
            raise InputError(f"the chat template {faults[FORMS[0]]}", self._name)
        if faults[form]:
            _say(f"{self._name}: the chat template {faults[form]}")
        elif form.folded:
            why = faults[form._replace(folded=False)]
            _say(f"{self._name}: the system text opens the first user turn, as the chat template {why}")
        return form

    def identity(self) -> str:
        """Hashes of what the template makes of conversations with and without system turn, answer and history.

        The first is of short turns, as earlier versions recorded it; the second of long ones, which show whether a
        template cuts or changes texts.
        """
        short = {"system": ' Be "brief" & exact.\n', "user": "\n <p>1.</p>  Ünlü?\n\n", "assistant": "No"}
        letters = "".join(map(chr, range(32, 127)))
        lines = "\n".join(f"{n}. Xx {letters[n:] + letters[:n]} - \u201cÄ ß\u201d, 映画\t {n * n}" for n in range(32))
        long = {role: f"/no_think <think> {role}\n\n{lines}" for role in ROLES[:2]} | {"assistant": "No"}
        return f"rendered {self._hash_of(short)} {self._hash_of(long)}"

    def _hash_of(self, contents: Mapping[str, str]) -> str:
        texts = []
        for roles in (ROLES, ROLES[1:], (*ROLES, *ROLES[1:])):
            for answer in ("Yes", "No"):
                messages = [{"role": role, "content": contents[role]} for role in roles]
                messages[-1]["content"] = answer
                texts += [self._rendered(messages), self._rendered(messages[:-1], add_generation_prompt=True)]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    def _rendered(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str | None:
        """As `render`; None where the template takes no such conversation."""
        form = self.form
        try:
            return self._render(messages, form, add_generation_prompt)
        except InputError:
            return None

    def _fault(self, form: Form) -> str | None:
        """What is wrong with what the template makes of a prompt and its answer in a form; None if nothing."""
        repeated = None
        try:
            for roles, add_generation_prompt in ((ROLES[:2], True), (ROLES[:2], False), (ROLES, False)):
                probe = _probe(roles)
                text = self._render(probe, form, add_generation_prompt)
                lost = _lost(probe, text)
                if lost is not None:
                    return f"leaves out the {lost} message"
                listed = _listed(probe, text) if form.parts else None
                if listed is not None:
                    return f"writes the parts of the {listed} message as a list"
                twice = next((m["role"] for m in probe if text.count(m["content"]) > 1), None)
                repeated = repeated or (twice and f"repeats the {twice} message")
        except InputError as error:
            return error.message.removeprefix("the chat template ")
        return repeated

    def _render(self, messages: Sequence[Message], form: Form, add_generation_prompt: bool) -> str:
        """What the template makes of a conversation that is put to it in a form."""
        if form.folded:
            messages = _folded(messages)
        answer = ""
        if form.closed and messages[-1]["role"] == "assistant":
            answer = messages[-1]["content"] + (self.tokenizer.eos_token or "")
            messages, add_generation_prompt = messages[:-1], True
        turns: list[Any] = list(messages)
        if form.parts:
            turns = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # Jinja's own, a template's, and whatever Python makes of its expressions
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"the chat template fails: {reason}", self._name) from error
        assert isinstance(rendered, str)
        return rendered + answer

    @property
    def _name(self) -> str:
        return str(self.tokenizer.name_or_path or "the tokenizer")


def with_date(template: Any, date: datetime.date) -> Any:
    """A template, or several by name, in which today is `date`; one that was given a date before keeps that.

    Its first line is then a macro in the place of transformers' `strftime_now`, or sets the `date_string` that it asks
    for.
    """
    if isinstance(template, dict):
        return {name: with_date(text, date) for name, text in template.items()}
    if not isinstance(template, str) or _DATED.match(template):
        return template
    line = ""
    if re.search(r"\bstrftime_now\b", template):
        forms = sorted(set(re.findall(r"(?<!{)%[-_0^#]?\d*[A-Za-z%]", template)))
        filters = "".join(f" | replace({form!r}, {date.strftime(form)!r})" for form in forms)
        line += "{% macro strftime_now(format) %}{{ format" + filters + " }}{% endmacro %}"
    if re.search(r"\bdate_string\b", template) and not re.search(r"\bset\s+date_string\b", template):
        line += "{% set date_string = " + repr(date.strftime("%d %b %Y")) + " %}"
    # The line break goes with the block before it (`trim_blocks`).
    return f"{{# today is {date} #}}{line}\n{template}" if line else template


def date_of(template: Any) -> datetime.date | None:
    """The day that `with_date` put into a template, or into one of several; None if there is none."""
    texts = list(template.values()) if isinstance(template, dict) else [template]
    found = next((found for text in texts if isinstance(text, str) and (found := _DATED.match(text))), None)
    return datetime.date.fromisoformat(found[1]) if found else None


def without_date(template: Any) -> Any:
    """A template as it was before `with_date`."""
    if isinstance(template, dict):
        return {name: without_date(text) for name, text in template.items()}
    return _DATED.sub("", template) if isinstance(template, str) else template


_DATED = re.compile(r"\A{# today is ([-0-9]+) #}[^\n]*\n")


def _folded(messages: Sequence[Message]) -> Sequence[Message]:
    """The conversation without a system turn: its text, a blank line and the first user turn are one."""
    if len(messages) < 2 or [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    system, user = messages[:2]
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *messages[2:]]


def _probe(roles: Sequence[str]) -> list[Message]:
    """A conversation whose contents stand in no template by chance, nor change with the case of letters."""
    return [{"role": role, "content": f"8{n}73914{n}58"} for n, role in enumerate(roles)]


def _lost(messages: Sequence[Message], text: str) -> str | None:
    """The role of the first message that is not in a text."""
    return next((message["role"] for message in messages if message["content"] not in text), None)


def _listed(messages: Sequence[Message], text: str) -> str | None:
    """The role of the first message whose list of parts is in a text as Python or JSON writes it."""
    found = re.findall(r"""["']text["']: ["'](\d+)""", text)
    return next((message["role"] for message in messages if message["content"] in found), None)


@lru_cache
def _say(text: str) -> None:
    """Log a line once, however often a template is looked at."""
    log.warning(text)

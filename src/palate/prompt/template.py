"""A tokenizer's chat template, and the form of messages in which it writes every message of a conversation.

Some templates reject a system turn (Gemma 2, Mistral 0.1) or drop it if an answer follows (Mistral Nemo), some expect
content as a list of parts, some reject an answer as the last turn. `Template.form` finds this out from renderings of
probe conversations, whose contents are numbers.

Some templates write today's date (Llama 3.x, SmolLM3, gpt-oss). `with_date` fixes the date in the template's text, so
that renderings do not depend on the day or on the program that serves an exported tokenizer.
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

from palate.errors import InputError, first_line
from palate.prompt.messages import Message

log = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant")
DATE = datetime.date(2024, 7, 26)
"""The date that templates write as today: the default of Llama 3.1 and 3.2 without a clock."""


class Form(NamedTuple):
    """The form of the messages for a template."""

    parts: bool
    """Each content is a list of one text part."""
    closed: bool
    """`render` appends the answer and the end token to the generation prompt, for a template that rejects an answer as
    the last turn."""
    folded: bool
    """The first user turn begins with the system text."""


FORMS = [Form(parts, closed, folded) for parts in (False, True) for closed in (False, True) for folded in (False, True)]


@dataclass(frozen=True)
class Template:
    """Renders conversations with a tokenizer's chat template.

    Raises `InputError` if the template fails, or if it omits a message in every form.
    """

    tokenizer: Any
    _checked: set[tuple[str, ...]] = field(default_factory=set, repr=False)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """A conversation as one string that has every message."""
        form, roles = self.form, tuple(message["role"] for message in messages)
        if roles not in self._checked:
            probe = _probe(roles)
            text = self._render(probe, form, add_generation_prompt)
            lost, listed = _lost(probe, text), _listed(probe, text) if form.parts else None
            if lost or listed:
                found = (
                    f"leaves out the {lost} message" if lost else f"writes the parts of the {listed} message as a list"
                )
                raise InputError(f"the chat template {found} of {', '.join(roles)}", self._name)
            self._checked.add(roles)
        return self._render(messages, form, add_generation_prompt)

    @cached_property
    def form(self) -> Form:
        """The simplest form in which the template writes each message once, else each message at least once."""
        faults = {form: self._fault(form) for form in FORMS}
        form = next((form for form in FORMS if faults[form] is None), None)
        form = form or next((form for form in FORMS if (faults[form] or "").startswith("repeats")), None)
        if form is None:
            raise InputError(f"the chat template {faults[FORMS[0]]}", self._name)
        if faults[form]:
            _warn_once(f"{self._name}: the chat template {faults[form]}")
        elif form.folded:
            why = faults[form._replace(folded=False)]
            _warn_once(f"{self._name}: the system text opens the first user turn, because the chat template {why}")
        return form

    def identity(self) -> str:
        """Hashes of the template's renderings of conversations with and without system turn, answer and history.

        The first hash is of short turns, as earlier versions recorded it. The second is of long turns, which show
        whether a template cuts or changes texts.
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
        """As `render`; None if the template rejects the conversation."""
        form = self.form
        try:
            return self._render(messages, form, add_generation_prompt)
        except InputError:
            return None

    def _fault(self, form: Form) -> str | None:
        """The fault in the template's rendering of a prompt and its answer in a form; None if there is none."""
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
        """The template's rendering of a conversation in a form."""
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
        except Exception as error:  # Jinja's errors, a template's, and those of Python in its expressions
            raise InputError(f"the chat template fails: {first_line(error)}", self._name) from error
        assert isinstance(rendered, str)
        return rendered + answer

    @property
    def _name(self) -> str:
        return str(self.tokenizer.name_or_path or "the tokenizer")


def with_date(template: Any, date: datetime.date) -> Any:
    """A template, or several by name, that writes `date` as today's date; a date that it has already stays.

    The first line of the result is a macro that replaces transformers' `strftime_now`, or sets the variable
    `date_string` that the template reads.
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
    # Jinja removes the line break after the block (`trim_blocks`).
    return f"{{# today is {date} #}}{line}\n{template}" if line else template


def date_of(template: Any) -> datetime.date | None:
    """The date that `with_date` wrote into a template, or into one of several; None if there is none."""
    texts = list(template.values()) if isinstance(template, dict) else [template]
    found = next((found for text in texts if isinstance(text, str) and (found := _DATED.match(text))), None)
    return datetime.date.fromisoformat(found[1]) if found else None


def without_date(template: Any) -> Any:
    """A template without the line that `with_date` added."""
    if isinstance(template, dict):
        return {name: without_date(text) for name, text in template.items()}
    return _DATED.sub("", template) if isinstance(template, str) else template


_DATED = re.compile(r"\A{# today is ([-0-9]+) #}[^\n]*\n")


def _folded(messages: Sequence[Message]) -> Sequence[Message]:
    """The conversation without a system turn: its text and a blank line open the first user turn."""
    if len(messages) < 2 or [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    system, user = messages[:2]
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *messages[2:]]


def _probe(roles: Sequence[str]) -> list[Message]:
    """A conversation whose contents no template has by chance, and that no change of case alters."""
    return [{"role": role, "content": f"8{n}73914{n}58"} for n, role in enumerate(roles)]


def _lost(messages: Sequence[Message], text: str) -> str | None:
    """The role of the first message that the text lacks."""
    return next((message["role"] for message in messages if message["content"] not in text), None)


def _listed(messages: Sequence[Message], text: str) -> str | None:
    """The role of the first message whose list of parts the text has in Python's or JSON's notation."""
    found = re.findall(r"""["']text["']: ["'](\d+)""", text)
    return next((message["role"] for message in messages if message["content"] in found), None)


@lru_cache
def _warn_once(text: str) -> None:
    """Log each distinct warning once."""
    log.warning(text)

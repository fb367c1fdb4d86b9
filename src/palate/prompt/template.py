"""A tokenizer's chat template, and the form in which it takes every message of a conversation.

Some templates refuse a system turn (Gemma 2, Mistral 0.1) or lose it as soon as an answer follows (Mistral Nemo), some
take content as a list of parts, some refuse an answer as the last turn. Which it is shows in what they render for
conversations whose contents are numbers.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from palate.errors import InputError
from palate.prompt.messages import Message

log = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant")


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
            lost = _lost(probe, self._render(probe, form, add_generation_prompt))
            if lost is not None:
                raise InputError(f"the chat template leaves out the {lost} message of {', '.join(roles)}", self._name)
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
        return str(self.tokenizer.name_or_path)


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


@lru_cache
def _say(text: str) -> None:
    """Log a line once, however often a template is looked at."""
    log.warning(text)

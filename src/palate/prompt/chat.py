"""A tokenizer with its chat template: from messages to token ids, the answer's place known exactly.

One renderer serves training and inference. A training sequence is the whole conversation; an inference
prompt is the same ids up to the *decision token*, the first token in which the Yes and the No
conversation differ. With Qwen3 that token comes after an empty think block, which the template writes
and no one has to remember.

User text is never control: a title that contains `<|im_end|>` gives ordinary tokens.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from palate.errors import InputError
from palate.prompt.messages import Message

PROBE: list[Message] = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
]


class Encoded(NamedTuple):
    """A conversation as token ids; the first `prompt_len` come before the last turn's content."""

    ids: list[int]
    prompt_len: int


@dataclass(frozen=True)
class Decision:
    """Where and how the model decides.

    `lead` are the response's tokens before the decision token (Qwen3: the empty think block), `tail` those
    after it; `yes_id` and `no_id` are the two tokens that the probability is read from.
    """

    yes_id: int
    no_id: int
    lead: tuple[int, ...]
    tail: tuple[int, ...]

    def describe(self, tokenizer: Any) -> dict[str, Any]:
        """Ids and texts, for `palate doctor` and the manifest."""
        return {
            "yes": {"id": self.yes_id, "text": tokenizer.decode([self.yes_id])},
            "no": {"id": self.no_id, "text": tokenizer.decode([self.no_id])},
            "response_before": tokenizer.decode(list(self.lead)),
            "response_after": tokenizer.decode(list(self.tail)),
        }


@dataclass(frozen=True)
class Chat:
    """Renders and encodes conversations with a tokenizer's own chat template.

    Raises `InputError` where the tokenizer has no chat template, or where the answers `yes` and `no` do not
    come down to one token each.
    """

    tokenizer: Any
    yes: str = "Yes"
    no: str = "No"
    _responses: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            name = self.tokenizer.name_or_path
            raise InputError("the tokenizer has no chat template, expected an instruct or chat model", name)
        if not self.tokenizer.is_fast:
            raise InputError("has no tokenizer.json, expected a fast tokenizer", self.tokenizer.name_or_path)

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The conversation as one string, rendered by the tokenizer's template."""
        rendered = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert isinstance(rendered, str)
        return rendered

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Encode one conversation whose last turn is the assistant's."""
        return self.encode_batch([messages])[0]

    def encode_batch(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        """Encode conversations, each ending with the assistant's turn; the last turn's content is the response."""
        texts = [self.text(messages) for messages in conversations]
        starts = [self._response_start(m, t) for m, t in zip(conversations, texts, strict=True)]
        encoded: list[Encoded] = []
        for encoding, start in zip(self._backend.encode_batch(texts, add_special_tokens=False), starts, strict=True):
            encoded.append(Encoded(encoding.ids, _tokens_before(start, encoding.offsets)))
        for i, messages in enumerate(conversations):
            if self._imitates_control(messages):
                encoded[i] = self._encode_apart(messages)
        return encoded

    def decision_prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Inference prompts: the ids of each conversation up to, and without, the decision token.

        The conversations end with the user's turn; what follows is what training would have shown.
        """
        answered = [[*messages, {"role": "assistant", "content": self.yes}] for messages in conversations]
        keep = len(self.decision.lead)
        return [encoded.ids[: encoded.prompt_len + keep] for encoded in self.encode_batch(answered)]

    @cached_property
    def decision(self) -> Decision:
        """The decision token's place and the two answers' ids, derived by encoding both conversations."""
        yes, no = (self.encode([*PROBE, {"role": "assistant", "content": answer}]) for answer in (self.yes, self.no))
        a, b = yes.ids[yes.prompt_len :], no.ids[no.prompt_len :]
        lead = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        name = self.tokenizer.name_or_path
        if yes.ids[: yes.prompt_len] != no.ids[: no.prompt_len]:
            raise InputError(f"the template writes another prompt for {self.yes!r} than for {self.no!r}", name)
        if lead >= min(len(a), len(b)) or a[lead + 1 :] != b[lead + 1 :]:
            raise InputError(
                f"the answers {self.yes!r} and {self.no!r} are {len(a)} and {len(b)} tokens in the response, "
                "expected two that differ in exactly one token",
                name,
            )
        return Decision(a[lead], b[lead], tuple(a[:lead]), tuple(a[lead + 1 :]))

    @property
    def _backend(self) -> Any:
        return self.tokenizer.backend_tokenizer

    def _response_start(self, messages: Sequence[Message], text: str) -> int:
        """The character at which the last turn's response begins in the rendered `text`."""
        answer = messages[-1]["content"]
        if answer not in self._responses:
            whole = self.text([*PROBE, {"role": "assistant", "content": answer}])
            self._responses[answer] = whole[_prompt_chars(self, PROBE, whole, answer) :]
        response = self._responses[answer]
        if response and text.endswith(response):
            return len(text) - len(response)
        return _prompt_chars(self, messages[:-1], text, answer)

    @cached_property
    def _control(self) -> tuple[str, ...]:
        """The texts that the tokenizer turns into control tokens."""
        return tuple(token.content for token in self._backend.get_added_tokens_decoder().values())

    @cached_property
    def _ordinary(self) -> Any:
        """The tokenizer without its control tokens: every text is ordinary text to it."""
        from tokenizers import Tokenizer

        state = copy.deepcopy(json.loads(self._backend.to_str()))
        state["added_tokens"] = []
        state["post_processor"] = None
        return Tokenizer.from_str(json.dumps(state))

    def _imitates_control(self, messages: Sequence[Message]) -> bool:
        return any(control in message["content"] for message in messages for control in self._control)

    def _encode_apart(self, messages: Sequence[Message]) -> Encoded:
        """Encode a conversation in which user text looks like control text.

        A mark is put into each imitation, so that template and tokenizer find only the real control
        tokens; the runs between those are encoded as ordinary text, the mark taken out again.
        """
        contents = "".join(message["content"] for message in messages)
        mark = next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in contents)
        marked: list[Message] = []
        for message in messages:
            content = message["content"]
            for control in sorted(self._control, key=len, reverse=True):
                content = content.replace(control, control[0] + mark + control[1:])
            marked.append({**message, "content": content})
        text = self.text(marked)
        start = _prompt_chars(self, marked[:-1], text, marked[-1]["content"])
        ids: list[int] = []
        prompt_len = 0
        position = 0
        for begin, end, token in [*self._control_spans(text, mark), (len(text), len(text), None)]:
            run = self._ordinary.encode(text[position:begin].replace(mark, ""), add_special_tokens=False)
            if position < start:
                before = start - position - text[position:start].count(mark)
                prompt_len = len(ids) + _tokens_before(before, run.offsets)
            ids += run.ids
            if token is not None:
                prompt_len = len(ids) + 1 if begin < start else prompt_len
                ids.append(token)
            position = end
        return Encoded(ids, prompt_len)

    def _control_spans(self, text: str, mark: str) -> list[tuple[int, int, int]]:
        """Begin, end and id of the control tokens that the template wrote."""
        control_ids = self._backend.get_added_tokens_decoder()
        encoding = self._backend.encode(text, add_special_tokens=False)
        return [
            (begin, end, token)
            for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)
            # A normalizer may drop the mark before an added token is looked for.
            if token in control_ids and mark not in text[begin:end]
        ]


def _tokens_before(start: int, offsets: Sequence[tuple[int, int]]) -> int:
    """How many tokens begin before the character `start`."""
    n = len(offsets)
    while n and offsets[n - 1][0] >= start:
        n -= 1
    return n


def _prompt_chars(chat: Chat, prompt: Sequence[Message], whole: str, answer: str) -> int:
    """How many characters of `whole` come before the last turn's content.

    They are the generation prompt, if the template writes it the same way in both; else all that is equal
    when the answer is another.
    """
    asked = chat.text(prompt, add_generation_prompt=True)
    if whole.startswith(asked):
        return len(asked)
    other = chat.text([*prompt, {"role": "assistant", "content": "\N{BLACK SQUARE}" + answer}])
    return next((n for n, (x, y) in enumerate(zip(whole, other, strict=False)) if x != y), len(whole))

"""A tokenizer with its chat template: messages become token ids, and the position of the answer token is exact.

Training and inference use one renderer. A training sequence is the whole conversation. An inference prompt is the same
ids up to the *decision token*, the first token in which the Yes and the No conversation differ. With Qwen3 that token
follows an empty think block, which the template writes.

User text never becomes a control token: a title that contains `<|im_end|>` gives ordinary tokens.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from palate.errors import InputError
from palate.prompt.item_tokens import is_item_token, item_token, item_tokens
from palate.prompt.messages import Message
from palate.prompt.template import DATE, Template, with_date

PROBE: list[Message] = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
]


class Encoded(NamedTuple):
    """A conversation as token ids; the first `prompt_len` ids precede the last turn's content."""

    ids: list[int]
    prompt_len: int


@dataclass(frozen=True)
class Decision:
    """The decision token and the response around it.

    `yes_id` and `no_id` are the two answers' tokens, whose logits give the probability. `lead` are the response's
    tokens before the decision token (Qwen3: the empty think block), `tail` those after it.
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

    Raises `InputError` if the tokenizer has no chat template, or if the responses with `yes` and `no` do not differ in
    exactly one token.
    """

    tokenizer: Any
    yes: str = "Yes"
    no: str = "No"
    items: int = 0
    """Item tokens that the tokenizer gets behind its own; see `with_items`."""
    _responses: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            name = self.tokenizer.name_or_path
            raise InputError("the tokenizer has no chat template, expected an instruct or chat model", name)
        templates = self.tokenizer.chat_template
        if isinstance(templates, dict) and "default" not in templates:
            names = ", ".join(sorted(templates))
            raise InputError(
                f"has the chat templates {names}, expected one called default", self.tokenizer.name_or_path
            )
        if (dated := with_date(templates, DATE)) != templates:  # the prompt must not depend on today's date
            self.tokenizer.chat_template = dated
        if not self.tokenizer.is_fast:
            raise InputError("has no tokenizer.json, expected a fast tokenizer", self.tokenizer.name_or_path)

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The conversation as one string that has every message, rendered by the tokenizer's template."""
        return self.template.render(messages, add_generation_prompt=add_generation_prompt)

    @cached_property
    def template(self) -> Template:
        """The tokenizer's chat template."""
        return Template(self.tokenizer)

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Encode one conversation that ends with the assistant's turn."""
        return self.encode_batch([messages])[0]

    def encode_batch(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        """Encode conversations, each ending with the assistant's turn; the last turn's content is the response."""
        texts = [self.text(messages) for messages in conversations]
        starts = [self._response_start(m, t) for m, t in zip(conversations, texts, strict=True)]
        encoded: list[Encoded] = []
        for encoding, start in zip(self.backend.encode_batch(texts, add_special_tokens=False), starts, strict=True):
            encoded.append(Encoded(encoding.ids, _tokens_before(start, encoding.offsets)))
        for i, messages in enumerate(conversations):
            if any(self.imitates_control(message["content"]) for message in messages):
                encoded[i] = self._encode_apart(messages)
        return encoded

    def decision_prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Inference prompts: the ids of each conversation before the decision token.

        The conversations end with the user's turn. The ids after that turn are those of a training sequence.
        """
        answered = [[*messages, {"role": "assistant", "content": self.yes}] for messages in conversations]
        keep = len(self.decision.lead)
        return [encoded.ids[: encoded.prompt_len + keep] for encoded in self.encode_batch(answered)]

    @cached_property
    def decision(self) -> Decision:
        """The decision token's position and the two answers' ids, found by encoding both conversations."""
        yes, no = (self.encode([*PROBE, {"role": "assistant", "content": answer}]) for answer in (self.yes, self.no))
        a, b = yes.ids[yes.prompt_len :], no.ids[no.prompt_len :]
        lead = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        name = self.tokenizer.name_or_path
        if yes.ids[: yes.prompt_len] != no.ids[: no.prompt_len]:
            raise InputError(
                f"the template writes another prompt for {self.yes!r} than for {self.no!r}, expected the same", name
            )
        if lead >= min(len(a), len(b)) or a[lead + 1 :] != b[lead + 1 :]:
            raise InputError(
                f"the answers {self.yes!r} and {self.no!r} are {len(a)} and {len(b)} tokens in the response, "
                "expected two that differ in exactly one token",
                name,
            )
        return Decision(a[lead], b[lead], tuple(a[:lead]), tuple(a[lead + 1 :]))

    def with_items(self, count: int) -> "Chat":
        """The same with the tokens of `count` items.

        The tokenizer of an exported model has them already; raises `InputError` if these are of another number.
        """
        own = self.tokenizer.backend_tokenizer
        if own.token_to_id(item_token(0)) is None:
            return self if self.items == count else replace(self, items=count, _responses={})
        if own.token_to_id(item_token(count - 1)) is None or own.token_to_id(item_token(count)) is not None:
            raise InputError(
                f"has item tokens, but not of {count:,} items as the data: expected those of its training",
                self.tokenizer.name_or_path,
            )
        return self

    @cached_property
    def first_item(self) -> int | None:
        """The id of the first item's token; None if there is none. Row n of the item table has the id `first_item` + n.

        Raises `InputError` for a tokenizer that gives other ids.
        """
        first: int | None = self.backend.token_to_id(item_token(0))
        if first is not None and self.items:
            last = self.backend.token_to_id(item_token(self.items - 1))
            if last != first + self.items - 1 or first < len(self.tokenizer):
                raise InputError(
                    "gives item tokens no ids behind its own, use another tokenizer or no {item_vector}",
                    self.tokenizer.name_or_path,
                )
        return first

    @cached_property
    def _with_items(self) -> Any:
        """A copy of the tokenizer's backend with the item tokens."""
        backend = self.tokenizer.backend_tokenizer
        copy = _copied(backend)
        copy.post_processor, copy.decoder = backend.post_processor, backend.decoder
        copy.add_tokens(item_tokens(self.items))
        return copy

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` that the tokenizer wraps, with truncation and padding off, and the item tokens."""
        if self.items:
            return self._with_items
        backend = self.tokenizer.backend_tokenizer
        # An earlier call of the tokenizer may have set these.
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if backend.encode_special_tokens:
            backend.encode_special_tokens = False
        return backend

    @cached_property
    def untrimmed(self) -> Any:
        """A copy of `backend` without post-processor: the same ids, and offsets that include a token's spaces."""
        backend = self.backend
        return backend if backend.post_processor is None else _copied(backend)

    @cached_property
    def ordinary(self) -> Any:
        """A `tokenizers.Tokenizer` with the same ids that finds no control token in user text.

        The names of its control tokens contain a random secret, so no user text equals one. The model's vocabulary has
        the new names too: Unigram finds control tokens there, and so does BPE if its merges lead to them. There is no
        post-processor, so offsets include a token's spaces.
        """
        from tokenizers import Tokenizer

        state = json.loads(self.backend.to_str())
        state["post_processor"] = None
        names = self._secret_names
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = state["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): n for piece, n in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if "merges" in model:
            model["merges"] = [[a, b] for a, b in model["merges"] if names.keys().isdisjoint((a, b, a + b))]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        return Tokenizer.from_str(json.dumps(state))

    def imitates_control(self, text: str) -> bool:
        """Whether the tokenizer may find a control token in `text`, before or after normalization."""
        found = self._control_text.search(text)
        if not found and self._normalize_first:
            found = self._control_text.search(self.backend.normalizer.normalize_str(text))
        return found is not None

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
    def _control(self) -> dict[int, Any]:
        """The added tokens that user text must not become, by id.

        Some tokenizers add white space (Gemma's "\\n\\n") and single letters (DeepSeek Coder's "ö") as tokens; these
        are ordinary text. Item tokens are no control tokens: no user text has their brackets.
        """
        added = self.backend.get_added_tokens_decoder()
        return {
            n: token
            for n, token in added.items()
            if len(_without_white(token.content)) > 1 and not is_item_token(token.content)
        }

    @cached_property
    def _normalize_first(self) -> bool:
        """Whether the tokenizer searches normalized text for control tokens, too."""
        return self.backend.normalizer is not None and any(token.normalized for token in self._control.values())

    @cached_property
    def _control_text(self) -> re.Pattern[str]:
        """Matches the control tokens' texts, before and after normalization."""
        texts = {token.content for token in self._control.values()}
        if self.backend.normalizer is not None:
            texts |= {self.backend.normalizer.normalize_str(text) for text in texts} - {""}
        pattern = "|".join(map(re.escape, sorted(texts))) or r"(?!)"
        return re.compile(pattern, re.IGNORECASE)  # a template may change the case of letters

    @cached_property
    def _secret_names(self) -> dict[str, str]:
        """The names of the control tokens in `ordinary`.

        A name has the original's first and last character, so that neighbouring text is tokenized as before.
        """
        secret = secrets.token_hex(8)
        return {token.content: token.content[0] + secret + token.content[1:] for token in self._control.values()}

    def _encode_apart(self, messages: Sequence[Message]) -> Encoded:
        """Encode a conversation in which user text imitates control tokens.

        A mark between the characters hides such text from template and tokenizer, so that they find only the template's
        control tokens. These get their secret names, the marks are removed, and `ordinary` encodes the result.
        """
        mark = self._mark(self.text(messages) + "".join(message["content"] for message in messages))
        marked = [
            {**message, "content": _spread(message["content"], mark)}
            if self.imitates_control(message["content"])
            else message
            for message in messages
        ]
        text = self.text(marked)
        spans = self._control_spans(text)

        def renamed(until: int) -> str:
            parts, position = [], 0
            for begin, end, name in spans:
                if end <= until:
                    parts += [text[position:begin].replace(mark, ""), name]
                    position = end
            return "".join(parts) + text[position:until].replace(mark, "")

        encoding = self.ordinary.encode(renamed(len(text)), add_special_tokens=False)
        encoding = self.backend.post_process(encoding, add_special_tokens=False)
        start = len(renamed(self._response_start(marked, text)))
        return Encoded(encoding.ids, _tokens_before(start, encoding.offsets))

    def _mark(self, text: str) -> str:
        """A character that `text` lacks and the normalizer keeps; BERT's drops private-use characters."""
        normalizer = self.backend.normalizer
        return next(
            mark
            for mark in map(chr, range(0x13000, 0x13430))  # hieroglyphs
            if mark not in text and (normalizer is None or mark in normalizer.normalize_str(f"a{mark}a"))
        )

    def _control_spans(self, text: str) -> list[tuple[int, int, str]]:
        """Begin, end and secret name of the control tokens in `text`."""
        spans = []
        encoding = self.backend.encode(text, add_special_tokens=False)
        for n, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            found = text[begin:end]
            # A control token whose text is not its name is the token for unknown characters.
            if n in self._control and self.imitates_control(found):
                control = self._control[n].content
                core = _without_white(found)
                # Keep the white space that the token includes beside its name; the renamed token includes it again.
                if control == _without_white(control):
                    begin += found.index(core)
                    end = begin + len(core)
                spans.append((begin, end, self._secret_names[control]))
        return spans


def _copied(backend: Any) -> Any:
    """A copy of a `tokenizers.Tokenizer` without post-processor and decoder."""
    from tokenizers import Tokenizer

    copy = Tokenizer(backend.model)  # shares the model: reading a vocabulary takes a second
    copy.normalizer, copy.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    added = backend.get_added_tokens_decoder()
    tokens = [token for _, token in sorted(added.items())]
    for special, group in groupby(tokens, lambda token: token.special):  # one by one, ten thousand take minutes
        (copy.add_special_tokens if special else copy.add_tokens)(list(group))
    if repr(copy.get_added_tokens_decoder()) == repr(added):
        return copy
    return Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "post_processor": None, "decoder": None}))


def _without_white(text: str) -> str:
    """`text` without the white space around it; SentencePiece's mark counts as white space."""
    return re.sub(r"\A[\s▁]+|[\s▁]+\Z", "", text)


def _spread(text: str, mark: str) -> str:
    """`text` with marks between its characters, except in the white space that a template may trim."""
    core = text.strip()
    return text.replace(core, mark.join(core), 1)


def _tokens_before(start: int, offsets: Sequence[tuple[int, int]]) -> int:
    """The number of tokens that begin before the character `start`."""
    n = len(offsets)
    while n and offsets[n - 1][0] >= start:
        n -= 1
    return n


def _prompt_chars(chat: Chat, prompt: Sequence[Message], whole: str, answer: str) -> int:
    """The number of characters of `whole` before the last turn's content.

    This is the length of the rendered generation prompt if `whole` begins with it; else that of the common prefix with
    the same conversation and another answer.
    """
    generation_prompt = chat.text(prompt, add_generation_prompt=True)
    if whole.startswith(generation_prompt):
        return len(generation_prompt)
    other = chat.text([*prompt, {"role": "assistant", "content": "\N{BLACK SQUARE}" + answer}])
    return next((n for n, (x, y) in enumerate(zip(whole, other, strict=False)) if x != y), len(whole))

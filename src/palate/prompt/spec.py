"""The texts of a prompt, and the templates of its history and candidate lines.

The config's section `prompt` is a `PromptSpec`; its defaults are the guide's strings. `palate.prompt.chat` renders the
messages with a model's chat template.
"""

import re
import string
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from palate.prompt.item_tokens import BRACKETS, FIELD

CONTEXT_FIELDS = ("item_mean", "item_count")
"""Fields for both lines: statistics of an item's earlier ratings, see `palate.samples.context`."""
Signal = Literal["estimate", "neighbour", "neighbour_mean", "user_deviation", "item_deviation", "user"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
"""Sources of fields of the candidate's line that depend on the user, see `palate.samples.signals`."""
SIGNAL_FIELDS = tuple(name for name in SIGNALS if name != "user")
"""The signals that are one field each, named as the signal; those of `user` are `{user.age}` and the like."""
USER = "user."
"""What the fields from the table of users begin with."""


WIDEST = 1000
"""The largest width or precision of a field; a larger one takes memory and time for blanks and zeros."""
_SPEC = re.compile(r"(?s:.?[<>=^])?[-+ ]?z?#?(\d*)[,_]?(?:\.(\d*)[,_]?)?[a-zA-Z%]?")
"""Python's format specs, with width and precision."""


class TemplatePart(NamedTuple):
    """A part of a template: literal text, then a field with its format spec; `field` is None after the last one."""

    literal: str
    field: str | None
    format_spec: str


def split_template(template: str) -> list[TemplatePart]:
    """Split a format string such as `"{n}. {title}"` into its parts; raises `ValueError` for any other text."""
    parts = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        braces = "expected fields such as {title}; a brace itself is written twice: {{"
        raise ValueError(f"{template!r}: {error}, {braces}") from None
    for literal, field, format_spec, conversion in parsed:
        named = field is None or field.removeprefix(USER).isidentifier()
        if conversion or not named or "{" in (format_spec or ""):
            raise ValueError(f"{template!r}: a field must be a plain name such as {{title}} or {{rating:.1f}}")
        for number in found.groups() if (found := _SPEC.fullmatch(format_spec or "")) else ():
            if number and (len(number) > len(str(WIDEST)) or int(number) > WIDEST):
                raise ValueError(f"{template[:80]!r}: {{{field}}} expects a width or precision of {WIDEST:,} at most")
        parts.append(TemplatePart(literal, field, format_spec or ""))
    return parts


class Number(float):
    """A float whose format spec may also choose between two words.

    `liked|disliked` writes a label: the first word for 1, the second for 0. `4|Yes|No` writes a rating: the first word
    from 4 on, the second below.
    """

    def __format__(self, spec: str) -> str:
        *bound, high, low = ["", *spec.split("|")]
        if not (high and low) or len(bound) > 2:
            return super().__format__(spec)
        value = float(self)
        if len(bound) == 2:
            return high if value >= float(bound[1]) else low
        if value not in (0.0, 1.0):
            raise ValueError("two words as a format are for labels, expected 1 or 0; for ratings, such as {:4|Yes|No}")
        return high if value else low


class Text(str):
    """A text whose format spec may also be `short` or `cutN`.

    `short` is for titles: `Matrix, The (1999)` becomes `The Matrix`. It removes what stands in parentheses at the end,
    and moves an article from the end to the front. `cut40` is for descriptions: the sentences that fit into 40 words
    and punctuation marks, which are about as many tokens; of a first sentence that does not fit its beginning, and "…".
    Letters of scripts without spaces, such as Chinese and Thai, count one by one, and a word of more than 20 letters
    once for each 6.
    """

    def __format__(self, spec: str) -> str:
        if (cut := _CUT.fullmatch(spec)) is not None:
            return _beginning(self, int(cut[1]))
        if spec != "short":
            return super().__format__(spec)
        bare = _PARENTHESES.sub("", self)
        inverted = _ARTICLE.fullmatch(bare)
        return f"{inverted[2]} {inverted[1]}" if inverted else bare or str(self)


def _beginning(text: str, most: int) -> str:
    """The sentences of a text that fit into `most` words and marks."""
    marks = list(_MARK.finditer(text))
    if len(marks) <= most:
        return text
    ends = [mark.end() for mark in marks[:most] if _SENTENCE.match(text, mark.end())]
    return text[: ends[-1]] if ends else f"{text[: marks[most - 1].end()].rstrip()}…"


_CUT = re.compile(r"cut([1-9]\d{0,8})")
_LONE = (
    "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Letters of scripts without spaces: of Southeast Asia, kana and ideographs."""
_SIGNS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
"""Vowels and tones of Thai and Lao that stand above or below a letter."""
_MARK = re.compile(rf"[{_LONE}][{_SIGNS}]*|[^\W{_LONE}]{{1,20}}(?![^\W{_LONE}])|[^\W{_LONE}]{{1,6}}|[^\w\s]")
"""What counts as a token: a word, six letters of one with more than twenty, a letter of `_LONE`, a punctuation mark."""
_SENTENCE = re.compile(r"(?<=[.!?。！？])(?=[\s\"'”’)])|(?<=[。！？])|(?<=[.!?][\"'”’)])(?=\s)")
"""The end of a sentence."""
_PARENTHESES = re.compile(r"(\s*\([^()]*\))+\s*$")
_ARTICLE = re.compile(r"(.+), (The|An?|L[ae]s?|El|Los|Il|D[aei][srne])")


Of = Literal["literal", "n", "rating", "context", "item", Signal]
"""The source of a part of a line: constant text, the line's number, the row's rating, statistics of its item's earlier
ratings, the item table, or one of `SIGNALS`."""
_JOINED: tuple[Of, ...] = ("item", "context", "user")


def runs_of(template: str) -> list[tuple[Of, list[TemplatePart]]]:
    """Split a template into literals and fields, and group neighbours with the same source.

    Literal text between two item fields joins their run, and so does literal text between two context fields or two
    fields of the user: the run is one text.
    """
    parts: list[TemplatePart] = []
    for literal, field, spec in split_template(template):
        if literal and parts and parts[-1].field is None:  # the parser splits a literal at an escaped brace
            parts[-1] = parts[-1]._replace(literal=parts[-1].literal + literal)
        elif literal:
            parts.append(TemplatePart(literal, None, ""))
        if field is not None:
            parts.append(TemplatePart("", field, spec))
    kinds: list[Of] = [kind_of(part.field) for part in parts]
    for n in range(1, len(parts) - 1):
        if kinds[n] == "literal" and kinds[n - 1] == kinds[n + 1] and kinds[n - 1] in _JOINED:
            kinds[n] = kinds[n - 1]
    runs: list[tuple[Of, list[TemplatePart]]] = []
    for kind, part in zip(kinds, parts, strict=True):
        if runs and runs[-1][0] == kind and kind in _JOINED:
            runs[-1][1].append(part)
        else:
            runs.append((kind, [part]))
    return runs


def kind_of(field: str | None) -> Of:
    """The source of a field; None is constant text."""
    kinds: dict[Any, Of] = {None: "literal", "n": "n", "rating": "rating", **{name: name for name in SIGNAL_FIELDS}}
    if field is not None and field.startswith(USER):
        return "user"
    return "context" if field in CONTEXT_FIELDS else kinds.get(field, "item")


class PromptSpec(BaseModel):
    """The texts of a prompt.

    The two lines are format strings. Both may use every column of the item table, such as `{title}`, and two statistics
    of the item's earlier training ratings: `{item_mean}` (a float) and `{item_count}` (an int). The candidate's line
    may also name what the ratings say of user and candidate: `{estimate}`, `{neighbour}`, `{neighbour_mean}`,
    `{user_deviation}` and `{item_deviation}`; and columns of the table of users, such as `{user.age}`.
    `{item_vector}`, in both lines, is one token with the item's collaborative vector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = (
        "You are a movie recommendation assistant. Given a user's recent history and a candidate movie. "
        "Please begin your analysis with 'Yes' or 'No'."
    )
    """System message."""
    instruction: str = "Predict whether the user will like the candidate movie. Answer only with Yes or No."
    """First line of the user's message."""
    history_header: str = "User's last {history_len} watched movies:"
    """Line above the history; `{history_len}` is the number of history lines. Empty: no line."""
    history_line: str = "{n}. {title} (rating ≈ {rating:.1f})"
    """One line for each item of the history, oldest first: `{n}` is the line's number from 1, `{rating}` the user's
    rating. `{rating:4|Yes|No}` writes the first word from 4 on, `{rating:liked|disliked}` a label of 1 or 0.
    In both lines `{title:short}` leaves out a year or other parentheses at the title's end, and `{description:cut40}`
    what goes beyond 40 tokens, at the end of a sentence."""
    candidate_header: str = "Candidate movie:"
    """Line above the candidate. Empty: the candidate follows the history as its next line."""
    candidate_line: str = "{title}"
    """The candidate; it has neither `{n}` nor `{rating}`."""
    estimate: str = "logistic-knn"
    """The baseline whose P(like) is `{estimate}`, in hundredths: one that `train.teacher` takes."""
    question: str = "Should we recommend this movie to the user? Answer Yes or No."
    """Last line of the user's message. Empty: the message ends with the candidate."""
    yes: str = Field("Yes", min_length=1)
    """Answer for a candidate that the user likes; its response differs from that of `no` in exactly one token."""
    no: str = Field("No", min_length=1)
    """Answer for a candidate that the user dislikes."""

    @field_validator("history_line", "candidate_line", "history_header")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        split_template(value)
        return value

    @model_validator(mode="after")
    def _fields_are_known(self) -> "PromptSpec":
        if self.yes == self.no:
            raise ValueError(f"yes and no must differ, both are {self.yes!r}")
        header = {p.field for p in split_template(self.history_header)} - {None, "history_len"}
        if header:
            raise ValueError(f"history_header may name {{history_len}} only, not {{{header.pop()}}}")
        leak = {p.field for p in split_template(self.candidate_line)} & {"rating", "n"}
        if leak:
            raise ValueError(f"candidate_line must not name {{{leak.pop()}}}: a candidate has none")
        beside = [p.field for p in split_template(self.history_line) if kind_of(p.field) in SIGNALS]
        if beside:
            why = "only a candidate has one" if beside[0] in SIGNAL_FIELDS else "expected it in candidate_line"
            raise ValueError(f"history_line must not name {{{beside[0]}}}: {why}")
        if self.names_vectors and any(bracket in str(text) for _, text in self for bracket in BRACKETS):
            raise ValueError(f"no text may have {BRACKETS[0]} or {BRACKETS[1]} beside {{{FIELD}}}, which writes them")
        return self

    @model_serializer(mode="wrap")
    def _without_unused_estimate(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The section; other prompts go without `estimate`, so that data and adapters made before stay valid."""
        return {key: value for key, value in dump(self).items() if key != "estimate" or key in self.signals}

    @property
    def names_context(self) -> bool:
        """Whether a line has a field of `CONTEXT_FIELDS`."""
        named = {part.field for line in (self.history_line, self.candidate_line) for part in split_template(line)}
        return not named.isdisjoint(CONTEXT_FIELDS)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The signals that the candidate's line names, in the order of `SIGNALS`."""
        named = {kind_of(part.field) for part in split_template(self.candidate_line)}
        return tuple(name for name in SIGNALS if name in named)

    @property
    def signal_fields(self) -> tuple[str, ...]:
        """The fields of these signals, in the same order."""
        named = dict.fromkeys(part.field for part in split_template(self.candidate_line) if part.field)
        return tuple(field for name in self.signals for field in named if kind_of(field) == name)

    @property
    def names_vectors(self) -> bool:
        """Whether a line has the field `{item_vector}`."""
        lines = (self.history_line, self.candidate_line)
        return any(part.field == FIELD for line in lines for part in split_template(line))

    def label(self, liked: bool) -> str:
        """The answer for a liked or a disliked candidate."""
        return self.yes if liked else self.no

    def history(self, items: Iterable[Mapping[str, Any]], ratings: Iterable[float]) -> str:
        """The history as text: a line for each item, oldest first."""
        return "\n".join(
            self.history_line.format(**{**_texts(item), "n": n, "rating": Number(rating)})
            for n, (item, rating) in enumerate(zip(items, ratings, strict=True), start=1)
        )

    def candidate(self, item: Mapping[str, Any]) -> str:
        """The candidate as text."""
        texts = _texts(item)
        parts = split_template(self.candidate_line)
        return "".join(p.literal + ("" if p.field is None else format(texts[p.field], p.format_spec)) for p in parts)

    def frame(self, history_len: int) -> tuple[str, str, str]:
        """The Alpaca `input` before the history, between history and candidate, and after the candidate."""
        header = self.history_header.format(history_len=history_len)
        return (
            f"{header}\n" if header else "",
            f"\n\n{self.candidate_header}\n" if self.candidate_header else "\n",
            f"\n\n{self.question}" if self.question else "",
        )

    def alpaca(self, history: str, candidate: str, label: str, history_len: int) -> dict[str, Any]:
        """One Alpaca example, with the keys in the order of the files."""
        opening, middle, closing = self.frame(history_len)
        return {
            "instruction": self.instruction,
            "input": f"{opening}{history}{middle}{candidate}{closing}",
            "output": label,
            "system": self.system,
            "history": [],
        }


def _texts(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item's values, texts as `Text`."""
    return {name: Text(value) if isinstance(value, str) else value for name, value in item.items()}

"""Tokenize the fragments of a prompt, each in its context, and write the programs that join them."""

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.prompt.chat import Chat
from palate.tokens.fragments import ITEM, LABEL, NOTHING, OVERREAD, PLACES, SIGNAL_PLACES, Fragments, words_of
from palate.tokens.layout import Field, PromptLayout, Turn
from palate.tokens.proof import Boundaries, Cuts, UnprovedError, choose_cuts

AROUND = 4
"""Characters of context on each side of a fragment when it is tokenized."""
JOINED = 4096
"""Maximum number of distinct ratings, contexts or values of a signal that the constant text beside is joined to."""

Ids = tuple[int, ...]


def build_fragments(layout: PromptLayout, chat: Chat, history_len: int, proof: Boundaries, rows: int = 0) -> Fragments:
    """Tokenize all fragments; raises `UnprovedError` if composition cannot be proved exact.

    `rows` is the number of timeline rows, after which the words of signals follow.
    """
    choices: list[tuple[int, PromptLayout, Cuts]] = []
    reasons: list[UnprovedError] = []
    for tried in (layout, layout.with_ends()):
        try:
            cuts = choose_cuts(tried, history_len, proof)
        except UnprovedError as reason:
            reasons.append(reason)
            continue
        choices.append((len(set().union(*cuts.unproved)), tried, cuts))
        if not choices[-1][0]:
            break
    if not choices:
        raise reasons[0]
    _, best, cuts = min(choices, key=lambda choice: choice[0])
    return _build(_Workbench(best, cuts, proof, chat, history_len), rows)


def _build(work: "_Workbench", rows: int) -> Fragments:
    layout, cuts, chat, history_len = work.layout, work.cuts, work.chat, work.history_len
    work.check_template()
    tables = work.tables()
    words = words_of(layout.prompt.signals)
    beyond = [rows * words.get(kind.of, 0) for kind in layout.kinds]
    programs = _Programs(tables, [PLACES[kind.of] for kind in layout.kinds], beyond)
    response = np.zeros(2, np.int32)
    for m in range(history_len + 1):
        constants, tails, responses = work.constants(m, tables)
        if m and responses != response.tolist():
            raise UnprovedError("the response has another length after another history")
        response[:] = responses
        programs.add(layout.turn(m).fields, constants, tails, m)
    unproved: dict[str, list[int]] = {}
    for name, *which in (
        ("history", "item", False),
        ("candidate", "item", True),
        ("rating", "rating", False),
        ("context", "context", False),
        ("candidate_context", "context", True),
    ):
        kinds = [n for n, kind in enumerate(layout.kinds) if [kind.of, kind.option == "candidate_line"] == which]
        unproved[name] = sorted(set().union(*(cuts.unproved[n] for n in kinds)))
    for number, kind in enumerate(layout.kinds):
        if kind.of in SIGNAL_PLACES:
            unproved[kind.of] = sorted(cuts.unproved[number].union(unproved.get(kind.of, ())))
    return programs.fragments(response, len(chat.decision.lead), unproved)


@dataclass
class _Workbench:
    """Tokenizes the pieces of a prompt in their contexts."""

    layout: PromptLayout
    cuts: Cuts
    proof: Boundaries
    chat: Chat
    history_len: int
    probes: list[str] = field(default_factory=list)
    """One proved value of each kind, as a placeholder for any value."""
    codes: list[int] = field(default_factory=list)
    """The codes of the probes; all kinds of one source have the same item, rating or context."""

    def __post_init__(self) -> None:
        kinds, probe = self.layout.kinds, dict[str, int]()
        for of in PLACES:
            same = [n for n, kind in enumerate(kinds) if kind.of == of]
            for code in range(len(kinds[same[0]].texts) if same else 0):
                if not any(
                    code in self.cuts.unproved[n] or self.chat.imitates_control(kinds[n].texts[code]) for n in same
                ):
                    break
            else:
                if same:
                    raise UnprovedError(f"no {of} can be cut off safely")
                continue
            probe[of] = code
        self.codes = [probe[kind.of] for kind in kinds]
        self.probes = [kind.texts[code] for kind, code in zip(kinds, self.codes, strict=True)]
        turn = self.layout.turn(self.history_len)
        if any(self.chat.imitates_control(m["content"]) for m in self.layout.messages(self.fill(turn), "")):
            raise UnprovedError("the prompt's own text looks like a control token")

    def fill(self, turn: Turn) -> str:
        """The turn's text with the probes as values."""
        return turn.fill([self.probes[field.kind] for field in turn.fields])

    def check_template(self) -> None:
        """Raise `UnprovedError` if the template changes the user's turn, since the fragments would then be wrong."""
        turn = self.layout.turn(self.history_len)
        values = list(self.probes)
        for n, kind in enumerate(self.layout.kinds):
            values[n] = "\n".join(dict.fromkeys(kind.texts))
        content = turn.fill([values[f.kind] if f.slot in (0, 1) else self.probes[f.kind] for f in turn.fields])
        text = self.chat.text(self.layout.messages(content, self.chat.yes))
        if content.strip() not in text:
            raise UnprovedError("the chat template changes the text of the user's turn")

    def tables(self) -> list[list[Ids]]:
        """The fragments of each kind's values; an empty one for values without a proved cut."""
        following: list[dict[Hashable, tuple[str, str]]] = [{} for _ in self.layout.kinds]
        for m in range(self.history_len + 1):
            turn = self.layout.turn(m)
            text = self.fill(turn)
            spans = self.cuts.spans(turn, [self.probes[f.kind] for f in turn.fields])
            for place, ((kind, _), (begin, end)) in enumerate(zip(turn.fields, spans, strict=True)):
                before, gap = text[max(0, begin - AROUND) : begin], turn.constants[place + 1]
                after = [text[end : end + AROUND]]
                if self.cuts.right[kind] == len(gap):  # the next value follows directly: try all its beginnings
                    after = self._beginnings(turn.fields[place + 1].kind, turn.constants[place + 2])
                for text_after in after:
                    lookahead = self.proof.ahead(text[:end], text_after)
                    following[kind].setdefault(lookahead, (before, text_after[:AROUND]))
        return [self._table(n, list(contexts.values())) for n, contexts in enumerate(following)]

    def _beginnings(self, kind: int, after: str) -> list[str]:
        """Proved values of a kind with the text `after` them, one for each pair of first characters."""
        texts, unproved = self.layout.kinds[kind].texts, self.cuts.unproved[kind]
        found: dict[str, str] = {}
        for code, text in enumerate(texts):
            if code not in unproved:
                found.setdefault((text + after)[:2], text + after)
        return list(found.values())

    def _table(self, number: int, contexts: Sequence[tuple[str, str]]) -> list[Ids]:
        """The fragments of one kind; a value is unproved if contexts give it different fragments."""
        kind = self.layout.kinds[number]
        if not contexts:  # no turn has this variant of the field
            return [() for _ in kind.texts]
        left, right = self._constants_beside(number)
        distinct = list(dict.fromkeys(kind.texts))
        found: dict[str, Ids] = {}
        failed: set[str] = set()
        for before, after in contexts:
            texts = [f"{before}{left}{text}{right}{after}" for text in distinct]
            probe = self.chat.untrimmed.encode(
                f"{before}{left}{self.probes[number]}{right}{after}", add_special_tokens=False
            )
            size = len(left) + len(self.probes[number]) + len(right)
            begin, end = _tokens_until(probe.offsets, [len(before), len(before) + size])
            lead, trail = probe.ids[:begin], probe.ids[end:]
            for text, ids in zip(distinct, self._encode(texts), strict=True):
                fragment = tuple(ids[begin : len(ids) - len(trail)])
                if ids != [*lead, *fragment, *trail] or found.setdefault(text, fragment) != fragment:
                    failed.add(text)
        unproved = self.cuts.unproved[number]
        unproved.update(code for code, text in enumerate(kind.texts) if text in failed)
        return [() if code in unproved else found[text] for code, text in enumerate(kind.texts)]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of user texts, without control tokens."""
        encodings = self.chat.untrimmed.encode_batch_fast(texts, add_special_tokens=False)
        found: list[list[int]] = [encoding.ids for encoding in encodings]
        for n, text in enumerate(texts):
            if self.chat.imitates_control(text):
                found[n] = self.chat.ordinary.encode(text, add_special_tokens=False).ids
        return found

    def _constants_beside(self, number: int) -> tuple[str, str]:
        """The constant text to the left and right of a value that a kind's fragments include."""
        for m in range(self.history_len, -1, -1):
            turn = self.layout.turn(m)
            for place, f in enumerate(turn.fields):
                if f.kind == number:
                    left, right = turn.constants[place], turn.constants[place + 1]
                    return left[len(left) - self.cuts.left[number] :], right[: self.cuts.right[number]]
        raise AssertionError("no turn has this kind")

    def constants(self, m: int, tables: list[list[Ids]]) -> tuple[list[Ids], tuple[Ids, Ids], list[int]]:
        """The constant fragments of a prompt with m items, its last fragments for No and Yes, and response lengths."""
        turn = self.layout.turn(m)
        values = [self.probes[f.kind] for f in turn.fields]
        content = turn.fill(values)
        core = content.strip()
        shift = len(content) - len(content.lstrip())
        found: list[list[Ids]] = []
        responses: list[int] = []
        for answer in (self.chat.no, self.chat.yes):
            messages = self.layout.messages(content, answer)
            text = self.chat.text(messages)
            if text.count(core) != 1:
                raise UnprovedError("the chat template changes or repeats the text of the user's turn")
            at = text.index(core) - shift
            encoding = self.chat.untrimmed.encode(text, add_special_tokens=False)
            encoded = self.chat.encode(messages)
            if encoded.ids != encoding.ids:
                raise UnprovedError("a conversation of harmless text is not tokenized as one text")
            places = [at + edge for span in self.cuts.spans(turn, values) for edge in span]
            edges = [0, *_tokens_until(encoding.offsets, places), len(encoding.ids)]
            pieces = [tuple(encoding.ids[a:b]) for a, b in pairwise(edges)]
            for f, piece in zip(turn.fields, pieces[1::2], strict=True):
                if piece != tables[f.kind][self.codes[f.kind]]:
                    raise UnprovedError("a fragment has other tokens in the whole text than in its context")
            found.append(pieces[0::2])
            responses.append(len(encoded.ids) - encoded.prompt_len)
        no, yes = found
        if no[:-1] != yes[:-1]:
            raise UnprovedError("the template writes another prompt for another answer")
        if any(n > len(tail) for n, tail in zip(responses, (no[-1], yes[-1]), strict=True)):
            raise UnprovedError("the response begins before the last cut")
        return no[:-1], (no[-1], yes[-1]), responses


class _Programs:
    """Collects fragments and steps, each distinct table of fragments once."""

    def __init__(self, tables: list[list[Ids]], places: list[tuple[int, int]], beyond: list[int]) -> None:
        self.tables, self.places, self.beyond = tables, places, beyond
        self.pieces: list[Ids] = []
        self.bases: dict[Any, int] = {}
        self.steps: list[tuple[int, int, int, int]] = []
        self.first = [0]

    def add(self, fields: Sequence[Field], constants: list[Ids], tails: tuple[Ids, Ids], m: int) -> None:
        """The program of a prompt with m history items."""
        pending: Ids = constants[0] if constants else ()
        table: list[Ids]
        for place, (kind, slot) in enumerate(fields):
            following = constants[place + 1] if place + 1 < len(constants) else ()
            row = slot - 1 - m if slot else self.beyond[kind]
            table, code = self.tables[kind], self.places[kind]
            if code != ITEM and len(table) <= JOINED:
                self._step(row, self._put([(*pending, *ids, *following) for ids in table]), code)
                pending = ()
                continue
            if pending:
                self._step(0, self._put([pending]), NOTHING)
            self._step(row, self._put(table, kind), code)
            pending = following
        self._step(0, self._put([(*pending, *tail) for tail in tails]), LABEL)
        self.first.append(len(self.steps))

    def _step(self, row: int, base: int, code: tuple[int, int]) -> None:
        self.steps.append((row, base, *code))

    def _put(self, table: list[Ids], kind: int | None = None) -> int:
        """The number of a table's first fragment; adds the table if it is new."""
        key = tuple(table) if kind is None else kind
        if key not in self.bases:
            self.bases[key] = len(self.pieces)
            self.pieces += table
        return self.bases[key]

    def fragments(self, response: NDArray[np.int32], lead: int, unproved: dict[str, list[int]]) -> Fragments:
        """The collected fragments and programs as arrays."""
        length = np.fromiter(map(len, self.pieces), np.int32, len(self.pieces))
        tokens = np.zeros(int(length.sum()) + OVERREAD, np.int32)
        tokens[:-OVERREAD] = [token for piece in self.pieces for token in piece]
        start = np.cumsum(length, dtype=np.int64) - length
        steps = np.array(self.steps, np.int64).reshape(-1, 4)
        return Fragments(tokens, start, length, steps, np.array(self.first, np.int64), response, lead, unproved)


def _tokens_until(offsets: Sequence[tuple[int, int]], places: Sequence[int]) -> list[int]:
    """The number of tokens before each character position; raises `UnprovedError` if a token spans one."""
    begins, ends = zip(*offsets, strict=True)
    numbers = [bisect_left(begins, place) for place in places]
    if any(n and ends[n - 1] > place for n, place in zip(numbers, places, strict=True)):
        raise UnprovedError("a token spans a cut, against the proof")
    return numbers

"""Where a prompt is cut into fragments: for each kind of field one cut to its left and one to its right.

A cut lies in the constant text beside the field, and at the same distance wherever the field occurs, so that
one fragment serves all places. Each is one that `Boundaries` proves. A cut between two constant characters
is proved for every value; where there is none, a cut at the value's own edge is, for most values, and the others
are named.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from palate.prompt.wording import Piece
from palate.tokens.layout import PromptLayout, Turn


class Proof(Protocol):
    """What `palate.tokens.proof.boundaries.Boundaries` can do."""

    reason: str | None

    def safe(self, left: str, right: str) -> bool:
        """Whether no token can span the cut between two texts, whatever stands further out."""
        ...

    def ahead(self, left: str, right: str) -> Hashable:
        """What tokens left of a safe cut can tell of the text right of it."""
        ...


class UnprovedError(Exception):
    """No exact composition is proved; the message says why, for the log."""


@dataclass(frozen=True)
class Cuts:
    """For each kind: how many characters of constant text its fragments take with them."""

    left: list[int]
    right: list[int]
    unproved: list[set[int]]
    """The values (codes) of each kind whose own edge no cut is proved for."""

    def spans(self, turn: Turn, values: list[str]) -> list[tuple[int, int]]:
        """The fragments of the fields in the turn's text: (begin, end) in characters."""
        spans, at = [], 0
        for (kind, _), constant, value in zip(turn.fields, turn.constants, values, strict=False):
            at += len(constant)
            spans.append((at - self.left[kind], at + len(value) + self.right[kind]))
            at += len(value)
        return spans


@dataclass
class _Sides:
    """The constant texts to the left and right of a kind, each with the kind beyond it (None: an end)."""

    left: set[tuple[str, int | None]]
    right: set[tuple[str, int | None]]

    @property
    def before(self) -> str:
        """What always stands to the left."""
        return _common([gap[::-1] for gap, _ in self.left])[::-1]

    @property
    def after(self) -> str:
        """What always stands to the right."""
        return _common([gap for gap, _ in self.right])


def choose_cuts(layout: PromptLayout, history_len: int, proof: Proof) -> Cuts:
    """Choose the cuts of all kinds; raises `UnprovedError` where there is no safe one."""
    if proof.reason is not None:
        raise UnprovedError(proof.reason)
    sides = _sides(layout, history_len)
    cuts = Cuts([], [], [set() for _ in layout.kinds])
    for number, kind in enumerate(layout.kinds):
        if not sides[number].left:  # this variant of the field occurs nowhere
            cuts.left.append(0)
            cuts.right.append(0)
            continue
        for chosen, side, search in ((cuts.left, "left", _left_cuts), (cuts.right, "right", _right_cuts)):
            best: tuple[int, int, int] | None = None
            found: dict[int, set[int]] = {}
            for size, at_value, unsafe in search(layout, sides, number, proof):
                bad = unsafe()
                rank = (sum(map(len, bad.values())), at_value, size)
                if best is None or rank < best:
                    best, found = rank, bad
                if rank[:2] == (0, 0):
                    break
            if best is None or best[0] >= len(kind.texts):
                raise UnprovedError(f"no token boundary is certain to the {side} of {kind.name}")
            chosen.append(best[2])
            for other, codes in found.items():
                cuts.unproved[other] |= codes
    for number, side_ in enumerate(sides):
        for gap, beyond in side_.right:
            if beyond is not None and cuts.right[number] + cuts.left[beyond] > len(gap):
                raise UnprovedError(f"no room for two cuts between {layout.kinds[number].name} and the next field")
    return cuts


Candidate = tuple[int, int, Callable[[], dict[int, set[int]]]]
"""Constant characters taken, 1 if a value's own edge is touched, and what finds the values that are unsafe."""


def _right_cuts(layout: PromptLayout, sides: list[_Sides], number: int, proof: Proof) -> Iterator[Candidate]:
    own = sides[number]
    for size in range(1, len(own.after) + 1):
        taken = own.after[:size]
        touching = {other for gap, other in own.right if size == len(gap)}
        rests = {(gap[size:], other) for gap, other in own.right if size < len(gap)}
        if None in touching or not all(_shown(rest, other) and proof.safe(taken, rest) for rest, other in rests):
            continue

        def unsafe(taken: str = taken, touching: set[int | None] = touching) -> dict[int, set[int]]:
            bad = {}
            for other in touching - {None}:
                assert other is not None
                after = sides[other].after
                bad[other] = _bad(layout.kinds[other], partial(_begins_safely, proof, taken, after))
            return bad

        yield size, int(bool(touching)), unsafe
    if all(gap for gap, _ in own.right):
        following = {gap[:8] for gap, _ in own.right}

        def unsafe_end() -> dict[int, set[int]]:
            return {number: _bad(layout.kinds[number], lambda v: all(proof.safe(own.before + v, g) for g in following))}

        yield 0, 1, unsafe_end


def _left_cuts(layout: PromptLayout, sides: list[_Sides], number: int, proof: Proof) -> Iterator[Candidate]:
    own = sides[number]
    for size in range(1, len(own.before) + 1):
        taken = own.before[-size:]
        touching = {other for gap, other in own.left if size == len(gap)}
        rests = {(gap[:-size], other) for gap, other in own.left if size < len(gap)}
        if None in touching or not all(_shown(rest, other) and proof.safe(rest, taken) for rest, other in rests):
            continue

        def unsafe(taken: str = taken, touching: set[int | None] = touching) -> dict[int, set[int]]:
            bad = {}
            for other in touching - {None}:
                assert other is not None
                before = sides[other].before
                bad[other] = _bad(layout.kinds[other], partial(_ends_safely, proof, before, taken))
            return bad

        yield size, int(bool(touching)), unsafe
    if all(gap for gap, _ in own.left):
        before = {gap[-8:] for gap, _ in own.left}

        def unsafe_start() -> dict[int, set[int]]:
            return {number: _bad(layout.kinds[number], lambda v: all(proof.safe(g, v + own.after) for g in before))}

        yield 0, 1, unsafe_start


def _ends_safely(proof: Proof, before: str, after: str, value: str) -> bool:
    return proof.safe(before + value, after)


def _begins_safely(proof: Proof, before: str, after: str, value: str) -> bool:
    return proof.safe(before, value + after)


def _shown(rest: str, other: int | None) -> bool:
    """Whether what is left of a gap keeps the cut off the ends of the turn, where templates trim."""
    return bool(rest.strip() if other is None else rest)


def _common(texts: list[str]) -> str:
    """What all texts begin with: what the first and the last in order share."""
    low, high = min(texts), max(texts)
    return low[: next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))]


def _bad(kind: Piece, safe: Callable[[str], bool]) -> set[int]:
    """The codes of the texts that are not safe."""
    return {code for code, text in enumerate(kind.texts) if not safe(text)}


def _sides(layout: PromptLayout, history_len: int) -> list[_Sides]:
    """The constant texts beside every kind, in prompts with 0 to `history_len` history items."""
    sides = [_Sides(set(), set()) for _ in layout.kinds]
    for m in range(history_len + 1):
        constants, fields = layout.turn(m)
        if not constants[0].strip() or not constants[-1].strip():
            end = "begins" if not constants[0].strip() else "ends"
            raise UnprovedError(f"the prompt {end} with a field, and what a template does there is not known")
        kinds = [field.kind for field in fields]
        for place, kind in enumerate(kinds):
            sides[kind].left.add((constants[place], kinds[place - 1] if place else None))
            sides[kind].right.add((constants[place + 1], kinds[place + 1] if place + 1 < len(kinds) else None))
    return sides

"""Chooses the cuts of a prompt into fragments: for each kind of field one to its left and one to its right.

A cut lies in the constant text beside the field, at the same distance in all places, so that one fragment serves all of
them. `Boundaries` proves every cut. A cut between two constant characters is safe for every value. Without one,
`choose_cuts` takes a cut at the edge of the value, which is safe for most values, and lists the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from palate.prompt.wording import Piece
from palate.tokens.layout import PromptLayout, Turn
from palate.tokens.proof.boundaries import Boundaries


class UnprovedError(Exception):
    """The cuts cannot be proved; the message is the reason, for the log."""


@dataclass(frozen=True)
class Cuts:
    """For each kind: the number of constant characters that its fragments include."""

    left: list[int]
    right: list[int]
    unproved: list[set[int]]
    """The values (codes) of each kind without a proved cut at their edge."""

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
        """The constant text to the left in all places."""
        return _common([gap[::-1] for gap, _ in self.left])[::-1]

    @property
    def after(self) -> str:
        """The constant text to the right in all places."""
        return _common([gap for gap, _ in self.right])


def choose_cuts(layout: PromptLayout, history_len: int, proof: Boundaries) -> Cuts:
    """Choose the cuts of all kinds; raises `UnprovedError` if a kind has no safe cut."""
    if proof.reason is not None:
        raise UnprovedError(proof.reason)
    sides = _sides(layout, history_len)
    cuts = Cuts([], [], [set() for _ in layout.kinds])
    for number, kind in enumerate(layout.kinds):
        if not sides[number].left:  # this variant of the field occurs nowhere
            cuts.left.append(0)
            cuts.right.append(0)
            continue
        for chosen, side in ((cuts.left, "left"), (cuts.right, "right")):
            best: tuple[int, int, int] | None = None
            unsafe: dict[int, set[int]] = {}
            for size, at_value, bad in _cuts(layout, sides, number, proof, right=side == "right"):
                rank = (sum(map(len, bad.values())), at_value, size)
                if best is None or rank < best:
                    best, unsafe = rank, bad
                if rank[:2] == (0, 0):
                    break
            if best is None or best[0] >= len(kind.texts):
                raise UnprovedError(f"no token boundary is certain to the {side} of {kind.name}")
            chosen.append(best[2])
            for other, codes in unsafe.items():
                cuts.unproved[other] |= codes
    for number, side_ in enumerate(sides):
        for gap, beyond in side_.right:
            if beyond is not None and cuts.right[number] + cuts.left[beyond] > len(gap):
                raise UnprovedError(f"no room for two cuts between {layout.kinds[number].name} and the next field")
    return cuts


def _cuts(
    layout: PromptLayout, sides: list[_Sides], number: int, proof: Boundaries, *, right: bool
) -> Iterator[tuple[int, int, dict[int, set[int]]]]:
    """Yield the possible cuts to one side of a kind.

    Each is the number of constant characters, 1 if the cut touches the edge of a value, and by kind the unsafe values.
    """
    own, kinds = sides[number], layout.kinds
    common, gaps = (own.after, own.right) if right else (own.before, own.left)

    def safe(near: str, far: str) -> bool:
        """Whether a cut is safe between the text at the field and the text beyond it."""
        return proof.safe(near, far) if right else proof.safe(far, near)

    def touched(taken: str, other: int) -> set[int]:
        beyond = sides[other]
        return _bad(kinds[other], lambda text: safe(taken, text + beyond.after if right else beyond.before + text))

    for size in range(1, len(common) + 1):
        taken = common[:size] if right else common[-size:]
        touching = {other for gap, other in gaps if size == len(gap)}
        rests = {(gap[size:] if right else gap[:-size], other) for gap, other in gaps if size < len(gap)}
        if None in touching or not all(_shown(rest, other) and safe(taken, rest) for rest, other in rests):
            continue
        yield size, int(bool(touching)), {other: touched(taken, other) for other in touching if other is not None}
    if all(gap for gap, _ in gaps):
        beyond = {gap[:8] if right else gap[-8:] for gap, _ in gaps}

        def alone(text: str) -> bool:
            return all(safe(own.before + text if right else text + own.after, gap) for gap in beyond)

        yield 0, 1, {number: _bad(kinds[number], alone)}


def _shown(rest: str, other: int | None) -> bool:
    """Whether the rest of a gap separates the cut from the ends of the turn, which templates trim."""
    return bool(rest.strip() if other is None else rest)


def _common(texts: list[str]) -> str:
    """The common prefix of all texts: that of the first and the last in order."""
    low, high = min(texts), max(texts)
    return low[: next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))]


def _bad(kind: Piece, safe: Callable[[str], bool]) -> set[int]:
    """The codes of the unsafe texts."""
    return {code for code, text in enumerate(kind.texts) if not safe(text)}


def _sides(layout: PromptLayout, history_len: int) -> list[_Sides]:
    """The constant texts beside every kind, in prompts with 0 to `history_len` history items."""
    sides = [_Sides(set(), set()) for _ in layout.kinds]
    for m in range(history_len + 1):
        constants, fields = layout.turn(m)
        if not constants[0].strip() or not constants[-1].strip():
            end = "begins" if not constants[0].strip() else "ends"
            raise UnprovedError(f"the prompt {end} with a field, where templates may trim the text")
        kinds = [field.kind for field in fields]
        for place, kind in enumerate(kinds):
            sides[kind].left.add((constants[place], kinds[place - 1] if place else None))
            sides[kind].right.add((constants[place + 1], kinds[place + 1] if place + 1 < len(kinds) else None))
    return sides

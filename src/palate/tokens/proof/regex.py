"""Which pairs of adjacent characters a tokenizer's regular expression can match together.

The module turns a pattern into a Glushkov automaton: a position for each character class, and for each position its
possible successors. Characters a and b *cross* if a position that contains a has a successor that contains b. If they
do not cross, neither a match nor an attempt reads over the cut between them, except for a lookahead of one character,
which sees b.

The syntax is Ruby's, as Oniguruma reads it for `tokenizers`. That engine also decides whether a class contains a
character, so no two Unicode tables have to agree. Uncertain cases count as possible: lookaheads are assumed to succeed.
The module refuses patterns that read behind, or more than one character ahead.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import Regex, normalizers

Positions = frozenset[int]
NONE: Positions = frozenset()

INTERVAL = re.compile(r"\{(?:(\d+)(,?)(\d*)|,(\d+))\}")
ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?\w+\}|x[0-7][0-9A-Fa-f]|x\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|[sSdDwWnrtfv]|[^\w\s]|[ \n\r\t])"
)
CASELESS = re.compile(r"[A-Za-z0-9' ]|\[[A-Za-z0-9' ]+\]")


class Refused(Exception):  # noqa: N818 - not an error: samples are tokenized whole
    """The reason why a tokenizer's cuts cannot be proved, in one clause."""


class RegexPart(NamedTuple):
    """The Glushkov sets of a part of a pattern."""

    empty: bool
    """Whether it may match the empty text."""
    first: Positions
    last: Positions
    skip: bool
    """Whether it can match the empty text before every text."""
    single: Positions
    """Positions that match a character of theirs before every text."""


EMPTY = RegexPart(True, NONE, NONE, True, NONE)
LOOK = RegexPart(True, NONE, NONE, False, NONE)


class Pattern:
    """A parsed regular expression; raises `Refused` for unsupported syntax."""

    def __init__(self, source: str) -> None:
        reader = _Reader(source)
        whole = reader.alternatives(caseless=False)
        if reader.at < len(source):
            raise Refused(f"the pattern has a stray {source[reader.at]!r}")
        if whole.empty:
            raise Refused("the pattern may match the empty text")
        self._classes = reader.classes
        self._follow = reader.follow
        self._single = whole.single
        self._held: dict[str, Positions] = {}
        self._looked_at = reader.looked_at
        self.one_wide = not reader.looks and not any(reader.follow)
        """Whether every match is a single character, without a lookahead."""

    def cross(self, a: str, b: str) -> bool:
        """Whether a match, or an attempt at one, may contain the adjacent characters a and b."""
        then = self._holding(b)
        return any(self._follow[p] & then for p in self._holding(a))

    def never(self, c: str) -> bool:
        """Whether no match contains the character."""
        return not self._holding(c)

    def always(self, c: str) -> bool:
        """Whether every occurrence is in a match, if no match reaches it over a cut."""
        return any(self._classes[p].holds(c) for p in self._single)

    def looked_at(self, c: str) -> tuple[bool, ...]:
        """The answers of the pattern's lookaheads for a character; `$` is the lookahead for a line end."""
        return (c == "\n", *(held for one in self._looked_at for held in (one.holds(c), one.may_hold(c))))

    def _holding(self, c: str) -> Positions:
        if c not in self._held:
            self._held[c] = frozenset(p for p, one in enumerate(self._classes) if one.may_hold(c))
        return self._held[c]


@dataclass(frozen=True)
class _Class:
    """One character of a pattern: a literal, an escape or a bracket expression."""

    source: str
    caseless: bool

    def holds(self, c: str) -> bool:
        return not _eraser(f"(?i:{self.source})" if self.caseless else self.source).normalize_str(c)

    def may_hold(self, c: str) -> bool:
        # Without case, "st" also matches the one character "ﬆ", of which each position holds a part.
        return self.holds(c) or (self.caseless and len(c.casefold()) > 1)


@lru_cache(maxsize=4096)
def _eraser(source: str) -> Any:
    """Removes the matches of `source`."""
    try:
        return normalizers.Replace(Regex(source), "")
    except Exception as error:  # the binding raises no narrower class
        raise Refused(f"the pattern has {source!r}, which does not compile") from error


class _Reader:
    """Recursive descent over a pattern."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.classes: list[_Class] = []
        self.follow: list[set[int]] = []
        self.looks = 0
        self.looked_at: list[_Class] = []

    def alternatives(self, caseless: bool) -> RegexPart:
        part = self._sequence(caseless)
        while self._take("|"):
            other = self._sequence(caseless)
            part = RegexPart(
                part.empty or other.empty,
                part.first | other.first,
                part.last | other.last,
                part.skip or other.skip,
                part.single | other.single,
            )
        return part

    def _sequence(self, caseless: bool) -> RegexPart:
        part = EMPTY
        while self.at < len(self.source) and self.source[self.at] not in "|)":
            then = self._quantified(self._item(caseless))
            self._link(part.last, then.first)
            part = RegexPart(
                part.empty and then.empty,
                part.first | (then.first if part.empty else NONE),
                then.last | (part.last if then.empty else NONE),
                part.skip and then.skip,
                (part.single if then.skip else NONE) | (then.single if part.skip else NONE),
            )
        return part

    def _quantified(self, part: RegexPart) -> RegexPart:
        while self.at < len(self.source) and self.source[self.at] in "?*+{":
            low, many, possessive = self._quantifier()
            if many:
                self._link(part.last, part.first)
            part = RegexPart(
                part.empty or low == 0,
                part.first,
                part.last,
                (part.skip or low == 0) and not possessive,
                part.single if low < 2 or part.skip else NONE,
            )
        return part

    def _quantifier(self) -> tuple[int, bool, bool]:
        """The least count, whether more than one is allowed, and whether the quantifier is possessive."""
        interval = INTERVAL.match(self.source, self.at)
        if interval is None:
            mark = self.source[self.at]
            if mark == "{":
                raise Refused("the pattern has a '{' that is no interval")
            self.at += 1
            possessive = self._take("+")
            if not possessive:
                self._take("?")
            return int(mark == "+"), mark != "?", possessive
        self.at = interval.end()
        low, comma, high, only_high = interval.groups()
        least = int(low or 0)
        most = int(only_high or high or (1 << 30 if comma else low))
        if most < max(least, 1):
            raise Refused(f"the pattern has the interval {interval[0]!r}")
        if self._take("+"):  # more of the same in Ruby's syntax, possessive in others
            return least, True, True
        if self._take("?") and not comma:  # optional in Ruby's syntax, lazy in others
            raise Refused(f"the pattern has the interval {interval[0]!r} with a '?'")
        return least, most > 1, False

    def _item(self, caseless: bool) -> RegexPart:
        mark = self.source[self.at]
        if mark == "(":
            return self._group(caseless)
        if mark == "$":
            self.at += 1
            self.looks += 1
            return LOOK
        if mark in "^?*+{":
            raise Refused(f"the pattern has {mark!r} in an unsupported place")
        if mark == "[":
            end = self._bracket_end()
        elif mark == "\\":
            escape = ESCAPE.match(self.source, self.at)
            if escape is None:
                raise Refused(f"the pattern has the escape {self.source[self.at : self.at + 2]!r}")
            end = escape.end()
        else:
            end = self.at + 1
        one = _Class(self.source[self.at : end], caseless)
        if caseless and not CASELESS.fullmatch(one.source):
            raise Refused(f"the pattern ignores the case of {one.source!r}")  # may be several characters then
        literal = one.source[-1]
        if not one.holds(literal) and (len(one.source) == 1 or (len(one.source) == 2 and not literal.isalpha())):
            raise Refused(f"the pattern has {one.source!r}, which does not mean itself")
        self.at = end
        self.classes.append(one)
        self.follow.append(set())
        here = frozenset([len(self.classes) - 1])
        return RegexPart(False, here, here, False, here)

    def _bracket_end(self) -> int:
        """The end of the bracket expression that begins here; those within it are its own."""
        depth, at = 0, self.at
        while at < len(self.source):
            if self.source[at] == "[":
                depth += 1
                if self.source.startswith(("[]", "[^]"), at):
                    break  # a literal to some engines
            elif self.source[at] == "]":
                depth -= 1
                if depth == 0:
                    return at + 1
            elif self.source[at] == "\\":
                at += 1
            at += 1
        raise Refused("the pattern has brackets that are not understood")

    def _group(self, caseless: bool) -> RegexPart:
        kinds = ("(?:", "(?i:", "(?>", "(?=", "(?!")
        kind = next((kind for kind in kinds if self.source.startswith(kind, self.at)), "(")
        if kind == "(" and self.source.startswith("(?", self.at):
            raise Refused(f"the pattern has {self.source[self.at : self.at + 4]!r}")
        self.at += len(kind)
        before, looks = len(self.classes), self.looks
        part = self.alternatives(caseless or kind == "(?i:")
        if not self._take(")"):
            raise Refused("the pattern has an open group")
        if kind in ("(?=", "(?!"):
            if any(self.follow[before:]) or self.looks != looks:
                raise Refused("the pattern looks more than one character ahead")
            self.looked_at += self.classes[before:]
            del self.classes[before:], self.follow[before:]  # a match does not contain its lookahead
            self.looks += 1
            return LOOK
        # An atomic group does not backtrack, so it may not match the empty text.
        return part._replace(skip=False) if kind == "(?>" else part

    def _link(self, last: Positions, first: Positions) -> None:
        for p in last:
            self.follow[p] |= first

    def _take(self, mark: str) -> bool:
        found = self.source.startswith(mark, self.at)
        self.at += len(mark) * found
        return found

"""Proves from the description of a tokenizer that no token spans a cut.

A tokenizer is a chain: added tokens, normalizer, pre-tokenizer, model. For the two characters at the cut each stage
gives one of three answers. It *parts* them in every text; or it *joins* them in every text and passes their images to
the next stage; or neither is certain, and the proof fails. By induction over the joining stages, the input of a stage
on one side of the cut does not depend on the other side, except that the left side may see the first character on the
right. After the stage that parts them, the sides are separate pieces, and later stages work piece by piece.

- Normalizer: both characters keep their normal form in every context. For NFC, NFD, NFKC and NFKD this holds for a
  character over which no composition reaches back (UAX 15). The other normalizers map single characters, or are
  patterns as below.
- Regular expression: if a and b do not cross (see `palate.tokens.proof.regex`), matching restarts at b. Each character
  is then *always* in a match, *never*, or sometimes; two certain answers decide the split.
- Splits by character class depend on the two neighbours only: the code runs the stage on them.
- BPE over characters without a parting stage: a merge across the cut needs a vocabulary entry with the pair, and merges
  on the two sides are independent.

Stages that act at the ends of a text section (prefixes, stripping) are the caller's concern, who never cuts at the end
of a section. If every piece gets a prefix, the prefix of b must not depend on a (`_prefix`).
"""

import json
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from palate.prompt.item_tokens import is_item_token
from palate.tokens.proof.regex import Pattern, Refused

Pair = tuple[str, str]
Stage = Callable[[str, str], Pair | bool]
"""Maps the texts left and right of a cut to their images; True if parted, False if not proved.

Only the last character on the left and the first on the right are certain."""

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BY_NEIGHBOURS = {
    "Whitespace": "words and punctuation",
    "WhitespaceSplit": "white space",
    "BertPreTokenizer": "white space and punctuation",
    "Digits": "digits",
    "Punctuation": "punctuation",
    "CharDelimiterSplit": "a delimiter",
}


class Boundaries:
    """Decides whether a token can span a cut, for every text further left and right.

    The added tokens of `tokenizer` are at most runs of white space. `reason` says why no cut can be proved for it;
    None if cuts can.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.reason: str | None = None
        self._kinds: list[str] = []
        self._stages: list[Stage] = []
        self._added: list[str] = []
        try:
            self._read(tokenizer)
        except Refused as refused:
            self.reason = str(refused)
        self._decide = lru_cache(maxsize=1 << 16)(self._walk)
        self._near = cache(self._touching)

    def describe(self) -> str:
        """The stages that prove cuts, or the reason without any."""
        return self.reason or ", ".join(self._kinds)

    def safe(self, left: str, right: str) -> bool:
        """Whether no token spans the cut between `left` and `right`, for every text further out.

        The tokens on the right then do not depend on the text on the left, and those on the left depend only on the
        first character on the right.
        """
        if self.reason or not left or not right or not self._decide(left[-1], right[:2]):
            return False
        return not any(
            _ends(left, head) and (right.startswith(tail) or tail.startswith(right))
            for head, tail in self._near(left[-1], right[0])
        )

    def _walk(self, left: str, right: str) -> bool:
        for stage in self._stages:
            result = stage(left, right)
            if isinstance(result, bool):
                return result
            left, right = result
            if not left or not right:
                return False  # the neighbour is unknown: it lies further out
        return False

    def _touching(self, a: str, b: str) -> list[Pair]:
        """Added tokens that may begin at, end at or span a cut between a and b, as (left part, right part)."""
        return [
            (token[:k], token[k:])
            for token in self._added
            for k in range(len(token) + 1)
            if token[:k].endswith(a if k else "") and token[k:].startswith(b if k < len(token) else "")
        ]

    def ahead(self, left: str, right: str) -> tuple[tuple[bool, ...], ...]:
        """The properties of the character after a safe cut that the tokens on the left can depend on.

        Two right texts with equal properties give the same tokens on the left.
        """
        seen: list[tuple[bool, ...]] = []
        left, right = left[-1], right[:2]
        for stage in self._stages:
            if isinstance(stage, _Split):
                seen.append(stage.pattern.looked_at(right[0]))
            result = stage(left, right)
            if isinstance(result, bool) or not all(result):
                break
            left, right = result
        return tuple(seen)

    def _read(self, tokenizer: Tokenizer) -> None:
        model = tokenizer.model
        if tokenizer.truncation or tokenizer.padding:
            raise Refused("the tokenizer truncates or pads")
        if getattr(model, "dropout", None):
            raise Refused("the tokenizer merges at random (dropout)")
        normalizer, pre_tokenizer = _described(tokenizer.normalizer), _described(tokenizer.pre_tokenizer)
        steps = _flat(normalizer, "normalizers")
        self._stages += [_normalizer(step, first=n == 0) for n, step in enumerate(steps)]
        self._stages += self._read_added(tokenizer)
        byte_level = False
        for step in _flat(pre_tokenizer, "pretokenizers"):
            if byte_level:
                break  # pieces are bytes from here on, and no later stage parts them
            if self._kinds and (step.get("add_prefix_space") or step.get("prepend_scheme") == "always"):
                self._stages.append(_prefix(step.get("replacement", " ")))
            stage, kind = _pre_tokenizer(step)
            self._stages.append(stage)
            self._kinds += [kind] if kind and kind not in self._kinds else []
            byte_level = step["type"] == "ByteLevel"
        if byte_level:
            self._stages.append(lambda _a, _b: False)
        elif _merges_characters(model):
            self._stages.append(_by_vocabulary(tokenizer.get_vocab(with_added_tokens=False)))
            self._kinds.append("no vocabulary entry spans the cut")
        if not self._kinds:
            kind = f"{'byte-level ' * byte_level}{type(model).__name__}"
            raise Refused(f"no pre-tokenizer splits the text before the {kind}")
        self._kinds += ["byte-level"] * byte_level

    def _read_added(self, tokenizer: Tokenizer) -> list[Stage]:
        normalized = []
        for token in tokenizer.get_added_tokens_decoder().values():
            if is_item_token(token.content):
                continue  # a field is a whole one, and no other text has its brackets: no cut lies in one
            if token.single_word or token.lstrip or token.rstrip:
                raise Refused(f"the added token {token.content!r} matches text beside it")
            if token.normalized and tokenizer.normalizer:
                normalized.append(tokenizer.normalizer.normalize_str(token.content))
            else:
                self._added.append(token.content)

        # Only two characters of the normal form are known: no such token may begin, end or lie there.
        def stage(left: str, right: str) -> Pair | bool:
            a, b = left[-1], right[0]
            clear = not any(token[-1:] == a or token[:1] == b or a + b in token for token in normalized)
            return clear and (left, right)

        return [stage] if normalized else []


def _ends(left: str, head: str) -> bool:
    return left.endswith(head) or head.endswith(left)


def _described(component: Any) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer as in `tokenizer.json`; does not serialize the vocabulary."""
    if component is None:
        return None
    try:
        state: dict[str, Any] = json.loads(component.__getstate__())
    except Exception as error:  # a component in Python has no state
        raise Refused(f"unsupported component {type(component).__name__}") from error
    return state


def _flat(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return [s for one in step[inner] for s in _flat(one, inner)] if step["type"] == "Sequence" else [step]


def _build(what: str, step: dict[str, Any]) -> Any:
    """The normalizer or pre-tokenizer that `step` describes."""
    empty = json.loads(Tokenizer.from_str('{"model": {"type": "BPE", "vocab": {}, "merges": []}}').to_str())
    return getattr(Tokenizer.from_str(json.dumps({**empty, what: step})), what)


# --- normalizers


def _normalizer(step: dict[str, Any], first: bool) -> Stage:
    kind = step["type"]
    if kind in ("NFC", "NFKC", "NFD", "NFKD", "BertNormalizer"):
        return _unicode_form(_build("normalizer", step), composes=kind in ("NFC", "NFKC"), first=first)
    if kind == "Replace":
        return _replace(_pattern(step["pattern"]), step["content"])
    if kind == "Prepend":
        return lambda left, right: (left, right)
    if kind == "Strip":
        return lambda left, right: not (left[-1].isspace() or right[0].isspace()) and (left, right)
    if kind in ("Lowercase", "StripAccents", "Nmt"):
        one = _build("normalizer", step).normalize_str
        return lambda left, right: (one(left[-1]), one(right[0]))
    raise Refused(f"unsupported normalizer {kind}")


def _unicode_form(normalizer: Any, composes: bool, first: bool) -> Stage:
    def stage(left: str, right: str) -> Pair | bool:
        a, b = left[-1], right[0]
        if not (inert(a) and inert(b)):
            return False
        # A mark after b may still change b. Only the first stage sees the original text after b.
        if composes and not (stable(b) or (first and inert(right[1:2]))):
            return False
        return normalizer.normalize_str(a), normalizer.normalize_str(b)

    return stage


def inert(c: str) -> bool:
    """Whether a character is a boundary of every normal form: it never composes with the text before it.

    Beyond the Latin letters, marks, conjoining jamo and a few letters of recent scripts do compose.
    """
    return bool(c) and all(
        d < "\u0300"
        or (
            unicodedata.category(d)[0] in "LNPSZ"
            and not unicodedata.combining(d)
            and not "\u1160" <= d <= "\u11ff"
            and not (d > "\uffff" and unicodedata.category(d) == "Lo")
        )
        for d in (c, unicodedata.normalize("NFKD", c)[0])
    )


def stable(c: str) -> bool:
    """Whether a character composes with no character after it."""
    return all(
        unicodedata.category(d)[0] in "PZ" or d.isspace() or d.isdecimal() for d in c + unicodedata.normalize("NFKC", c)
    )


def _replace(pattern: Pattern, content: str) -> Stage:
    def edge(c: str, at: int) -> str:
        if pattern.never(c) or content[at:][:1] == c:
            return c
        return content[at:][:1] if pattern.one_wide and pattern.always(c) else ""

    return lambda left, right: not pattern.cross(left[-1], right[0]) and (edge(left[-1], -1), edge(right[0], 0))


# --- pre-tokenizers


def _pre_tokenizer(step: dict[str, Any]) -> tuple[Stage, str]:
    """A stage, and the kind of its splits (empty if it never splits)."""
    kind = step["type"]
    if kind == "ByteLevel":
        if not step["use_regex"]:
            return (lambda left, right: (left, right)), ""
        return _Split(Pattern(GPT2), "Isolated"), "regex split"
    if kind == "Split":
        if step["invert"] and step["behavior"] not in ("Isolated", "Removed"):
            raise Refused("unsupported inverted split")
        return _Split(_pattern(step["pattern"]), step["behavior"]), "regex split"
    if kind == "Metaspace":
        return _metaspace(step["replacement"], step["split"]), "Metaspace" if step["split"] else ""
    if kind in BY_NEIGHBOURS:
        return _by_neighbours(_build("pre_tokenizer", step)), f"split at {BY_NEIGHBOURS[kind]}"
    raise Refused(f"unsupported pre-tokenizer {kind}")


def _pattern(pattern: dict[str, str]) -> Pattern:
    if "String" in pattern:
        return Pattern("".join(f"\\{c}" if c in r".\+*?()|[]{}^$" else c for c in pattern["String"]))
    return Pattern(pattern["Regex"])


class _Split:
    """A split by a regular expression: the only kind of stage that can look ahead."""

    def __init__(self, pattern: Pattern, behavior: str) -> None:
        self.pattern, self.behavior = pattern, behavior

    def __call__(self, left: str, right: str) -> Pair | bool:
        a, b = left[-1], right[0]
        if self.pattern.cross(a, b):
            return False
        always = self.pattern.always(a), self.pattern.always(b)
        known = tuple(is_always or self.pattern.never(c) for is_always, c in zip(always, (a, b), strict=True))
        parted, sure = {
            "Isolated": (any(always), any(always)),
            "Removed": (any(always), any(always)),
            "MergedWithPrevious": (always[0], always[0]),
            "MergedWithNext": (always[1], always[1]),
            "Contiguous": (always[0] != always[1], False),
        }[self.behavior]
        if sure or all(known):
            return parted or (a, b)
        return False


def _metaspace(mark: str, split: bool) -> Stage:
    def stage(left: str, right: str) -> Pair | bool:
        a, b = left[-1].replace(" ", mark), right[0].replace(" ", mark)
        return (split and b == mark) or (a, b)

    return stage


def _prefix(mark: str) -> Stage:
    """The check before a stage that adds `mark` to every piece without one, after an earlier split.

    Without the check, the mark of b would depend on the stage that parts b from a.
    """
    return lambda left, right: right[0] in (" ", mark) and (left, right)


def _by_neighbours(pre_tokenizer: Any) -> Stage:
    """A split that depends on the two neighbouring characters only."""

    def stage(left: str, right: str) -> Pair | bool:
        a, b = left[-1], right[0]
        pieces = pre_tokenizer.pre_tokenize_str(a + b)
        return all(end - begin < 2 for _, (begin, end) in pieces) or (a, b)

    return stage


# --- models


def _merges_characters(model: Any) -> bool:
    affixes = isinstance(model, BPE) and (model.continuing_subword_prefix or model.end_of_word_suffix)
    return isinstance(model, BPE) and not affixes and not model.ignore_merges


def _by_vocabulary(vocabulary: dict[str, int]) -> Stage:
    @cache
    def adjacent() -> set[str]:
        return {entry[i : i + 2] for entry in vocabulary for i in range(len(entry) - 1)}

    # Unknown-token fusing or byte fallback may join a character without an entry to others.
    return lambda left, right: (
        left[-1] in vocabulary and right[0] in vocabulary and left[-1] + right[0] not in adjacent()
    )

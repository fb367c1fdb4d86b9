"""Read the tables for composing samples: one word for each rating, and the fragments.

They are a folder of NumPy files that any number of processes map into memory. Samples whose composition is not proved
exact are tokenized whole, once, into another folder. `palate.tokens.build_tables` writes both.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.prompt.spec import Of, PromptSpec
from palate.prompt.wording import Codes, Wording
from palate.store.artifacts import reading
from palate.tokens.fragments import (
    CONTEXT,
    ITEM,
    LABEL,
    OVERREAD,
    RATING,
    SIGNAL_PLACES,
    WORD_PLACES,
    Fragments,
    Ints,
    Longs,
    words_of,
)

ARRAYS = ("tokens", "start", "length", "steps", "first", "response")
CHUNK = 1000
"""Samples in a batch that is tokenized whole."""


@dataclass(frozen=True)
class Plain:
    """Samples of a split that were tokenized whole, because their composition is not proved exact.

    `sample` (p,) int64 are their numbers in the split, ascending. The ids of the k-th are
    `tokens[start[k] : start[k + 1]]`; the last `response[k]` of these are the response.
    """

    sample: Longs
    start: Longs
    tokens: Ints
    response: Ints

    @classmethod
    def open(cls, folder: Path) -> "Plain":
        """Map the files of `write_plain` into memory."""
        return cls(*(mapped(folder / f"{field.name}.npy") for field in fields(cls)))

    @classmethod
    def none(cls) -> "Plain":
        """An empty set of samples."""
        longs, ints = read_only(np.zeros(1, np.int64)), read_only(np.zeros(0, np.int32))
        return cls(longs[:0], longs, ints, ints)


@dataclass(frozen=True)
class Tables:
    """The files of `build_tables`, mapped into memory.

    `word` (timeline rows, then sampled negatives) int64 packs the codes of item, rating and context and the label, see
    `palate.tokens.fragments`; if the prompt names signals, as many words of signals follow, and of users if it names
    their fields beside other signals. `fragments` is None if no composition is proved; `reason` then has the reason.
    """

    folder: Path
    meta: dict[str, Any]
    word: Longs
    fragments: Fragments | None

    @property
    def reason(self) -> str | None:
        """Why no sample can be composed with this tokenizer and prompt; None if samples can be composed."""
        reason: str | None = self.meta["reason"]
        return reason

    @property
    def history_len(self) -> int:
        """Items in a history."""
        return int(self.meta["history_len"])

    @cached_property
    def prompt(self) -> PromptSpec:
        """The tables' prompt."""
        return PromptSpec.model_validate(self.meta["prompt"])

    @cached_property
    def wording(self) -> Wording:
        """The texts of the words' codes."""
        return Wording.open(self.folder)

    @cached_property
    def users(self) -> Longs:
        """The first timeline row of each user, ascending, (u,) int64."""
        return mapped(self.folder / "users.npy")

    def position(self, split: str) -> Longs:
        """The timeline row behind the history of each sample of a split, (n,) int64, ascending."""
        return mapped(self.folder / f"{split}.position.npy")

    def target(self, split: str) -> Longs:
        """The timeline row of each candidate of a split, (n,) int64: the position, except for sampled negatives."""
        stored = self.folder / f"{split}.target.npy"
        return mapped(stored) if stored.is_file() else self.position(split)

    def items(self, split: str) -> Longs:
        """The number of history items of each sample of a split, (n,) int64, read-only."""
        stored = self.folder / f"{split}.items.npy"
        if stored.is_file():
            return mapped(stored)
        return np.broadcast_to(np.int64(self.history_len), self.position(split).shape)

    def lengths(self, split: str) -> Ints:
        """The lengths of a split's samples before truncation, (n,) int32; 0 for samples that are tokenized whole."""
        return mapped(self.folder / f"{split}.length.npy")

    def labels(self, split: str, sample: Longs) -> Longs:
        """The labels of the samples with these numbers in the split, (k,) int64: 1 for a Yes."""
        return code_of(self.word[self.target(split)[sample]], LABEL)

    def unproved(self, split: str) -> Longs:
        """The numbers of the split's samples that cannot be composed."""
        return np.flatnonzero(self.lengths(split) == 0)

    def codes(self, of: Of) -> int:
        """The number of items, ratings or contexts."""
        return int(self.meta["codes"][of])

    def candidate_line(self, row: int) -> str:
        """The line of the candidate at a timeline row."""
        codes = dict(codes_of(int(self.word[row])))
        for name, begin in begins_of(self.word, self.prompt.signals).items():
            codes[name] = int(code_of(self.word[row + begin], SIGNAL_PLACES[name]))
        return self.wording.candidate_line(codes)

    def examples(self, positions: Longs, items: int | Longs, targets: Longs | None = None) -> list[dict[str, Any]]:
        """Alpaca examples of the samples at some timeline rows, with `items` history items (each).

        `targets` are the rows of the candidates; None: those of `positions`.
        """
        examples = []
        sizes = np.broadcast_to(items, positions.shape).tolist()
        for row, m, target in zip(positions, sizes, positions if targets is None else targets, strict=True):
            past, liked = self.word[row - m : row].tolist(), code_of(self.word[target], LABEL)
            history = "\n".join(self.wording.history_line(codes_of(word), n) for n, word in enumerate(past, start=1))
            answer = self.prompt.label(bool(liked))
            examples.append(self.prompt.alpaca(history, self.candidate_line(target), answer, m))
        return examples

    @classmethod
    def open(cls, folder: Path) -> "Tables":
        """Map tables into memory."""
        with reading(folder / "tables.json"):
            meta = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
        arrays = None
        if meta["reason"] is None:
            loaded = {name: mapped(folder / f"{name}.npy") for name in ARRAYS}
            arrays = Fragments(**loaded, lead=meta["lead"], unproved=meta["unproved"])
        return cls(folder, meta, mapped(folder / "word.npy"), arrays)


def sample_lengths(
    word: Longs, fragments: Fragments, position: Longs, items: int | Longs, target: Longs | None = None
) -> Ints:
    """Lengths of samples with `items` history items (each), without composing them; (n,) int32.

    `target` are the rows of the candidates; None: those of `position`.
    """
    return prefix_and_length(word, fragments, position, position if target is None else target, items)[:, 1]


def prefix_and_length(word: Longs, fragments: Fragments, position: Longs, target: Longs, items: int | Longs) -> Ints:
    """The numbers of ids before the candidate, and of all ids, of samples; (n, 2) int32.

    The history is the `items` ratings before row `position`, the candidate is the item of row `target`.
    """
    from palate.tokens import kernel

    out = np.empty((position.size, 2), np.int32)
    program = np.ascontiguousarray(np.broadcast_to(np.asarray(items, np.int64), position.shape))
    word, position, target = read_only(word), read_only(position), read_only(target)
    steps, first, length = (read_only(a) for a in (fragments.steps, fragments.first, fragments.length))
    kernel.measure(word, position, target, program, steps, first, length, out)
    return out


def unproved_samples(
    word: Longs, position: Longs, items: int | Longs, fragments: Fragments | None, target: Longs | None = None
) -> NDArray[np.bool_]:
    """Whether each sample, with `items` history items (each), has a code without a proved fragment."""
    if fragments is None:
        return np.ones(position.size, bool)
    found = np.zeros(position.size, bool)
    history, rating, context = (fragments.unproved[name] for name in ("history", "rating", "context"))
    if history or rating or context:
        row = np.isin(code_of(word, ITEM), history) | np.isin(code_of(word, RATING), rating)
        row |= np.isin(code_of(word, CONTEXT), context)
        before = np.concatenate([[0], np.cumsum(row)])
        found |= before[position] > before[position - items]
    candidate = position if target is None else target
    for name, place in (("candidate", ITEM), ("candidate_context", CONTEXT)):
        if fragments.unproved[name]:
            found |= np.isin(code_of(word[candidate], place), fragments.unproved[name])
    for name, begin in begins_of(word, fragments.unproved).items():
        if fragments.unproved[name]:
            found |= np.isin(code_of(word[candidate + begin], SIGNAL_PLACES[name]), fragments.unproved[name])
    return found


def begins_of(word: Longs, signals: Collection[str]) -> dict[str, int]:
    """Where the words with the code of each signal begin; other names in `signals` are ignored."""
    words = words_of(signals)
    rows = word.size // (1 + max(words.values(), default=0))
    return {name: n * rows for name, n in words.items()}


def code_of(word: Longs, place: tuple[int, int]) -> Longs:
    """The code at a place (shift, mask) of each word."""
    shift, mask = place
    return (word >> shift) & mask


def codes_of(word: int) -> Codes:
    """The codes of item, rating and context in one word."""
    return {of: (word >> shift) & mask for of, (shift, mask) in WORD_PLACES.items()}


def mapped(path: Path) -> NDArray[Any]:
    """A file as a read-only array that shares its pages with every process that maps it."""
    with reading(path):
        if path.stat().st_size < 1 << 16:  # reading a small file is faster than mapping it
            return read_only(np.load(path))
        return np.asarray(np.load(path, mmap_mode="r"))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view of an array, so that the kernel sees one type for mapped and other arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


NO_FRAGMENTS = Fragments(
    tokens=read_only(np.zeros(OVERREAD, np.int32)),
    start=read_only(np.zeros(0, np.int64)),
    length=read_only(np.zeros(0, np.int32)),
    steps=read_only(np.zeros((0, 4), np.int64)),
    first=read_only(np.zeros(2, np.int64)),
    response=read_only(np.zeros(2, np.int32)),
    lead=0,
    unproved={},
)
"""Placeholder for tables without fragments."""

"""The tables that samples are composed from, as they are read: one word a rating, and the fragments.

A folder of NumPy files that any number of processes map into memory. What composition cannot be proved exact
for is tokenized the plain way, once, and lies beside it. `palate.tokens.build_tables` writes both.
"""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.prompt.spec import Of, PromptSpec
from palate.prompt.wording import Codes, Wording
from palate.tokens.fragments import CONTEXT, ITEM, LABEL, OVERREAD, PLACES, RATING, Fragments, Ints, Longs

ARRAYS = ("tokens", "start", "length", "steps", "first", "response")
CHUNK = 1000
"""Samples that are tokenized whole at a time."""


@dataclass(frozen=True)
class Plain:
    """Samples of a split that were tokenized whole, because no composition of them is proved exact.

    `sample` (p,) int64 are their numbers in the split, ascending; the ids of the k-th are
    `tokens[start[k] : start[k + 1]]`, the last `response[k]` of them the response.
    """

    sample: Longs
    start: Longs
    tokens: Ints
    response: Ints

    @classmethod
    def open(cls, folder: Path) -> "Plain":
        """Map what `write_plain` wrote."""
        return cls(*(mapped(folder / f"{field.name}.npy") for field in fields(cls)))

    @classmethod
    def none(cls) -> "Plain":
        """No such samples."""
        longs, ints = read_only(np.zeros(1, np.int64)), read_only(np.zeros(0, np.int32))
        return cls(longs[:0], longs, ints, ints)


@dataclass(frozen=True)
class Tables:
    """What `build_tables` wrote, mapped into memory.

    `word` (timeline rows,) int64 packs the codes of item, rating and context and the label, see
    `palate.tokens.fragments`.
    `fragments` is None where nothing is proved, `reason` then says why.
    """

    folder: Path
    meta: dict[str, Any]
    word: Longs
    fragments: Fragments | None

    @property
    def reason(self) -> str | None:
        """Why nothing can be composed with this tokenizer and prompt; None if it can."""
        reason: str | None = self.meta["reason"]
        return reason

    @property
    def history_len(self) -> int:
        """Items in a history."""
        return int(self.meta["history_len"])

    @cached_property
    def prompt(self) -> PromptSpec:
        """The prompt that the tables are of."""
        return PromptSpec.model_validate(self.meta["prompt"])

    @cached_property
    def wording(self) -> Wording:
        """What the words say."""
        return Wording.open(self.folder)

    @cached_property
    def users(self) -> Longs:
        """The timeline row at which each user begins, ascending, (u,) int64."""
        return mapped(self.folder / "users.npy")

    def position(self, split: str) -> Longs:
        """The timeline rows of a split's candidates, (n,) int64, ascending."""
        return mapped(self.folder / f"{split}.position.npy")

    def items(self, split: str) -> Longs:
        """How many history items each of a split's samples has, (n,) int64."""
        stored = self.folder / f"{split}.items.npy"
        if stored.is_file():
            return mapped(stored)
        return np.full(self.position(split).size, self.history_len)

    def lengths(self, split: str) -> Ints:
        """The lengths of a split's samples before any truncation, (n,) int32; 0 for those in `plain`."""
        return mapped(self.folder / f"{split}.length.npy")

    def labels(self, split: str, sample: Longs) -> Longs:
        """The labels of samples given by their numbers in the split, (k,) int64: 1 for a Yes."""
        return code_of(self.word[self.position(split)[sample]], LABEL)

    def unproved(self, split: str) -> Longs:
        """The numbers of the split's samples that cannot be composed."""
        return np.flatnonzero(self.lengths(split) == 0)

    def codes(self, of: Of) -> int:
        """How many items, ratings or contexts there are."""
        return int(self.meta["codes"][of])

    def examples(self, positions: Longs, items: int | Longs, targets: Longs | None = None) -> list[dict[str, Any]]:
        """Samples at some timeline rows as Alpaca examples, with so many history items (each).

        `targets` are the rows of their candidates where these are not the next in the timeline.
        """
        told = []
        sizes = np.broadcast_to(items, positions.shape).tolist()
        for row, m, target in zip(positions, sizes, positions if targets is None else targets, strict=True):
            past, asked = self.word[row - m : row].tolist(), int(self.word[target])
            lines = [self.wording.history_line(codes_of(word), n) for n, word in enumerate(past, start=1)]
            answer = self.prompt.label(bool(asked >> LABEL[0] & LABEL[1]))
            told.append(self.prompt.alpaca("\n".join(lines), self.wording.candidate_line(codes_of(asked)), answer, m))
        return told

    @classmethod
    def open(cls, folder: Path) -> "Tables":
        """Map tables into memory; no file is read whole."""
        meta = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
        arrays = None
        if meta["reason"] is None:
            loaded = {name: mapped(folder / f"{name}.npy") for name in ARRAYS}
            arrays = Fragments(**loaded, lead=meta["lead"], unproved=meta["unproved"])
        return cls(folder, meta, mapped(folder / "word.npy"), arrays)


def sample_lengths(word: Longs, fragments: Fragments, position: Longs, items: int | Longs) -> Ints:
    """Lengths of samples with `items` history items each, nothing composed; (n,) int32."""
    return parts(word, fragments, position, position, items)[:, 1]


def parts(word: Longs, fragments: Fragments, position: Longs, target: Longs, items: int | Longs) -> Ints:
    """Ids before the candidate, and all ids, of samples whose candidate is another than their history's next.

    The history are the `items` ratings before row `position`, the candidate is that of row `target`. Returns
    (n, 2) int32.
    """
    from palate.tokens import kernel

    out = np.empty((position.size, 2), np.int32)
    program = np.full(position.size, items, np.int64) if isinstance(items, int) else items
    word, position, target = read_only(word), read_only(position), read_only(target)
    steps, first, length = (read_only(a) for a in (fragments.steps, fragments.first, fragments.length))
    kernel.measure(word, position, target, program, steps, first, length, out)
    return out


def unproved_samples(
    word: Longs, position: Longs, items: int | Longs, fragments: Fragments | None, target: Longs | None = None
) -> NDArray[np.bool_]:
    """Which samples, of so many history items (each), show something that no fragment serves."""
    if fragments is None:
        return np.ones(position.size, bool)
    found = np.zeros(position.size, bool)
    history, rating, context = (fragments.unproved[name] for name in ("history", "rating", "context"))
    if history or rating or context:
        row = np.isin(code_of(word, ITEM), history) | np.isin(code_of(word, RATING), rating)
        row |= np.isin(code_of(word, CONTEXT), context)
        before = np.concatenate([[0], np.cumsum(row)])
        found |= before[position] > before[position - items]
    asked = position if target is None else target
    for name, place in (("candidate", ITEM), ("candidate_context", CONTEXT)):
        if fragments.unproved[name]:
            found |= np.isin(code_of(word[asked], place), fragments.unproved[name])
    return found


def code_of(word: Longs, place: tuple[int, int]) -> Longs:
    """What words hold at a place: shift and mask."""
    shift, mask = place
    return (word >> shift) & mask


def codes_of(word: int) -> Codes:
    """The codes that one word holds."""
    return {of: (word >> shift) & mask for of, (shift, mask) in PLACES.items()}


def mapped(path: Path) -> NDArray[Any]:
    """A file as a read-only array that shares its pages with every process that maps it."""
    if path.stat().st_size < 1 << 16:  # a mapping costs more than reading so little
        return read_only(np.load(path))
    return np.asarray(np.load(path, mmap_mode="r"))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, not to be written to: one type for the kernel, whether mapped or not."""
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
"""Stands where nothing is composed."""

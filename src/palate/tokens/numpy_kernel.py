"""The loops of `palate.tokens.kernel` that training and scoring need, in NumPy: for machines without numba.

Same arguments, same results. Samples go by whole blocks, all steps of a block at once.
"""

from collections.abc import Iterator

import numpy as np

from palate.tokens.fragments import LEFT, RIGHT, Ints, Longs

IGNORED = -100
BLOCK = 1024
"""Samples at a time: some megabytes of intermediate arrays."""


def measure(
    word: Longs, position: Longs, target: Longs, program: Longs, steps: Longs, first: Longs, length: Ints, out: Ints
) -> None:
    """As `kernel.measure`."""
    for rows, own in _alike(program, steps, first):
        size = length[_fragments(word, position[rows], target[rows], own)]
        before = np.cumsum(size, axis=1) - size
        asks = np.flatnonzero((own[:, 0] >= 0) & (own[:, 3] != 0))
        out[rows, 0] = before[:, asks[0]] if asks.size else 0
        out[rows, 1] = size.sum(axis=1)


def compose(
    word: Longs, position: Longs, target: Longs, program: Longs, plain: Longs, steps: Longs, first: Longs, start: Longs,
    length: Ints, tokens: Ints, plain_start: Longs, plain_tokens: Ints, whole: Ints, kept: Ints, side: int, out: Ints,
    at: Longs,
) -> None:  # fmt: skip
    """As `kernel.compose`."""
    composed = np.flatnonzero(plain < 0)
    for among, own in _alike(program[composed], steps, first):
        rows = composed[among]
        f = _fragments(word, position[rows], target[rows], own)
        size = length[f]
        ids = tokens[_ranges(start[f].ravel(), size.ravel())]
        begin = np.cumsum(size.sum(axis=1)) - size.sum(axis=1)
        _cut(ids, begin, whole[rows], kept[rows], side, out, at[rows])
    rest = np.flatnonzero(plain >= 0)
    if rest.size:
        _cut(plain_tokens, plain_start[plain[rest]], whole[rest], kept[rest], side, out, at[rest])


def label(ids: Ints, at: Longs, kept: Longs, response: Ints, answer: int, out: Ints) -> None:
    """As `kernel.label`."""
    end = at[: kept.size] + kept
    if kept.size:
        out[at[0] : end[-1]] = IGNORED
    place = _ranges(end - response, response) if answer < 0 else end - response + answer
    out[place] = ids[place]


def _alike(program: Longs, steps: Longs, first: Longs) -> Iterator[tuple[Longs, Longs]]:
    """The samples of each program, a block at a time, with the program's steps."""
    for m in np.unique(program):
        rows = np.flatnonzero(program == m)
        for begin in range(0, rows.size, BLOCK):
            yield rows[begin : begin + BLOCK], steps[first[m] : first[m + 1]]


def _fragments(word: Longs, position: Longs, target: Longs, steps: Longs) -> Longs:
    """Which fragments n samples of one program are made of, (n, s)."""
    row, base, shift, mask = steps.T
    place = np.where(row < 0, position[:, None] + row, target[:, None])
    found: Longs = base + (word[place] >> shift & mask)
    return found


def _cut(ids: Ints, begin: Longs, whole: Ints, kept: Ints, side: int, out: Ints, at: Longs) -> None:
    """Copy `kept` of the `whole` ids from `begin` on, without those that the side says, to `out` from `at` on."""
    head = np.zeros_like(kept) if side == LEFT else kept if side == RIGHT else kept // 2
    for source, to, size in ((begin, at, head), (begin + whole - (kept - head), at + head, kept - head)):
        out[_ranges(to, size)] = ids[_ranges(source, size)]


def _ranges(begin: Longs, size: Ints | Longs) -> Longs:
    """The numbers `begin[i]` to `begin[i] + size[i]`, one range after the other."""
    ends = np.cumsum(size, dtype=np.int64)
    places: Longs = np.arange(ends[-1] if ends.size else 0) + np.repeat(begin - (ends - size), size)
    return places

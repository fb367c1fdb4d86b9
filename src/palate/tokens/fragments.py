"""Fragments: every distinct piece of a prompt as token ids, and the program that joins them to a sample.

A fragment is tokenized in its true context and taken out at its cuts, which are proved (`palate.tokens.proof.cuts`).
The program of a prompt with m history items is a list of steps; a step says where the sample's next fragment
is: `base + ((word >> shift) & mask)`, `word` being the timeline row `position + row`, which packs the rated
item, the rating, the item's context and the label. Constant text beside a rating or a context is joined to it
beforehand, once for each list number, so that a history line is two fragments.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

ITEM, RATING, CONTEXT, LABEL = (0, (1 << 28) - 1), (28, (1 << 18) - 1), (46, (1 << 16) - 1), (62, 1)
"""Where a word holds the codes of the item, the rating and the context, and the label: shift and mask."""
PLACES = {"item": ITEM, "rating": RATING, "context": CONTEXT}
NOTHING = (0, 0)
IGNORED = -100
"""The label that PyTorch's cross entropy leaves out."""
OVERREAD = 16
"""Ids that may be read beyond a fragment's end, and written beyond a sample's: the kernel copies whole blocks."""


@dataclass(frozen=True)
class Fragments:
    """Fragment f is `tokens[start[f] : start[f] + length[f]]`; steps `first[m]` to `first[m + 1]` are program m.

    `tokens` (t + OVERREAD,) int32, `start` (f,) int64, `length` (f,) int32; `steps` (s, 4) int64: row, base,
    shift, mask; `first` (history_len + 2,) int64. `response` (2,) int32 is the length of the trained end of
    a No and a Yes sample, and `lead` how many of its tokens come before the decision token. `unproved` are the
    items (codes) that no fragment serves as a history item, as the candidate, the ratings, and the contexts in both.
    """

    tokens: NDArray[np.int32]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    steps: NDArray[np.int64]
    first: NDArray[np.int64]
    response: NDArray[np.int32]
    lead: int
    unproved: dict[str, list[int]]

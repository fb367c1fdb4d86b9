"""Fragments: the token ids of every distinct piece of a prompt, and the programs that join them to samples.

A fragment is tokenized in its context and cut out at proved cuts (`palate.tokens.proof.cuts`). The program of a prompt
with m history items is a list of steps. A step gives the number of the sample's next fragment: `base + ((word >> shift)
& mask)`. Here `word` is that of the timeline row `position + row`; it packs the rated item, the rating, the item's
context and the label. The constant text beside a rating or a context is joined to its fragments in advance, once for
each line number, so a history line is two fragments.

If the prompt names signals, a second word of each row packs the codes of its signals, and another one that of the user.
These words follow those of all rows, so the `row` of a signal's step is the number of timeline rows, or twice that.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

ITEM, RATING, CONTEXT, LABEL = (0, (1 << 28) - 1), (28, (1 << 18) - 1), (46, (1 << 16) - 1), (62, 1)
"""The bits of a word with the codes of the item, the rating and the context, and with the label: (shift, mask)."""
WORD_PLACES = {"item": ITEM, "rating": RATING, "context": CONTEXT}
SIGNAL_PLACES = {
    "estimate": (0, (1 << 7) - 1),
    "neighbour_mean": (7, (1 << 11) - 1),
    "user_deviation": (18, (1 << 11) - 1),
    "item_deviation": (29, (1 << 11) - 1),
    "neighbour": (40, (1 << 23) - 1),
    "user": (0, (1 << 31) - 1),
}
"""The bits of a further word (see `words_of`) with the codes of a candidate's signals."""
PLACES = {**WORD_PLACES, **SIGNAL_PLACES}
NOTHING = (0, 0)
IGNORED = -100
"""The label that PyTorch's cross entropy ignores."""
OVERREAD = 16
"""Ids that the kernel may read after a fragment's end and write after a sample's end, since it copies whole blocks."""


@dataclass(frozen=True)
class Fragments:
    """Fragment f is `tokens[start[f] : start[f] + length[f]]`; steps `first[m]` to `first[m + 1]` are program m.

    `tokens` (t + OVERREAD,) int32, `start` (f,) int64, `length` (f,) int32; `steps` (s, 4) int64: row, base,
    shift, mask; `first` (history_len + 2,) int64. `response` (2,) int32 is the response length of a No and a Yes
    sample, and `lead` the number of its tokens before the decision token. `unproved` are the codes without a proved
    fragment: of items as history item and as candidate, of ratings, of contexts in both, and of signals, if there are
    any.
    """

    tokens: NDArray[np.int32]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    steps: NDArray[np.int64]
    first: NDArray[np.int64]
    response: NDArray[np.int32]
    lead: int
    unproved: dict[str, list[int]]


def words_of(signals: Collection[str]) -> dict[str, int]:
    """Which word of a timeline row has the code of each of these signals, the only ones of a prompt.

    Word 0 is that of the item; the user's follows the one of all other signals, if there are any.
    """
    others = [name for name in SIGNAL_PLACES if name in signals and name != "user"]
    return {**dict.fromkeys(others, 1), **({"user": 1 + bool(others)} if "user" in signals else {})}

"""The cut: what a sequence longer than the cutoff loses. Training, scoring, ranking and `palate lengths` call it.

Each sequence is cut by itself, so that what is left of it depends on no other.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.tokens.fragments import Ints, Longs

Strategy = Literal["left", "right", "middle", "history", "drop", "error"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

Shorter = Callable[[Sequence[int], int], list[list[int]]]
"""The prompts of some rows that show this number of the latest history items."""


def ends(strategy: str, cutoff: int) -> tuple[int, int]:
    """How many tokens a sequence that is cut keeps of its beginning and of its end."""
    head = {"right": cutoff, "middle": cutoff // 2}.get(strategy, 0)
    return head, cutoff - head


def cut_ids(ids: list[int], head: int, tail: int) -> list[int]:
    """A sequence of ids, or of their labels, without what lies between its ends if it is longer than both."""
    return ids if len(ids) <= head + tail else ids[:head] + ids[len(ids) - tail :]


def drop_items(items: Longs, cutoff: int, measure: Callable[[Longs, Longs], Ints | Longs]) -> tuple[Longs, Ints]:
    """Leave sequences that are too long the most history items with which they fit.

    `items` (n,) are their history items now; `measure(rows, items)` gives the lengths of some of them with so many
    items each. Returns the items and the lengths then, 0 where a sequence does not fit without a history either.
    """
    items, kept, left = items.copy(), np.zeros(items.size, np.int32), np.arange(items.size)
    for most in range(int(items.max(initial=0)) - 1, -1, -1):
        if not left.size:
            break
        tried = np.minimum(items[left], most)
        length = measure(left, tried)
        fits = length <= cutoff
        items[left[fits]], kept[left[fits]] = tried[fits], length[fits]
        left = left[~fits]
    return items, kept


def cut_prompts(
    prompts: Sequence[list[int]],
    chat: Chat,
    cutoff_len: int,
    truncation: str = "left",
    shorter: tuple[int, Shorter] | None = None,
) -> list[list[int]]:
    """Prompts (ids up to the decision token) that are, with an answer, `cutoff_len` tokens at most.

    `truncation` is that of a config. `history` needs `shorter`: how many items are shown, and what makes prompts with
    fewer. What training drops is scored, cut on the left. Raises `InputError` where a prompt is too long and may not
    be cut, or where the cut would reach the answer.
    """
    answer = 1 + len(chat.decision.tail)
    most = cutoff_len - answer
    long = [n for n, ids in enumerate(prompts) if len(ids) > most]
    found = list(prompts)
    if not long:
        return found
    if truncation in ("right", "error") or (truncation == "history" and shorter is None):
        why = "; only a ranking has items to drop" if truncation == "history" else ""
        raise InputError(
            f"a prompt is {max(map(len, prompts)) + answer} tokens with its answer, tokens.cutoff_len is {cutoff_len}: "
            f"expected all to fit with tokens.truncation={truncation}{why}",
            "tokens.cutoff_len",
        )
    if truncation == "history" and shorter is not None:
        shown, write = shorter

        def measure(rows: Longs, items: Longs) -> Ints:
            some = [long[row] for row in rows]
            again = write(some, int(items[0]))
            for n, ids in zip(some, again, strict=True):
                found[n] = ids
            return np.array([len(ids) for ids in again], np.int32)

        _, kept = drop_items(np.full(len(long), shown), most, measure)
        if not kept.all():
            raise InputError(
                f"{(kept == 0).sum():,} prompts are too long without any history, expected a higher one",
                "tokens.cutoff_len",
            )
        return found
    head, tail = ends(truncation, cutoff_len)
    if tail < answer + len(chat.decision.lead):
        raise InputError(f"{cutoff_len} would cut into the answer", "tokens.cutoff_len")
    return [cut_ids(ids, head, tail - answer) for ids in found]

"""Cut prompts to the cutoff: the one rule for samples that are scored, candidates that are ranked, and conversations.

Each prompt is cut by itself, as a sample of its own is in training, so that its score depends on no other prompt.
"""

from collections.abc import Callable, Sequence

from palate.errors import InputError
from palate.prompt.chat import Chat

Shorter = Callable[[Sequence[int], int], list[list[int]]]
"""The prompts of some rows that show this number of the latest history items."""


def cut(
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
    most = cutoff_len - 1 - len(chat.decision.tail)
    long = [n for n, ids in enumerate(prompts) if len(ids) > most]
    found = list(prompts)
    if not long:
        return found
    if truncation in ("right", "error") or (truncation == "history" and shorter is None):
        whole = max(map(len, prompts)) + cutoff_len - most
        why = "; only a ranking has items to drop" if truncation == "history" else ""
        raise InputError(
            f"a prompt is {whole} tokens with its answer, tokens.cutoff_len is {cutoff_len}: "
            f"expected all to fit with tokens.truncation={truncation}{why}",
            "tokens.cutoff_len",
        )
    if truncation == "history" and shorter is not None:
        _drop_items(found, long, most, *shorter)
        return found
    head = cutoff_len // 2 if truncation == "middle" else 0
    if most < head + len(chat.decision.lead):
        raise InputError(f"{cutoff_len} would cut into the answer", "tokens.cutoff_len")
    for n in long:
        ids = found[n]
        found[n] = ids[:head] + ids[len(ids) - (most - head) :]
    return found


def _drop_items(prompts: list[list[int]], long: list[int], most: int, items: int, shorter: Shorter) -> None:
    """Replace the prompts `long` by those that show as many of the latest items as fit."""
    for shown in range(items - 1, -1, -1):
        again = dict(zip(long, shorter(long, shown), strict=True))
        for n, ids in again.items():
            if len(ids) <= most:
                prompts[n] = ids
        long = [n for n, ids in again.items() if len(ids) > most]
        if not long:
            return
    raise InputError(
        f"{len(long):,} prompts are too long without any history, expected a higher one", "tokens.cutoff_len"
    )

"""Conversations that differ in one place, such as a candidate: what they share is tokenized once.

Their texts are cut twice, before and after that place, where `palate.tokens.proof.boundaries` proves that no token can
span the cut. The tokens of a whole text are then those of its three parts, and only the middle one is tokenized for
each. Where nothing is proved, or a text looks like a control token, whole texts are tokenized.
"""

from collections.abc import Sequence
from typing import Any

from palate.prompt.chat import Chat
from palate.prompt.messages import Message
from palate.tokens.proof.boundaries import Boundaries

AROUND = 4
"""Characters of true text around a middle part when it is tokenized."""
REACH = 64
"""How far from that place a cut is looked for, in characters."""


def decision_prompts(chat: Chat, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """The same as `Chat.decision_prompts`, sooner where the conversations differ in one place only."""
    if len(conversations) < 3 or any(chat.imitates_control(m["content"]) for c in conversations for m in c):
        return chat.decision_prompts(conversations)
    texts = [chat.text([*messages, {"role": "assistant", "content": chat.yes}]) for messages in conversations]
    cuts = _cuts(texts, Boundaries(chat.untrimmed))
    if cuts is None:
        return chat.decision_prompts(conversations)
    begin, behind = cuts
    first = chat.decision_prompts(conversations[:1])[0]
    whole = chat.untrimmed.encode(texts[0], add_special_tokens=False)
    starts = [start for start, _ in whole.offsets]
    head = sum(start < begin for start in starts)
    tail = first[sum(start < len(texts[0]) - behind for start in starts) :]
    if first != whole.ids[: len(first)] or not tail:  # the second cut is not before the answer
        return chat.decision_prompts(conversations)
    middles = [text[begin - AROUND : len(text) - behind + AROUND] for text in texts]
    prompts = []
    for middle, encoding in zip(middles, chat.untrimmed.encode_batch(middles, add_special_tokens=False), strict=True):
        end = len(middle) - AROUND
        ids = [n for n, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if AROUND <= start < end]
        prompts.append(first[:head] + ids + tail)
    return prompts


def _cuts(texts: Sequence[str], proof: Boundaries) -> tuple[int, int] | None:
    """Where to cut texts, in characters from their beginnings and from their ends; None if nothing is proved.

    Both cuts are in what all texts share, with AROUND more characters of that on either side.
    """
    begin = common_prefix(texts)
    behind = min(common_prefix([text[::-1] for text in texts]), min(map(len, texts)) - begin)
    one = texts[0]
    before, after = one[:begin], one[len(one) - behind :]
    left = (n for n in range(begin - AROUND, max(AROUND, begin - REACH), -1) if proof.safe(before[:n], before[n:]))
    right = (n for n in range(AROUND, min(behind - AROUND, REACH)) if proof.safe(after[:n], after[n:]))
    first, second = next(left, None), next(right, None)
    return None if first is None or second is None else (first, behind - second)


def common_prefix(sequences: Sequence[Any]) -> int:
    """How long the beginning is that all sequences, texts or lists of ids, have in common."""
    if not sequences:
        return 0
    # In the order of the alphabet the first and the last have in common what all have.
    first, last = min(sequences), max(sequences)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))

"""Packed: prompts one after the other in one sequence, without padding; who may see whom is said beside it.

A prompt is a prefix and the blocks behind it, one for each target. A token sees what stands before it in its own
block and in the prefix of its own prompt, and nothing else: each block sees what it would see alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
PREFIX = -1


@dataclass(frozen=True)
class Packed:
    """The tokens of one forward pass: p prompts with n targets, t tokens, r of them with something to learn.

    `input_ids` (t,) int32. Block i is `input_ids[block[i] : block_end[i]]`, both (n,) int64, its prompt is
    `prompt_of[i]`, and the prefix of prompt k is `input_ids[prefix[k] : prefix_end[k]]`, both (p,) int64, followed by
    its blocks. A prompt of one target has no prefix. `position_ids` (t,) int64 go on behind the prefix in every
    block.

    The model predicts token `targets[j]` (int32) at position `at[j]` (int64), both (r,); `decision` (n,) int64 says
    which of the r is each sample's answer, `liked` (n,) bool what it is, `samples` (n,) int64 which sample it is.
    """

    input_ids: Ints
    position_ids: Longs
    prefix: Longs
    prefix_end: Longs
    block: Longs
    block_end: Longs
    prompt_of: Longs
    at: Longs
    targets: Ints
    decision: Longs
    liked: NDArray[np.bool_]
    samples: Longs

    def __len__(self) -> int:
        """The number of tokens."""
        return int(self.input_ids.size)

    def owners(self) -> tuple[Longs, Longs]:
        """The prompt and the block that each token is of, both (t,) int64; `PREFIX` for those in no block."""
        prompt, block = np.empty(len(self), np.int64), np.full(len(self), PREFIX, np.int64)
        for k, (begin, end) in enumerate(zip(self.prefix.tolist(), self.prefix_end.tolist(), strict=True)):
            prompt[begin:end] = k
        for i, (begin, end) in enumerate(zip(self.block.tolist(), self.block_end.tolist(), strict=True)):
            prompt[begin:end], block[begin:end] = self.prompt_of[i], i
        return prompt, block

    def mask(self) -> NDArray[np.bool_]:
        """Which token (row) sees which (column), (t, t) bool: the definition that every attention must keep."""
        prompt, block = self.owners()
        earlier = np.tri(len(self), dtype=bool)
        mine = (prompt[:, None] == prompt) & ((block == PREFIX) | (block[:, None] == block))
        return np.asarray(earlier & mine)

    def alone(self, i: int) -> "Packed":
        """The sequence of target i by itself, prefix and block."""
        k = self.prompt_of[i]
        rows = np.r_[self.prefix[k] : self.prefix_end[k], self.block[i] : self.block_end[i]]
        mine = (self.at >= self.block[i]) & (self.at < self.block_end[i])
        zero, end = np.zeros(1, np.int64), np.array([rows.size])
        shift = rows.size - self.block_end[i]
        return Packed(
            self.input_ids[rows], self.position_ids[rows], zero, zero, zero, end, zero,
            self.at[mine] + shift, self.targets[mine], self.decision[[i]] - np.flatnonzero(mine)[0],
            self.liked[[i]], self.samples[[i]],
        )  # fmt: skip


def ranges(begin: Longs, size: Longs) -> Longs:
    """The numbers from `begin[i]` to `begin[i] + size[i]`, one range after the other."""
    return np.asarray(np.arange(size.sum()) + np.repeat(begin - (np.cumsum(size) - size), size))


def pack(ids: Ints, length: Longs, shared: Longs, first: Longs, response: Longs, lead: int, answer_only: bool,
         liked: NDArray[np.bool_], samples: Longs) -> Packed:  # fmt: skip
    """Join whole sequences to prompts.

    `ids` holds n sequences one after the other, of `length` (n,) tokens, the last `response` (n,) of them the
    response; sequences `first[k]` to `first[k + 1]` are one prompt and begin with the same `shared[k]` (p,) tokens.
    Tokens behind the last that has something to predict are left out.
    """
    n, count = length.size, np.diff(first)
    of = np.repeat(np.arange(count.size), count)
    head = np.zeros(n, np.int64)  # ids that a sequence owes to its prompt's first
    head[:] = np.where(count == 1, 0, shared)[of]
    trained = np.ones(n, np.int64) if answer_only else response
    last = length - response + (lead if answer_only else response - 1)  # where in it the last trained token is
    leads = head.copy()
    leads[first[:-1]] = 0
    size = last - leads  # of what is kept of each sequence
    start = np.cumsum(length) - length
    begin = np.cumsum(size) - size
    place = np.arange(size.sum()) - np.repeat(begin - leads, size)  # a token's place in its own sequence
    block, end = begin + head - leads, begin + size
    where = np.arange(trained.sum()) - np.repeat(np.cumsum(trained) - trained, trained)
    token = np.repeat(last - trained + 1, trained) + where
    source = np.repeat(start, trained) + token
    return Packed(
        input_ids=ids[np.repeat(start, size) + place],
        position_ids=place,
        prefix=begin[first[:-1]],
        prefix_end=block[first[:-1]],
        block=block,
        block_end=end,
        prompt_of=of,
        at=np.repeat(begin - leads, trained) + token - 1,
        targets=ids[source],
        decision=np.cumsum(trained) - trained + (0 if answer_only else lead),
        liked=liked,
        samples=samples,
    )  # fmt: skip


def tensors(packed: Packed, device: Any = None) -> dict[str, Any]:
    """What a model is called with: `input_ids`, `position_ids` (1, t) and `logits_to_keep` (r,), all int64."""
    import torch

    def tensor(array: NDArray[Any]) -> Any:
        return torch.from_numpy(array.astype(np.int64)).to(device, non_blocking=True)

    return {
        "input_ids": tensor(packed.input_ids)[None],
        "position_ids": tensor(packed.position_ids)[None],
        "logits_to_keep": tensor(packed.at),
    }

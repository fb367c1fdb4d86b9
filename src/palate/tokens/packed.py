"""Packed: several prompts concatenated in one sequence without padding, and the bounds that attention must keep.

A prompt is a prefix, then one block for each target. A token attends to the earlier tokens of its own block and to the
prefix of its own prompt, and to no others. So each block gets the result that it would get alone.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
PREFIX = -1


@dataclass(frozen=True)
class Packed:
    """The tokens of one forward pass: p prompts with n targets, t tokens, and r predictions with loss.

    `input_ids` (t,) int32. Block i is `input_ids[block[i] : block_end[i]]`, both (n,) int64, and belongs to prompt
    `prompt_of[i]`. The prefix of prompt k is `input_ids[prefix[k] : prefix_end[k]]`, both (p,) int64; its blocks
    follow. A prompt of one target has no prefix. In every block, `position_ids` (t,) int64 continue those of the
    prefix.

    The model predicts token `targets[j]` (int32) at position `at[j]` (int64), both (r,). For each sample, `decision`
    (n,) int64 is the index among the r predictions of its answer, `liked` (n,) bool its label, and `samples` (n,) int64
    its number.
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
        """The prompt and the block of each token, both (t,) int64; the block is `PREFIX` for a prefix's tokens."""
        prompt, block = np.empty(len(self), np.int64), np.full(len(self), PREFIX, np.int64)
        for k, (begin, end) in enumerate(zip(self.prefix.tolist(), self.prefix_end.tolist(), strict=True)):
            prompt[begin:end] = k
        for i, (begin, end) in enumerate(zip(self.block.tolist(), self.block_end.tolist(), strict=True)):
            prompt[begin:end], block[begin:end] = self.prompt_of[i], i
        return prompt, block

    def with_items_of(self, part: Longs, first: int, items: int) -> "Packed":
        """The same with the ids of item tokens that leave out the ratings of each prompt's user.

        `part` (samples of the dataset,) is the part of each sample's user. Item tokens have the ids `first` to
        `first` + `items`; the ids of part k follow in the (k + 1)-th block of `items`.
        """
        first_block = np.flatnonzero(np.diff(self.prompt_of, prepend=-1))
        own = part[self.samples[first_block]]
        shift = np.repeat((1 + own) * items, np.diff(np.append(self.prefix, len(self))))
        is_item = (self.input_ids >= first) & (self.input_ids < first + items)
        return replace(self, input_ids=np.where(is_item, self.input_ids + shift, self.input_ids).astype(np.int32))

    def mask(self) -> NDArray[np.bool_]:
        """Whether a token (row) attends to another (column), (t, t) bool: the reference for every implementation."""
        prompt, block = self.owners()
        earlier = np.tri(len(self), dtype=bool)
        same = (prompt[:, None] == prompt) & ((block == PREFIX) | (block[:, None] == block))
        return np.asarray(earlier & same)

    def alone(self, i: int) -> "Packed":
        """The sequence of target i alone, prefix and block."""
        k = self.prompt_of[i]
        rows = np.r_[self.prefix[k] : self.prefix_end[k], self.block[i] : self.block_end[i]]
        predicted = (self.at >= self.block[i]) & (self.at < self.block_end[i])
        zero, end = np.zeros(1, np.int64), np.array([rows.size])
        shift = rows.size - self.block_end[i]
        return Packed(
            self.input_ids[rows], self.position_ids[rows], zero, zero, zero, end, zero,
            self.at[predicted] + shift, self.targets[predicted], self.decision[[i]] - np.flatnonzero(predicted)[0],
            self.liked[[i]], self.samples[[i]],
        )  # fmt: skip


def ranges(begin: Longs, size: Longs) -> Longs:
    """The concatenated ranges from `begin[i]` to `begin[i] + size[i]` - 1."""
    return np.asarray(np.arange(size.sum()) + np.repeat(begin - (np.cumsum(size) - size), size))


def pack(ids: Ints, length: Longs, shared: Longs, first: Longs, response: Longs, lead: int, answer_only: bool,
         liked: NDArray[np.bool_], samples: Longs) -> Packed:  # fmt: skip
    """Join whole sequences to prompts.

    `ids` are n concatenated sequences of `length` (n,) tokens; the last `response` (n,) tokens of each are its
    response. Sequences `first[k]` to `first[k + 1]` are one prompt and begin with the same `shared[k]` (p,) tokens. The
    tokens after the last one that predicts a token with loss are dropped.
    """
    n, count = length.size, np.diff(first)
    of = np.repeat(np.arange(count.size), count)
    head = np.zeros(n, np.int64)  # ids that a sequence shares with the first of its prompt
    head[:] = np.where(count == 1, 0, shared)[of]
    trained = np.ones(n, np.int64) if answer_only else response
    last = length - response + (lead if answer_only else response - 1)  # the last trained token's position in it
    leads = head.copy()
    leads[first[:-1]] = 0
    size = last - leads  # ids of each sequence that are kept
    start = np.cumsum(length) - length
    begin = np.cumsum(size) - size
    place = np.arange(size.sum()) - np.repeat(begin - leads, size)  # a token's position in its own sequence
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


def upload(array: NDArray[Any], device: Any = None) -> Any:
    """An array as a tensor on a device; CUDA copies it from pinned memory while the host goes on."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if torch.device(device or "cpu").type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def tensors(packed: Packed, device: Any = None) -> dict[str, Any]:
    """A model's arguments: `input_ids`, `position_ids` (1, t) and `logits_to_keep` (r,), all int64."""
    return {
        "input_ids": upload(packed.input_ids.astype(np.int64), device)[None],
        "position_ids": upload(packed.position_ids, device)[None],
        "logits_to_keep": upload(packed.at, device),
    }

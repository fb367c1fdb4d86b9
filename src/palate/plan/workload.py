"""Workload: the tokens and attention pairs of an epoch's samples, with and without shared prefixes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.train.schedule import Schedule

Longs = NDArray[np.int64]
STEPS = 64
"""Steps of a run from which the sizes of its passes are estimated."""


@dataclass(frozen=True)
class Workload:
    """Groups of samples; the samples of a group begin with the same prefix, which may be passed once for all.

    With shared prefixes a group is one sequence: the prefix, then a block for each sample, which attends to the prefix
    and to itself, but to no other block.
    """

    size: Longs
    """Labelled samples of each group, (g,) int64."""
    prefix: Longs
    """Tokens that a group's samples share, (g,) int64."""
    block: Longs
    """Tokens of each sample after its prefix, in the order of groups, (n,) int64 with n the sum of `size`."""
    trained: float
    """Average number of labelled tokens of a sample."""
    largest: int | None = None
    """Maximum number of tokens in a forward pass; None: unknown."""
    passes: float | None = None
    """Forward passes in an optimizer step; None: unknown."""

    def __post_init__(self) -> None:
        if self.size.shape != self.prefix.shape or int(self.size.sum()) != self.block.size:
            raise ValueError(
                f"{self.size.size} groups of {int(self.size.sum())} samples in all, "
                f"but {self.prefix.size} prefixes and {self.block.size} blocks"
            )

    @classmethod
    def of_lengths(cls, lengths: ArrayLike, trained: int) -> "Workload":
        """A workload without shared prefixes: each sample is a group of one block."""
        block = np.asarray(lengths, np.int64)
        return cls(np.ones_like(block), np.zeros_like(block), block, trained)

    @classmethod
    def of_schedule(cls, schedule: Schedule) -> "Workload":
        """The prompts of a run, and its passes as estimated from some steps."""
        prompts = schedule.prompts
        own = prompts.needed - np.repeat(prompts.prefix, prompts.sizes)
        steps = np.unique(np.linspace(0, schedule.steps - 1, min(STEPS, schedule.steps)).astype(np.int64))
        passes = [schedule.passes(int(step)) for step in steps]
        tokens = [int(prompts.tokens(each.pieces).sum()) for step in passes for each in step]
        return cls(
            prompts.sizes, prompts.prefix, own, float(prompts.trained.mean()), max(tokens), len(tokens) / len(steps)
        )

    @property
    def samples(self) -> int:
        """Labelled samples, n."""
        return int(self.block.size)

    @property
    def labelled(self) -> int:
        """Number of tokens with loss."""
        return round(self.samples * self.trained)

    @property
    def lengths(self) -> Longs:
        """Tokens of each sample with its prefix, (n,) int64."""
        return np.repeat(self.prefix, self.size) + self.block

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence: a prefix with all its blocks."""
        starts = np.cumsum(self.size) - self.size
        return int((self.prefix + np.add.reduceat(self.block, starts)).max()) if self.samples else 0

    def tokens(self, *, shared: bool = True) -> int:
        """Tokens through the model: each prefix once for its group if `shared`, else once for each sample."""
        times = np.ones_like(self.size) if shared else self.size
        return int((self.prefix * times).sum() + self.block.sum())

    def pairs(self, *, shared: bool = True) -> int:
        """(query, key) pairs of causal attention, including each token with itself.

        Shared: p (p + 1) / 2 of a prefix of p tokens, and b p + b (b + 1) / 2 of each block of b tokens.
        """
        if not shared:
            whole = self.lengths
            return int((whole * (whole + 1) // 2).sum())
        before = np.repeat(self.prefix, self.size)
        own = self.block * before + self.block * (self.block + 1) // 2
        return int((self.prefix * (self.prefix + 1) // 2).sum() + own.sum())

    def padded(self, batch_size: int, seed: int) -> tuple[int, int]:
        """Tokens and causal pairs of one epoch in batches of `batch_size` random whole samples, padded to the longest.

        Padding tokens attend like other tokens.
        """
        order = np.random.default_rng(seed).permutation(self.lengths)
        starts = np.arange(0, order.size, batch_size)
        if not starts.size:
            return 0, 0
        longest, sizes = np.maximum.reduceat(order, starts), np.diff(np.append(starts, order.size))
        return int((longest * sizes).sum()), int((longest * (longest + 1) // 2 * sizes).sum())

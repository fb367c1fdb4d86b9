"""Statistics of sequence lengths, and the cost of a cutoff."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99, 100)
CUTOFFS = (256, 384, 448, 512, 640, 768, 896, 1024, 1536, 2048)


@dataclass(frozen=True)
class Lengths:
    """Sequence lengths of a split before truncation: all tokens, and those of the response; (n,) int32 each."""

    total: NDArray[np.int32]
    response: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.total)

    def statistics(self) -> dict[str, float]:
        """The guide's statistics: min, max, mean and percentiles (linear interpolation)."""
        figures = {"min": int(self.total.min()), "max": int(self.total.max()), "mean": float(self.total.mean())}
        return figures | {f"p{p}": float(np.percentile(self.total, p)) for p in PERCENTILES}

    def truncation(self, cutoff: int) -> dict[str, Any]:
        """The effect of left truncation at `cutoff`: samples and tokens cut, and responses that would not fit."""
        over = self.total > cutoff
        return {
            "cutoff_len": cutoff,
            "samples_cut": int(over.sum()),
            "share_cut": float(over.mean()),
            "tokens_cut": int((self.total[over] - cutoff).sum()),
            "responses_cut": int((self.response > cutoff).sum()),
        }

    def alternatives(self, cutoff: int, *others: int) -> list[dict[str, Any]]:
        """`truncation` at usual cutoffs and `others`, with the memory that a full batch saves against `cutoff`."""
        tried = sorted({*CUTOFFS, cutoff, *others, _round_up(int(self.total.max()), 8)})
        return [{**self.truncation(c), "memory_saved": 1 - c / cutoff} for c in tried]

    def counts(self) -> dict[int, int]:
        """The number of samples of each length."""
        values, counts = np.unique(self.total, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def masked_share(self) -> float:
        """The share of tokens without loss."""
        return float(1 - self.response.sum() / self.total.sum())


def digest(lengths: Lengths) -> str:
    """SHA-256 of the lengths as little-endian int32."""
    return hashlib.sha256(lengths.total.astype("<i4").tobytes()).hexdigest()


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

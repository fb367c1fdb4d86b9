"""Which tokens are trained, found in what is really composed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.tokens.dataset import TokenDataset, TrainOn
from palate.tokens.fragments import Ints, Longs
from palate.tokens.plain import IGNORED

EXHAUSTIVE = 50_000_000
"""Tokens up to which every sample is composed."""
DRAWN = 50_000
"""Samples that are composed of a larger split."""
BATCH = 8192


@dataclass(frozen=True)
class Trained:
    """A distinct sequence of trained tokens: how many of the composed samples train it, and how it reads."""

    ids: tuple[int, ...]
    text: str
    samples: int


@dataclass(frozen=True)
class MaskAudit:
    """What carries the loss. Samples and tokens are all of a dataset's; `composed` samples were looked at."""

    train_on: TrainOn
    samples: int
    composed: int
    tokens: int
    trained_tokens: int
    trained: list[Trained]
    """Most frequent first."""

    @property
    def masked_share(self) -> float:
        """The share of tokens that carry no loss."""
        return 1 - self.trained_tokens / self.tokens

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "train_on": self.train_on,
            "samples": self.samples,
            "samples_composed": self.composed,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "masked_share": self.masked_share,
            "trained": [{"ids": list(t.ids), "text": t.text, "samples": t.samples} for t in self.trained],
        }


def audit_mask(dataset: TokenDataset, seed: int = 0, limit: int = EXHAUSTIVE) -> MaskAudit:
    """Compose samples and look at their labels: all, or `DRAWN` of them if they have over `limit` tokens.

    Raises `InputError`, naming the first such sample, if one trains nothing, another token than stands there,
    anything but exactly its response or decision token, or another answer than it has.
    """
    number = np.arange(len(dataset))
    tokens = int(dataset.lengths.sum(dtype=np.int64))
    if tokens > limit:
        number = np.sort(np.random.default_rng(seed).choice(number, min(DRAWN, number.size), replace=False))
    response, liked = dataset.whole_lengths.response, dataset.labels
    found: dict[tuple[int, ...], int] = {}
    for start in range(0, number.size, BATCH):
        some = number[start : start + BATCH]
        for ids, count in _trained_in(dataset, some, response[some], liked[some]).items():
            found[ids] = found.get(ids, 0) + count
    answer = dataset.options.train_on == "answer"
    return MaskAudit(
        dataset.options.train_on,
        len(dataset),
        number.size,
        tokens,
        len(dataset) if answer else int(response.sum(dtype=np.int64)),
        [Trained(ids, dataset.chat.tokenizer.decode(ids), n) for ids, n in sorted(found.items(), key=lambda f: -f[1])],
    )


def _trained_in(
    dataset: TokenDataset, number: Longs, response: Ints, liked: NDArray[np.bool_]
) -> dict[tuple[int, ...], int]:
    """The distinct trained sequences of some samples, checked, with their counts."""
    ids, labels, offsets = dataset.ragged(number)
    decision, train_on = dataset.chat.decision, dataset.options.train_on

    def check(fine: NDArray[np.bool_], problem: str) -> None:
        if not fine.all():
            sample = int(dataset.numbers[number[np.flatnonzero(~fine)[0]]])
            raise InputError(f"{dataset.split} sample {sample} {problem}, which is a defect: please report it")

    places = np.flatnonzero(labels != IGNORED)
    owner = np.searchsorted(offsets, places, side="right") - 1
    count = np.bincount(owner, minlength=number.size)
    check(count > 0, "trains no token")
    changed = owner[labels[places] != ids[places]]
    check(np.bincount(changed, minlength=number.size) == 0, "trains a token that does not stand in it")
    first = np.cumsum(count) - count
    begin, end = places[first], places[first + count - 1] + 1
    decided = offsets[1:] - response + len(decision.lead)
    wanted = (decided, decided + 1) if train_on == "answer" else (offsets[1:] - response, offsets[1:])
    check((begin == wanted[0]) & (end == wanted[1]) & (count == end - begin), f"does not train exactly its {train_on}")
    check(ids[decided] == np.where(liked, decision.yes_id, decision.no_id), "has another answer in its tokens")
    found: dict[tuple[int, ...], int] = {}
    for size in np.unique(count).tolist():
        rows = labels[places[first[count == size]][:, None] + np.arange(size)]
        distinct, samples = np.unique(rows, axis=0, return_counts=True)
        found |= dict(zip(map(tuple, distinct.tolist()), samples.tolist(), strict=True))
    return found

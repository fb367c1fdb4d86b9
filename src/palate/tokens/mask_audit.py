"""Audit the loss mask: find the trained tokens in composed samples."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from palate.errors import InputError
from palate.tokens.dataset import TokenDataset, TrainOn
from palate.tokens.fragments import IGNORED, Longs
from palate.tokens.packed import ranges

EXHAUSTIVE = 50_000_000
"""Maximum number of tokens of a split whose samples are all composed."""
DRAWN = 50_000
"""Samples to draw from a larger split."""
BATCH = 8192


class Trained(NamedTuple):
    """A distinct sequence of trained tokens, its text, and the number of composed samples that train it."""

    ids: tuple[int, ...]
    text: str
    samples: int


@dataclass(frozen=True)
class MaskAudit:
    """The tokens with loss. `samples` and `tokens` count the whole dataset, `samples_composed` the checked samples."""

    train_on: TrainOn
    samples: int
    samples_composed: int
    tokens: int
    trained_tokens: int
    masked_share: float
    """The share of tokens without loss."""
    trained: list[Trained]
    """Most frequent first."""

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return vars(self) | {"trained": [each._asdict() for each in self.trained]}


def audit_mask(dataset: TokenDataset, seed: int = 0, limit: int = EXHAUSTIVE) -> MaskAudit:
    """Compose samples and check their labels: all, or `DRAWN` of them if they have over `limit` tokens.

    Raises `InputError`, with the first such sample, if the trained tokens are not exactly its response or decision
    token, or if they have another answer than the sample's.
    """
    number = np.arange(len(dataset))
    tokens = int(dataset.lengths.sum(dtype=np.int64))
    if tokens > limit:
        number = np.sort(np.random.default_rng(seed).choice(number, min(DRAWN, number.size), replace=False))
    found: Counter[tuple[int, ...]] = Counter()
    for start in range(0, number.size, BATCH):
        found.update(_trained_in(dataset, number[start : start + BATCH]))
    trained = len(dataset) if dataset.answer_only else int(dataset.responses.sum(dtype=np.int64))
    return MaskAudit(
        dataset.options.train_on,
        len(dataset),
        number.size,
        tokens,
        trained,
        1 - trained / tokens,
        [Trained(ids, dataset.chat.tokenizer.decode(ids), samples) for ids, samples in found.most_common()],
    )


def _trained_in(dataset: TokenDataset, number: Longs) -> dict[tuple[int, ...], int]:
    """The distinct trained sequences of some samples, checked, with their counts."""
    ids, labels, offsets = dataset.ragged(number)
    decision = dataset.chat.decision

    def check(wrong: Longs, problem: str) -> None:
        if wrong.size:
            sample = int(dataset.numbers[number[wrong[0]]])
            raise InputError(f"{dataset.split} sample {sample} {problem}, which is a defect: please report it")

    begin = offsets[1:] - dataset.responses[number]
    decided = begin + len(decision.lead)
    begin, end = (decided, decided + 1) if dataset.answer_only else (begin, offsets[1:])
    expected = np.full_like(labels, IGNORED)
    places = ranges(begin, end - begin)
    expected[places] = ids[places]
    wrong = np.searchsorted(offsets, np.flatnonzero(labels != expected), side="right") - 1
    check(wrong, f"does not train exactly its {dataset.options.train_on}")
    answers = np.where(dataset.labels[number], decision.yes_id, decision.no_id)
    check(np.flatnonzero(ids[decided] != answers), "has another answer in its tokens")
    found: dict[tuple[int, ...], int] = {}
    for size in np.unique(end - begin).tolist():
        rows = ids[begin[end - begin == size][:, None] + np.arange(size)]
        distinct, samples = np.unique(rows, axis=0, return_counts=True)
        found |= dict(zip(map(tuple, distinct.tolist()), samples.tolist(), strict=True))
    return found

"""Draw the training samples of a few-shot run, stratified by class."""

import numpy as np
from numpy.typing import NDArray

from palate.tokens.packed import Longs


def draw(liked: NDArray[np.bool_], unit: Longs, wanted: int, seed: int) -> Longs:
    """Draw `wanted` samples in whole units, stratified by the units' positive rate; ascending (wanted,) int64.

    `liked` is (n,) bool; `unit` (n,) int64 is the number, from 0, of each sample's unit. Units are sorted by positive
    rate, ties at random, then sampled at a fixed interval from a random offset (systematic sampling). The positive
    rate of the draw is close to that of all samples, and equal if a unit is one sample. The function adds units, or
    cuts the last one short, until there are `wanted` samples.
    """
    rng = np.random.default_rng(seed)
    size, yes = np.bincount(unit), np.bincount(unit, weights=liked)
    shuffled = rng.permutation(size.size)
    order = shuffled[np.argsort((yes / size)[shuffled], kind="stable")]
    count = min(size.size, max(1, round(wanted / size.mean())))
    chosen = order[((rng.random() + np.arange(count)) * size.size / count).astype(np.int64)]
    others = rng.permutation(np.setdiff1d(order, chosen))
    chosen = np.concatenate([rng.permutation(chosen), others])
    enough = int(np.searchsorted(np.cumsum(size[chosen]), wanted)) + 1
    place = np.full(size.size, enough)
    place[chosen[:enough]] = np.arange(min(enough, chosen.size))
    rows = np.argsort(place[unit], kind="stable")[:wanted]  # cuts the last unit short
    return np.sort(rows)

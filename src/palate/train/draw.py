"""Draw: which samples a few-shot run is trained on, with the classes in their shares."""

import numpy as np
from numpy.typing import NDArray

from palate.tokens.packed import Longs


def draw(liked: NDArray[np.bool_], unit: Longs, wanted: int, seed: int) -> Longs:
    """Draw `wanted` samples in whole units, stratified by how many of a unit's samples are a Yes; ascending.

    `liked` (n,) bool, `unit` (n,) int64 the number of the unit, from 0, that each sample belongs to. Units are put in
    order of their share of Yes, ties at random, and every so manieth is taken from a random start (systematic
    sampling): the drawn samples have about the share of all, exactly if a unit is one sample. Units are added or
    one is cut short until there are `wanted` samples.
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
    rows = np.argsort(place[unit], kind="stable")[:wanted]  # the last unit is the one that is cut short
    return np.sort(rows)

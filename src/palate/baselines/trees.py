"""`Trees`: the trees of LightGBM models, as tables that predict for many rows at once.

LightGBM walks from node to node, and a processor cannot guess the way. Here each node clears, in a bit set of each row,
the leaves that the row cannot reach; the first leaf that is left is the row's. The loop over rows has no branches, so
the compiler vectorizes it. Sums are added in LightGBM's order: they have the same bits, in a tenth of its time.

Source: Lucchese et al., QuickScorer (SIGIR 2015).
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palate.baselines.compiled import compiled

LEAVES = 32
"""Leaves of a tree at most: the bits of a set."""
BLOCK = 64
"""Rows whose features stay in the processor's cache while all trees look at them."""
MISSING_NONE, MISSING_NAN = 0, 2
"""Kinds of LightGBM's nodes: NaN counts as 0, or goes a way of its own."""


class Trees(NamedTuple):
    """All trees of several models; the tables' columns are those of nodes (m,) or of trees (t,)."""

    model: NDArray[np.int32]
    """(t,): the model of each tree."""
    first: NDArray[np.int32]
    """(t + 1,): the first node of each tree."""
    column: NDArray[np.int32]
    """(m,): the feature, plus n times the number of features: NaN goes right (0), goes left (1), or counts as 0 (2)."""
    threshold: NDArray[np.float32]
    """(m,): the largest value that goes left."""
    left: NDArray[np.uint32]
    """(m,): all leaves but those of the left child."""
    value: NDArray[np.float64]
    """(t, LEAVES): of the leaves, from left to right."""

    @classmethod
    def read(cls, texts: Sequence[str]) -> "Trees":
        """The trees of models as LightGBM writes them; raises `ValueError` for a kind of tree that it does not know."""
        model, first, value = [], [0], []
        nodes: list[tuple[int, float, int]] = []
        for n, text in enumerate(texts):
            head, *trees = text.partition("\nend of trees")[0].split("\nTree=")
            features = 1 + int(_fields(head)["max_feature_idx"])
            for tree in map(_fields, trees):
                leaves = list(_leaves(tree, features, nodes))
                model.append(n)
                first.append(len(nodes))
                value.append(leaves + [0.0] * (LEAVES - len(leaves)))
        column, threshold, left = zip(*nodes, strict=True) if nodes else ((), (), ())
        with np.errstate(over="ignore"):
            most = np.array(threshold, np.float32)
        above = most > np.array(threshold, np.float64)  # features are float32: the same decisions by the next one below
        most[above] = np.nextafter(most[above], np.float32(-np.inf))
        return cls(
            np.array(model, np.int32), np.array(first, np.int32), np.array(column, np.int32), most,
            np.array(left, np.uint32), np.array(value, np.float64).reshape(-1, LEAVES),
        )  # fmt: skip

    def sums(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Each model's raw score, float64 (models, n), of features (n, features), as the model was trained on."""
        out = np.zeros((int(self.model[-1]) + 1 if self.model.size else 0, len(x)))
        _add(np.ascontiguousarray(x, np.float32), *self, PLACES, out)
        return out


def _fields(text: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in text.splitlines())


def _leaves(tree: Mapping[str, str], features: int, nodes: list[tuple[int, float, int]]) -> Iterator[float]:
    """The values of the leaves from left to right; appends the tree's nodes to `nodes`."""
    count = int(tree["num_leaves"])
    if count > LEAVES or int(tree["num_cat"]) or int(tree.get("is_linear", 0)):
        raise ValueError(f"a tree of {count} leaves, expected at most {LEAVES}, without categories and linear models")

    def of(name: str, kind: type) -> list[Any]:
        return [kind(each) for each in tree[name].split()]

    value = of("leaf_value", float)
    if count == 1:
        yield value[0]
        return
    column, threshold, decision = of("split_feature", int), of("threshold", float), of("decision_type", int)
    children = of("left_child", int), of("right_child", int)
    seen: list[int] = []  # leaves, from left to right
    order = {}

    def walk(node: int) -> int:
        """The leaves below a node, as bits."""
        if node < 0:
            seen.append(~node)
            return 1 << len(seen) - 1
        left, right = (walk(child[node]) for child in children)
        order[node] = left
        return left | right

    walk(0)
    for node, left in order.items():
        missing, goes_left = decision[node] >> 2 & 3, decision[node] >> 1 & 1
        if missing not in (MISSING_NONE, MISSING_NAN):
            raise ValueError(f"a node of decision type {decision[node]}, expected NaN to be what is missing")
        kind = 2 if missing == MISSING_NONE else goes_left
        nodes.append((column[node] + kind * features, threshold[node], ~left & (1 << LEAVES) - 1))
    yield from (value[leaf] for leaf in seen)


FACTOR = np.uint32(0x077CB531)
"""A de Bruijn sequence: its product with each power of two begins with five other bits."""
PLACES = np.zeros(LEAVES, np.uint8)
PLACES[[(int(FACTOR) << bit & 0xFFFFFFFF) >> 27 for bit in range(LEAVES)]] = range(LEAVES)


@compiled
def _add(x, model, first, column, threshold, left, value, places, out):
    """Add each tree's leaf to `out`, (models, n)."""
    n, features = x.shape
    every, one = np.uint32(0xFFFFFFFF), np.uint32(1)
    seen = np.empty((3 * features, BLOCK), np.float32)
    reached = np.empty(BLOCK, np.uint32)
    for begin in range(0, n, BLOCK):
        size = min(BLOCK, n - begin)
        for i in range(size):
            for f in range(features):
                given = x[begin + i, f]
                missing = given != given
                seen[f, i] = given  # no NaN is at most a threshold
                seen[features + f, i] = np.float32(-np.inf) if missing else given
                seen[2 * features + f, i] = np.float32(0) if missing else given
        for tree in range(model.size):
            reached[:] = every
            for node in range(first[tree], first[tree + 1]):
                row, most, others = seen[column[node]], threshold[node], left[node]
                for i in range(size):
                    reached[i] &= every if row[i] <= most else others
            for i in range(size):
                lowest = np.uint32(reached[i] & (~reached[i] + one))
                out[model[tree], begin + i] += value[tree, places[np.uint32(lowest * FACTOR) >> np.uint32(27)]]

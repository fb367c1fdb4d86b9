from itertools import chain, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, recall_score, top_k_accuracy_score
from tests.examples import examples
from tests.films import film_samples

from palate.measure import candidates
from palate.measure.candidates import candidate_sets
from palate.measure.ranking import expected, rank
from palate.samples.queries import Queries

KS = (1, 2, 3, 5, 20)
LEVELS = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5 + 1e-12, 2.0])
LIST = st.lists(st.tuples(LEVELS, st.booleans()), min_size=1, max_size=6).filter(lambda rows: any(r for _, r in rows))


def plain(order: list[bool], ks: tuple[int, ...]) -> dict[str, float]:
    """The metrics of one order of a user's candidates, item by item."""
    ranks = [i for i, relevant in enumerate(order, start=1) if relevant]
    found = {"mrr": 1 / ranks[0]}
    for k in ks:
        best = sum(1 / np.log2(i + 1) for i in range(1, min(len(ranks), k) + 1))
        found[f"ndcg@{k}"] = sum(1 / np.log2(i + 1) for i in ranks if i <= k) / best
        found[f"hr@{k}"] = float(ranks[0] <= k)
        found[f"recall@{k}"] = sum(i <= k for i in ranks) / len(ranks)
    return found


def over_all_orders(rows: list[tuple[float, bool]]) -> dict[str, float]:
    """Their mean over all orders of rows that leave no higher score behind a lower one."""
    orders = [
        plain([relevant for _, relevant in order], KS)
        for order in permutations(rows)
        if all(a >= b for (a, _), (b, _) in pairwise(order))
    ]
    return {name: float(np.mean([order[name] for order in orders])) for name in orders[0]}


@examples(60)
@given(st.lists(LIST, min_size=1, max_size=3))
def test_every_metric_is_its_mean_over_all_orders_of_the_ties(users: list[list[tuple[float, bool]]]) -> None:
    user = np.repeat(np.arange(len(users)), [len(rows) for rows in users])
    score, relevant = (np.array(column) for column in zip(*chain(*users), strict=True))
    got = expected(user, score, relevant, ks=KS)
    for i, rows in enumerate(users):
        for name, value in over_all_orders(rows).items():
            assert got[name][i] == pytest.approx(value, abs=1e-12), name


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 9]))
@examples(40)
def test_the_order_of_rows_does_not_matter(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    user, score, relevant = np.repeat([0, 1], [30, 50]), rng.random(80).round(decimals), rng.random(80) < 0.2
    relevant[[0, 79]] = True
    shuffled = np.concatenate([rng.permutation(30), 30 + rng.permutation(50)])
    first, second = expected(user, score, relevant), expected(user, score[shuffled], relevant[shuffled])
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-12)


def lists(decimals: int, users: int = 40, items: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Scores and relevance of all users, (users, items)."""
    rng = np.random.default_rng(decimals)
    relevant = rng.random((users, items)) < 0.05
    relevant[:, 7] = True
    return (rng.random((users, items)) + 0.2 * relevant).round(decimals), relevant


def flat(score: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    return expected(np.repeat(np.arange(len(score)), score.shape[1]), score.ravel(), relevant.ravel(), ks=ks)


@pytest.mark.parametrize("decimals", [0, 1, 2, 12])
def test_ndcg_agrees_with_scikit_learn_which_averages_ties_too(decimals: int) -> None:
    score, relevant = lists(decimals)
    got = flat(score, relevant, (5, 20, 200))
    for k in (5, 20, 200):
        each = [ndcg_score(relevant[[i]], score[[i]], k=k) for i in range(len(score))]
        np.testing.assert_allclose(got[f"ndcg@{k}"], each, rtol=1e-10)


def test_hit_rate_recall_and_reciprocal_rank_agree_with_scikit_learn_where_nothing_is_tied() -> None:
    score, relevant = lists(16)
    one = np.zeros_like(relevant)
    target = np.argmax(relevant, axis=1)
    one[np.arange(len(one)), target] = True
    alone, many = flat(score, one, (5, 20)), flat(score, relevant, (5, 20))
    assert alone["mrr"].mean() == pytest.approx(label_ranking_average_precision_score(one, score))
    for k in (5, 20):
        accuracy = top_k_accuracy_score(target, score, k=k, labels=np.arange(score.shape[1]))
        assert alone[f"hr@{k}"].mean() == pytest.approx(accuracy)
        top = score >= np.sort(score, axis=1)[:, [-k]]
        each = [recall_score(relevant[i], top[i]) for i in range(len(score))]
        np.testing.assert_allclose(many[f"recall@{k}"], each)
        np.testing.assert_allclose(many[f"hr@{k}"], np.array(each) > 0)


def test_a_constant_score_gets_what_shuffling_gets() -> None:
    rng = np.random.default_rng(3)
    relevant = np.zeros(400, dtype=bool)
    relevant[:9] = True
    constant = expected(np.zeros(400, dtype=int), np.ones(400), relevant)
    times = 4000
    shuffled = expected(np.repeat(np.arange(times), 400), rng.random(400 * times), np.tile(relevant, times))
    for name, value in constant.items():
        spread = shuffled[name].std() / np.sqrt(times)
        assert shuffled[name].mean() == pytest.approx(value[0], abs=4 * spread), name


def test_ties_of_ten_thousand_items_stay_exact() -> None:
    n, hits = 10_000, 3
    got = expected(np.zeros(n, dtype=int), np.zeros(n), np.arange(n) < hits)
    x = np.arange(1, n - hits + 2, dtype=float)
    chance = hits / n * (n - x) * (n - x - 1) / ((n - 1) * (n - 2))  # C(n - x, 2) / C(n, 3)
    assert got["mrr"][0] == pytest.approx((chance / x).sum(), rel=1e-9)
    assert got["hr@10"][0] == pytest.approx(1 - np.prod([(n - hits - j) / (n - j) for j in range(10)]), rel=1e-9)
    assert got["recall@20"][0] == pytest.approx(20 / n)


@pytest.mark.parametrize(
    ("score", "relevant", "message"),
    [
        (np.array([0.1, np.nan]), np.array([True, False]), "expected a number for each"),
        (np.array([0.1]), np.array([True, False]), "expected a number for each"),
        (np.array([0.1, 0.2]), np.array([False, False]), "no relevant item"),
    ],
)
def test_what_cannot_be_ranked_is_refused(score: np.ndarray, relevant: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected(np.zeros(2, dtype=int), score, relevant)


def test_a_model_that_knows_the_likes_ranks_perfectly_and_its_opposite_does_not() -> None:
    sets = candidate_sets(film_samples())
    likes = {(sets.anchor[u], i) for u, i in zip(sets.user, sets.item, strict=True)}

    def knows(asked: Queries) -> np.ndarray:
        return np.array([(a, i) in likes for a, i in zip(asked.anchor, asked.item, strict=True)], dtype=float)

    good, bad = rank(sets, knows), rank(sets, lambda asked: -knows(asked))
    assert all((values == 1).all() for name, values in good.values.items() if not name.startswith("recall"))
    assert (bad.values["mrr"] < 0.2).all()
    assert (bad.values["hr@5"] == 0).all()


def test_chunks_do_not_change_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = film_samples()

    def predict(asked: Queries) -> np.ndarray:
        return np.sin(asked.anchor * 7.0 + asked.item * 3.0).round(1)

    for negatives in (None, 5):
        sets = candidate_sets(samples, negatives=negatives)
        whole = rank(sets, predict).values
        with monkeypatch.context() as patched:
            patched.setattr(candidates, "PAIRS", 120)
            parts = rank(sets, predict).values
        for name in whole:
            np.testing.assert_array_equal(whole[name], parts[name])

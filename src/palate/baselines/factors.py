"""Biased matrix factorization: r̂ = μ + bᵤ + bᵢ + pᵤ · qᵢ (Koren, Bell & Volinsky 2009), by scikit-surprise's `SVD`.

Static: stochastic gradient descent fits the model on the training ratings, `fits` times; r̂ is the mean of the fits.
An unknown user or item adds nothing to μ.
"""

from collections.abc import Callable

import numpy as np

from palate.baselines.means import known_users
from palate.baselines.platt import State
from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Queries

FACTORS = 32
OPTIONS = {"reg_all": 0.1, "n_epochs": 40}


def fit_factors(data: BaselineData) -> State:
    """`mu`, and bias and factors of each user and item; the last user is unknown, its row is zero."""
    from surprise import SVD, Trainset

    rating = data.training.rating
    users, user = np.unique(data.training.user, return_inverse=True)
    items, item = np.unique(data.training.item, return_inverse=True)
    by_user: dict[int, list[tuple[int, float]]] = {u: [] for u in range(len(users))}
    for u, i, r in zip(user.tolist(), item.tolist(), rating.tolist(), strict=True):  # the format of `Trainset`
        by_user[u].append((i, r))
    scale = (float(rating.min()), float(rating.max()))
    trainset = Trainset(by_user, {}, len(users), len(items), len(rating), scale, {}, {})
    fits = [SVD(FACTORS, **OPTIONS, random_state=data.seed + n).fit(trainset) for n in range(data.fits)]
    state = {"mu": np.array(rating.mean())}
    for name, rows, count in (("user", users, data.training.users + 1), ("item", items, data.training.items)):
        bias, factors = np.zeros(count), np.zeros((count, data.fits * FACTORS))
        bias[rows] = np.mean([getattr(fit, f"b{name[0]}") for fit in fits], axis=0)
        # The mean of S fits is one fit with S times the factors.
        found = np.hstack([getattr(fit, {"user": "pu", "item": "qi"}[name]) for fit in fits])
        factors[rows] = found / np.sqrt(data.fits)
        state |= {f"{name} bias": bias, f"{name} factors": factors}
    return state


def factorization(data: BaselineData, state: State) -> Callable[[Queries], Floats]:
    """The estimated rating."""

    def estimate(queries: Queries) -> Floats:
        u, i = known_users(data, queries, state["user bias"]), queries.item
        bias = state["mu"] + state["user bias"][u] + state["item bias"][i]
        found: Floats = bias + np.einsum("nk,nk->n", state["user factors"][u], state["item factors"][i])
        return found

    return estimate

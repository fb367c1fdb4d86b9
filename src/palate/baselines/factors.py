"""Biased matrix factorization: r̂ = μ + bᵤ + bᵢ + pᵤ · qᵢ (Koren, Bell & Volinsky 2009), by scikit-surprise's `SVD`.

Static: stochastic gradient descent fits the model on the training ratings, `SEEDS` times; r̂ is the mean of the fits.
An unknown user or item adds nothing to μ.
"""

import numpy as np

from palate.baselines.platt import SEEDS, Predict, platt
from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Queries

OPTIONS = {"n_factors": 32, "reg_all": 0.1, "n_epochs": 40}


def factorization(data: BaselineData) -> Predict:
    """Fit the factors and predict with them."""
    from surprise import SVD, Trainset

    rating = data.training.rating
    users, user = np.unique(data.training.user, return_inverse=True)
    items, item = np.unique(data.training.item, return_inverse=True)
    by_user: dict[int, list[tuple[int, float]]] = {u: [] for u in range(len(users))}
    for u, i, r in zip(user.tolist(), item.tolist(), rating.tolist(), strict=True):  # the format of `Trainset`
        by_user[u].append((i, r))
    scale = (float(rating.min()), float(rating.max()))
    trainset = Trainset(by_user, {}, len(users), len(items), len(rating), scale, {}, {})
    fits = [SVD(**OPTIONS, random_state=data.seed + n).fit(trainset) for n in range(SEEDS)]
    # The last row of zeros is for unknown users and items. The mean of S fits is one fit with S times the factors.
    bu, bi = (np.append(np.mean([getattr(fit, name) for fit in fits], axis=0), 0.0) for name in ("bu", "bi"))
    pu, qi = (np.hstack([getattr(fit, name) for fit in fits]) / np.sqrt(SEEDS) for name in ("pu", "qi"))
    pu, qi = (np.vstack([factors, np.zeros(factors.shape[1])]) for factors in (pu, qi))
    user_row, item_row = np.full(data.training.users, len(users)), np.full(data.training.items, len(items))
    user_row[users], item_row[items] = np.arange(len(users)), np.arange(len(items))
    mu = float(rating.mean())

    def estimate(queries: Queries) -> Floats:
        u, i = user_row[data.user[queries.anchor]], item_row[queries.item]
        found: Floats = mu + bu[u] + bi[i] + np.einsum("nk,nk->n", pu[u], qi[i])
        return found

    return platt(data, estimate)

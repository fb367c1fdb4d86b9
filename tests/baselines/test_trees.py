"""Trees as tables predict what LightGBM predicts, bit by bit."""

import lightgbm
import numpy as np
import pytest

from palate.baselines.trees import Trees


def fitted(x, y, **options):
    options = {"objective": "binary", "num_leaves": 31, "min_data_in_leaf": 5, "verbose": -1, "seed": 1} | options
    return lightgbm.train(options, lightgbm.Dataset(x, y), 60)


@pytest.mark.parametrize("options", [{}, {"num_leaves": 2}, {"num_leaves": 32, "max_bin": 15}, {"use_missing": False}])
def test_that_sums_have_the_bits_of_lightgbm(options):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(900, 12)).astype(np.float32)
    x[:, :3] = np.round(x[:, :3])  # ties, and zeros
    y = x[:, 0] + np.nan_to_num(x[:, 3]) + rng.normal(size=900) > 0
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:, 11] = np.where(rng.random(900) < 0.5, np.nan, x[:, 11])
    y ^= np.isnan(x[:, 11])
    asked = np.vstack([x, rng.normal(size=(131, 12)) * 3, np.full((1, 12), np.inf), np.full((1, 12), -np.inf)])
    asked = np.vstack([asked, np.full((1, 12), np.nan), np.zeros((1, 12)), -np.zeros((1, 12))]).astype(np.float32)
    models = [fitted(x, y, bagging_freq=1, bagging_fraction=0.5, bagging_seed=n, **options) for n in range(3)]
    models.append(fitted(x, np.arange(900) < 1, min_data_in_leaf=1000))  # trees of one leaf
    trees = Trees.read([model.model_to_string() for model in models])
    expected = np.array([model.predict(asked, raw_score=True) for model in models])
    assert np.unique(expected[0]).size > 2
    assert np.array_equal(trees.sums(asked), expected)
    assert np.array_equal(trees.sums(asked[:1]), expected[:, :1])
    assert trees.sums(asked[:0]).shape == (4, 0)


def test_that_unknown_kinds_of_trees_are_refused():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 9, (300, 2)).astype(np.float32), rng.random(300) < 0.5
    for options, what in (({"num_leaves": 40}, "leaves"), ({"zero_as_missing": True}, "decision type")):
        text = fitted(x if "zero_as_missing" in options else rng.normal(size=(300, 2)), y, **options).model_to_string()
        with pytest.raises(ValueError, match=what):
            Trees.read([text])

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import synthetic
from palate.ratings.load import Ratings, load_ratings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "BLOCK", 7_000)  # several blocks
        synthetic.write(out, ratings=40_000, titles=3_000, seed=1)
    return out


@pytest.fixture(scope="module")
def ratings(folder: Path) -> Ratings:
    return load_ratings(str(folder))


def test_it_is_as_large_as_asked(ratings: Ratings) -> None:
    assert ratings.frame.height == 40_000
    assert ratings.items.height == 3_000
    assert ratings.frame["user_id"].n_unique() == 40_000 // 160


def test_the_columns_are_movielens(folder: Path) -> None:
    assert (folder / "ratings.csv").read_bytes().startswith(b"userId,movieId,rating,timestamp\r\n1,")
    assert (folder / "movies.csv").read_bytes().startswith(b"movieId,title,genres\r\n")
    frame = pl.read_csv(folder / "ratings.csv")
    assert frame.equals(frame.sort("userId", "movieId"))
    assert set(frame["rating"].unique()) == set(synthetic.STARS.tolist())


def test_no_user_rates_an_item_twice(ratings: Ratings) -> None:
    assert not ratings.frame.select("user_id", "item_id").is_duplicated().any()


def test_few_users_and_few_items_have_most_of_the_ratings(ratings: Ratings) -> None:
    users = ratings.frame["user_id"].value_counts()["count"].sort().to_numpy()
    items = ratings.frame["item_id"].value_counts()["count"].sort(descending=True).to_numpy()

    assert users.min() >= synthetic.LEAST
    assert users.mean() > 1.5 * np.median(users)
    assert items[:300].sum() > 0.4 * items.sum()


def test_timestamps_come_in_bursts_with_ties(ratings: Ratings) -> None:
    ordered = ratings.frame.sort("user_id", "timestamp")
    gaps = ordered.select(pl.col("timestamp").diff().over("user_id"))["timestamp"].drop_nulls()

    assert 0.05 < (gaps == 0).mean() < 0.3
    assert gaps.median() < 60
    assert gaps.max() > 86_400


def test_titles_have_the_forms_that_are_hard_to_read(ratings: Ratings) -> None:
    titles = ratings.items["title"]

    assert titles.n_unique() == 3_000
    for pattern in (r"\(\d{4}\)$", ", The ", '^"', "[^\x00-\x7f]", r"\(a\.k\.a\. "):
        assert titles.str.contains(pattern).any(), pattern
    assert 20 < titles.str.len_chars().mean() < 32


@pytest.mark.parametrize(("seed", "same"), [(1, True), (2, False)])
def test_the_seed_decides_every_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, same: bool
) -> None:
    monkeypatch.setattr(synthetic, "BLOCK", 7_000)
    synthetic.write(tmp_path, ratings=40_000, titles=3_000, seed=seed)

    for name in ("ratings.csv", "movies.csv"):
        assert ((folder / name).read_bytes() == (tmp_path / name).read_bytes()) is same


def test_too_few_titles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit 50 titles"):
        synthetic.write(tmp_path, ratings=100_000, titles=50)

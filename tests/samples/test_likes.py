"""Samples of a log of likes: each like with its negatives, which nothing but the samples knows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.clicks import click_ratings

from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.errors import InputError
from palate.measure.leaks import audit
from palate.prompt.spec import PromptSpec
from palate.ratings.likes import Likes
from palate.samples import Samples, build_samples, load_prepared, prepare
from palate.samples.build import checked_samples
from palate.samples.queries import candidate_rows

OPTIONS = PrepareConfig(history_len=3, rating_threshold=0.5)
PROMPT = PromptSpec(history_line="{n}. {title}")


def plain_and_sampled(**options: Any) -> tuple[Samples, Samples]:
    """The samples of one log read as ratings, and as likes."""
    chosen = OPTIONS.model_copy(update=options)
    ratings = click_ratings()
    return build_samples(replace(ratings, likes=None), chosen), build_samples(ratings, chosen)


@pytest.mark.parametrize("split", ["user-time", "global-time"])
def test_negatives_have_user_time_history_and_split_of_their_like(split: str) -> None:
    plain, samples = plain_and_sampled(split=split)
    assert samples.negative is not None
    assert samples.timeline.drop("split").equals(plain.timeline.drop("split"))
    assert (samples.label == (samples.negative < 0)).all()
    position, label, of = (each.reshape(-1, 5) for each in (samples.position, samples.label, samples.split))
    assert label[:, 0].all()
    assert not label[:, 1:].any()
    assert (position == position[:, :1]).all()
    assert (of == of[:, :1]).all()
    # All but the first like of an item by anyone.
    item, time = (plain.timeline[name].to_numpy() for name in ("item_id", "timestamp"))
    known = [(time[item == item[row]] <= time[row]).sum() > 1 for row in plain.position]
    assert not all(known)
    assert position[:, 0].tolist() == plain.position[known].tolist()
    assert of[:, 0].tolist() == plain.split[known].tolist()
    roles = samples.timeline["split"].gather(plain.position[~np.array(known)])
    assert roles.to_list() == [("warmup", "unused", "unused")[n] for n in plain.split[~np.array(known)]]


def test_nothing_tells_a_like_by_being_new() -> None:
    _, samples = plain_and_sampled()
    known = BaselineData.of(samples)
    item, time = known.item, samples.timeline["timestamp"].to_numpy()
    taken = [
        ((item == asked) & (time <= time[row]) & (known.user != known.user[row])).sum()
        for row, asked in zip(samples.position, candidate_rows(samples), strict=True)
    ]
    assert min(taken) == 1


def test_no_statistic_counts_a_negative_as_a_rating() -> None:
    plain, samples = plain_and_sampled()
    known, without = BaselineData.of(samples), BaselineData.of(plain)
    for name in ("user", "first", "item", "rating", "liked", "allowed", "fold"):
        assert (getattr(known, name) == getattr(without, name)).all(), name
    assert (known.items.ratings == without.items.ratings).all()
    queries, liked = known.of_split("train")
    assert liked.mean() == pytest.approx(0.2)
    assert (queries.item == candidate_rows(samples, samples.of("train"))).all()
    taken = set(zip(known.user.tolist(), known.item.tolist(), strict=True))
    asked = zip(known.user[queries.anchor].tolist(), queries.item.tolist(), strict=True)
    assert [pair in taken for pair in asked] == liked.tolist()


def test_prepared_likes_are_read_back_with_their_negatives(tmp_path: Path) -> None:
    ratings = click_ratings()
    prepare(ratings, OPTIONS, PROMPT, 13, tmp_path / "data")
    found, samples = load_prepared(tmp_path / "data").samples, build_samples(ratings, OPTIONS)
    assert found.negative is not None
    assert samples.negative is not None
    for name in ("position", "split", "negative", "label"):
        assert (getattr(found, name) == getattr(samples, name)).all(), name
    log = pl.read_parquet(tmp_path / "data" / "ratings.parquet")
    assert log.height == ratings.frame.height
    raw = [json.loads(line) for line in (tmp_path / "data" / "test_raw.jsonl").read_text().splitlines()]
    assert [row["label"] for row in raw[:6]] == ["Yes", "No", "No", "No", "No", "Yes"]
    assert [row["rating"] for row in raw[:6]] == [1, 0, 0, 0, 0, 1]
    titles = dict(ratings.items.select("item_id", "title").rows())
    assert all(row["candidate_title"].startswith(titles[row["item_id"]]) for row in raw)
    assert len({(row["user_id"], row["timestamp"], row["history_titles"]) for row in raw[:5]}) == 1


def test_the_seed_draws_them() -> None:
    one, same, other = (build_samples(click_ratings(), OPTIONS, seed).negative for seed in (1, 1, 2))
    assert one is not None
    assert (one == same).all()
    assert (one != other).any()


def test_a_log_in_which_everyone_takes_everything_is_refused() -> None:
    ratings = click_ratings(Likes("uniform", 1))
    frame = ratings.frame.select("user_id").unique().join(ratings.items.select("item_id"), how="cross")
    times = pl.int_range(pl.len(), dtype=pl.Int64)
    every = replace(ratings, frame=frame.with_columns(rating=pl.lit(1.0), timestamp=times))
    with pytest.raises(InputError, match="training samples has a negative"):
        checked_samples(every, OPTIONS)


def test_the_audit_finds_nothing_fatal() -> None:
    prompt = PromptSpec(history_line="{n}. {title}", candidate_line="{title} ({item_count})")
    found = audit(build_samples(click_ratings(), OPTIONS), "user-time", prompt)
    assert not found.fatal
    assert {finding.check for finding in found.clean} >= {"item-context", "label-by-time", "label-by-user-order"}

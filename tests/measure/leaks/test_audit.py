"""Every kind of leak is planted in a log without one, and found; a log without one passes."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.measure.leaks.logs import EACH, ITEMS, USERS, clean_log, ratings_of, replaced, samples_of

from palate.config import PrepareConfig
from palate.measure.leaks import Audit, audit
from palate.prompt import PromptSpec
from palate.ratings.load import Ratings
from palate.samples import build_samples
from palate.samples.context import context_of

SPLITS = ("user-time", "global-time")
CONTEXT = PromptSpec(candidate_line="{title}, {item_mean:.1f} by {item_count}")


def fatal(found: Audit) -> set[str]:
    return {finding.check for finding in found.fatal}


@pytest.mark.parametrize("split", SPLITS)
def test_a_log_without_leaks_passes(split: str) -> None:
    found = audit(samples_of(clean_log(), split), split, CONTEXT)

    assert fatal(found) == set()
    expected = {"future"} if split == "user-time" else set()
    assert {finding.check for finding in found.stated} - {"unseen-users", "unseen-items"} == expected
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_a_training_row_after_the_cutoff_is_fatal_under_a_split_at_one_moment() -> None:
    samples = samples_of(clean_log(), "global-time")
    roles = samples.timeline["split"].to_list()
    latest = int(samples.timeline["timestamp"].arg_max())  # type: ignore[arg-type]
    roles[latest] = "train"
    planted = replaced(samples, split=roles)

    finding = audit(planted, "global-time").finding("training-after-test")
    row = planted.timeline.row(latest, named=True)
    first = planted.timeline.filter(split="test")["timestamp"].min()
    assert (finding.severity, finding.count) == ("fatal", 1)
    assert finding.example is not None
    assert (finding.example.user, finding.example.item) == (row["user_id"], row["item_id"])
    assert finding.example.times == (row["timestamp"], first)


def test_a_training_row_with_the_item_of_a_test_row_is_fatal_under_cold_items() -> None:
    samples = samples_of(clean_log(), "cold-items")
    assert fatal(audit(samples, "cold-items")) == set()
    cold = samples.timeline.filter(split="test")["item_id"][0]
    train = int(samples.position[samples.of("train")][-1])
    for row in (train, train - 1):  # itself, and a row that its history shows
        items = samples.timeline["item_id"].to_list()
        items[row] = cold
        finding = audit(replaced(samples, item_id=items), "cold-items").finding("known-cold-items")
        assert (finding.severity, finding.count) == ("fatal", 1)


def test_a_validation_row_after_the_cutoff_is_fatal_too() -> None:
    samples = samples_of(clean_log(), "global-time")
    roles = samples.timeline["split"].to_list()
    roles[int(samples.timeline["timestamp"].arg_max())] = "val"  # type: ignore[arg-type]
    assert "training-after-test" in fatal(audit(replaced(samples, split=roles), "global-time"))


@pytest.mark.parametrize("split", SPLITS)
def test_a_training_row_after_the_same_users_test_row_is_fatal(split: str) -> None:
    samples = samples_of(clean_log(), split)
    roles = samples.timeline["split"].to_list()
    last = len(roles) - 1 - roles[::-1].index("test")
    roles[last - 1], roles[last] = "test", "train"
    finding = audit(replaced(samples, split=roles), split).finding("own-future")

    assert (finding.severity, finding.count) == ("fatal", 1)


def test_the_future_is_stated_as_the_median_test_row_sees_it() -> None:
    samples = samples_of(clean_log())
    train, learned, test = (
        samples.timeline.filter(pl.col("split").is_in(roles))["timestamp"].to_numpy()
        for roles in (["train"], ["train", "warmup"], ["test"])
    )
    finding = audit(samples, "user-time").finding("future")

    per_row = [(train > time).mean() for time in test]
    assert finding.share == pytest.approx(np.median(per_row), abs=0.01)
    assert f"{np.median([(learned > time).mean() for time in np.sort(test)]):.0%}"[:-1] in finding.sentence


def test_a_history_that_is_later_than_its_target_is_fatal() -> None:
    samples = samples_of(clean_log())
    time = samples.timeline["timestamp"].to_numpy().copy()
    at = int(samples.of("test")[0])
    row = int(samples.position[at])
    time[row - 3] = time[row] + 1
    finding = audit(replaced(samples, timestamp=time), "user-time").finding("later-history")

    assert finding.severity == "fatal"
    assert finding.count >= 1
    assert finding.example is not None
    assert finding.example.times[0] < finding.example.times[1]


def test_a_history_of_another_user_is_fatal() -> None:
    samples = samples_of(clean_log())
    roles = samples.timeline["split"].to_list()
    roles[EACH + 14] = "train"  # of the second user, whose history would begin with the first one's last row
    finding = audit(replaced(samples, split=roles), "user-time").finding("history-of-others")

    assert (finding.severity, finding.count) == ("fatal", 1)


def test_a_pair_on_both_sides_is_fatal_wherever_it_is_learned_from() -> None:
    samples = samples_of(clean_log())
    item = samples.timeline["item_id"].to_numpy().copy()
    item[EACH - 1] = item[0]  # the first user's last test row, and the first warm-up row
    found = audit(replaced(samples, item_id=item), "user-time")

    assert found.finding("pair-on-both-sides").count == 1
    assert fatal(found) == {"pair-on-both-sides"}


def test_a_history_that_shows_the_candidate_is_fatal() -> None:
    samples = samples_of(clean_log())
    item = samples.timeline["item_id"].to_numpy().copy()
    item[20] = item[20 - samples.history_len]  # a training row
    found = audit(replaced(samples, item_id=item), "user-time")
    assert fatal(found) == {"candidate-in-history"}

    item[20] = samples.timeline["item_id"][20]
    item[21] = item[21 - samples.history_len - 1]  # just too long ago to be shown
    assert fatal(audit(replaced(samples, item_id=item), "user-time")) == set()


def test_a_row_that_is_there_twice_is_stated() -> None:
    log = clean_log()
    samples = samples_of(pl.concat([log, log.sort("user_id", "timestamp").head(1)]))
    finding = audit(samples, "user-time").finding("duplicate-rows")
    assert (finding.severity, finding.count) == ("stated", 1)


def rated(log: pl.DataFrame, liked: pl.Expr, noise: float = 0.05) -> pl.DataFrame:
    """The log with ratings that say Yes where `liked`, but for some by chance."""
    other = np.random.default_rng(7).random(log.height) < noise
    return log.with_columns(rating=pl.when(liked != pl.Series(other)).then(5.0).otherwise(2.0))


@pytest.mark.parametrize(
    ("check", "liked"),
    [
        ("label-by-time", pl.col("timestamp") > pl.col("timestamp").median()),
        ("label-by-time", (pl.col("timestamp") - pl.col("timestamp").median()).abs() < 3000),  # no trend, all the same
        ("label-by-place", pl.col("timestamp").rank().over("user_id") < 26),
        ("label-by-user-order", pl.col("user_id") < 15),
        ("label-by-user", pl.col("user_id") % 2 == 0),
    ],
)
def test_a_log_that_is_sorted_by_its_label_is_fatal(check: str, liked: pl.Expr) -> None:
    found = audit(samples_of(rated(clean_log(), liked, 0.01 if check == "label-by-user" else 0.05)), "user-time")
    assert check in fatal(found)
    assert found.finding(check).auc is not None


@given(seed=st.integers(0, 10_000), users=st.integers(20, 35))
@examples(15)
def test_users_who_differ_in_generosity_alone_are_no_leak(seed: int, users: int) -> None:
    log = clean_log(seed, users)
    rng = np.random.default_rng(seed)
    generous = rng.beta(2, 2, users)[log["user_id"].to_numpy()]
    log = log.with_columns(rating=pl.Series(np.where(rng.random(log.height) < generous, 5.0, 2.0)))
    one_session = log.with_columns(timestamp=pl.col("timestamp") + 1_000_000 * pl.col("user_id"))

    for each in (log, one_session):
        assert fatal(audit(samples_of(each), "user-time")) == set()


def item_means(log: pl.DataFrame) -> list[float]:
    return log.group_by("item_id").agg(pl.col("rating").mean()).sort("item_id")["rating"].to_list()


def test_an_item_column_that_is_made_of_all_ratings_is_fatal_where_the_prompt_names_it() -> None:
    log = clean_log(users=USERS // 2)
    means = item_means(log)
    samples = samples_of(log, stars=means, fame=list(range(ITEMS)))
    named = PromptSpec(candidate_line="{title} ({stars}, {fame})")
    found = audit(samples, "user-time", named)

    assert fatal(found) == {"item-column"}
    assert "{stars}" in found.finding("item-column").sentence
    assert "fame" not in found.finding("item-column").sentence
    assert fatal(audit(samples, "user-time", PromptSpec())) == set()  # it stands in the table, and is not shown
    as_text = samples_of(log, stars=[f"{mean:.1f}" for mean in means])
    shown = PromptSpec(history_line="{n}. {title} {stars}", candidate_line="{title}")
    assert fatal(audit(as_text, "user-time", shown)) == {"item-column"}


def test_an_item_column_that_is_made_of_training_ratings_is_stated() -> None:
    log = clean_log(users=USERS // 2)
    learned = samples_of(log).timeline.filter(pl.col("split").is_in(["train", "warmup"]))
    samples = samples_of(log, stars=item_means(learned))
    found = audit(samples, "user-time", PromptSpec(candidate_line="{title} ({stars:.2f})"))

    assert fatal(found) == set()
    assert found.finding("training-column").severity == "stated"


def test_a_candidate_line_cannot_name_its_own_rating() -> None:
    with pytest.raises(ValueError, match="must not name"):
        PromptSpec(candidate_line="{title} ({rating})")


@pytest.mark.parametrize("split", SPLITS)
def test_a_context_that_holds_the_rows_own_rating_is_fatal(split: str) -> None:
    samples = samples_of(clean_log(), split)
    item, time, rating = (samples.timeline[name].to_numpy() for name in ("item_id", "timestamp", "rating"))
    allowed = samples.timeline["split"].is_in(["warmup", "train"]).to_numpy()
    number = item.astype(np.uint32)

    right = replace(samples, context=context_of(number, time, rating, allowed))
    assert fatal(audit(right, split, CONTEXT)) == set()
    # As of the end: every row sees all ratings of its item, its own among them.
    end = np.full(time.size, time.max() + 1)
    both = context_of(
        *(np.concatenate(p) for p in ((number,) * 2, (time, end), (rating,) * 2, (allowed, ~allowed & False)))
    )
    wrong = replace(samples, context=replace(both, code=both.code[time.size :]))
    assert fatal(audit(wrong, split, CONTEXT)) == {"item-context"}
    everything = replace(samples, context=context_of(number, time, rating, np.ones(time.size, bool)))
    assert fatal(audit(everything, split, CONTEXT)) == {"item-context"}


def test_ties_are_stated_with_their_shares() -> None:
    log = clean_log(users=20)
    last = pl.col("timestamp").rank("ordinal").over("user_id")
    # Of every other user the first test row (39 of 40) happens when the row before it does.
    before = pl.col("timestamp").sort().get(37).over("user_id")
    log = log.with_columns(
        timestamp=pl.when((pl.col("user_id") % 2 == 0) & (last == 39)).then(before).otherwise("timestamp")
    )
    found = audit(samples_of(log), "user-time")

    assert found.finding("tied-test-border").share == 0.5
    assert found.finding("tied-history").count == 10
    assert found.finding("tied-rows").count == 20
    assert found.finding("tied-validation-border").severity == "clean"
    assert found.finding("one-moment-users").severity == "clean"
    at_once = log.with_columns(timestamp=pl.when(pl.col("user_id") == 3).then(5).otherwise("timestamp"))
    assert audit(samples_of(at_once), "user-time").finding("one-moment-users").count == 1


def test_test_rows_of_what_training_has_not_seen_are_counted() -> None:
    samples = samples_of(clean_log())
    item, roles = samples.timeline["item_id"].to_numpy().copy(), samples.timeline["split"].to_list()
    item[EACH - 1], item[2 * EACH - 1] = ITEMS, ITEMS
    new = [role if row >= EACH or role != "train" else "warmup" for row, role in enumerate(roles)]
    found = audit(replaced(samples, item_id=item, split=new), "user-time")

    assert found.finding("unseen-items").count == 2 + audit(samples, "user-time").finding("unseen-items").count
    assert found.finding("unseen-users").count == roles[:EACH].count("test")


@given(seed=st.integers(0, 10_000), data=st.data())
@examples(15)
def test_neither_the_order_of_the_rows_nor_the_ids_change_a_finding(seed: int, data: st.DataObject) -> None:
    log = clean_log(seed % 7)
    planted = data.draw(st.sampled_from(["nothing", "pair", "time", "order"]))
    if planted == "pair":
        first = pl.col("item_id").first().over("user_id")
        log = log.with_columns(item_id=pl.when(pl.col("user_id") % 3 == 0).then(first).otherwise("item_id"))
    elif planted == "time":
        log = rated(log, pl.col("timestamp") < 15_000)
    elif planted == "order":
        log = rated(log, pl.col("user_id") < 15)
    split = data.draw(st.sampled_from(SPLITS))
    found = audit(samples_of(log, split), split)
    rng = np.random.default_rng(seed)

    assert audit(samples_of(log[rng.permutation(log.height)], split), split) == found
    in_order = log.with_columns(user_id=7 + 3 * pl.col("user_id"), item_id=pl.format("i{}", pl.col("item_id")))
    assert bare(audit(samples_of(in_order, split), split)) == bare(found)
    others = pl.Series(rng.permutation(USERS))
    renamed = log.with_columns(user_id=others.gather(log["user_id"]), item_id=500 - pl.col("item_id"))
    # The order of the ids is what one check looks at.
    assert bare(audit(samples_of(renamed, split), split), "label-by-user-order") == bare(found, "label-by-user-order")


def bare(found: Audit, *left_out: str) -> set[object]:
    """The findings without the names in their examples."""
    return {
        replace(f, example=f.example and replace(f.example, user=0, item=0))
        for f in found.findings
        if f.check not in left_out
    }


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_stated_of_ml_latest_small(ml_latest_small: Ratings, split: str) -> None:
    samples = build_samples(ml_latest_small, PrepareConfig(split=split))  # type: ignore[arg-type]
    found = audit(samples, split, CONTEXT)

    assert fatal(found) == set()
    if split == "global-time":
        assert found.finding("training-after-test").severity == "clean"
        return
    assert found.finding("future").share == pytest.approx(0.38, abs=0.005)
    assert found.finding("tied-test-border").share == pytest.approx(0.18, abs=0.005)
    assert found.finding("unseen-users").count == 0
    blocks = [found.finding(f"label-by-{name}").auc for name in ("time", "place", "user-order")]
    assert all(auc is not None and abs(auc.value - 0.5) < 0.06 for auc in blocks)


def test_an_audit_needs_neither_test_rows_nor_both_answers() -> None:
    log = clean_log()
    samples = build_samples(ratings_of(log), PrepareConfig(val_ratio=0, test_ratio=0))
    assert fatal(audit(samples, "user-time", CONTEXT)) == set()
    one_answer = samples_of(log.with_columns(rating=5.0))
    found = audit(one_answer, "user-time")
    assert fatal(found) == set()
    assert "not looked at" in found.finding("label-by-time").sentence

"""The audit of signals: clean as they are computed under every split, fatal as a plain fit would have them."""

from dataclasses import replace

import polars as pl
import pytest
from tests.measure.leaks.logs import clean_log, samples_of

from palate.baselines.registry import RANKERS
from palate.baselines.signals import SignalSource, signals_of
from palate.baselines.statistics import BaselineData
from palate.measure.leaks import audit
from palate.prompt.spec import SIGNAL_FIELDS, PromptSpec
from palate.samples import Samples
from palate.samples.queries import Queries

PROMPT = PromptSpec(candidate_line=" ".join(f"{{{name}}}" for name in SIGNAL_FIELDS), estimate="logistic")


def with_signals(samples: Samples) -> Samples:
    return replace(samples, signals=signals_of(BaselineData.of(samples), PROMPT))


@pytest.mark.parametrize("split", ["user-time", "global-time", "cold-items"])
def test_signals_do_not_change_with_the_answers_that_they_must_not_know(split: str) -> None:
    found = audit(with_signals(samples_of(clean_log(), split)), split, PROMPT).finding("candidate-signals")
    assert (found.severity, found.count) == ("clean", 0)
    assert found.of > 0


def test_a_plain_fit_is_fatal() -> None:
    samples = samples_of(clean_log())
    data, queries = BaselineData.of(samples), Queries(samples.position, BaselineData.of(samples).item[samples.position])
    plain = RANKERS["logistic"].predictor(data, RANKERS["logistic"].fitted(data))
    leaking = SignalSource(data, PROMPT.signals, plain).of(queries)
    found = audit(replace(samples, signals=leaking), "user-time", PROMPT).finding("candidate-signals")
    assert found.severity == "fatal"
    assert found.example is not None


def test_item_means_of_all_training_ratings_are_fatal() -> None:
    samples = with_signals(samples_of(clean_log()))
    assert samples.signals is not None
    learned = samples.timeline.filter(pl.col("split").is_in(["warmup", "train"]))
    mean = learned.group_by("item_id").agg(pl.col("rating").mean().round(1))
    of_row = (
        samples.timeline[samples.position].select("item_id").join(mean, on="item_id", how="left", maintain_order="left")
    )
    leaking = samples.signals.with_columns(item_deviation=of_row["rating"].fill_null(0) - learned["rating"].mean())
    found = audit(replace(samples, signals=leaking), "user-time", PROMPT).finding("candidate-signals")
    assert found.severity == "fatal"

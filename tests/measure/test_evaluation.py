import json
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter
from sklearn.metrics import roc_auc_score
from tests.rated import samples_of

from palate.baselines.registry import REGISTRY, baseline_scores
from palate.errors import InputError
from palate.measure.bootstrap import Interval
from palate.measure.evaluation import Difference, Evaluation
from palate.measure.rows import Models, evaluate
from palate.measure.verdict import verdict

OPTIONS = {"baselines": "quick"}


def liked(timeline: pl.DataFrame) -> np.ndarray:
    return (timeline.filter(pl.col("split") == "test")["rating"] >= 4.0).to_numpy()


def frame(p: np.ndarray, rows: np.ndarray | None = None, mass: float = 0.99) -> pl.DataFrame:
    rows = np.arange(len(p)) if rows is None else rows
    return pl.DataFrame({"row": rows, "p": p.astype(float), "mass": np.full(len(p), mass)})


def leaning(y: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    """Probabilities that know the labels as well as `strength` says."""
    return 1 / (1 + np.exp(-(strength * (2 * y - 1) + np.random.default_rng(seed).normal(size=len(y)))))


@pytest.fixture(scope="module")
def evaluation(timeline: pl.DataFrame) -> Evaluation:
    y = liked(timeline)
    scores = {"zero-shot": frame(leaning(y, 0.0), mass=0.4), "fine-tuned": frame(leaning(y, 3.0))}
    models = Models(scores, {"fine-tuned": "tiny, fine-tuned"})
    return evaluate(samples_of(timeline), models, **OPTIONS, bootstrap=200)


def test_baselines_come_first_and_models_keep_their_order_and_labels(evaluation: Evaluation) -> None:
    assert [e.key for e in evaluation.entries] == [*(b.key for b in REGISTRY if b.quick), "zero-shot", "fine-tuned"]
    assert [e.label for e in evaluation.models] == ["zero-shot", "tiny, fine-tuned"]


def test_every_entry_is_measured_on_the_rows_that_were_scored(timeline: pl.DataFrame) -> None:
    y = liked(timeline)
    rows = np.random.default_rng(4).permutation(len(y))[: len(y) // 2]
    p = leaning(y, 1.0)
    got = evaluate(samples_of(timeline), {"llm": frame(p[rows], rows)}, **OPTIONS, rows=rows, bootstrap=0)
    assert got.n == len(rows)
    assert got.base_rate == pytest.approx(y[rows].mean())
    assert got.entry("llm").metrics.auc == pytest.approx(roc_auc_score(y[rows], p[rows]))
    history = baseline_scores(samples_of(timeline), choice="quick")["history-mean"].to_numpy()
    assert got.entry("history-mean").metrics.auc == pytest.approx(roc_auc_score(y[rows], history[rows]))


def test_the_order_of_rows_and_of_scores_does_not_matter(timeline: pl.DataFrame) -> None:
    p = leaning(liked(timeline), 1.0)
    mixed = np.random.default_rng(1).permutation(len(p))
    first = evaluate(samples_of(timeline), {"llm": frame(p)}, **OPTIONS, bootstrap=20)
    second = evaluate(
        samples_of(timeline), {"llm": frame(p[mixed], mixed)}, **OPTIONS, rows=list(range(len(p))), bootstrap=20
    )
    assert first == second


def test_each_model_is_compared_with_the_best_baseline_and_after_with_before(evaluation: Evaluation) -> None:
    for metric in ("auc", "gauc"):
        best = max(evaluation.entries[:5], key=lambda e: getattr(e.metrics, metric)).key
        pairs = {(d.first, d.second): d for d in evaluation.differences if d.metric == metric}
        assert set(pairs) == {("zero-shot", best), ("fine-tuned", best), ("fine-tuned", "zero-shot")}
        for (first, second), d in pairs.items():
            of = [getattr(evaluation.entry(key).metrics, metric) for key in (first, second)]
            assert d.value == pytest.approx(of[0] - of[1])
            assert d.interval is not None
            assert d.interval.low <= d.value <= d.interval.high


def test_a_difference_between_equal_models_is_exactly_zero(timeline: pl.DataFrame) -> None:
    p = leaning(liked(timeline), 1.0)
    got = evaluate(samples_of(timeline), {"zero-shot": frame(p), "fine-tuned": frame(p**3)}, **OPTIONS, bootstrap=50)
    between = next(d for d in got.differences if d.second == "zero-shot" and d.metric == "auc")
    assert (between.value, between.interval.low, between.interval.high) == (0, 0, 0)


def test_it_survives_json(evaluation: Evaluation) -> None:
    text = json.dumps(asdict(evaluation), allow_nan=False)
    assert TypeAdapter(Evaluation).validate_json(text) == evaluation


def test_lower_is_better_for_losses(evaluation: Evaluation) -> None:
    assert evaluation.best("auc") == {"fine-tuned"}
    assert evaluation.best("log_loss") == {min(evaluation.entries, key=lambda e: e.metrics.log_loss or 9).key}


def test_the_verdict_says_who_wins(evaluation: Evaluation) -> None:
    text = "\n".join(evaluation.verdict)
    assert "The fine-tuned model beats" in evaluation.verdict[0]
    assert "The fine-tuned model beats the zero-shot model" in text
    assert "The zero-shot model does not beat" in text
    assert "puts 40\N{NO-BREAK SPACE}% of its probability on the two answers" in text
    assert "have both classes), the fine-tuned model reaches an AUC of" in text
    assert "the same answer" not in text
    assert "only 39 users" in text


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.02, 0.01, 0.03, "The fine-tuned model beats the user mean, the best baseline: "),
        (0.02, -0.01, 0.05, "is ahead of the user mean, the best baseline, but the interval includes zero: "),
        (0.02, 0.0, 0.05, "but the interval includes zero: "),
        (0.0, 0.0, 0.0, "sorts the rows exactly as the user mean, the best baseline does: "),
        (-0.02, -0.05, 0.01, "is behind the user mean, the best baseline, but the interval includes zero: "),
        (-0.02, -0.03, -0.01, "does not beat the user mean, the best baseline: "),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval(
    evaluation: Evaluation, value: float, low: float, high: float, words: str
) -> None:
    difference = Difference("auc", "fine-tuned", "user-mean", value, Interval(low, high))
    best = [e for e in evaluation.entries if e.kind == "model" or e.key in ("constant", "user-mean")]
    sentence = verdict(replace(evaluation, entries=best, differences=[difference]))[0]
    assert words in sentence
    assert ", the best baseline" not in verdict(replace(evaluation, differences=[difference]))[0]
    assert ("beats" in sentence) == (low > 0)
    assert ("these rows detect differences of at least 0.0" in sentence) == (low <= 0 <= high and low < high)


def test_the_verdict_says_so_when_a_baseline_wins(timeline: pl.DataFrame) -> None:
    got = evaluate(
        samples_of(timeline), {"fine-tuned": frame(leaning(liked(timeline), -2.0))}, **OPTIONS, bootstrap=100
    )
    assert got.verdict[0].startswith("The fine-tuned model does not beat the ")
    assert "difference −0." in got.verdict[0]
    assert any("worse than the constant base rate" in sentence for sentence in got.verdict)


def test_without_resamples_the_verdict_claims_nothing(timeline: pl.DataFrame) -> None:
    got = evaluate(samples_of(timeline), {"fine-tuned": frame(leaning(liked(timeline), 2.0))}, **OPTIONS, bootstrap=0)
    assert got.differences[0].interval is None
    assert "Without an interval, this may be chance." in got.verdict[0]


def test_one_class_has_a_verdict_and_no_differences(timeline: pl.DataFrame) -> None:
    p = leaning(liked(timeline), 0.0)
    got = evaluate(samples_of(timeline, 0.5), {"llm": frame(p)}, baselines="quick", bootstrap=20)
    assert got.verdict == [f"All {len(p):,} rows have the same label, so they cannot compare models."]
    json.dumps(asdict(got), allow_nan=False)


def test_no_rows_have_a_verdict(timeline: pl.DataFrame) -> None:
    got = evaluate(samples_of(timeline), {"llm": frame(np.empty(0))}, **OPTIONS, rows=[], bootstrap=20)
    assert (got.n, got.differences, got.verdict) == (0, [], ["No test row was scored."])


def test_no_models_leave_the_baselines(timeline: pl.DataFrame) -> None:
    got = evaluate(samples_of(timeline), {}, **OPTIONS, bootstrap=20)
    assert got.verdict[0].startswith("No model was scored. The best baseline is the ")


def test_scores_without_mass_have_none(timeline: pl.DataFrame) -> None:
    scores = frame(leaning(liked(timeline), 1.0)).drop("mass")
    assert evaluate(samples_of(timeline), {"llm": scores}, **OPTIONS, bootstrap=0).entry("llm").mass is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.head(3), "scores of llm: row 3 has no score"),
        (lambda f: pl.concat([f, f.head(1)]), "scores of llm: row 0 has two scores"),
        (lambda f: f.with_columns(p=pl.col("p") + 1), "expected a probability"),
        (lambda f: f.with_columns(p=pl.lit(float("nan"))), "row 0 scores nan"),
    ],
)
def test_wrong_scores_are_refused_with_their_row(timeline: pl.DataFrame, spoil, message: str) -> None:
    scores = frame(leaning(liked(timeline), 1.0))
    with pytest.raises(InputError, match=message):
        evaluate(samples_of(timeline), {"llm": spoil(scores)}, **OPTIONS, bootstrap=0)


def test_a_model_cannot_take_the_place_of_a_baseline(timeline: pl.DataFrame) -> None:
    with pytest.raises(InputError, match="a baseline has this name"):
        evaluate(samples_of(timeline), {"constant": frame(leaning(liked(timeline), 1.0))}, **OPTIONS, bootstrap=0)


def test_the_verdict_says_when_a_model_gives_one_answer_only(timeline: pl.DataFrame) -> None:
    test = timeline.filter(pl.col("split") == "test")
    scores = pl.DataFrame({"row": range(len(test)), "p": 0.5 + 0.01 * test["rating"].to_numpy()})
    found = evaluate(samples_of(timeline), {"fine-tuned": scores}, baselines="quick", bootstrap=0)

    assert any("The fine-tuned model gives every row the same answer, Yes" in sentence for sentence in found.verdict)

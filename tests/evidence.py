"""Everything that a report can tell, of made-up users, films and models."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
from tests.films import film_samples

from palate.baselines.registry import BASELINES, fit_baselines, scores_of
from palate.baselines.statistics import BaselineData
from palate.measure.ablations import UNCHANGED, compare_ablations
from palate.measure.calibration import CalibrationSource
from palate.measure.candidates import candidate_sets
from palate.measure.evaluation import Evaluation
from palate.measure.fit_calibration import fit_calibration
from palate.measure.leaks import audit
from palate.measure.paired import compare
from palate.measure.ranking import rank
from palate.measure.ranking_table import ranking_table
from palate.measure.rows import Models, beside_baselines, evaluate
from palate.measure.seeds import over_seeds
from palate.measure.slices import measure_slices
from palate.prompt.spec import PromptSpec
from palate.report.costs import Cost
from palate.report.outcome import Outcome
from palate.report.page import About
from palate.report.user_examples import Candidate, UserExample
from palate.samples import Samples

LABELS = {"zero-shot": "SmolLM2, zero-shot", "fine-tuned": "SmolLM2, fine-tuned"}
SOURCE = CalibrationSource("model", {}, "prompt")


def model_scores(samples: Samples, split: str = "test", seed: int = 0) -> dict[str, pl.DataFrame]:
    """Scores of a model that knows nothing and of one that knows something."""
    rows = samples.position[samples.of(split)]
    rng, rating = np.random.default_rng(seed), samples.timeline["rating"].to_numpy()[rows]
    logits = {
        "zero-shot": rng.normal(0, 1, len(rows)),
        "fine-tuned": 2 * (rating - rating.mean()) + rng.normal(0, 3, len(rows)),
    }
    return {
        key: pl.DataFrame({"row": range(len(rows)), "p": 1 / (1 + np.exp(-z)), "mass": 0.9, "logit": z})
        for key, z in logits.items()
    }


@cache
def evaluation() -> Evaluation:
    """Two models beside the quick baselines."""
    samples = film_samples()
    models = Models(model_scores(samples), LABELS)
    return evaluate(samples, models, baselines="quick", bootstrap=40)


@cache
def whole() -> Outcome:
    """Every part of an outcome."""
    samples = film_samples()
    frames, validation = model_scores(samples), model_scores(samples, "val")["fine-tuned"]["logit"].to_numpy()
    position = samples.position[samples.of("val")]
    calibration = fit_calibration(
        np.tile(validation, 9).astype(np.float32),
        np.tile(samples.label[samples.of("val")], 9),
        np.tile(samples.timeline["user_id"].to_numpy()[position], 9),
        source=SOURCE, choice="platt", seed=13, key="",
    )  # fmt: skip
    assert calibration is not None
    logit = frames["fine-tuned"]["logit"].to_numpy()
    frames["fine-tuned-calibrated"] = frames["fine-tuned"].select("row", p=pl.Series(calibration.p(logit)))
    known = BaselineData.of(samples)
    fitted = fit_baselines(known, "quick")
    free = scores_of(known, fitted, "test")
    models = Models(
        frames, LABELS | {"fine-tuned-calibrated": "fine-tuned, calibrated (platt)"}, ["fine-tuned-calibrated"]
    )
    found = evaluate(samples, models, baselines=free, bootstrap=40)
    same = beside_baselines(samples, frames, free)
    pair = ("fine-tuned-calibrated", "user-item")
    ablated = {UNCHANGED: same.scores["fine-tuned"], "empty": 1 - same.scores["fine-tuned"] / 2}
    rankings = []
    for negatives in (None, 20):
        sets = candidate_sets(samples, negatives=negatives)
        free_ranked = {key: rank(sets, predict) for key, predict in fitted.items()}
        model = rank(sets, lambda asked: (asked.item * 7919 % 101).astype(float))
        rankings.append(
            ranking_table(
                free_ranked | {"fine-tuned": model}, baselines=list(fitted), labels=BASELINES | LABELS, resamples=40
            )
        )
    slices = measure_slices(samples, {key: same.scores[key] for key in pair}, model=pair[0], baseline=pair[1],
                            resamples=40)  # fmt: skip
    return Outcome(
        "SmolLM2",
        evaluation=found,
        comparison=compare(same.y, same.users, same.scores, [pair, ("fine-tuned", "zero-shot")], resamples=40),
        calibrations={"fine-tuned": calibration},
        slices=slices,
        rankings=rankings,
        ablations=compare_ablations(samples, samples.of("test"), ablated, model="SmolLM2, fine-tuned",
                                    resamples=40, seed=13),
        seeds=over_seeds(same.y, same.users, {"1": same.scores["fine-tuned"], "2": same.scores["zero-shot"]},
                         name="fine-tuned", against=("user-item", same.scores["user-item"]), resamples=40),
        leaks=audit(samples, "user-time", PromptSpec()),
    )  # fmt: skip


def about() -> About:
    """Every part of a page that was not measured."""
    slices = whole().slices
    assert slices is not None
    return About(
        title="A run",
        histories={example.row: ["1. Heat (1995)", "2. Babe (1995)"] for example in slices.wins},
        run={"Model": "SmolLM2", "Seed": 13},
        users=[
            UserExample(
                "7",
                4,
                ["Babe (1995)"],
                [Candidate("Heat (1995)", 0.9, 5.0, True)],
                [Candidate("Cats", 0.1, 1.0, False)],
            )
        ],
        costs=[Cost("SmolLM2, fine-tuned", 40, 8.0, 9000), Cost("user + item, the best baseline", 40, 0.001)],
        lengths={"lengths": {"400": 10, "430": 25, "600": 2}, "cutoff_len": 512, "stats": {"max": 600, "mean": 431.2}},
        training=[{"step": 5, "loss": 2.5}, {"step": 10, "loss": 1.2}, {"step": 10, "eval_loss": 1.3}],
        data_stats={"ratings": 100836, "samples": {"train": 78271}},
        prompt="<|im_start|>system\nYou are …",
        config="name: demo\n",
        commands=["palate run configs/demo.yaml"],
    )


def with_labels(found: Evaluation, label: str) -> Evaluation:
    """The same evaluation under other names."""
    return replace(found, entries=[replace(e, label=f"{label} {e.key}") for e in found.entries])

"""Calibration: recovers what it should, agrees with scikit-learn, keeps the order, and belongs to one model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score
from tests.examples import examples

from palate.errors import InputError
from palate.measure.calibration import (
    METHODS,
    TIE,
    Calibration,
    CalibrationSource,
    apply,
    load_calibration,
    prompt_hash,
    read_calibration,
    sigmoid,
    write_calibration,
)
from palate.measure.fit_calibration import FOLDS, fit_calibration, fit_method, folds_of
from palate.measure.metrics import nats

SOURCE = CalibrationSource("base", {}, "prompt")


def drawn(n: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels that are a Yes with probability σ(slope z + intercept), and users of four rows each."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, n).astype(np.float32)
    return z, rng.random(n) < expit(slope * z.astype(float) + intercept), np.arange(n) // 4


def fitted(asked: str = "auto", n: int = 400, slope: float = 0.5, intercept: float = 1.0, seed: int = 0) -> Calibration:
    found = fit_calibration(*drawn(n, slope, intercept, seed), source=SOURCE, choice=asked)
    assert found is not None
    return found


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_the_sigmoid_is_exact_and_never_overflows(values: list[float]) -> None:
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(np.array(values))
    np.testing.assert_allclose(found, expit(np.array(values)), rtol=1e-12, atol=1e-300)


def test_known_parameters_are_recovered() -> None:
    z, liked, _ = drawn(200_000, 0.4, 0.0)
    assert fit_method("temperature", z.astype(float), liked)["temperature"] == pytest.approx(2.5, rel=0.02)
    z, liked, _ = drawn(200_000, 0.7, -1.2)
    platt = fit_method("platt", z.astype(float), liked)
    assert platt["slope"] == pytest.approx(0.7, rel=0.02)
    assert platt["intercept"] == pytest.approx(-1.2, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_platt_and_isotonic_agree_with_scikit_learn(seed: int) -> None:
    z, liked, _ = drawn(300, 0.6, 0.8, seed)
    z = z.astype(np.float64)
    scorer = LogisticRegression().fit(z[:, None], z > 0)  # its decision function is a z, made the identity below
    scorer.coef_[:], scorer.intercept_[:] = 1.0, 0.0
    sigmoids = CalibratedClassifierCV(FrozenEstimator(scorer), method="sigmoid", cv=None).fit(z[:, None], liked)
    ours = apply("platt", fit_method("platt", z, liked), z)
    (one,) = sigmoids.calibrated_classifiers_
    np.testing.assert_allclose(ours, one.predict_proba(z[:, None])[:, 1], atol=1e-4)

    least = 1 / (len(z) + 2)
    steps = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(z, liked)
    asked = np.linspace(-9, 9, 500)
    found = apply("isotonic", fit_method("isotonic", z, liked), asked)
    np.testing.assert_allclose(found, steps.predict(asked), atol=2 * TIE)


def test_the_temperature_has_the_least_loss_of_all() -> None:
    z, liked, _ = drawn(500, 0.3, 0.5)
    best = fit_method("temperature", z.astype(float), liked)["temperature"]
    of = [sklearn_log_loss(liked, expit(z / t)) for t in (best, 0.97 * best, 1.03 * best)]
    assert of[0] == min(of)
    assert nats(liked, expit(z / best)).mean() == pytest.approx(of[0], abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("slope", [0.5, -0.5, 50.0])
def test_no_method_changes_the_order(method: str, slope: float) -> None:
    z, liked, users = drawn(300, slope, 0.3)
    found = fit_calibration(z, liked, users, source=SOURCE, choice=method)
    assert found is not None
    p = found.p(z)
    assert p.dtype == np.float64
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p[np.argsort(z, kind="stable")]) >= 0).all()
    if method in ("isotonic", "none"):  # the others reach 1 where the labels ask for a wall
        assert len(np.unique(p)) == len(np.unique(z))
        assert roc_auc_score(liked, p) == roc_auc_score(liked, z)


@examples(50)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=30, unique=True))
def test_isotonic_tells_any_two_float32_logits_apart(values: list[float]) -> None:
    z = np.sort(np.array(values, np.float32)).astype(np.float64)
    z = z[np.r_[True, np.diff(z) > 1e-5]]
    p = apply("isotonic", {"z": [0.0], "p": [0.5]}, z)
    assert (np.diff(p) > 0).all()


def test_the_method_that_fits_the_world_is_chosen() -> None:
    assert fitted(n=4000, slope=0.4, intercept=0.0).method in ("temperature", "platt")
    assert fitted(n=4000, slope=0.6, intercept=1.5).method == "platt"
    z, _, users = drawn(8000, 1, 0)
    stairs = np.random.default_rng(1).random(len(z)) < np.where(z > 0, 0.8, np.where(z > -1, 0.1, 0.05))
    found = fit_calibration(z, stairs, users, source=SOURCE)
    assert found is not None
    assert found.method == "isotonic"


def test_isotonic_does_not_win_by_fitting_the_rows_it_is_judged_by() -> None:
    """On few rows it fits them best of all, and does worse on users that it has not seen."""
    found = fitted(n=80, slope=0.5, intercept=0.0)
    losses = found.losses
    assert losses["isotonic"].fitted == min(each.fitted for each in losses.values())
    assert losses["isotonic"].cross_validated > losses["platt"].cross_validated  # type: ignore[operator]
    assert found.method != "isotonic"


def test_few_rows_of_a_model_that_means_what_it_says_leave_it_as_it_is() -> None:
    chosen = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logit = rng.normal(0, 1, 150).astype(np.float32)
        found = fit_calibration(logit, rng.random(150) < expit(logit), rng.integers(0, 100, 150), source=SOURCE)
        assert found is not None
        chosen.append(found.method)
    assert chosen.count("none") >= 16
    assert "isotonic" not in chosen


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.integers(0, 5))
def test_a_user_is_never_on_both_sides_of_a_fold(users: list[int], seed: int) -> None:
    folds = folds_of(np.array(users), seed)
    if len(set(users)) < 2:
        assert folds is None
        return
    assert folds is not None
    assert len({(user, fold) for user, fold in zip(users, folds.tolist(), strict=True)}) == len(set(users))
    assert len(set(folds.tolist())) == min(FOLDS, len(set(users)))


def test_the_cross_validated_loss_is_that_of_fits_without_the_user() -> None:
    z, liked, users = drawn(60, 0.5, 0.5)
    found = fit_calibration(z, liked, users, source=SOURCE)
    folds = folds_of(users, 13)
    assert found is not None
    assert folds is not None
    p = np.empty(60)
    for row in range(60):
        others = folds != folds[row]
        p[row] = expit(z[row] / fit_method("temperature", z[others].astype(float), liked[others])["temperature"])
    assert found.losses["temperature"].cross_validated == pytest.approx(sklearn_log_loss(liked, p))


def test_the_same_rows_give_the_same_calibration_and_other_logits_another_hash() -> None:
    assert fitted() == fitted()
    z, liked, users = drawn(400, 0.5, 1.0)
    z[7] += 1
    other = fit_calibration(z, liked, users, source=SOURCE)
    assert other is not None
    assert other.fitted_on.scores != fitted().fitted_on.scores
    assert (other.fitted_on.rows, other.fitted_on.users) == (400, 100)


def test_too_little_to_fit_on_gives_none() -> None:
    z, liked, users = drawn(19, 1, 0)
    assert fit_calibration(z, liked, users, source=SOURCE) is None
    z, liked, users = drawn(100, 1, 0)
    assert fit_calibration(z, np.ones_like(liked), users, source=SOURCE) is None
    z[3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        fit_calibration(z, liked, users, source=SOURCE)


def test_one_user_gets_a_temperature() -> None:
    z, liked, users = drawn(100, 0.5, 0)
    found = fit_calibration(z, liked, np.zeros_like(users), source=SOURCE)
    assert found is not None
    assert found.method == "temperature"
    assert found.losses["platt"].cross_validated is None


@pytest.mark.parametrize("method", METHODS)
def test_a_calibration_survives_its_file(tmp_path: Path, method: str) -> None:
    found = fitted(method)
    write_calibration(tmp_path / "calibration.json", found)
    again = load_calibration(tmp_path)
    assert again == found
    z = np.linspace(-5, 5, 11).reshape(1, 11)
    np.testing.assert_array_equal(again.p(z), found.p(z))
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def test_a_folder_without_a_calibration_has_none(tmp_path: Path) -> None:
    assert load_calibration(tmp_path) is None


PROMPT, TOKENIZER, DECISION = {"system": "S"}, {"tokenizer": "t", "chat template": "c"}, {"yes": {"id": 1}}


def adapter(folder: Path, weights: bytes = b"w", base: str = "base") -> tuple[Path, CalibrationSource]:
    """A folder with an adapter's files, and whose scores its calibration would be fitted to."""
    from palate.store.artifacts import sha256_file, write_json

    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text("{}")
    about = {"base": {"weights": base}, "prompt": PROMPT, "tokenizer": TOKENIZER, "decision": DECISION}
    write_json(folder / "palate.json", about)
    files = {name: sha256_file(folder / name) for name in ("adapter_model.safetensors", "adapter_config.json")}
    return folder, CalibrationSource(base, files, prompt_hash(PROMPT, TOKENIZER, DECISION))


def test_a_calibration_fits_an_adapter_whose_template_an_earlier_version_recorded(tmp_path: Path) -> None:
    from palate.store.artifacts import read_json, write_json

    one, source = adapter(tmp_path / "one")
    about = read_json(one / "palate.json")
    about["tokenizer"]["chat template"] = "0" * 64
    write_json(one / "palate.json", about)
    mine = replace(fitted(), source=source)
    write_calibration(one / "calibration.json", mine)

    assert load_calibration(one) == mine


def test_a_calibration_of_another_adapter_base_prompt_or_server_is_refused(tmp_path: Path) -> None:
    one, source = adapter(tmp_path / "one")
    mine = replace(fitted(), source=source)
    write_calibration(one / "calibration.json", mine)
    assert load_calibration(one, source=source) == mine

    other, _ = adapter(tmp_path / "other", weights=b"v")
    rebased, _ = adapter(tmp_path / "rebased", base="another")
    for folder, what in ((other, "adapter"), (rebased, "base model")):
        write_calibration(folder / "calibration.json", mine)
        with pytest.raises(InputError, match=f"calibration.json: was fitted to the scores of another {what}"):
            load_calibration(folder)
    write_calibration(one / "calibration.json", replace(mine, source=replace(source, prompt="another")))
    with pytest.raises(InputError, match="of another prompt"):
        load_calibration(one)
    write_calibration(one / "calibration.json", mine)
    with pytest.raises(InputError, match="of another server"):
        load_calibration(one, source=replace(source, server="http://localhost:8000"))


def test_a_calibration_of_served_scores_is_for_that_server_alone(tmp_path: Path) -> None:
    folder, local = adapter(tmp_path / "one")
    served = replace(local, model="what it calls the model", server="http://localhost:8000")
    write_calibration(folder / "calibration.json", replace(fitted(), source=served))
    assert load_calibration(folder, source=served) is not None
    for other in (local, replace(served, server="http://localhost:9000"), replace(served, model="another")):
        with pytest.raises(InputError, match=r"of another (base model|server)"):
            load_calibration(folder, source=other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "has format 9, expected a calibration of format 1; remove the file"),
        ({"method": "beta"}, "is damaged"),
        ({"parameters": {}}, "is damaged"),
        ({"parameters": {"slope": -1.0, "intercept": 0.0}}, "does not increase with the logit"),
        ({"parameters": {"slope": float("nan"), "intercept": 0.0}}, "does not increase with the logit"),
        ({"method": "isotonic", "parameters": {"z": [0, 1], "p": [0.6, 0.5]}}, "does not increase"),
        ({"method": "isotonic", "parameters": {"z": [0, 1], "p": [0.6]}}, "does not increase"),
        ({"source": {"model": "m"}}, "is damaged"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, fitted("platt"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_calibration(path)

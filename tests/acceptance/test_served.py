"""`palate score` and `palate evaluate` through a server, as a user meets them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from tests import llamacpp
from tests.acceptance.ratings import write_ratings
from tests.score.stub import Stub, serving
from tests.tiny import random_adapter, tiny_folder

from palate.cli import main
from palate.config import load_config
from palate.models.load import load_base_model
from palate.score.files import read_scores


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with data and an adapter."""
    folder = tmp_path_factory.mktemp("served")
    config = {
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_ratings(folder / "ratings", users=4))},
        "model": {"base": str(tiny_folder(folder / "model")), "dtype": "float32"},
        "evaluate": {"bootstrap": 0, "baselines": "quick"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert main(["prepare", "--config", str(folder / "tiny.yaml")]) == 0
    random_adapter(load_config(folder / "tiny.yaml"), folder / "run" / "adapter")
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def url(recipe: Path) -> Iterator[str]:
    """llama.cpp with the run's base model."""
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed: pip install xllamacpp")
    model, tokenizer = load_base_model(load_config(recipe).model)
    with llamacpp.serving(llamacpp.write_gguf(model, tokenizer, recipe.parent / "tiny.gguf"), "tiny-base") as address:
        yield address


def through(url: str, **options: str) -> list[str]:
    return [word for key, value in {"server": url, **options}.items() for word in ("--set", f"score.{key}={value}")]


def test_a_served_base_scores_as_the_one_that_is_loaded(
    recipe: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = (recipe.parent / f"{name}.npz" for name in ("here", "there"))
    base = ["--config", str(recipe), "--base-only"]
    served = through(f"{url}/v1/", served_base="tiny-base")
    assert main(["score", *base, "--out", str(here)]) == 0
    assert main(["score", *base, "--out", str(there), *served]) == 0
    expected, found = read_scores(here), read_scores(there)
    assert found.key["server"] == url
    assert found.key["served_model"] == "tiny-base"
    for name in ("row", "user_id", "item_id", "label"):
        np.testing.assert_array_equal(found.columns[name], expected.columns[name])
    np.testing.assert_allclose(found.columns["logit"], expected.columns["logit"], atol=2e-4)
    np.testing.assert_allclose(found.columns["p"], expected.columns["p"], atol=5e-5)
    np.testing.assert_allclose(found.columns["mass"], expected.columns["mass"], rtol=1e-3)

    measured = ["evaluate", "--config", str(recipe), "--scores", str(there), "--out", str(recipe.parent / "measured")]
    assert main([*measured, *served]) == 0
    capsys.readouterr()
    assert main(measured) == 2
    assert f"there.npz: was scored by 'tiny-base' at {url}, expected score.server and score.served_base to say so" in (
        capsys.readouterr().err
    )


def test_a_name_that_is_left_out_is_asked_for_with_those_that_are_served(
    recipe: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recipe.parent / "nothing"
    assert main(["evaluate", "--config", str(recipe), "--out", str(out), *through(url, served_model="x")]) == 2
    said = f"error: score.served_base: is not set, expected what {url} calls the base model alone: tiny-base"
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_base_and_adapter_of_one_server_are_rows_of_one_table(recipe: Path) -> None:
    out = recipe.parent / "both"
    stub = Stub(load_base_model(load_config(recipe).model)[1])
    with serving(stub) as address:
        served = through(address, served_base="base", served_model="adapter")
        assert main(["evaluate", "--config", str(recipe), "--out", str(out), *served]) == 0
    tables = {path.stem: pl.read_parquet(path)["logit"].to_numpy() for path in (out / "scores").glob("*.parquet")}
    assert set(tables) == {"zero-shot", "fine-tuned"}
    assert np.abs(tables["zero-shot"] - tables["fine-tuned"]).min() > 0
    assert json.loads((out / "metrics.json").read_text())


def test_a_run_cannot_be_scored_by_a_server(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe), *through("http://localhost:1")]) == 2
    assert capsys.readouterr().err.startswith(
        "error: score.server: is another model than the one that `palate run` trains"
    )


def test_an_address_that_is_none_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--config", str(recipe), *through("localhost:8000")]) == 2
    assert "'localhost:8000' is not a server's address, expected one such as http://localhost:8000" in (
        capsys.readouterr().err
    )

"""Runs that earlier releases wrote: this version reads, scores, measures and serves them with the same numbers.

`python -m tests.releases.make` adds the fixture of a release.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.command import palate

from palate import __version__
from palate.commands.engine import engine_of
from palate.config import load_config
from palate.score.files import read_scores
from palate.serve.engine import FINE_TUNED
from palate.serve.store import Store

RELEASES = Path(__file__).parents[1] / "releases"


@pytest.fixture(scope="module", params=sorted(file.stem for file in RELEASES.glob("*.zip")))
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release's run, beside its model and its log."""
    folder: Path = tmp_path_factory.mktemp("release")
    with zipfile.ZipFile(RELEASES / f"{request.param}.zip") as archive:
        archive.extractall(folder)
    return folder


def test_this_release_has_a_fixture() -> None:
    assert (RELEASES / f"{__version__}.zip").is_file(), "run python -m tests.releases.make"


def test_its_adapter_gives_the_same_scores(home: Path) -> None:
    done = palate("score", "run", "--out", "again.npz", cwd=home)
    assert done.returncode == 0, done.stderr
    kept = pl.read_parquet(home / "run" / "scores" / "fine-tuned.parquet")
    np.testing.assert_allclose(read_scores(home / "again.npz").columns["logit"], kept["logit"], atol=1e-3)


def test_its_evidence_is_measured_again(home: Path) -> None:
    done = palate("evaluate", "run", "--out", "evidence", cwd=home)
    assert done.returncode == 0, done.stderr
    kept, found = (json.loads((home / f / "metrics.json").read_text())["entries"] for f in ("run", "evidence"))
    measured = {entry["key"]: entry["metrics"] for entry in found}
    compared = 0
    for entry in kept:
        for name, value in entry["metrics"].items():
            if entry["key"] in measured and isinstance(value, float):
                assert measured[entry["key"]][name] == pytest.approx(value, abs=2e-3), (entry["key"], name)
                compared += 1
    assert compared > 50
    assert palate("compare", "run", "evidence", cwd=home).returncode == 0


def test_it_recommends_and_serves(home: Path) -> None:
    done = palate("recommend", "run", "--user", "1", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    expected = {each["item_id"]: each["p"] for each in json.loads(done.stdout)["recommendations"]}
    assert len(expected) > 5
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        engine = engine_of(load_config(Path("run/config.yaml")))
        rows = np.flatnonzero(np.isin(engine.items["item_id"].to_numpy(), list(expected)))
        (part,) = engine.score(FINE_TUNED, engine.person(1, None), rows)
        found = dict(zip(engine.items["item_id"].gather(rows[part.position]).to_list(), part.p.tolist(), strict=True))
        engine.close()
    assert found == pytest.approx(expected, abs=1e-4)


def test_its_store_keeps_what_was_acknowledged(home: Path) -> None:
    store = Store(f"sqlite:///{home / 'run' / 'feedback.sqlite'}")
    (row,) = store.ratings_of(1)
    assert (row.item_id, row.rating, row.timestamp) == (2, 4.5, 2_000_000_000)
    store.close()


def test_it_goes_on_with_a_changed_option(home: Path) -> None:
    done = palate("run", "run", "--set", "evaluate.bootstrap=30", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads((home / "run" / "metrics.json").read_text())["n"] > 0

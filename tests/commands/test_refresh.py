"""`palate refresh`: a new run on log and feedback, compared on the newest rows, in service only if it is not worse."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.recipes import recipe_to_evaluate, recipe_to_run

from palate.commands import refresh as module
from palate.config import Override, load_config
from palate.ratings.database import connect
from palate.serve.release import current
from palate.serve.schemas import NewRating
from palate.serve.store import Store
from palate.store.lock import locked

LATER = 2_000_000
Like = Callable[[int], bool]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log and a prepared run, which serves the item means: odd items are liked."""
    folder = tmp_path_factory.mktemp("prepared")
    write_ratings(folder / "log", users=12, each=40, items=80)
    quick = ("--set", "evaluate.baselines=quick", "--set", "evaluate.bootstrap=200", "--history-len", "5")
    done = palate("prepare", "--ratings", folder / "log", "--set", f"run_dir={folder}/run", *quick)
    assert done.returncode == 0, done.stderr
    (folder / "run" / "metrics.json").write_text(json.dumps({"ladder": {"use": "item-mean"}, "entries": []}))
    return folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    shutil.copytree(prepared / "run", tmp_path / "run")
    return tmp_path / "run"


def rate(run: Path, users: range, each: int, likes: Like, last: Like | None = None, first: int = LATER) -> None:
    """Users rate `each` items after the log ended; the last five of each as `last` says."""
    draw, rows = random.Random(len(users)), []
    for user in users:
        for n, item in enumerate(draw.sample(range(1, 81), each)):
            liked = (last if last is not None and n >= each - 5 else likes)(item)
            rows.append(
                NewRating(user_id=user, item_id=item, rating=4.5 if liked else 2, timestamp=first + user * 100 + n)
            )
    with closing(Store(f"sqlite:///{run}/feedback.sqlite")) as store:
        store.add_ratings(rows)


def odd(item: int) -> bool:
    return item % 2 == 1


def even(item: int) -> bool:
    return not odd(item)


def files(folder: Path) -> dict[str, int]:
    """All files and when they were written; SQLite's own files beside the store are none of a refresh."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and "feedback" not in p.name}


def result(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "refresh.json").read_text())
    return found


def test_a_run_that_is_not_worse_goes_into_service(run: Path) -> None:
    rate(run, range(100, 130), 30, odd)
    every = ("--set", "evaluate.baselines=all")
    done = palate("refresh", run, *every)
    assert done.returncode == 0, done.stderr
    folder = run / "releases" / "1"
    assert current(run) == folder
    assert "900 ratings, 30 of 42 users unknown to the run" in done.stdout
    assert "which detect" in done.stdout
    found = result(folder)
    assert (found["rows"], found["newer"], found["use"]) == (60, 900, "user-item")  # two of 25 samples of each user
    measured = json.loads((folder / "metrics.json").read_text())["entries"]
    assert {"lightgbm", "user-item"} <= {entry["key"] for entry in measured}
    assert "nothing" in palate("refresh", run, *every).stdout
    timeline = pl.read_parquet(folder / "data" / "ratings.parquet")
    assert timeline.filter(pl.col("timestamp") >= LATER).height == 900


def spoil(folder: Path, what: str) -> None:
    if what == "manifest":
        (folder / "data" / "manifest.json").unlink()
    elif what == "missing":
        (folder / "baselines" / "user-item.npz").unlink()
    else:
        (folder / "baselines" / "user-item.npz").write_bytes(b"PK damaged")


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("damaged", "user-item.npz: is damaged, expected a fitted baseline"),
        ("missing", "lacks the model 'user-item', for which `palate refresh` switched to it"),
        ("manifest", "manifest.json: is missing, expected what `palate refresh` wrote"),
    ],
)
def test_a_spoiled_release_is_refused_and_the_earlier_one_stays(
    run: Path, what: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    from palate.commands.serve import _source

    config = load_config(run / "config.yaml", [Override("run_dir", str(run), "run_dir")])
    source = _source(config, None)
    source.open()
    rate(run, range(100, 130), 30, odd)
    assert palate("refresh", run).returncode == 0
    spoil(run / "releases" / "1", what)
    before = files(run / "releases" / "1")
    assert not source.refresh()
    assert (source.refused, source.folder) == (True, run)
    assert "the earlier release stays" in caplog.text
    assert line in caplog.text
    source.close()
    done = palate("serve", run, "--port", "0")
    assert done.returncode == 2
    assert line in done.stderr.splitlines()[-1]
    assert f"remove {run / 'release.json'} to serve the run itself" in done.stderr.splitlines()[-1]
    assert files(run / "releases" / "1") == before


@pytest.mark.parametrize("option", ["--dry-run", "--no-train"])
def test_a_store_that_has_lost_ratings_is_a_warning_with_the_counts(run: Path, option: str) -> None:
    rate(run, range(100, 130), 30, odd)
    assert "neither" not in palate("refresh", run).stderr
    with closing(connect(f"sqlite:///{run}/feedback.sqlite")) as store:
        store.count("DELETE FROM ratings WHERE user_id IN ('100', '101')")
    rate(run, range(200, 202), 30, odd)
    done = palate("refresh", run, option)
    assert f"60 of 1,380 ratings that {run}/releases/1 has are neither in the log nor in the store" in done.stderr
    assert "a release has 1,380" in done.stderr


def test_a_worse_run_stays_out_even_by_force(run: Path) -> None:
    """The new users first like even items, and in the rows that decide odd ones again, as the old model says."""
    rate(run, range(100, 140), 60, even, last=odd)
    done = palate("refresh", run)
    assert done.returncode == 0, done.stderr
    assert "the new run is worse" in done.stdout
    assert current(run) == run
    before = files(run / "releases" / "1" / "data")
    assert "the new run is worse" in palate("refresh", run, "--force").stdout
    assert current(run) == run
    assert files(run / "releases" / "1" / "data") == before


def test_few_rows_decide_nothing_unless_forced(run: Path) -> None:
    rate(run, range(100, 103), 30, odd)
    done = palate("refresh", run)
    assert "6 rows decide nothing, expected 30 of both answers; --force switches anyway" in done.stdout
    assert current(run) == run
    forced = palate("refresh", run, "--force")
    assert "switched" in forced.stdout
    assert current(run) == run / "releases" / "1"


def test_rows_of_one_answer_decide_nothing(run: Path) -> None:
    rate(run, range(100, 130), 30, odd, last=lambda item: True)
    assert "of one answer" in palate("refresh", run).stdout
    assert current(run) == run


def test_a_dry_run_writes_nothing(run: Path) -> None:
    rate(run, range(100, 130), 30, odd)
    before = files(run)
    done = palate("refresh", run, "--dry-run")
    assert done.returncode == 0, done.stderr
    for line in ("900 ratings", "60 test samples", "fit and measure the baselines", "nothing was written"):
        assert line in done.stdout
    assert files(run) == before


def test_an_interrupted_refresh_goes_on_with_its_ratings(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate(run, range(100, 130), 30, odd)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_compared", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert palate("refresh", run).returncode == 130
    assert current(run) == run
    data = files(run / "releases" / "1" / "data")
    rate(run, range(200, 230), 30, odd)  # arrives meanwhile: it is of the next release
    done = palate("refresh", run)
    assert "was interrupted" in done.stderr
    assert (current(run), result(current(run))["stored"]) == (run / "releases" / "1", 900)
    assert files(run / "releases" / "1" / "data") == data
    again = palate("refresh", run)
    assert "releases/1 is served" in again.stdout
    assert (current(run), result(current(run))["stored"]) == (run / "releases" / "2", 1800)


def test_a_refresh_that_another_config_began_is_left_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate(run, range(100, 130), 30, odd)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_compared", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        palate("refresh", run)
    done = palate("refresh", run, "--set", "seed=7")
    assert done.returncode == 0, done.stderr
    assert current(run) == run / "releases" / "2"
    assert load_config(current(run) / "config.yaml").seed == 7


def test_a_store_without_anything_new_leaves_nothing_behind(run: Path) -> None:
    known = pl.read_parquet(run / "data" / "ratings.parquet").row(0, named=True)
    with closing(Store(f"sqlite:///{run}/feedback.sqlite")) as store:
        same = {name: known[name] for name in ("user_id", "item_id", "rating", "timestamp")}
        store.add_ratings([NewRating(**same), NewRating(user_id=1, item_id=999, rating=4)])
    done = palate("refresh", run)
    assert (done.returncode, "0 ratings" in done.stdout) == (0, True)
    assert "1 item without a title" in done.stderr
    assert list((run / "releases").glob("*")) == []


def test_one_refresh_runs_at_a_time(run: Path) -> None:
    rate(run, range(100, 130), 30, odd)
    (run / "releases").mkdir()
    with locked(run / "releases"):
        done = palate("refresh", run)
    assert (done.returncode, "another refresh is running" in done.stderr) == (1, True)


def test_a_failed_refresh_leaves_the_old_run_in_service(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate(run, range(100, 130), 30, odd)
    monkeypatch.setattr(module, "prepared", lambda config: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert palate("refresh", run).returncode == 1
    assert current(run) == run


def test_wrong_use_is_one_line(run: Path) -> None:
    missing = palate("refresh", run)
    assert (missing.returncode, "no such file, expected the store" in missing.stderr) == (2, True)
    (run / "other").mkdir()
    shutil.copy(run / "config.yaml", run / "other")
    empty = palate("refresh", run, "--set", f"run_dir={run}/other")
    assert (empty.returncode, "has no prepared data" in empty.stderr) == (2, True)
    (run / "metrics.json").write_text(json.dumps({"ladder": {"use": "language-model"}, "entries": []}))
    none = palate("refresh", run, "--no-train")
    assert (none.returncode, "--no-train: leaves out the language model" in none.stderr) == (2, True)
    without = palate("refresh", run, "--set", "ratings.source=null")
    assert (without.returncode, "ratings.source: is null" in without.stderr) == (2, True)


def rate_more(run: Path) -> None:
    """The users of a small log, and others, rate more films."""
    draw, rows = random.Random(1), []
    for user in range(1, 25):
        for n, item in enumerate(draw.sample(range(1, 61), 30)):
            rows.append(NewRating(user_id=user, item_id=item, rating=4.5 if odd(item) else 2, timestamp=LATER + n))
    with closing(Store(f"sqlite:///{run}/feedback.sqlite")) as store:
        store.add_ratings(rows)


def test_one_adapter_reads_the_same_prompts_in_both_runs(tmp_path: Path) -> None:
    """The old run has the newer ratings in its users' histories, as the new run has, so that the scores are equal."""
    recipe_to_evaluate(tmp_path, adapter=0.3)
    run = tmp_path / "run"
    shutil.copy(tmp_path / "config.yaml", run)
    old = load_config(run / "config.yaml")
    rate_more(run)
    folder = module._unfinished_release(old, run, f"sqlite:///{run}/feedback.sqlite")
    assert folder is not None
    shutil.copytree(run / "adapter", folder / "adapter")
    found = module._compared(old, load_config(folder / "config.yaml"), "language-model", folder)
    assert found["rows"] > 30
    assert (found["difference"]["value"], found["new"]["auc"]) == (0, found["old"]["auc"])
    now, then = (pl.read_parquet(folder / "scores" / f"newest-{name}.parquet") for name in ("new", "old"))
    assert now["logit"].n_unique() > 20
    shared = [pl.col("user_id", "item_id").cast(pl.String), "label", pl.col("logit").round(4)]
    assert now.select(shared).sort(pl.all()).equals(then.select(shared).sort(pl.all()))


@pytest.mark.slow
@pytest.mark.parametrize("offset", ["online", None])
def test_a_language_model_is_trained_again_and_compared(tmp_path: Path, offset: str | None) -> None:
    train = {"max_samples": 32, "train_on": "answer", "offset": offset}
    evaluate = {"max_samples": 40, "calibration_samples": 40, "zero_shot": False, "baselines": "quick", "bootstrap": 50}
    recipe = recipe_to_run(
        tmp_path, train=train, evaluate=evaluate, prepare={"history_len": 3, "val_ratio": 0.15, "test_ratio": 0.2}
    )
    first = palate("run", recipe)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"ladder": {"use": "language-model"}}))
    rate_more(run)
    assert "all stages of palate run" in palate("refresh", run, "--dry-run").stdout
    done = palate("refresh", run)
    assert done.returncode == 0, done.stderr
    found = result(run / "releases" / "1")
    assert found["old"]["model"] == "language-model"
    assert found["rows"] == 40
    assert found["difference"]["interval"] is not None
    assert (run / "releases" / "1" / "adapter" / "adapter_model.safetensors").is_file()
    scores = pl.read_parquet(run / "releases" / "1" / "scores" / "newest-old.parquet")
    assert scores["logit"].n_unique() > 20

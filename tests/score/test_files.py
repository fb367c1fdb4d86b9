"""Scoring a file: complete, in order, and taken up again after an interruption."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tests.small import small_tokenizer
from tests.tiny import EMPTY_THINK, tiny_model, toy_config, toy_raw, toy_samples

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.score.files import score_file
from palate.score.scorer import Scorer

PROMPT = toy_config(Path("unused")).prompt


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(tiny_model(), Chat(small_tokenizer(EMPTY_THINK)), 200)


def run(scorer: Scorer, raw: Path, rows: list[int] | None = None, **options: Any) -> pl.DataFrame:
    settings = {"out": raw.with_name("scores.parquet"), "batch_size": 2, "key": {"model": "tiny"}} | options
    return score_file(scorer, raw, rows, prompt=PROMPT, history_len=3, **settings)


def test_every_row_is_scored_in_order(scorer: Scorer, tmp_path: Path) -> None:
    scores = run(scorer, toy_raw(tmp_path / "raw.jsonl", 70))
    samples = toy_samples(70)
    assert scores["row"].to_list() == list(range(70))
    for column in ("user_id", "item_id"):
        assert scores[column].to_list() == [s[column] for s in samples]
    assert scores["label"].to_list() == [s["label"] == "Yes" for s in samples]
    one = PROMPT.alpaca(samples[41]["history_titles"], samples[41]["candidate_title"], "", 3)
    assert scores["p"][41] == pytest.approx(scorer.score_examples([one]).p[0], abs=1e-5)
    assert_frame_equal(scores, pl.read_parquet(tmp_path / "scores.parquet"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw.jsonl", "scores.parquet"]


def test_chosen_rows_are_scored_as_they_are_in_the_whole(scorer: Scorer, tmp_path: Path) -> None:
    raw = toy_raw(tmp_path / "raw.jsonl", 70)
    some = run(scorer, raw, [60, 3, 33], out=tmp_path / "some.parquet")
    assert some["row"].to_list() == [3, 33, 60]
    assert_frame_equal(some, run(scorer, raw).filter(pl.col("row").is_in([3, 33, 60])), abs_tol=1e-5)


def test_an_interrupted_run_goes_on(scorer: Scorer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = toy_raw(tmp_path / "raw.jsonl", 256)

    def interrupt() -> None:
        while len(list(tmp_path.glob("scores.parquet.parts/*.parquet"))) < 2:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(scorer, raw)
    thread.join()
    assert not (tmp_path / "scores.parquet").exists()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("scores.parquet.parts/0*.parquet")}
    assert 2 <= len(before) < 8
    with caplog.at_level("INFO", "palate"):
        scores = run(scorer, raw)
    assert f"{32 * len(before)} rows were scored before" in caplog.text
    assert_frame_equal(scores, run(scorer, raw, out=tmp_path / "undisturbed.parquet"), abs_tol=1e-5)


def test_parts_of_another_model_are_not_believed(
    scorer: Scorer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = toy_raw(tmp_path / "raw.jsonl", 40)
    raw.write_text(raw.read_text() + "{\n")  # the run ends here, its parts stay
    with pytest.raises(InputError, match=r"raw.jsonl:41: is not JSON"):
        run(scorer, raw)
    assert len(list(tmp_path.glob("scores.parquet.parts/0*.parquet"))) == 1
    toy_raw(raw, 40)
    other = Scorer(tiny_model(seed=1), scorer.chat, 200)
    with caplog.at_level("INFO", "palate"):
        scores = run(other, raw, key={"model": "other"})
    assert "scoring starts over: model changed" in caplog.text
    assert_frame_equal(scores, run(other, raw, key={}, out=tmp_path / "fresh.parquet"), abs_tol=1e-5)


def test_finished_scores_are_kept_only_under_the_same_key(scorer: Scorer, tmp_path: Path) -> None:
    raw = toy_raw(tmp_path / "raw.jsonl", 10)
    first = run(scorer, raw)
    other = Scorer(tiny_model(seed=1), scorer.chat, 200)
    assert_frame_equal(run(other, raw), first)
    assert not run(other, raw, key={"model": "other"})["p"].equals(first["p"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", r"raw.jsonl:3: is not JSON"),
        ("{}", r"raw.jsonl:3: has no 'history_titles', expected a raw sample"),
        ("[]", r"raw.jsonl:3: has no 'history_titles', expected a raw sample"),
    ],
)
def test_a_line_that_is_no_sample_is_named(scorer: Scorer, tmp_path: Path, line: str, message: str) -> None:
    raw = toy_raw(tmp_path / "raw.jsonl", 2)
    raw.write_text(raw.read_text() + line + "\n")
    with pytest.raises(InputError, match=message):
        run(scorer, raw)


def test_rows_beyond_the_end_and_a_missing_file_are_named(scorer: Scorer, tmp_path: Path) -> None:
    raw = toy_raw(tmp_path / "raw.jsonl", 5)
    with pytest.raises(InputError, match="has no row 7, expected at least 10 lines"):
        run(scorer, raw, [1, 7, 9])
    with pytest.raises(InputError, match="cannot be read"):
        run(scorer, tmp_path / "nowhere.jsonl")

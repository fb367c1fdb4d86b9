"""Scoring a file: complete, in order, and taken up again after an interruption."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tests.small import small_tokenizer
from tests.tiny import EMPTY_THINK, tiny_model, toy_config, toy_tokens

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.score.files import COLUMNS, PARQUET_MADE_FROM, Scored, read_scores, score_file, write_scores
from palate.score.scorer import Scorer

CONFIG = toy_config(Path("unused"))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(tiny_model(), chat=Chat(small_tokenizer(EMPTY_THINK)), cutoff_len=200)


def run(scorer: Scorer, folder: Path, n: int, rows: list[int] | None = None, **options: Any) -> pl.DataFrame:
    settings = {"out": folder / "scores.parquet", "batch_size": 2, "key": {"model": "tiny"}} | options
    tokens, about = toy_tokens(n, CONFIG, scorer.chat)
    ids = {name: about[name].to_numpy() for name in about.columns}
    return pl.DataFrame(score_file(scorer, tokens, ids, rows, **settings))


def test_every_row_is_scored_in_order(scorer: Scorer, tmp_path: Path) -> None:
    scores = run(scorer, tmp_path, 70)
    tokens, about = toy_tokens(70, CONFIG, scorer.chat)
    assert scores["row"].to_list() == list(range(70))
    assert_frame_equal(scores.select("user_id", "item_id"), about)
    assert scores["label"].to_list() == [tokens.example(row)["output"] == "Yes" for row in range(70)]
    alone = scorer.score_examples([tokens.example(41)])
    assert scores["p"][41] == pytest.approx(alone.p[0], abs=1e-5)
    assert scores["logit"][41] == pytest.approx(alone.logit[0], abs=1e-4)
    assert_frame_equal(scores, pl.read_parquet(tmp_path / "scores.parquet"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.parquet", "scores.speed.json"]
    speed = json.loads((tmp_path / "scores.speed.json").read_text())
    assert (speed["rows"], speed["tokens"]) == (70, sum(map(len, tokens.prompts())))
    assert speed["seconds"] > 0


def test_chosen_rows_are_scored_as_they_are_in_the_whole(scorer: Scorer, tmp_path: Path) -> None:
    some = run(scorer, tmp_path, 70, [60, 3, 33], out=tmp_path / "some.parquet")
    assert some["row"].to_list() == [3, 33, 60]
    assert_frame_equal(some, run(scorer, tmp_path, 70).filter(pl.col("row").is_in([3, 33, 60])), abs_tol=1e-5)


def interrupt(scorer: Scorer, folder: Path) -> None:
    """Begin to score 256 samples, and be interrupted once two parts are written."""

    def signal_after_two_parts() -> None:
        while len(list(folder.glob("scores.parquet.parts/0*"))) < 2:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=signal_after_two_parts, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(scorer, folder, 256)
    thread.join()


def test_an_interrupted_run_goes_on(scorer: Scorer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(scorer, tmp_path)
    assert not (tmp_path / "scores.parquet").exists()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("scores.parquet.parts/0*")}
    assert 2 <= len(before) < 8
    with caplog.at_level("INFO", "palate"):
        scores = run(scorer, tmp_path, 256)
    assert f"scoring scores resumes: {32 * len(before)} of 256 rows are finished" in caplog.text
    assert json.loads((tmp_path / "scores.speed.json").read_text())["rows"] == 256  # of both calls
    assert_frame_equal(scores, run(scorer, tmp_path, 256, out=tmp_path / "undisturbed.parquet"), abs_tol=1e-5)


def test_parts_of_another_model_are_not_believed(
    scorer: Scorer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(scorer, tmp_path)
    other = Scorer(tiny_model(seed=1), chat=scorer.chat, cutoff_len=200)
    with caplog.at_level("INFO", "palate"):
        scores = run(other, tmp_path, 256, key={"model": "other"})
    assert "scoring scores starts over: model changed" in caplog.text
    assert_frame_equal(scores, run(other, tmp_path, 256, key={}, out=tmp_path / "fresh.parquet"), abs_tol=1e-5)


@pytest.mark.parametrize("name", ["scores.parquet", "scores.npz"])
def test_finished_scores_are_kept_only_under_the_same_key(scorer: Scorer, tmp_path: Path, name: str) -> None:
    first = run(scorer, tmp_path, 10, out=tmp_path / name)
    other = Scorer(tiny_model(seed=1), chat=scorer.chat, cutoff_len=200)
    assert_frame_equal(run(other, tmp_path, 10, out=tmp_path / name), first)
    assert not run(other, tmp_path, 10, key={"model": "other"}, out=tmp_path / name)["p"].equals(first["p"])


def test_scores_that_travel_say_what_they_are_of(scorer: Scorer, tmp_path: Path) -> None:
    for rows in (None, [], [4, 2]):
        scores = run(scorer, tmp_path, 10, rows, out=tmp_path / "scores.npz")
        found = read_scores(tmp_path / "scores.npz")
        assert_frame_equal(pl.DataFrame(found.columns), scores)
        assert scores.equals(run(scorer, tmp_path, 10, rows, out=tmp_path / "scores.parquet").select(scores.columns))
        assert found.key["model"] == "tiny"


def test_a_file_that_holds_no_scores_is_named(scorer: Scorer, tmp_path: Path) -> None:
    run(scorer, tmp_path, 10, out=tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("no scores")
    np.savez(tmp_path / "other.npz", p=np.zeros(3))
    for name in ("cut", "text", "other"):
        with pytest.raises(InputError, match=rf"{name}.npz: is not readable, expected scores"):
            read_scores(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match=r"missing\.npz: not found"):
        read_scores(tmp_path / "missing.npz")


def test_scores_without_logits_are_to_be_made_again(scorer: Scorer, tmp_path: Path) -> None:
    run(scorer, tmp_path, 5, out=tmp_path / "scores.npz")
    columns = dict(np.load(tmp_path / "scores.npz"))
    del columns["logit"]
    np.savez(tmp_path / "scores.npz", **columns)
    with pytest.raises(InputError, match=r"scores\.npz: has no logits"):
        read_scores(tmp_path / "scores.npz")
    assert "logit" in run(scorer, tmp_path, 5, out=tmp_path / "scores.npz").columns


def test_rows_beyond_the_end_are_named(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no row 7 among 5 test samples"):
        run(scorer, tmp_path, 5, [1, 7, 9])


def test_a_scored_prompt_is_what_training_showed_before_the_decision(scorer: Scorer) -> None:
    tokens, _ = toy_tokens(12, CONFIG, scorer.chat)
    decision = scorer.chat.decision
    for prompt, item in zip(tokens.prompts(), tokens, strict=True):
        assert item["input_ids"][len(prompt)] in (decision.yes_id, decision.no_id)
        assert prompt == item["input_ids"][: len(prompt)].tolist()


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_damaged_file_of_scores_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    columns: dict[str, Any] = {name: np.ones(3, np.float32) for name in COLUMNS}
    for key in ("[1]", '"x"', "[" * 100_000):
        if kind == "npz":
            np.savez(path, key=np.array(key), **columns)
        else:
            pl.DataFrame(columns).write_parquet(path, metadata={PARQUET_MADE_FROM: key})
        with pytest.raises(InputError, match="is not readable"):
            read_scores(path)
    write_scores(path, Scored(columns, {"a": 1}))
    content = path.read_bytes()
    contents = [b"", b"\x93NUMPY", content[:-40]]
    for seed in range(300):
        draw, damaged = random.Random(seed), bytearray(content)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] ^= draw.randint(1, 255)
        contents.append(bytes(damaged))
    for damaged in contents:
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_scores(path)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("logit", np.nan), ("p", "0.5"), ("row", 1.5), ("label", 2), ("mass", np.inf), ("p", 7.0), ("row", -1)],
)
def test_a_column_that_holds_no_scores_is_named(tmp_path: Path, kind: str, name: str, value: float | str) -> None:
    kinds = {"row": np.int64, "label": np.bool_, "user_id": np.int64, "item_id": np.int64}
    columns: dict[str, Any] = {key: np.ones(3, kinds.get(key, np.float32)) for key in COLUMNS}
    write_scores(tmp_path / f"x.{kind}", Scored(columns, {"a": 1}))
    assert read_scores(tmp_path / f"x.{kind}").key == {"a": 1}
    write_scores(tmp_path / f"x.{kind}", Scored(columns | {name: np.array([value] * 3)}, {"a": 1}))
    with pytest.raises(InputError, match=f"column '{name}' has other values than"):
        read_scores(tmp_path / f"x.{kind}")


def test_an_array_alone_is_no_file_of_scores(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InputError, match="is not readable"):
        read_scores(tmp_path / "x.npz")

"""A log that exceeds the memory gives the same as in memory, to the byte."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.command import palate
from tests.examples import examples
from tests.small import small_tokenizer

from palate.baselines.retriever import RetrieverData
from palate.baselines.statistics import BaselineData
from palate.config import Config, PrepareConfig
from palate.errors import InputError, WorkError
from palate.measure.leaks import audit
from palate.prompt.chat import Chat
from palate.prompt.spec import PromptSpec
from palate.ratings import blocks, order
from palate.ratings.load import load_ratings, with_sample
from palate.samples import load_prepared, prepare
from palate.samples.build import check_in_memory, checked_samples
from palate.samples.split import split_by_time
from palate.store import scratch
from palate.store.artifacts import read_json
from palate.store.scratch import Scratch
from palate.tokens.build_tables import build_tables, content_of

CHAT = Chat(small_tokenizer())
IDS: dict[str, Callable[[int], Any]] = {
    "integers": lambda n: 3 * n + 1,
    "text": lambda n: f"u{n}",
    "long text": lambda n: f"{'a' * (n % 3)}-user-of-a-shop-{n}",
}


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks of a few rows, so that small logs have many."""
    with pytest.MonkeyPatch.context() as patch:
        for module, size in ((scratch, 7), (order, 7), (blocks, 5)):
            patch.setattr(module, "BLOCK", size)
        yield


def outcome(source: Path, memory: int | None, options: PrepareConfig, out: Path, **rules: Any) -> Any:
    """The ratings, the samples and the files of the tables, or the message of the error."""
    try:
        ratings = load_ratings(str(source), memory=memory, **rules)
        samples = checked_samples(ratings, options)
    except InputError as error:
        return str(error)
    assert (samples.scratch is not None) == (memory is not None)
    out.mkdir()
    build_tables(samples, PromptSpec(), CHAT, out)
    files = contents(out)
    columns = (ratings.frame.to_dict(as_series=False), ratings.frame.schema, samples.timeline.rows(), ratings.times)
    return files, columns, content_of(samples), samples.liked.tolist()


def write_log(folder: Path, rows: list[tuple[int, int, int, int]], kind: str, ids: str, order: str) -> Path:
    """A log as CSV or Parquet beside a table of its items."""
    frame = pl.DataFrame(
        {
            "userId": [IDS[ids](row[0]) for row in rows],
            "movieId": [IDS["text" if ids != "integers" else ids](row[1]) for row in rows],
            "rating": [row[2] / 2 for row in rows],
            "timestamp": [1_500_000_000 + 50 * row[3] for row in rows],
        }
    )
    frame = frame.sort("userId", maintain_order=True) if order == "users ascend" else frame
    items = frame.select("movieId", title="Film " + pl.col("movieId").cast(pl.String)).unique(maintain_order=True)
    items.write_csv(folder / "movies.csv")
    if kind == "datetimes":
        at = pl.col("timestamp") * 1000 + pl.col("movieId").cum_count() % 3 * 100
        frame = frame.with_columns(at.cast(pl.Datetime("ms")))
    frame = frame.with_columns(pl.col("timestamp") * 1000 + 250) if kind == "milliseconds" else frame
    source = folder / ("ratings.csv" if kind in ("csv", "milliseconds") else "ratings.parquet")
    frame.write_csv(source) if source.suffix == ".csv" else frame.write_parquet(source)
    return source


@examples(160)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(1, 10), st.integers(0, 40)), max_size=90),
    kind=st.sampled_from(["csv", "parquet", "datetimes", "milliseconds"]),
    ids=st.sampled_from(list(IDS)),
    order=st.sampled_from(["users ascend", "any"]),
    split=st.sampled_from(["user-time", "global-time", "cold-items"]),
)
def test_a_log_on_the_disk_gives_what_it_gives_in_memory(
    tmp_path_factory: pytest.TempPathFactory, rows, kind, ids, order, split
):
    distinct = list({(user, item, at): (user, item, rating, at) for user, item, rating, at in rows}.values())
    folder = tmp_path_factory.mktemp("log")
    source = write_log(folder, distinct, kind, ids, order)
    options = PrepareConfig(history_len=2, split=split, val_ratio=0.2, test_ratio=0.2)
    there, here = (outcome(source, memory, options, folder / str(memory)) for memory in (1, None))
    assert there == here


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("order", ["users ascend", "any"])
@pytest.mark.parametrize("wrong", ["repeated", "rating", "time", "item", "blank"])
def test_a_wrong_row_far_down_is_named_as_in_memory(tmp_path, kind, order, wrong):
    rows = [(n % 5, n // 5, 1 + n % 10, n) for n in range(300)]
    rows += [rows[150]] if wrong == "repeated" else []
    source = write_log(tmp_path, rows, kind, "integers", order)
    table = pl.read_csv(source) if kind == "csv" else pl.read_parquet(source)
    column, value = {"rating": ("rating", 11.0), "time": ("timestamp", -5), "item": ("movieId", 999)}.get(
        wrong, ("", 0)
    )
    if column:
        table = table.with_columns(pl.when(pl.int_range(pl.len()) == 250).then(value).otherwise(column).alias(column))
    if kind == "csv":
        lines = table.write_csv().splitlines()
        source.write_text("\n".join([*lines[:200], *[""] * (wrong == "blank"), *lines[200:]]) + "\n")
    else:
        table.write_parquet(source)
    there, here = (outcome(source, memory, PrepareConfig(), tmp_path / str(memory)) for memory in (1, None))
    assert there == here
    assert isinstance(here, str) == (wrong != "blank")


@pytest.mark.parametrize("value", ["x", "2024-05-01", '"4.5'])
def test_a_value_of_another_form_is_named_with_its_line_as_in_memory(tmp_path, value):
    source = write_log(tmp_path, [(n % 5, n // 5, 1 + n % 10, n) for n in range(300)], "csv", "text", "any")
    lines = source.read_text().splitlines()
    lines[211] = f"u1,u2,{value},1500000000"
    source.write_text("\n".join(lines) + "\n")
    there, here = (outcome(source, memory, PrepareConfig(), tmp_path / str(memory)) for memory in (1, None))
    assert there == here
    assert here.startswith(f"{source}:212: ")


@pytest.mark.parametrize(
    ("text", "rules", "what"),
    [
        ("1,1,4,2024-05-01\n", {}, "has ISO text as times"),
        ("1,1,4,5\n", {"bad_rows": "skip"}, "leaves out rows"),
        ("1,1,4,5\n", {"untitled": "drop"}, "leaves out rows"),
        ("1,1,4,5\n", {"not_rated": 0.0}, "leaves out rows"),
    ],
)
def test_what_needs_the_whole_log_in_memory_is_refused_with_the_way_out(tmp_path, text, rules, what):
    (tmp_path / "movies.csv").write_text("movieId,title\n1,One\n")
    (tmp_path / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{text}")
    with pytest.raises(InputError, match=what) as refused:
        load_ratings(str(tmp_path), memory=1, **rules)
    assert "prepare.memory is 1e-09 GB" in str(refused.value)


def test_prepared_data_beyond_the_memory_are_those_in_memory(tmp_path):
    source = write_log(tmp_path, [(n % 9, n // 9, 1 + n % 10, n) for n in range(300)], "csv", "long text", "any")
    options = PrepareConfig(history_len=3)
    prepare(load_ratings(str(source)), options, PromptSpec(), 13, tmp_path / "data")
    here, there = (load_prepared(tmp_path / "data", memory).samples for memory in (None, 1))
    assert here.scratch is None
    assert there.scratch is not None
    assert there.timeline.equals(here.timeline)
    assert there.timeline.schema == here.timeline.schema
    for name, samples in (("here", here), ("there", there)):
        (tmp_path / name).mkdir()
        build_tables(samples, PromptSpec(), CHAT, tmp_path / name)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    for work in (BaselineData.of, RetrieverData.of, lambda samples: audit(samples, "user-time")):
        with pytest.raises(InputError, match=r"^ratings: .* expected prepare.memory above 1 GB and ratings"):
            work(there)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("ids", ["integers", "long text"])
def test_a_sample_of_users_is_drawn_with_the_seed_wherever_the_log_is(tmp_path, monkeypatch, ids):
    source = write_log(tmp_path, [(n % 9, n // 9, 1 + n % 10, n) for n in range(300)], "csv", ids, "any")
    here = with_sample(load_ratings(str(source)), 4, 13)
    there = with_sample(load_ratings(str(source), memory=1), 4, 13)
    assert there.scratch is not None
    monkeypatch.setattr(scratch, "FIXED", 0)
    memory = scratch.ROW * 200
    fits = with_sample(load_ratings(str(source), memory=memory), 4, 13)
    assert fits.scratch is None
    assert here.frame.equals(there.frame)
    assert here.frame.equals(fits.frame)
    whole = load_ratings(str(source))
    users = here.frame["user_id"].unique()
    assert users.len() == 4
    assert here.frame.equals(whole.frame.filter(pl.col("user_id").is_in(users.implode())))
    assert here.name == f"{whole.name}, 4 of 9 users"
    assert with_sample(whole, 9, 13) is whole
    assert not with_sample(whole, 4, 14).frame.equals(here.frame)
    with pytest.raises(InputError, match=r"expected ratings.sample_users: 4, or more memory"):
        check_in_memory(load_ratings(str(source), memory=memory), "measures models")


def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    place = Scratch(1, 1, tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        with pytest.raises(WorkError, match="cannot be written: File too large"):
            place.empty(1 << 20, np.int64)
        with pytest.raises(WorkError, match="cannot be written: File too large"):
            place.table(pl.DataFrame({"a": np.arange(1 << 16)}) for _ in range(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.listdir(tmp_path)


def test_the_option_is_a_size_that_changes_no_output(tmp_path):
    source = write_log(tmp_path, [(n % 9, n // 9, 1 + n % 10, n) for n in range(300)], "csv", "integers", "any")
    for name, memory in (("here", "900GB"), ("there", "1kB")):
        done = palate(
            "prepare", "--ratings", source, "--out", tmp_path / name, "--memory", memory, "--history-len", "3"
        )
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    done = palate("baselines", source, "--memory", "1kB", "--set", "prepare.history_len=3")
    assert done.returncode == 2
    assert "error: ratings: fits classical models, which takes 1 GB of memory with about" in done.stderr
    words = ("prepare", "--ratings", source, "--history-len", "3", "--sample-users", "4", "--out", tmp_path / "some")
    assert palate(*words).returncode == 0
    manifest = read_json(tmp_path / "some/manifest.json")
    assert manifest["options"]["ratings"] == {"sample_users": 4}
    assert manifest["stats"]["users"] == 4
    assert manifest["stats"]["name"].endswith(", 4 of 9 users")
    done = palate("prepare", "--ratings", source, "--out", tmp_path / "x", "--memory", "much")
    assert (done.returncode, "'much' is no size, expected one such as 8GB" in done.stderr) == (2, True)
    assert Config(prepare={"memory": "1.5 GB"}).prepare.memory == 1_500_000_000
    assert "memory" not in Config(prepare={"memory": "8GB"}).model_dump()["prepare"]


@examples(100)
@given(times=st.lists(st.integers(0, 2**40) | st.integers(0, 9), min_size=1, max_size=60))
def test_cutoffs_by_counting_are_those_of_a_sort(times):
    split, (val, test) = outcome_of_split(np.array(times))
    if split is None:
        return
    ordered = np.sort(times)
    assert test == ordered[len(times) - max(1, int(0.1 * len(times)))]
    rest = ordered[ordered < test]
    assert val == rest[max(0, rest.size - max(1, int(0.2 * len(times))))]
    assert [int(s) for s in split] == [2 if t >= test else 1 if t >= val else 0 for t in times]


def outcome_of_split(times: Any) -> Any:
    try:
        return split_by_time(times, 0.2, 0.1)
    except InputError:
        return None, (None, None)

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.clicks import click_ratings
from tests.examples import examples

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.prompt import PromptSpec
from palate.ratings.load import Ratings
from palate.samples import build_samples, iter_examples, load_prepared, prepare
from palate.samples.signals import Signals
from palate.store.artifacts import sha256_file

OPTIONS = PrepareConfig(history_len=3, max_eval=4)


@pytest.fixture
def ratings(make_ratings, timeline_of) -> Ratings:
    return make_ratings([row for u in range(1, 9) for row in timeline_of(u, 4 + 5 * u, start=u)])


def files_of(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in folder.iterdir()}


def test_the_folder_holds_what_its_manifest_names_and_nothing_else(ratings, tmp_path):
    manifest = prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "out")
    names = {"train.json", "eval.json", "test_raw.jsonl", "val_raw.jsonl", "dataset_info.json"}
    names |= {"ratings.parquet", "items.parquet"}
    assert set(manifest["outputs"]) == names
    assert files_of(tmp_path / "out").keys() == names | {"manifest.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_same_input_and_options_give_the_same_bytes(ratings, tmp_path):
    prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "a")
    prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_samples_that_travel_to_another_process_are_written_as_here(ratings, tmp_path):
    context = PromptSpec(candidate_line="{title} by {item_count}", history_line="{n}. {title}: {item_mean} {rating}")
    signal = PromptSpec(candidate_line="{title}, {neighbour}, {user.age}", history_line="{title}")
    users = pl.DataFrame({"user_id": range(1, 9), "age": [str(20 + n) for n in range(8)]})
    splits = ["train", "train", "val", "test"]
    given_splits = ratings.frame.with_columns(split=pl.Series(splits).gather(np.arange(ratings.frame.height) % 4))
    sent = []

    def signals(samples):
        of = np.arange(samples.position.size)
        return pl.DataFrame({"neighbour": of % 5 - 1, "user": of % 8})

    def elsewhere(render, write, chunks):
        common = pickle.dumps(render.with_part(render.part(np.empty(0, np.int64))))
        for chunk in chunks:
            for some in np.array_split(chunk, 3):
                if some.size:
                    part = pickle.loads(pickle.dumps(render.part(some)))
                    sent.append(part.samples.timeline.height)
                    yield write(pickle.loads(common).with_part(part), np.arange(some.size))

    for name, log, options, prompt in (
        ("context", ratings, OPTIONS, context),
        ("signals", replace(ratings, users=users), OPTIONS, signal),
        ("given", replace(ratings, frame=given_splits), OPTIONS.model_copy(update={"split": "given"}), context),
        ("likes", click_ratings(), PrepareConfig(history_len=3, rating_threshold=0.5), PromptSpec()),
    ):
        here, there = tmp_path / f"{name}-here", tmp_path / f"{name}-there"
        more = Signals(signals, {}) if prompt is signal else None
        prepare(log, options, prompt, 13, here, more)
        sent.clear()
        prepare(log, options, prompt, 13, there, more, elsewhere)
        assert files_of(here) == files_of(there), name
        assert min(sent) < log.frame.height / 2


def test_contexts_are_in_the_text_and_not_in_the_tables(ratings, tmp_path):
    line = "{title}: {item_mean:.1f} by {item_count}"
    prompt = PromptSpec(candidate_line=line, history_line=line)
    plain = prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "plain")["outputs"]
    told = prepare(ratings, OPTIONS, prompt, 13, tmp_path / "told")["outputs"]
    assert all(told[name] == plain[name] for name in ("ratings.parquet", "items.parquet"))
    examples = json.loads((tmp_path / "told" / "train.json").read_text(encoding="utf-8"))
    samples = load_prepared(tmp_path / "told").samples
    rows = pl.concat(iter_examples(samples, "train", prompt)).to_dicts()
    assert examples == [{**row, "history": []} for row in rows]
    assert any(" by 5" in row["input"] for row in rows)


def test_the_seed_changes_what_is_drawn_for_eval_and_nothing_else(ratings, tmp_path):
    one = prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "a")["outputs"]
    other = prepare(ratings, OPTIONS, PromptSpec(), 14, tmp_path / "b")["outputs"]
    assert [name for name in one if one[name] != other[name]] == ["eval.json"]


def test_alpaca_files_are_arrays_with_an_object_a_line_and_the_keys_in_order(ratings, tmp_path):
    prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "out")
    text = (tmp_path / "out" / "train.json").read_text(encoding="utf-8")
    lines = text.splitlines()
    examples = json.loads(text)
    assert (lines[0], lines[-1], len(lines) - 2) == ("[", "]", len(examples))
    assert "≈" in text
    assert all(list(e) == ["instruction", "input", "output", "system", "history"] for e in examples)
    assert examples[0]["history"] == []


def test_eval_is_drawn_from_validation_in_its_order(ratings, tmp_path):
    prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "out")
    drawn = json.loads((tmp_path / "out" / "eval.json").read_text(encoding="utf-8"))
    raw = pl.read_ndjson(tmp_path / "out" / "val_raw.jsonl")
    prompt = PromptSpec()
    inputs = [prompt.alpaca(h, c, "", 3)["input"] for h, c in raw.select("history_titles", "candidate_title").rows()]
    places = [inputs.index(example["input"]) for example in drawn]
    assert len(places) == 4
    assert places == sorted(set(places))


def test_without_validation_eval_is_an_empty_array(ratings, tmp_path):
    prepare(ratings, OPTIONS.model_copy(update={"val_ratio": 0.0}), PromptSpec(), 13, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "eval.json").read_text()) == []
    assert (tmp_path / "out" / "val_raw.jsonl").read_bytes() == b""


TITLES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", '"', "a\r\nb", "\x00\x1f\x7f", "🎬\u2028\u2029", "<|im_end|>", "\\", "},\n{"]
)


@examples(25)
@given(titles=st.lists(TITLES, min_size=12, max_size=12))
def test_any_title_comes_back_from_the_files_as_it_went_in(tmp_path_factory, titles):
    frame = pl.DataFrame({"user_id": [1] * 12, "item_id": range(12), "rating": [4.0, 3.5] * 6, "timestamp": range(12)})
    ratings = Ratings(frame, pl.DataFrame({"item_id": range(12), "title": titles}), "test", {}, (0.5, 5.0))
    out = tmp_path_factory.mktemp("out")
    prompt = PromptSpec(history_line="{title}|", candidate_line="{title}")
    prepare(ratings, OPTIONS, prompt, 13, out)
    train = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert [e["input"] for e in train] == [
        prompt.alpaca("\n".join(t + "|" for t in titles[i - 3 : i]), titles[i], "", 3)["input"]
        for i in range(3, 3 + len(train))
    ]
    (line,) = (out / "test_raw.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    raw = json.loads(line)
    assert raw["candidate_title"] == titles[11]
    assert [h["title"] for h in raw["history"]] == titles[8:11]
    assert load_prepared(out).samples.items["title"].to_list() == titles


def test_a_raw_sample_says_who_what_when_and_the_history_as_a_list(make_ratings, timeline_of, tmp_path):
    prepare(make_ratings(timeline_of(7, 6)), OPTIONS, PromptSpec(), 13, tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "test_raw.jsonl").read_text(encoding="utf-8"))
    assert raw == {
        "history_titles": "1. Film 102 (rating ≈ 5.0)\n2. Film 103 (rating ≈ 2.0)\n3. Film 104 (rating ≈ 4.0)",
        "candidate_title": "Film 105",
        "label": "No",
        "split": "test",
        "user_id": 7,
        "item_id": 105,
        "timestamp": 5,
        "rating": 1.0,
        "history": [
            {"item_id": 102, "title": "Film 102", "rating": 5.0, "timestamp": 2},
            {"item_id": 103, "title": "Film 103", "rating": 2.0, "timestamp": 3},
            {"item_id": 104, "title": "Film 104", "rating": 4.0, "timestamp": 4},
        ],
    }


def test_datasets_reads_the_files(ratings, tmp_path):
    import datasets

    manifest = prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "out")
    names = {"train": "train.json", "eval": "eval.json", "test": "test_raw.jsonl"}
    loaded = {
        split: datasets.load_dataset(
            "json", data_files=str(tmp_path / "out" / name), split="train", cache_dir=str(tmp_path / "cache")
        )
        for split, name in names.items()
    }
    counts = manifest["stats"]["samples"]
    assert {k: len(v) for k, v in loaded.items()} == {"train": counts["train"], "eval": 4, "test": counts["test"]}
    assert loaded["train"].column_names == ["instruction", "input", "output", "system", "history"]
    assert loaded["test"][0]["history"][0].keys() == {"item_id", "title", "rating", "timestamp"}


def test_llama_factory_finds_the_files_and_columns_that_dataset_info_names(ratings, tmp_path):
    prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "out")
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info.keys() == {"palate_train", "palate_eval"}
    for entry in info.values():
        first = json.loads((tmp_path / "out" / entry["file_name"]).read_text(encoding="utf-8"))[0]
        assert set(entry["columns"].values()) == set(first)


def test_wrong_input_leaves_nothing_behind(ratings, tmp_path):
    with pytest.raises(InputError):
        prepare(ratings, OPTIONS, PromptSpec(candidate_line="{nothing}"), 13, tmp_path / "out")
    with pytest.raises(InputError):
        prepare(ratings, PrepareConfig(history_len=100), PromptSpec(), 13, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_prepared_samples_come_back_as_they_were_built(ratings, tmp_path):
    manifest = prepare(ratings, OPTIONS, PromptSpec(), 13, tmp_path / "out")
    built, prepared = build_samples(ratings, OPTIONS), load_prepared(tmp_path / "out")
    assert prepared.manifest == manifest
    assert prepared.samples.timeline.equals(built.timeline)
    assert prepared.samples.timeline.schema == built.timeline.schema
    assert prepared.samples.items.equals(built.items)
    for name in ("position", "split", "label"):
        one, other = getattr(prepared.samples, name), getattr(built, name)
        assert one.dtype == other.dtype
        assert (one == other).all()
    assert prepared.samples.history_len == 3


def test_a_folder_that_is_missing_incomplete_or_changed_is_told_apart(ratings, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="does not exist, expected a folder that `palate prepare` wrote"):
        load_prepared(out)
    out.mkdir()
    with pytest.raises(InputError, match=r"has no manifest.json"):
        load_prepared(out)
    prepare(ratings, OPTIONS, PromptSpec(), 13, out)
    (out / "train.json").rename(out / "elsewhere.json")
    with pytest.raises(InputError, match=r"train.json: is missing"):
        load_prepared(out)
    (out / "elsewhere.json").rename(out / "train.json")
    pl.read_parquet(out / "items.parquet")[::-1].write_parquet(out / "items.parquet")
    with pytest.raises(InputError, match=r"items.parquet: was changed"):
        load_prepared(out)


def test_ml_latest_small_is_prepared_with_the_guides_counts(ml_latest_small, tmp_path):
    stats = prepare(ml_latest_small, PrepareConfig(), PromptSpec(), 13, tmp_path / "out")["stats"]
    assert stats["samples"] == {"train": 78_271, "val": 4_450, "test": 8_965}
    assert stats["eval"] == 150
    with (tmp_path / "out" / "test_raw.jsonl").open("rb") as file:
        assert sum(1 for _ in file) == 8_965

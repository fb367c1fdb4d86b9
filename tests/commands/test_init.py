"""The config of `palate init`: it loads, its choices follow the figures, and `palate prepare` takes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from tests.acceptance.ratings import write_ratings

from palate.cli import main
from palate.commands.init import prompt_about
from palate.config import load_config


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_ratings(tmp_path / "films", users=30, each=12, items=30)


def write_pans(path: Path, values: int = 10) -> Path:
    rows = [f"{user},{item},{(user + item) % values},{item},Pan {item}" for user in range(8) for item in range(20)]
    path.write_text("\n".join(["buyer,what,points,when,title", *rows]) + "\n")
    return path


def test_the_config_loads_and_prepare_takes_it(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "films"]) == 0
    written = Path("palate.yaml").read_text()
    config = load_config(Path("palate.yaml"))
    assert config.ratings.source == "films"
    assert config.prepare.history_len == 10
    assert (
        "history_len: 10               # 30 of 30 users have more ratings than this; the default, 15, keeps 0"
        in written
    )
    assert "candidate film" in config.prompt.instruction
    assert "  #   {genres}: 100% of the items, 5 characters, such as: Drama" in written

    capsys.readouterr()
    assert main(["prepare", "palate.yaml", "--out", "data"]) == 0
    assert "speaks of movies" not in capsys.readouterr().err
    example = json.loads(Path("data/train.json").read_text())[0]
    sample = written.partition("training samples:\n")[2]
    for line in (example["system"], example["instruction"], "Candidate film:", "[assistant]"):
        assert f"#   {line}" in sample


def test_an_existing_file_is_replaced_only_by_force(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("palate.yaml").write_text("name: mine\n")
    assert main(["init", "films"]) == 2
    assert capsys.readouterr().err == (
        "error: palate.yaml: is there already, expected another --out, or --force to replace it\n"
    )
    assert Path("palate.yaml").read_text() == "name: mine\n"
    assert main(["init", "films", "--force"]) == 0
    assert load_config(Path("palate.yaml")).name == "films"


def test_a_config_in_another_folder_finds_the_log(films: Path) -> None:
    Path("recipes").mkdir()
    assert main(["init", "films", "--out", "recipes/films.yaml"]) == 0
    assert Path(load_config(Path("recipes/films.yaml")).ratings.source or "").samefile(films)


def test_columns_scale_and_threshold_are_written_where_the_log_needs_them(films: Path) -> None:
    write_pans(Path("pans.csv"))
    roles = {"user": "buyer", "item": "what", "rating": "points", "timestamp": "when"}
    options = ["--user", "buyer", "--item", "what", "--rating", "points", "--time", "when"]
    assert main(["init", "pans.csv", "--noun", "pan", *options]) == 0
    config = load_config(Path("palate.yaml"))
    assert config.ratings.columns == roles
    assert config.ratings.scale == (0, 9)
    assert config.prepare.rating_threshold == 5
    assert config.prompt.history_line == "{n}. {title}: {rating:g} of 9"
    assert main(["prepare", "palate.yaml", "--out", "data"]) == 0


def test_options_and_the_recipe_of_a_model_are_kept(films: Path) -> None:
    Path("small.yaml").write_text("name: small\nmodel: {base: smollm2-135m}\ntrain: {max_samples: 128}\n")
    words = ["--config", "small.yaml", "--history-len", "4", "--set", "prepare.split=global-time"]
    assert main(["init", "films", *words]) == 0
    config = load_config(Path("palate.yaml"))
    assert (config.name, config.model.base, config.train.max_samples) == ("films", "smollm2-135m", 128)
    assert (config.prepare.history_len, config.prepare.split) == (4, "global-time")


def test_labels_are_written_as_words(films: Path) -> None:
    write_pans(Path("pans.csv"), values=2)
    Path("pans.csv").write_text(Path("pans.csv").read_text().replace("buyer,what,points,when", "user,item,rating,time"))
    assert main(["init", "pans.csv"]) == 0
    assert main(["prepare", "palate.yaml", "--out", "data"]) == 0
    assert ": liked\\n" in Path("data/train.json").read_text()


@pytest.mark.parametrize(
    ("noun", "phrases"),
    [
        ("album", ["like an album, from the albums"]),
        ("story", ["like a story, from the stories"]),
        ("board game", ["like a board game, from the board games"]),
        ("dish", ["like a dish, from the dishes"]),
    ],
)
def test_the_prompt_speaks_of_the_noun(noun: str, phrases: list[str]) -> None:
    prompt = prompt_about(noun, labels=False, highest=5)
    text = prompt.model_dump_json()
    assert "movie" not in text
    assert all(phrase in prompt.system for phrase in phrases)


def test_a_person_is_asked_for_the_noun_where_no_name_has_one(films: Path) -> None:
    write_pans(Path("pans.csv"), values=2)
    Path("pans.csv").write_text(Path("pans.csv").read_text().replace("buyer,what,points,when", "user,item,rating,time"))
    master, terminal = os.openpty()
    os.write(master, b"saucepan\n")
    command = [sys.executable, "-m", "palate", "init", "pans.csv"]
    subprocess.run(command, stdin=terminal, stdout=terminal, stderr=terminal, check=True, timeout=60)
    assert b"What does this log rate?" in os.read(master, 10_000)
    assert load_config(Path("palate.yaml")).prompt.candidate_header == "Candidate saucepan:"


def test_a_noun_that_is_none_is_wrong_input(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "films", "--noun", 'film" {x}']) == 2
    assert capsys.readouterr().err.startswith("error: --noun: ")
    assert not Path("palate.yaml").exists()


def test_prepare_names_the_users_that_it_loses(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = pl.read_csv("films/ratings.csv").filter((pl.col("userId") > 10) | (pl.int_range(pl.len()).over("userId") < 5))
    log.write_csv("films/ratings.csv")
    assert main(["prepare", "--ratings", "films", "--history-len", "5", "--out", "data"]) == 0
    told = "10 of 30 users have too few ratings (<6): `palate inspect films` shows what a shorter history keeps"
    assert told in capsys.readouterr().err
    assert main(["prepare", "--ratings", "films", "--history-len", "4", "--out", "data"]) == 0
    assert "too few" not in capsys.readouterr().err


def test_odd_titles_leave_a_config_that_loads(films: Path) -> None:
    items = pl.read_csv("films/movies.csv").with_columns(
        title=pl.lit("\ud7ff\ufffe# *x*: 'a' \"b\" \x7f") + pl.col("movieId").cast(pl.String)
    )
    items.write_csv("films/movies.csv")
    assert main(["init", "films", "--force"]) == 0
    assert load_config(Path("palate.yaml")).name == "films"


@pytest.mark.parametrize(
    ("item", "title", "warned"),
    [
        ("product_id", "Pan {}", True),
        ("item_id", "Pan {}", True),
        ("movieId", "Heat {}", False),
        ("item_id", "Heat {} (1995)", False),
    ],
)
def test_prepare_warns_of_the_film_prompt_where_nothing_names_films(
    item: str, title: str, warned: bool, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pl.read_csv("films/ratings.csv").join(pl.read_csv("films/movies.csv"), on="movieId").drop("genres")
    log = log.with_columns(title=pl.format(title, "movieId")).rename({"movieId": item})
    log.write_csv("log.csv")
    words = ["prepare", "--ratings", "log.csv", "--history-len", "5", "--out", "data"]
    assert main(words) == 0
    told = "the prompt speaks of movies, log.csv does not: `palate init log.csv` writes a config for it\n"
    assert capsys.readouterr().err.count(told) == warned
    assert main([*words, "--set", "prompt.system=Like it?"]) == 0
    assert "speaks of movies" not in capsys.readouterr().err

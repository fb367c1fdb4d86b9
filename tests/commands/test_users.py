"""A prompt with fields of the users' table through every command: one text for a user, wherever it is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.command import palate
from tests.recipes import recipe_to_evaluate
from tests.tiny import random_adapter

from palate.commands.prepare import kept_baselines, prepared
from palate.commands.signals import signals_now
from palate.config import load_config
from palate.ratings.user_table import UNKNOWN
from palate.samples.lines import renderer
from palate.samples.questions import asked_now
from palate.store.artifacts import read_json, sha256_file

LINE = "{title} for {user.job:cut2} of {user.age}"
ROWS = {str(user): (str(20 + user), f"maker of part {user}") for user in range(2, 20)} | {"4": ("", "cook")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a config whose prompt names two fields; its run has prepared data and an adapter."""
    folder = recipe_to_evaluate(tmp_path_factory.mktemp("users"))
    path = folder / "config.yaml"
    (folder / "people.csv").write_text("\n".join(["user,age,job", *(f"{u},{a},{j}" for u, (a, j) in ROWS.items())]))
    values = yaml.safe_load(path.read_text())
    values["prompt"] |= {"candidate_line": LINE}
    values["ratings"]["users"] = "people.csv"
    path.write_text(yaml.safe_dump(values))
    random_adapter(load_config(path), folder / "run" / "adapter", 1.0)
    assert palate("prepare", path).returncode == 0
    return folder


def shown(user: object) -> str:
    """What the candidate's line says of a user."""
    age, job = ROWS.get(str(user), (UNKNOWN, UNKNOWN))
    return f" for {'maker of…' if job.startswith('maker') else job} of {age or UNKNOWN}"


def test_prepared_prompts_have_the_fields_of_the_sample_s_user(home: Path) -> None:
    folder = home / "run" / "data"
    samples = [json.loads(line) for line in (folder / "test_raw.jsonl").read_text().splitlines()]
    assert {sample["user_id"] for sample in samples} > {1, 4, 5}
    for sample in samples:
        assert sample["candidate_title"].endswith(shown(sample["user_id"]))
    manifest = read_json(folder / "manifest.json")
    assert manifest["inputs"]["people.csv"] == sha256_file(home / "people.csv")
    assert "users.parquet" in manifest["outputs"]


def test_the_table_alone_changes_no_file(home: Path, tmp_path: Path) -> None:
    plain = ("--set", "prompt.candidate_line={title}")
    for name, more in (("one", ()), ("two", ("--set", "ratings.users=null"))):
        assert palate("prepare", home / "config.yaml", *plain, *more, "--out", tmp_path / name).returncode == 0
    one, two = (read_json(tmp_path / name / "manifest.json") for name in ("one", "two"))
    assert (one["outputs"], one["options"]) == (two["outputs"], two["options"])


def test_tokens_and_scores_are_the_same_from_prepared_data_ratings_and_a_portable_folder(
    home: Path, tmp_path: Path
) -> None:
    config = home / "config.yaml"
    told = [json.loads(palate("lengths", config, *more, "--json").stdout)
            for more in ((), ("--ratings", home / "ratings"))]  # fmt: skip
    assert told[0] == told[1]
    assert palate("tokenize", config, "--portable", "--out", tmp_path / "portable").returncode == 0
    for name, more in (("one", ()), ("two", ("--data", tmp_path / "portable"))):
        assert palate("score", config, "--base-only", "--out", tmp_path / f"{name}.npz", *more).returncode == 0
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one["logit"].tolist() == two["logit"].tolist()


def test_questions_of_a_known_user_have_their_fields_and_those_of_a_guest_none(home: Path) -> None:
    import polars as pl

    config = load_config(home / "config.yaml")
    data = prepared(config)
    guest = pl.DataFrame({"item": [3, 5, 7], "rating": [4.0, 1.0, 5.0]})
    questions = asked_now(data.samples, guest)
    asked = signals_now(config, data.samples, kept_baselines(config, data), guest)
    render = renderer(questions.samples, config.prompt, asked)
    user = data.samples.timeline["user_id"]
    for name in (1, 4, 5):
        end = int((user == name).arg_true()[-1]) + 1
        (line,) = render.lines_of(np.array([end]), questions.target[:1], 3)["candidate_title"]
        assert line.endswith(shown(name))
    end = np.array([user.len() + 3])
    assert render.lines_of(end, questions.target[:1], 3)["candidate_title"][0].endswith(shown("guest"))


def test_commands_that_ask_run(home: Path, tmp_path: Path) -> None:
    done = palate("recommend", home / "config.yaml", "--user", "5", "--json")
    assert done.returncode == 0, done.stderr
    asked = ("--set", "evaluate.rank_users=2", "--set", "evaluate.candidates=9", "--set", "evaluate.ablations=[empty]")
    done = palate("evaluate", home / "config.yaml", *asked, "--out", tmp_path / "evaluation")
    assert done.returncode == 0, done.stderr
    done = palate("audit", home / "config.yaml", "--json")
    (found,) = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "candidate-signals"]
    assert (found["severity"], found["count"]) == ("clean", 0)


def test_another_text_of_a_user_gives_other_tokens(home: Path, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text((home / "people.csv").read_text().replace("cook", "engineer of trains"))
    for name, more in (("one", ()), ("two", ("--set", f"ratings.users={tmp_path / 'people.csv'}"))):
        assert palate("prepare", home / "config.yaml", *more, "--out", tmp_path / name).returncode == 0
    told = [
        palate("lengths", home / "config.yaml", "--set", f"data_dir={tmp_path / name}", "--json").stdout
        for name in ("one", "two")
    ]
    assert json.loads(told[0])["tokens"] != json.loads(told[1])["tokens"]


def test_inspect_lists_the_fields(home: Path) -> None:
    done = palate("inspect", home / "ratings", "--set", f"ratings.users={home / 'people.csv'}")
    assert [f"{{user.{name}}}" in done.stdout for name in ("age", "job", "user")] == [True, True, False]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("prompt.candidate_line={user.town}", "{user.town}, which the table of users does not have; expected one of "
         "user.age, user.job"),
        ("prompt.history_line={user.age}", "history_line must not name {user.age}: expected it in candidate_line"),
        ("prompt.candidate_line={title} {user.age:.1f}", "'unknown' cannot be written as {:.1f}"),
        ("ratings.users=null", "{user.age}, a column of the table of users; expected that table as ratings.users"),
        ("ratings.users=none.csv", "none.csv: no such file, expected the user table"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_in_a_line(home: Path, option: str, message: str, tmp_path: Path) -> None:
    done = palate("prepare", home / "config.yaml", "--set", option, "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()

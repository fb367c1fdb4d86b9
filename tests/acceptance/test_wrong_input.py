"""Wrong input, as a user meets it: exit code 2, one line on stderr with the place, and nothing written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings
from tests.small import small_tokenizer
from tests.tiny import tiny_folder

from palate.cli import main
from palate.store.hub import hub_is_out_of_reach


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("original"), users=2, each=20)


def line(number: int, new: str) -> Callable[[Path], None]:
    """Replace a line of ratings.csv."""

    def change(folder: Path) -> None:
        lines = (folder / "ratings.csv").read_text().splitlines()
        lines[number - 1] = new
        (folder / "ratings.csv").write_text("\n".join(lines) + "\n")

    return change


def doubled(folder: Path) -> None:
    lines = (folder / "ratings.csv").read_text().splitlines()
    (folder / "ratings.csv").write_text("\n".join([*lines, lines[1]]) + "\n")


def untitled(folder: Path) -> None:
    lines = (folder / "movies.csv").read_text().splitlines()
    rated = (folder / "ratings.csv").read_text().splitlines()[6].split(",")[1]
    (folder / "movies.csv").write_text("\n".join(row for row in lines if row.split(",")[0] != rated) + "\n")


@pytest.mark.parametrize(
    ("spoil", "place", "words"),
    [
        (lambda f: (f / "ratings.csv").unlink(), "", ["ratings.csv"]),
        (lambda f: (f / "movies.csv").unlink(), "", ["title"]),
        (lambda f: (f / "ratings.csv").write_text(""), "ratings.csv", ["empty"]),
        (line(1, "userId,movieId,verdict,timestamp"), "ratings.csv:1", ["rating"]),
        (line(5, "1,2,4.0"), "ratings.csv:5", ["3", "4"]),
        (line(6, "1,2,7.5,1000"), "ratings.csv:6", ["7.5", "0.5", "5"]),
        (line(6, "1,2,good,1000"), "ratings.csv:6", ["good"]),
        (line(7, "1,2,4.0,84743496 https://example.org/1"), "ratings.csv:7", ["84743496 https", "number"]),
        (doubled, "ratings.csv:42", ["line 2"]),
        (untitled, "ratings.csv:7", ["title"]),
    ],
    ids=[
        *("no ratings", "no titles", "empty", "missing column", "too few fields", "outside the scale"),
        *("rating is no number", "timestamp is no number", "duplicate", "an item without a title"),
    ],
)
def test_ratings_that_are_wrong_are_told_in_one_line(
    original: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    place: str,
    words: list[str],
) -> None:
    folder = tmp_path / "log"
    shutil.copytree(original, folder)
    spoil(folder)

    expect_refusal(["prepare", "--ratings", str(folder), "--out", str(tmp_path / "out")], capsys, place, words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]


def one_time(folder: Path) -> None:
    header, *rows = (folder / "ratings.csv").read_text().splitlines()
    rows = [row.rpartition(",")[0] + ",0" for row in rows]
    (folder / "ratings.csv").write_text("\n".join([header, *rows]) + "\n")


def of_hundred(folder: Path) -> None:
    header, *rows = (row.split(",") for row in (folder / "ratings.csv").read_text().splitlines())
    rows = [[user, item, str(20 * float(rating)), time] for user, item, rating, time in rows]
    (folder / "ratings.csv").write_text("\n".join(map(",".join, [header, *rows])) + "\n")


@pytest.mark.parametrize("command", ["prepare", "tokenize"])
@pytest.mark.parametrize(
    ("spoil", "place", "words"),
    [
        (of_hundred, "prepare.rating_threshold", ["4 makes the answer of all", "Yes", "such as 100: 67% Yes"]),
        (one_time, "log", ["every timestamp is 0", "ratings.columns.timestamp"]),
    ],
)
def test_ratings_that_make_all_samples_the_same_are_refused_before_anything_is_written(
    original: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    spoil: Callable[[Path], None],
    place: str,
    words: list[str],
) -> None:
    folder = tmp_path / "log"
    shutil.copytree(original, folder)
    spoil(folder)
    base = tiny_folder(tmp_path / "model")
    options = ["--set", "ratings.scale=[0,100]", "--set", f"model.base={base}", "--out", str(tmp_path / "out")]

    expect_refusal([command, "--ratings", str(folder), *options], capsys, place, words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "model"]


def expect_refusal(
    command: list[str], capsys: pytest.CaptureFixture[str], place: str = "", words: list[str] | None = None
) -> None:
    code = main(command)
    captured = capsys.readouterr()
    told = captured.err.strip().splitlines()[-1]

    assert code == 2
    assert captured.out == ""
    assert told.startswith("error: ")
    assert "Traceback" not in captured.err
    assert place in told
    for word in words or []:
        assert word in told


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect_refusal(["prepare", "--ratings", str(tmp_path / "absent"), "--out", str(tmp_path / "out")], capsys, "absent")


def test_no_user_with_enough_ratings_is_refused(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", "--ratings", str(original), "--history-len", "20", "--out", str(tmp_path / "out")]

    expect_refusal(command, capsys, words=["20"])
    assert list(tmp_path.iterdir()) == []


def test_a_config_typo_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("train:\n  lerning_rate: 1\n")

    expect_refusal(["run", str(tmp_path / "x.yaml")], capsys, "x.yaml:2", ["did you mean 'train.learning_rate'?"])


def test_weights_that_are_rounded_to_4_bits_are_not_trained(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "train.method=full", "--set", "model.quantization=nf4"]
    command = ["train", "--ratings", str(original), "--out", str(tmp_path / "out"), *words]

    expect_refusal(command, capsys, words=["train.method=full", "4 bits", "train.method=lora, or model"])
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_chat_template_is_refused(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_folder(tmp_path / "model", tokenizer=small_tokenizer(None))
    command = ["train", "--ratings", str(original), "--model", str(model), "--out", str(tmp_path / "out")]

    assert main(command) == 2
    assert "no chat template" in capsys.readouterr().err
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_chat_template_that_fails_is_refused_in_one_line(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = small_tokenizer("{{ raise_exception('Not today') }}")
    model = str(tiny_folder(tmp_path / "model", tokenizer=failing))
    command = ["train", "--ratings", str(original), "--model", model, "--out", str(tmp_path / "out")]

    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith(f"{model}: the chat template fails: Not today")
    assert main(["doctor", "--set", f"model.base={model}"]) == 0
    shown = capsys.readouterr()
    assert "Not today" in " ".join(shown.out.split())
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "lengths"])
def test_a_run_that_cannot_begin_leaves_no_folder(
    original: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "x.yaml").write_text("seed: 1\n")
    config = ["run", str(tmp_path / "x.yaml")] if command == "run" else [command, "--config", str(tmp_path / "x.yaml")]
    out = ["--out", str(tmp_path / "out")]
    if command == "evaluate":
        out += ["--base-only", "--set", f"run_dir={tmp_path / 'out'}"]

    expect_refusal([*config, *out, "--ratings", str(tmp_path / "absent"), "--model", str(base)], capsys, "absent")
    assert main([*config, *out, "--ratings", str(original), "--model", "no-such-model"]) == 2
    assert "no-such-model: no such" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["x.yaml"]


def test_a_model_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    expect_refusal(["lengths", "--ratings", "x", "--tokenizer", "no-such-tokenizer"], capsys, "no-such-tokenizer")


def test_data_prepared_with_other_options_is_refused(
    original: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "data")
    assert main(["prepare", "--ratings", str(original), "--out", data, "--history-len", "5"]) == 0
    capsys.readouterr()

    command = ["train", "--set", f"data_dir={data}", "--out", str(tmp_path), "--model", str(base)]
    expect_refusal(command, capsys, "manifest.json", ["history_len = 5"])


def test_no_ratings_at_all_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect_refusal(["prepare", "--out", str(tmp_path / "x")], capsys, words=["--ratings"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("train.report_to=[tensorbord]", ["tensorbord is not supported"]),
        ("train.optimizer=adamm", ["adamm is not a valid OptimizerNames"]),
        ("train.scheduler=cosin", ["cosin is not a valid SchedulerType"]),
        ("train.lora.target_modules=[q_pro]", ["q_pro", "names no layer"]),
    ],
)
def test_training_options_that_the_libraries_refuse_are_told_in_one_line(
    original: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, words: list[str]
) -> None:
    command = ["train", "--ratings", str(original), "--model", str(base), "--out", str(tmp_path), "--set", option]

    assert main(command) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: train")
    for word in words:
        assert word in told


def test_a_hub_that_cannot_be_reached_is_told_at_once(
    original: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    hub_is_out_of_reach.cache_clear()

    command = ["lengths", "--ratings", str(original), "--tokenizer", "nobody/nothing"]
    assert main(command) == 1  # nothing is wrong with the command
    told = capsys.readouterr().err.strip().splitlines()
    assert told == ["error: nobody/nothing: it is not in the Hugging Face cache, and the hub cannot be reached"]
    hub_is_out_of_reach.cache_clear()


def test_what_is_no_recipe_is_refused(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "is no recipe, expected a YAML file or the folder of a run; ratings go with --ratings"
    for place in (original, original / "ratings.csv"):
        for command in (["prepare", str(place)], ["evaluate", "--config", str(place)]):
            assert main(command) == 2
            assert capsys.readouterr().err == f"error: {place}: {words}\n"
    (tmp_path / "config.yaml").write_text("name: a\n")
    assert main(["lengths", str(tmp_path), "--config", str(tmp_path / "config.yaml")]) == 2
    assert capsys.readouterr().err == f"error: --config: is named beside {tmp_path}, expected one of both\n"

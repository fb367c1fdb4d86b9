from pathlib import Path

import pytest

from palate.config import Config, Override, dump_config, load_config, parse_override
from palate.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "gpu").glob("*.yaml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_is_valid_and_opens_with_its_command(path: Path) -> None:
    load_config(path)

    assert f"palate run {path.relative_to(ROOT)}" in "\n".join(path.read_text().splitlines()[:6])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "seed: 1\ntrain:\n  lerning_rate: 3\n",
            3,
            "unknown key 'train.lerning_rate', did you mean 'train.learning_rate'?",
        ),
        ("seed: 1\ntrain:\n  bootstrap: 3\n", 3, "unknown key 'train.bootstrap', did you mean 'evaluate.bootstrap'?"),
        ("seed: 1\ntrian:\n  epochs: 3\n", 2, "unknown key 'trian', did you mean 'train'?"),
        ("train:\n  lora:\n    rnk: 8\n", 3, "unknown key 'train.lora.rnk'"),
        ("train:\n  epochs: many\n", 2, "'train.epochs' is 'many', expected a number"),
        (
            "train:\n  gradient_checkpointing: x\n",
            2,
            "'train.gradient_checkpointing' is 'x', expected true or false or 'selective' or 'auto'",
        ),
        ("model:\n  dtype: int8\n", 2, "expected 'auto', 'float32' or 'bfloat16'"),
        ("prepare:\n  val_ratio: 0.5\n  test_ratio: 0.5\n", 1, "val_ratio + test_ratio is 1, expected less than 1"),
        ("prompt:\n  candidate_line: '{rating}'\n", 1, "must not name {rating}"),
        (
            "prompt:\n  history_line: '{n} {title'\n",
            2,
            "expected fields such as {title}; a brace itself is",
        ),
        ("train: 3\n", 1, "'train' is 3, expected keys and their values"),
        ("train: null\n", 1, "'train' is null, expected keys and their values"),
        ("train:\n  lora:\n    target_modules: 3\n", 3, "'train.lora.target_modules' is 3, expected a text or a list"),
        ("ratings:\n  scale: [1]\n", 2, "'ratings.scale[1]' is missing"),
        ("ratings:\n  columns:\n    uid: x\n", 3, "unknown key 'ratings.columns.uid', expected one of: 'user', 'item'"),
        ("evaluate:\n  ablations: [title]\n", 2, "'evaluate.ablations[0]' is 'title', expected 'titles', "),
        ("train:\n  learning_rate: .inf\n", 2, "'train.learning_rate' is inf, expected a finite number"),
        ("- a\n- b\n", 1, "is ['a', 'b'], expected keys"),
        ("a: [1,\n", 2, "is not YAML"),
        ("name: x\nseed: 2001-99-99\n", 2, "is not YAML: '2001-99-99': month must be in 1..12"),
        ("name: x\nseed: -1\n", 2, "'seed' is -1, expected at least 0"),
        ("train:\n  seed: 4294967296\n", 2, "expected less than 4,294,967,296"),
        ("name: x\nseed: " + "9" * 5000, 2, "9…: "),
        ('prompt:\n  system: "a\\ud800"\n', 2, "has the character '\\ud800', which text cannot have"),
        ('name: x\nrun_dir: "a\\0b"\n', 2, "has the character '\\x00', which text cannot have"),
        *[
            (f"name: x\nseed: !!{kind} {text}\n", 2, "")
            for kind, text in [("int", '""'), ("float", '""'), ("bool", "x"), ("timestamp", "x")]
        ],
        ("name: ..\n", 1, "'name': '..', expected letters"),
        ("name: x\nseed: 0x_\n", 2, "is not YAML: '0x_'"),
        ("seed: 1\ntrain:\n  epochs: 3\nseed: 2\n", 4, "line 1 has the same key 'seed', expected it once"),
        ("train:\n  lora:\n    r: 8\n    'r': 16\n", 4, "line 3 has the same key 'r'"),
        ("train: {epochs: 1, epochs: 2}\n", 1, "line 1 has the same key 'epochs'"),
        ("a: &a {b: *a}\n", 1, "unknown key 'a'"),
        ("train: &a {lora: *a}\n", 1, "unknown key 'train.lora.lora'"),
    ],
)
def test_a_mistake_in_a_config_is_told_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)

    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_answers_need_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("prompt:\n  yes: Yes\n  no: No\n")
    prompt = load_config(path).prompt
    assert (prompt.yes, prompt.no) == ("Yes", "No")


def test_a_config_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(InputError, match=r"x\.yaml: is nested too deeply"):
        load_config(tmp_path / "x.yaml")


@pytest.mark.parametrize("value", ["2001-99-99", "0x_", "[" * 5000])
def test_an_override_that_is_no_yaml_is_text(value: str) -> None:
    assert parse_override(f"seed={value}").value == value


def test_a_missing_config_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("train:\n  epochs: 3\n  lora:\n    r: 4\n")
    config = load_config(path, [parse_override("train.learning_rate=1e-4"), Override("train.lora.r", 8, "--rank")])

    assert (config.train.epochs, config.train.learning_rate, config.train.lora.r) == (3.0, 1e-4, 8)


def test_an_inputs_path_is_relative_to_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, here = tmp_path / "recipes" / "x.yaml", tmp_path / "here"
    for folder in (recipe.parent / "shop", here / "model", here / "shop"):
        folder.mkdir(parents=True)
    recipe.write_text("ratings: {source: shop, items: ml-100k}\nmodel: {base: model}\ndata_dir: shop\n")
    monkeypatch.chdir(here)
    config = load_config(recipe)

    assert config.ratings.source == str(recipe.parent / "shop")
    assert (config.ratings.items, config.model.base, config.data_dir) == ("ml-100k", "model", "shop")
    assert load_config(recipe, [Override("ratings.source", "shop", "--ratings")]).ratings.source == "shop"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train.lerning_rate=2", "--set train.lerning_rate: "),
        ("train.epochs=x", "--set train.epochs: "),
        ("x", "--set: "),
        ("prompt.system=a\udcff", "--set prompt.system: has the character '\\udcff', which text cannot have"),
    ],
)
def test_a_mistake_in_an_override_names_the_option(text: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [parse_override(text)])
    assert str(caught.value).startswith(place)


def test_the_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config(CONFIGS[0])
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")

    assert load_config(path) == config != Config()


def test_a_truncation_that_leaves_nothing_to_share_is_told_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("tokens:\n  truncation: middle\ntrain:\n  targets_per_prompt: 4\n")
    with pytest.raises(
        InputError, match=r"c.yaml: with tokens.truncation=middle .* share nothing, expected one of left"
    ):
        load_config(path)


def test_a_ranking_loss_wants_targets_to_compare() -> None:
    with pytest.raises(
        InputError, match=r"ranking_weight compares the targets of a prompt, expected targets_per_prompt"
    ):
        load_config(None, [parse_override("train.ranking_weight=1")])


def test_aliases_of_aliases_as_a_value_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "train: *a9"]))
    with pytest.raises(InputError, match=r"config\.yaml:11: 'train' is \[\[\["):
        load_config(tmp_path / "config.yaml")


def test_a_source_that_is_too_long_for_a_path_is_no_path_in_the_folder_of_the_config(tmp_path):
    (tmp_path / "config.yaml").write_text(f"ratings:\n  source: {'x' * 300}\n")
    assert load_config(tmp_path / "config.yaml").ratings.source == "x" * 300

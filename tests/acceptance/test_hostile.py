"""A log whose titles and ids try to be something else: nothing of them acts in tokens, pages, terminals or files."""

import csv
import json
import random
import re
import sqlite3
from pathlib import Path

import polars as pl
import pytest
import yaml
from tests.browser import CHROMIUM, browse, needs_browser
from tests.command import palate
from tests.hostile import CONTROL_TOKENS, FORMULAS, TEXTS, TOKENS
from tests.small import CHATML, small_tokenizer
from tests.tiny import random_adapter, tiny_folder, toy_config
from tests.tree import Tree

from palate.config import load_config
from palate.prompt.chat import Chat

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with such a log, and a random adapter."""
    folder: Path = tmp_path_factory.mktemp("hostile") / "home"
    draw = random.Random(1)
    titles = [f"{text.strip()} film" for text in TEXTS]
    ids = [text.replace("\r", "\n") for text in TEXTS]  # a carriage return in an id is refused
    users = [text for text in dict.fromkeys(ids) if text.strip() == text][-40:]
    items = pl.DataFrame({"item_id": [f"{text}{n % 7}" for n, text in enumerate(ids)], "title": titles})
    rows = [
        (user, item, draw.choice([1.0, 2.0, 4.5, 5.0]), 10**9 + 1000 * n + at)
        for n, user in enumerate(users)
        for at, item in enumerate(draw.sample(items["item_id"].to_list(), 20))
    ]
    (folder / "log").mkdir(parents=True)
    pl.DataFrame(rows, ["user_id", "item_id", "rating", "timestamp"], orient="row").write_parquet(
        folder / "log" / "ratings.parquet"
    )
    items.write_parquet(folder / "log" / "items.parquet")
    base = tiny_folder(folder / "model")
    config = {
        **toy_config(base).model_dump(include={"name", "prompt", "model", "tokens"}, mode="json"),
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(folder / "log" / "ratings.parquet"), "items": str(folder / "log" / "items.parquet")},
        "prepare": {"history_len": 3, "val_ratio": 0.2, "test_ratio": 0.2},
        "evaluate": {"bootstrap": 20, "zero_shot": False, "baselines": "quick"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    random_adapter(load_config(folder / "config.yaml"), folder / "run" / "adapter", 0.1)
    return folder


@pytest.fixture(scope="module")
def evaluated(home: Path) -> Path:
    done = palate("evaluate", home / "config.yaml", "--out", home / "evidence")
    assert done.returncode == 0, done.stderr
    assert not CONTROLS.search(done.stdout + done.stderr)
    return home / "evidence"


@pytest.mark.parametrize("family", CONTROL_TOKENS)
def test_control_tokens_of_a_family_stay_text(family: str) -> None:
    tokenizer = small_tokenizer(CHATML)
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL_TOKENS[family]})
    chat = Chat(tokenizer)
    known = tokenizer.backend_tokenizer.get_added_tokens_decoder()

    def control(*texts: str) -> list[int]:
        roles = ("system", "user", "assistant", "user", "assistant")
        messages = [{"role": role, "content": text} for role, text in zip(roles, (*texts, "No"), strict=True)]
        return [n for n in chat.encode(messages).ids if n in known]

    harmless = control("s", "u", "a", "q")
    for token in TOKENS:
        assert control(token, f"a{token}b", f" {token}\n", token * 2) == harmless, token
    assert [n for n in tokenizer.encode("".join(CONTROL_TOKENS[family])) if n in known]  # they are control tokens here


def test_the_prompts_have_the_texts_as_they_stand(home: Path) -> None:
    done = palate("prepare", home / "config.yaml")
    assert done.returncode == 0, done.stderr
    prompts = "".join(each["input"] for each in json.loads((home / "run" / "data" / "train.json").read_text()))
    lost = [text for text in TEXTS if not CONTROLS.search(text) and text.strip() not in prompts]
    assert len(lost) < len(TEXTS) / 20, lost  # few may be in no training sample
    assert "49" not in prompts


def test_the_report_runs_no_script_and_asks_nobody(evaluated: Path) -> None:
    tree = Tree((evaluated / "report.html").read_text())
    assert (tree.count("script"), tree.count("iframe"), tree.count("base")) == (0, 0, 0)
    assert tree.asks_elsewhere == []
    assert not any(name.startswith("on") for _, attributes in tree.elements for name in attributes)
    shown = (evaluated / "report.html").read_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@needs_browser
@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
def test_a_browser_shows_the_report_and_nothing_else(evaluated: Path, tmp_path: Path) -> None:
    page = (evaluated / "report.html").read_text()
    hit = "<script>addEventListener('load', () => console.log('HIT ' + window.hit))</script></body>"
    seen = browse(page.replace("</body>", hit), tmp_path)
    assert "HIT undefined" in seen.console
    assert seen.probe["requests"] == []


def test_a_terminal_gets_no_control_character(home: Path, evaluated: Path) -> None:
    user = pl.read_parquet(home / "log" / "ratings.parquet")["user_id"][0]
    for words in (("recommend", home / "config.yaml", "--user", user), ("inspect", home / "log" / "ratings.parquet"),
                  ("audit", home / "config.yaml"), ("recommend", home / "config.yaml", "--user", "\x1b[31m"),
                  ("prepare", "--ratings", home / "\x1b[2J")):  # fmt: skip
        done = palate(*words)
        assert done.returncode in (0, 2), done.stderr
        assert done.stdout + done.stderr
        assert not CONTROLS.search(done.stdout + done.stderr), words


def test_json_on_a_terminal_has_control_characters_escaped(home: Path, evaluated: Path) -> None:
    user = pl.read_parquet(home / "log" / "ratings.parquet")["user_id"][0]
    shown = []
    for words in (("recommend", home / "config.yaml", "--user", user, "--top-k", "999", "--include-seen"),
                  ("inspect", home / "log"), ("tokenize", home / "config.yaml", "--out", home / "to\x9b\u202ekens"),
                  ("evaluate", home / "config.yaml", "--out", home / "again"), ("cache",)):  # fmt: skip
        done = palate(*words, "--json")
        assert done.returncode == 0, done.stderr
        assert not CONTROLS.search(done.stdout), words
        shown.append(json.loads(done.stdout))
    assert "\u200fright film" in [each["title"] for each in shown[0]["recommendations"]]
    assert shown[2]["folder"].endswith("to\x9b\u202ekens")


def test_ids_name_no_files(home: Path, evaluated: Path) -> None:
    assert {path.name for path in home.parent.iterdir()} == {"home"}
    names = {path.name for path in home.rglob("*")}
    assert not {text.split("/")[-1] for text in TEXTS} & names


def test_skipped_rows_are_no_formulas(tmp_path: Path) -> None:
    rows = [f"{n // 10},{n % 10},{n % 5 + 1},{n}" for n in range(40)] + [
        f"{text.strip()},1,none,5" for text in FORMULAS
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]) + "\n")
    words = ("--set", f"run_dir={tmp_path / 'run'}", "--set", "prepare.history_len=2")
    done = palate("prepare", "--ratings", tmp_path / "log.csv", "--bad-rows", "report", "--untitled", "id", *words)
    (found,) = tmp_path.rglob("skipped.csv")
    with found.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert done.returncode in (0, 2), done.stderr
    assert sum("none" in cell for cell in cells) >= len(FORMULAS)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


def test_a_store_takes_texts_as_values(tmp_path: Path) -> None:
    from palate.serve.schemas import NewRating
    from palate.serve.store import Store

    store = Store(f"sqlite:///{tmp_path / 'feedback.sqlite'}")
    texts = [text for text in TEXTS if text.strip()]
    store.add_ratings([NewRating(user_id=text, item_id=text, rating=3, timestamp=1) for text in texts])
    assert [store.ratings_of(text)[0].item_id for text in texts] == texts
    store.close()
    with sqlite3.connect(tmp_path / "feedback.sqlite") as database:
        assert database.execute("select count(*) from ratings").fetchone() == (len(texts),)

"""The benchmark of published sets reads their files, shows the models what it says, and runs to its tables."""

import json
import os
import pickle
import random
import sys
import zipfile
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.typing import NDArray
from tests.tallrec import INSTRUCTION, examples, write

from palate.baselines.registry import RANKERS
from palate.errors import InputError
from palate.text.vectors import Vectors

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

import published
from published import BOTH, SHOTS
from published_sets import WINDOW, PublishedLog, collm_log, movie_log, prompt_log, prompts_of, rebuilt_movies
from published_views import EARLIER, LIKED, PROMPT, TRAINING, data_of, shown_rows

DIGESTS = {
    "val": "5ec7b550187d9626804f02c89a3f8d028b2644d886b4847a6191b9963b4d799c",
    "test": "88ff85af77cae06136fd279e64f46ff691639723072f6fe75973ad8889bacbd8",
}
"""SHA-256 of the inputs and outputs of TALLRec's data/movie/valid.json and test.json, as JSON."""


def frames(users: int = 30, rows: int = 24, items: int = 40) -> dict[str, pd.DataFrame]:
    """CoLLM's frames, of invented users with tastes: two thirds of each one's rows train, the last sixth tests."""
    draw, made = random.Random(0), []
    for user in range(1, users + 1):
        taste, liked, titles = draw.random(), [0], [""]
        for n, item in enumerate(draw.sample(range(1, items + 1), rows)):
            label, title = int(draw.random() < (taste + item / items) / 2), f"Film {item} ({1950 + item})"
            split = "train" if n < rows * 2 // 3 else "valid" if n < rows * 5 // 6 else "test"
            made.append((split, user, item, label, 1000 * user + n, np.array(liked), list(titles), title, 0.0, 1))
            if label:
                liked.append(item)
                titles.append(title)
    columns = ["split", "uid", "iid", "label", "timestamp", "his", "his_title", "title", "flag", "not_cold"]
    # pandas of 2023, which wrote CoLLM's files, had no type of text.
    table = pd.DataFrame(made, columns=pd.Index(columns, dtype=object)).astype({"title": object, "split": object})
    return {str(split): part.drop(columns="split") for split, part in table.groupby("split")}


def collm(folder: Path) -> Path:
    """A clone of CoLLM with the frames in its zip file."""
    (folder / "collm-datasets").mkdir(parents=True)
    with zipfile.ZipFile(folder / "collm-datasets" / "ml-1m.zip", "w") as archive:
        for split, frame in frames().items():
            archive.writestr(f"ml-1m/{split}_ood2.pkl", pickle.dumps(frame))
    return folder


def books(n: int, seed: int) -> list[dict[str, str]]:
    """Examples in the wording of TALLRec's books, whose target has a second pair of quotes."""
    made, draw = [], random.Random(seed)
    for _ in range(n):
        taste, names = (
            draw.random(),
            [f'"Tale, the {draw.randrange(60)}th" written by A. Writer, Jr.' for _ in range(5)],
        )
        likes = [draw.random() < taste for _ in names]
        sides = [
            ", ".join(x for x, like in zip(names[:-1], likes, strict=False) if like is side) for side in (True, False)
        ]
        text = f"User Preference: {sides[0]}\nUser Unpreference: {sides[1]}\n"
        text += f'Whether the user will like the target book "{names[-1]}"?'
        made.append({"instruction": INSTRUCTION, "input": text, "output": "Yes." if likes[-1] else "No."})
    return made


def tallrec(folder: Path) -> Path:
    """A clone of TALLRec: movies with a training file, books without."""
    for seed, split in enumerate(("train", "valid", "test")):
        write(folder / "data" / "movie" / f"{split}.json", examples(80, seed))
        if split != "train":
            write(folder / "data" / "book" / f"{split}.json", books(80, seed))
    return folder


def test_the_script_measures_the_sets_in_small(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    options = ["--encoder", "random", "--models", "history-mean", "logistic-knn", "logistic-text", "--seeds", "2"]
    clones = ["--collm", str(collm(tmp_path / "CoLLM")), "--tallrec", str(tallrec(tmp_path / "TALLRec"))]
    monkeypatch.setattr(sys, "argv", [published.__file__, *clones, *options, "--resamples", "20", "--json"])
    published.main()
    tables = {each["title"]: each["rows"] for each in json.loads(capsys.readouterr().out)["results"]}
    first, movies, few, book, _ = tables.values()
    assert next(iter(tables)) == "CoLLM's ML-1M: fitted on 480, validated on 120, tested on 120 rows of 30 users"
    assert "no train.json: rows 17 and later of valid.json train" in list(tables)[3]
    ours = [(row["key"], row["sees"]) for row in first if "key" in row]
    assert len(ours) == len(set(ours)) == 2 * 4 + 1
    for sees in (LIKED, TRAINING, BOTH, EARLIER):
        rows = [row for row in first if row.get("sees") == sees]
        best = max(rows, key=lambda row: row["validation"])
        assert [row["key"] for row in rows if row.get("chosen")] == [best["key"]]
        assert all(row["auc_interval"][0] <= row["auc"] <= row["auc_interval"][1] for row in rows)
    assert {row["sees"] for row in (*movies, *book)} == {PROMPT}  # these films are not MovieLens-100K's
    assert {row["samples"] for row in few if "key" in row} == {n for n in SHOTS if n <= 80}
    assert all(len(row["aucs"]) == 2 for row in few if "key" in row)


def test_a_missing_or_a_dangerous_file_is_refused_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for folder, message in ((tmp_path, "has no train_ood2.pkl"), (tmp_path / "evil", "it names posix.mkdir")):
        folder.mkdir(exist_ok=True)
        (tmp_path / "evil" / "train_ood2.pkl").parent.mkdir(exist_ok=True)
        (tmp_path / "evil" / "train_ood2.pkl").write_bytes(pickle.dumps(Evil()))
        monkeypatch.setattr(sys, "argv", [published.__file__, "--collm", str(folder)])
        with pytest.raises(SystemExit) as stopped:
            published.main()
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "ran").exists()


def test_examples_show_the_rows_that_a_loop_finds(tmp_path: Path) -> None:
    log = collm_log(collm(tmp_path))
    user, rating, split = (log.frame[name].to_list() for name in ("user", "rating", "split"))
    may = {PROMPT: lambda row: True, LIKED: lambda row: rating[row] == 1, TRAINING: lambda row: split[row] == "train"}
    for sees, allows in may.items():
        rows, counts = shown_rows(log, sees)
        parts = np.split(rows, np.cumsum(counts)[:-1])
        for example, part in zip(log.examples, parts, strict=True):
            before = [row for row in range(example) if user[row] == user[example] and allows(row)]
            assert part.tolist() == (before if sees == TRAINING else before[-WINDOW:])


def test_liked_titles_are_those_of_the_files(tmp_path: Path) -> None:
    log = collm_log(collm(tmp_path))
    rows, counts = shown_rows(log, LIKED)
    shown = [log.frame["item_id"].gather(part).to_list() for part in np.split(rows, np.cumsum(counts)[:-1])]
    given = pd.concat(frames().values()).sort_values(["uid", "timestamp"])["his"]
    assert shown == [history.tolist()[1:][-WINDOW:] for history in given]


@pytest.mark.parametrize(("sees", "changes"), [(LIKED, False), (TRAINING, False), (EARLIER, True)])
def test_a_model_does_not_see_what_is_hidden(tmp_path: Path, sees: str, changes: bool) -> None:
    log = collm_log(collm(tmp_path))
    vectors = Vectors(np.random.default_rng(0).normal(size=(len(log.items), 8)).astype(np.float32), "random")
    hidden = pl.col("split").is_in(["val", "test"]) & (pl.col("rating") == 0)
    other = log.frame.with_columns(item_id=pl.when(hidden).then(log.items["item_id"][0]).otherwise("item_id"))
    kept = ~((log.frame["split"] == "test") & (log.frame["rating"] == 0)).to_numpy()
    found: list[NDArray[np.float64]] = []
    for frame in (log.frame, other):
        data = data_of(PublishedLog(frame, log.items), sees, vectors)
        # A fit on training alone: Platt scaling on validation has the changed questions themselves.
        score = RANKERS["logistic-knn"].score(data, RANKERS["logistic-knn"].fit(data))
        found.append(score(data.of_split("test")[0])[kept[(log.frame["split"] == "test").to_numpy()]])
    assert (not np.array_equal(*found)) is changes


def test_movies_are_rebuilt_from_movielens_as_the_files_have_them(tmp_path: Path) -> None:
    if find_spec("recbole") is None:
        pytest.skip("recbole, which has MovieLens-100K, is not installed")
    rebuilt = rebuilt_movies()
    for split, digest in DIGESTS.items():
        assert sha256(json.dumps(prompts_of(rebuilt, split)).encode()).hexdigest() == digest
        records = [{"instruction": INSTRUCTION, "input": a, "output": b} for a, b in prompts_of(rebuilt, split)]
        write(tmp_path / f"{'valid' if split == 'val' else split}.json", records)
    assert movie_log(tmp_path).frame.equals(rebuilt.frame)
    write(tmp_path / "test.json", examples(20))
    assert movie_log(tmp_path).frame["user"].n_unique() == 1020


def test_a_prompt_becomes_the_items_that_it_quotes(tmp_path: Path) -> None:
    write(tmp_path / "valid.json", books(5, 0))
    write(tmp_path / "test.json", books(3, 1))
    log = prompt_log(tmp_path)
    assert log.frame.group_by("user").len()["len"].to_list() == [5] * 8
    given = [sorted(book["input"].count(f"{title}") for title in log.items["title"]) for book in books(3, 1)]
    assert all(sum(counts) == 5 for counts in given)
    assert log.labels("test")[0].tolist() == [book["output"] == "Yes." for book in books(3, 1)]
    write(tmp_path / "test.json", [{"instruction": "", "input": "Which?", "output": "No."}])
    with pytest.raises(InputError, match="is not in TALLRec's wording"):
        prompt_log(tmp_path)

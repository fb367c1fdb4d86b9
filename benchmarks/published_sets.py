"""Test sets that others published, as one log each: CoLLM's split of MovieLens-1M, TALLRec's movies and books.

CoLLM's frames are pickles, and reading a pickle runs whatever code it holds. `FrameUnpickler` allows the few names that
a pandas frame needs and refuses the rest.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.alpaca.answers import Answers, labels_of
from palate.alpaca.reader import read_alpaca
from palate.errors import InputError, WorkError
from palate.ratings.load import load_ratings

WINDOW = 10
"""Titles in a prompt of CoLLM and of TALLRec."""
RECORDS = 10_000
"""TALLRec keeps the last of MovieLens-100K's examples: 8,000 for training, 1,000 and 1,000 for the rest."""
STOPPING = 0.2
"""Share of the file that stands in for a missing `train.json` which serves as validation."""
FRAMES = {"train": "train_ood2.pkl", "val": "valid_ood2.pkl", "test": "test_ood2.pkl"}
NEEDS = {
    "builtins": {"slice"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "pandas": {"DataFrame", "Index", "RangeIndex"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.internals.managers": {"BlockManager"},
    "pandas._libs.internals": {"_unpickle_block"},
}
"""The names that a pickled frame of numbers, text and lists may use, by module."""
PROMPT = re.compile(r"(?s)User Preference:(.*?)\nUser Unpreference:(.*?)\nWhether .*? the target \w+ (.*)\?\s*")
BOOK = re.compile(r'(?s)"(.*?)" written by (.*?)(?=, "|$)')
MOVIE = re.compile(r'(?s)"(.*?)"(?=, "|$)')


@dataclass(frozen=True)
class PublishedLog:
    """A published set as a log.

    `frame` is sorted by `user` (Int64: 0, 1, …), then by time: `item_id`, `rating` (0.0 or 1.0), `timestamp` (Int64),
    `split` (train, val, test; empty for a row that is no example), and `known`, whether training may count the row.
    `items` has `item_id` and `title`.
    """

    frame: pl.DataFrame
    items: pl.DataFrame
    note: str = ""
    """Where the rows come from, if not from the files alone."""

    @property
    def examples(self) -> NDArray[np.int64]:
        """The rows that are examples of a split."""
        return np.flatnonzero((self.frame["split"] != "").to_numpy())

    def labels(self, split: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Labels and users of a split's examples, (n,) each."""
        of_split = self.frame.filter(pl.col("split") == split)
        return of_split["rating"].to_numpy() == 1, of_split["user"].to_numpy()


class FrameUnpickler(pickle.Unpickler):
    """Reads pickled pandas frames; raises `UnpicklingError` for any other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a name that frames need."""
        known = module.replace("numpy._core", "numpy.core")
        if name not in NEEDS.get(known, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, expected a frame of numbers, text and lists")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def collm_log(folder: Path) -> PublishedLog:
    """CoLLM's ML-1M split from a clone of its repository, or from the folder of the pickles.

    Raises `InputError` for a missing file, or a pickle that is no frame.
    """
    frames = []
    for split, name in FRAMES.items():
        table = _frame(folder, name)
        columns = {column: table[column].to_numpy() for column in ("uid", "iid", "label", "timestamp")}
        frames.append(
            pl.DataFrame({**columns, "title": [str(t) for t in table["title"]]}).with_columns(split=pl.lit(split))
        )
    frame = pl.concat(frames).sort("uid", "timestamp", maintain_order=True)
    items = frame.unique("iid", keep="first").sort("iid").select(item_id=pl.col("iid"), title=pl.col("title"))
    frame = frame.select(
        user=pl.col("uid").rank("dense").cast(pl.Int64) - 1,
        item_id=pl.col("iid"),
        rating=pl.col("label").cast(pl.Float64),
        timestamp=pl.col("timestamp").cast(pl.Int64),
        split=pl.col("split"),
        known=pl.col("split") == "train",
    )
    return PublishedLog(frame, items)


def _frame(folder: Path, name: str) -> Any:
    """A pickled pandas frame, from the folder or from `ml-1m.zip` in it."""
    plain = [path for path in (folder / name, folder / "ml-1m" / name) if path.is_file()]
    zips = [path for path in (folder / "ml-1m.zip", folder / "collm-datasets" / "ml-1m.zip") if path.is_file()]
    if plain:
        data, place = plain[0].read_bytes(), str(plain[0])
    elif zips:
        place = f"{zips[0]}:{name}"
        try:
            with zipfile.ZipFile(zips[0]) as archive:
                data = archive.read(f"ml-1m/{name}")
        except (KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot be read: {error}", place) from None
    else:
        raise InputError(f"has no {name} and no collm-datasets/ml-1m.zip, expected a clone of CoLLM", folder)
    try:
        table = FrameUnpickler(BytesIO(data)).load()
        table[["uid", "iid", "label", "timestamp", "title"]]
    except Exception as error:
        raise InputError(f"is no frame of examples: {error}", place) from None
    return table


def movie_log(folder: Path) -> PublishedLog:
    """TALLRec's movies from `data/movie`: as rebuilt from MovieLens-100K if that gives the same examples.

    The rebuilt log names users and times, which the files do not. Other files are read as they are (`prompt_log`), and
    so are these where MovieLens-100K is out of reach.
    """
    try:
        rebuilt = rebuilt_movies()
    except WorkError:
        return prompt_log(folder)
    for split, file in _files(folder).items():
        if split != "train" and prompts_of(rebuilt, split) != list(file.select("input", "output").iter_rows()):
            return prompt_log(folder)
    return rebuilt


def rebuilt_movies() -> PublishedLog:
    """The movie set from MovieLens-100K, as `preprocess_movie.py` describes it.

    Users in the order of their first row; each user's rows by time; every row after the first ten is an example, and
    the last 10,000 examples count. Training knows the rows in its own prompts.
    """
    ratings = load_ratings("ml-100k")
    frame = ratings.frame.with_row_index("at").with_columns(first=pl.col("at").min().over("user_id"))
    frame = frame.sort("first", "timestamp", "at").with_columns(n=pl.int_range(pl.len()).over("user_id"))
    records = np.flatnonzero(frame["n"].to_numpy() >= WINDOW)[-RECORDS:]
    split = np.full(frame.height, "", object)
    train, val, test = np.split(records, [RECORDS * 8 // 10, RECORDS * 9 // 10])
    split[train], split[val], split[test] = "train", "val", "test"
    known = np.zeros(frame.height, bool)
    known[(train[:, None] - np.arange(WINDOW + 1)).ravel()] = True
    frame = frame.select(
        user=pl.col("user_id").rle_id().cast(pl.Int64),
        item_id=pl.col("item_id"),
        rating=(pl.col("rating") > 3).cast(pl.Float64),
        timestamp=pl.col("timestamp"),
        split=pl.Series(split, dtype=pl.String),
        known=pl.Series(known),
    )
    used = frame.filter((pl.col("split") != "").any().over("user")).with_columns(
        user=pl.col("user").rle_id().cast(pl.Int64)
    )
    return PublishedLog(used, ratings.items, "users, times and training part rebuilt from MovieLens-100K")


def prompts_of(log: PublishedLog, split: str) -> list[tuple[str, str]]:
    """TALLRec's `input` and `output` of a split's examples."""
    titles = dict(log.items.select("item_id", "title").iter_rows())
    shown = [f'"{titles[item]}"' for item in log.frame["item_id"]]
    liked = log.frame["rating"].to_list()
    found = []
    for row in log.frame.select((pl.col("split") == split).arg_true()).to_series():
        window = range(row - WINDOW, row)
        preference, other = (", ".join(shown[at] for at in window if liked[at] == side) for side in (1.0, 0.0))
        question = f"Whether the user will like the target movie {shown[row]}?"
        text = f"User Preference: {preference}\nUser Unpreference: {other}\n{question}"
        found.append((text, "Yes." if liked[row] else "No."))
    return found


def prompt_log(folder: Path) -> PublishedLog:
    """Alpaca examples in TALLRec's wording, each as a user of its own: the liked items, the disliked ones, the target.

    Without `train.json` the last part of `valid.json` is the training part, and its first `STOPPING` the validation.
    """
    files = _files(folder)
    note = ""
    if "train" not in files:
        middle = round(STOPPING * files["val"].height)
        files = {"val": files["val"].head(middle), "train": files["val"].slice(middle), "test": files["test"]}
        note = f"no train.json: rows {middle + 1:,} and later of valid.json train, those before stop early"
    rows: list[tuple[int, str, float, str, bool]] = []
    user = 0
    for split, file in files.items():
        label = labels_of(file, Answers("Yes", "No"))
        for text, liked in zip(file["input"], label, strict=True):
            sides = _titles(text, folder)
            rows += [(user, item, rating, "", split == "train") for item, rating in sides[:-1]]
            rows.append((user, sides[-1][0], float(liked), split, split == "train"))
            user += 1
    schema = {"user": pl.Int64, "title": pl.String, "rating": pl.Float64, "split": pl.String, "known": pl.Boolean}
    frame = pl.DataFrame(rows, schema, orient="row")
    frame = frame.with_columns(
        item_id=pl.col("title").rank("dense").cast(pl.Int64), timestamp=pl.int_range(pl.len()).over("user")
    )
    items = frame.select("item_id", "title").unique("item_id").sort("item_id")
    columns = ("user", "item_id", "rating", "timestamp", "split", "known")
    return PublishedLog(frame.select(columns), items, note)


def _files(folder: Path) -> Mapping[str, pl.DataFrame]:
    """The examples of each split of a folder; `train` only if the file is there."""
    names = {"train": "train.json", "val": "valid.json", "test": "test.json"}
    there = {split: folder / name for split, name in names.items() if split != "train" or (folder / name).is_file()}
    return {split: read_alpaca(path).frame for split, path in there.items()}


def _titles(text: str, folder: Path) -> list[tuple[str, float]]:
    """The items of a prompt with 1 for a liked and 0 for a disliked one, last the target."""
    found = PROMPT.fullmatch(text)
    if found is None:
        raise InputError(f"{text[:60]!r} … is not in TALLRec's wording", folder)
    liked, disliked, target = (part.strip() for part in found.groups())
    if target.startswith('""') and target.endswith('"'):
        target = target[1:-1]  # books have a second pair of quotes around title and author
    item = BOOK if " written by " in target else MOVIE
    parts = [_split(item, part) for part in (liked, disliked, target)]
    if [liked, disliked, target] != [", ".join(part) for part in parts] or len(parts[2]) != 1:
        raise InputError(f"{text[:60]!r} … is no list of quoted titles and one target", folder)
    return [(title, side) for titles, side in zip(parts, (1.0, 0.0, 0.0), strict=True) for title in titles]


def _split(item: re.Pattern[str], part: str) -> list[str]:
    """The items of a list as the prompt writes them: in quotes, and with its author for a book."""
    return [found[0] for found in item.finditer(part)]

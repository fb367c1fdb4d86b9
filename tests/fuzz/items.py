"""Tables of items beside a right log, tables of users, and tables with given splits."""

import csv
import io
import re
from pathlib import Path
from random import Random

import polars as pl
from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import Log, damage_bytes, damage_rows
from tests.fuzz.oracle import WHITE, fields_of
from tests.fuzz.text import written

from palate.errors import PalateError
from palate.ratings.load import Ratings, load_ratings, with_users
from palate.ratings.splits import load_given

LABELS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "true": 1.0, "false": 0.0}


def make_items(draw: Random, folder: Path) -> Case:
    """A log of three items, and a table of items that is damaged."""
    rows = [[str(n), f"Title {n}", draw.choice(("", "Drama", "a, b", 'so "so"'))] for n in range(1, 6)]
    log = Log(["movieId", "title", "genres"], rows)
    damage_rows(draw, log)
    content = damage_bytes(draw, written(draw, log, draw.choice(",;\t")))
    (folder / "movies.csv").write_bytes(content)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4,1\n1,2,3,2\n2,3,5,3\n")
    return Case(folder, len(content))


def check_items(case: Case, seed: int) -> Outcome:
    """Each row of the table is an item with its id and its title."""
    try:
        found = load_ratings(str(case.path), untitled="id" if seed % 2 else "refuse")
    except PalateError as error:
        return refusal(error, case.path)
    if "movies.csv" not in found.columns:  # it lost its titles, and ids do instead
        if re.match(rb"movieId(.)title\1genres\r?\n", (case.path / "movies.csv").read_bytes()):
            raise Fault("a table with titles is not used")
        return "read"
    roles = found.columns["movies.csv"]
    column = {role: name for name, every in roles.items() for role in every.split(", ")}
    items = {str(item): title for item, title in found.items.select("item_id", "title").rows()}
    problems = []
    encoding = re.search(r"items in (\S+)$", found.shape)
    for header, *rows in fields_of((case.path / "movies.csv").read_bytes(), encoding and encoding[1]):
        names = [name.strip() for name in header]
        if not {column.get("item_id"), column.get("title")} <= {*names} or any(len(row) != len(names) for row in rows):
            continue
        listed = [[row[names.index(column[role])] for role in ("item_id", "title")] for row in rows if any(row)]
        expected = {item.strip(WHITE): shown(title) for item, title in listed}
        lost = {item: title for item, title in expected.items() if shown(items.get(item, "?")) not in (title, item)}
        if not lost and len(listed) == len(expected) and len(items) - len(expected) in range(4):
            return "read"
        problems.append(f"{items} was read of {expected}")
    raise Fault("; ".join(problems) or f"no reading has rows of one width: {items}")


def shown(title: str) -> str:
    """A title without what does not show, and white space."""
    title = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", title)  # colours of a terminal
    return "".join(c for c in title if c.isprintable() and not c.isspace())


def make_splits(draw: Random, folder: Path) -> Case:
    """Two tables of labels, of which one is damaged."""
    damaged, size = draw.choice(("train", "test")), 0
    for name in ("train", "test"):
        pairs = [(f"u{draw.randint(1, 3)}", str(draw.randint(1, 6))) for _ in range(6)]
        rows = [[*pair, draw.choice("01"), str(100 + n)] for n, pair in enumerate(pairs)]
        log = Log(["user_id", "item_id", "label", "timestamp"], rows)
        text = io.StringIO()
        csv.writer(text).writerows([log.header, *log.rows])
        content = text.getvalue().encode()
        if name == damaged:
            damage_rows(draw, log)
            content = damage_bytes(draw, written(draw, log, ","))
        (folder / f"{name}.csv").write_bytes(content)
        size += len(content)
    return Case(folder, size)


def check_splits(case: Case, seed: int) -> Outcome:
    """Each row of the tables is read, with its label."""
    try:
        found = load_given(str(case.path), untitled="id", items=None, bad_rows="refuse")
    except PalateError as error:
        if "has no titles" in str(error):
            return titled(case, seed)
        return refusal(error, case.path)
    raise Fault(f"tables without titles were read: {found.items}")


def titled(case: Case, seed: int) -> Outcome:
    """As `check_splits`, with a table of the items."""
    rows = [f"{n},Title {n}\n" for n in range(-9, 2000)]
    (case.path / "items.csv").write_text("item_id,title\n" + "".join(rows))
    try:
        found = load_given(str(case.path), untitled="id")
    except PalateError as error:
        return refusal(error, case.path)
    rows_read = found.frame.select("user_id", "item_id", "rating").rows()
    read = {(str(user), str(item), label) for user, item, label in rows_read}
    expected, count, named = set(), 0, True
    for split in ("train", "test"):
        tables = [t for t in fields_of((case.path / f"{split}.csv").read_bytes(), "") if len({*map(len, t)}) == 1]
        if not tables:
            raise Fault(f"{split}.csv has rows of several widths")
        header, *rows_of = tables[0]
        names = [name.strip() for name in header]
        named = named and {"user_id", "item_id", "label"} <= {*names}
        for row in rows_of:
            if any(row):
                count += 1
                values = {name: value.strip(WHITE) for name, value in zip(names, row, strict=True)}
                label = values["label"] if "label" in names else ""
                expected.add((values.get("user_id"), values.get("item_id"), LABELS.get(label.lower())))
    if found.frame.height != count:
        raise Fault(f"{found.frame.height} rows were read, {count} are there")
    if named and read != expected:
        raise Fault(f"{read - expected} were read, {expected - read} are there")
    return "read"


def make_users(draw: Random, folder: Path) -> Case:
    """A table of users that is damaged."""
    log = Log(
        ["user_id", "age", "home"], [[str(n), str(20 + n), draw.choice(("", "Rome", "a, b"))] for n in range(1, 6)]
    )
    damage_rows(draw, log)
    content = damage_bytes(draw, written(draw, log, ","))
    (folder / "users.csv").write_bytes(content)
    return Case(folder / "users.csv", len(content))


def check_users(case: Case, seed: int) -> Outcome:
    """Each row of the table is a user."""
    log = Ratings(pl.DataFrame(), pl.DataFrame(), "log", {}, (0.5, 5.0))
    try:
        found = with_users(log, str(case.path), {})
    except PalateError as error:
        return refusal(error, case.path.parent)
    assert found.users is not None
    read = {str(user) for user in found.users["user_id"]}
    expected = [
        {row[names.index("user_id")].strip(WHITE) for row in rows if any(row)}
        for header, *rows in fields_of(case.path.read_bytes(), None)
        if "user_id" in (names := [name.strip() for name in header])
        if all(len(row) == len(names) for row in rows)
    ]
    if expected and read not in expected:
        raise Fault(f"{read} was read of {expected}")
    return "read"

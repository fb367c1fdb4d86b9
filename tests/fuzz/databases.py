"""Databases of SQLite, and spreadsheets."""

import sqlite3
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import NASTY, damage_bytes
from tests.fuzz.oracle import Wrong, differs, ratings_in
from tests.fuzz.typed import BINARY
from tests.sheets import write_ods, write_xlsx

from palate.errors import PalateError
from palate.ratings.load import load_ratings

COLUMNS = ("user_id", "item_id", "rating", "timestamp")


def rows_of(draw: Random) -> list[list[object]]:
    """Rows of which some values are others."""
    rows: list[list[object]] = [
        [draw.randint(1, 4), draw.choice((7, "u7")), draw.randint(1, 10) / 2, 10**9 + n]
        for n in range(draw.randint(1, 6))
    ]
    for _ in range(draw.choice((0, 0, 1, 2))):
        odd = (None, 2**63 - 1, -1, 1e300, b"\x00\xff", b"abc", 1.5, "", *NASTY)
        draw.choice(rows)[draw.randrange(4)] = draw.choice(odd)
    return rows


def make_sqlite(draw: Random, folder: Path) -> Case:
    """A file of SQLite, whose bytes may be damaged."""
    path = folder / "x.db"
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA page_size = 512")
    typed = "user_id TEXT, item_id TEXT, rating REAL, timestamp"
    raw.execute(f"CREATE TABLE ratings ({draw.choice((', '.join(COLUMNS), typed))})")
    raw.executemany("INSERT INTO ratings VALUES (?, ?, ?, ?)", rows_of(draw))
    raw.commit()
    raw.close()
    content = damage_bytes(draw, path.read_bytes(), BINARY)
    path.write_bytes(content)
    return Case(path, len(content))


def check_sqlite(case: Case, seed: int) -> Outcome:
    """Compare what was read with the rows that sqlite3 gives."""
    try:
        found = load_ratings(f"sqlite:///{case.path}?table=ratings", untitled="id")
    except PalateError as error:
        return refusal(error, case.path.parent)
    raw = sqlite3.connect(case.path)
    try:
        stored = raw.execute("SELECT * FROM ratings")
        names = [column[0] for column in stored.description]
        rows = [dict(zip(names, row, strict=True)) for row in stored]
        problem = differs(found, ratings_in(rows, found))
    except (Wrong, sqlite3.Error, UnicodeDecodeError) as error:
        raise Fault(f"it is to be refused: {error}") from None
    finally:
        raw.close()
    if problem:
        raise Fault(problem)
    return "read"


def make_sheet(draw: Random, folder: Path) -> Case:
    """A spreadsheet; half of them are damaged in their bytes."""
    name = draw.choice(("log.xlsx", "log.ods"))
    rows = [[value if not isinstance(value, bytes) else None for value in row] for row in rows_of(draw)]
    rows = [["".join(c for c in v if c.isprintable()) if isinstance(v, str) else v for v in row] for row in rows]
    (write_xlsx if name == "log.xlsx" else write_ods)(folder / name, {"Log": [COLUMNS, *rows]})
    content = (folder / name).read_bytes()
    if draw.random() < 0.5:
        content = damage_bytes(draw, content, BINARY)
    (folder / name).write_bytes(content)
    return Case(folder / name, len(content))


def check_sheet(case: Case, seed: int) -> Outcome:
    """A spreadsheet is read or refused; its cells are checked in `tests/ratings/test_formats.py`."""
    try:
        found = load_ratings(str(case.path), untitled="id")
    except PalateError as error:
        return refusal(error, case.path.parent)
    if not 1 <= found.frame.height <= 6:
        raise Fault(f"{found.frame.rows()} was read of at most 6 rows")
    return "read"

"""The recipes of `configs/logs`, each on a small log in the true form of its data set."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.command import palate

RECIPES = Path(__file__).parents[2] / "configs" / "logs"
USERS, EACH, ITEMS = 12, 30, 60
Row = tuple[int, int, int, int]
"""User, item, stars from 1 to 5, seconds since 1970."""


def log() -> list[Row]:
    rng = np.random.default_rng(3)
    rows = [(u, int(i), 0, 0) for u in range(USERS) for i in rng.permutation(ITEMS)[:EACH]]
    return [(u, i, int(rng.integers(1, 6)), 1_600_000_000 + 4_000 * n) for n, (u, i, _, _) in enumerate(rows)]


def title(item: int) -> str:
    return f"The {('red', 'blue')[item % 2]} thing no. {item}"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def amazon(folder: Path) -> list[str]:
    reviews = [
        {"rating": float(r), "title": f"I think {r}", "text": "Nice.", "images": [], "asin": f"B{i:09}",
         "parent_asin": f"B{i:09}", "user_id": f"AE{u}", "timestamp": t * 1000, "helpful_vote": 0}
        for u, i, r, t in log()
    ]  # fmt: skip
    items = [
        {"main_category": "Toys & Games", "title": title(i), "average_rating": 4.1, "rating_number": 9,
         "features": ["Wood", "For all"], "description": ["Made to last. " * 9, "Made well. " * 9], "price": "12.99",
         "images": [{"thumb": "x"}], "videos": [], "store": "Toyland", "categories": ["Toys & Games", "Puzzles"],
         "details": {"Brand": "T"}, "parent_asin": f"B{i:09}", "bought_together": None}
        for i in range(ITEMS)
    ]  # fmt: skip
    write_lines(folder / "Toys_and_Games.jsonl.gz", reviews)
    write_lines(folder / "meta_Toys_and_Games.jsonl.gz", items)
    return ["--ratings", "Toys_and_Games.jsonl.gz", "--items", "meta_Toys_and_Games.jsonl.gz"]


def goodbooks(folder: Path) -> list[str]:
    place = folder / "goodbooks-10k"
    place.mkdir()
    (place / "ratings.csv").write_text("user_id,book_id,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r, _ in log()))
    head = "book_id,goodreads_book_id,best_book_id,work_id,books_count,isbn,isbn13,authors,original_publication_year"
    head += ",original_title,title"
    rows = (f'{i},{i + 9},{i},{i},3,439023483,9.78e12,"Ann Lee, Bo Ray",1998.0,x,"{title(i)}"' for i in range(ITEMS))
    (place / "books.csv").write_text("\n".join([head, *rows]))
    (place / "book_tags.csv").write_text("goodreads_book_id,tag_id,count\n1,2,3\n")
    (place / "tags.csv").write_text("tag_id,tag_name\n1,a\n")
    (place / "to_read.csv").write_text("user_id,book_id\n1,2\n")
    return ["--ratings", "goodbooks-10k"]


def goodreads(folder: Path) -> list[str]:
    def date(time: int) -> str:
        return datetime.fromtimestamp(time, UTC).strftime("%a %b %d %H:%M:%S -0000 %Y")

    rows = [
        {"user_id": f"8842281e1d1347389f2ab93d60773d{u:02}", "book_id": str(i), "review_id": f"{n}", "is_read": r > 1,
         "rating": r if r > 1 else 0, "review_text_incomplete": "", "date_added": date(t), "date_updated": date(t),
         "read_at": "", "started_at": ""}
        for n, (u, i, r, t) in enumerate(log())
    ]  # fmt: skip
    books = [
        {"isbn": "", "text_reviews_count": "1", "series": [], "popular_shelves": [{"count": "8", "name": "poetry"}],
         "authors": [{"author_id": "1", "role": ""}], "description": "Poems. " * 40, "publication_year": "1998",
         "book_id": str(i), "title": title(i), "title_without_series": title(i)}
        for i in range(ITEMS)
    ]  # fmt: skip
    write_lines(folder / "goodreads_interactions_poetry.json.gz", rows)
    write_lines(folder / "goodreads_books_poetry.json.gz", books)
    return ["--ratings", "goodreads_interactions_poetry.json.gz", "--items", "goodreads_books_poetry.json.gz"]


def book_crossing(folder: Path) -> list[str]:
    place = folder / "bx"
    place.mkdir()
    ratings = "".join(f'"{u}";"{i:010}";"{2 * r if r > 1 else 0}"\r\n' for u, i, r, _ in log())
    (place / "BX-Book-Ratings.csv").write_bytes(b'"User-ID";"ISBN";"Book-Rating"\r\n' + ratings.encode())
    head = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"'
    books = (f'"{i:010}";"{title(i)} &amp; \\"café\\"";"A; Lee";"1998";"P"' for i in range(ITEMS))
    (place / "BX-Books.csv").write_bytes("\r\n".join([head, *books]).encode("latin-1"))
    (place / "BX-Users.csv").write_bytes('"User-ID";"Location";"Age"\r\n"1";"münchen";NULL\r\n'.encode("latin-1"))
    return ["--ratings", "bx"]


def steam(folder: Path) -> list[str]:
    place = folder / "steam"
    place.mkdir()
    head = "app_id,helpful,funny,date,is_recommended,hours,user_id,review_id"
    rows = (
        f"{i},0,0,{datetime.fromtimestamp(t, UTC):%Y-%m-%d},{'true' if r > 3 else 'false'},1.5,{u},{n}"
        for n, (u, i, r, t) in enumerate(log())
    )
    (place / "recommendations.csv").write_text("\n".join([head, *rows]))
    head = "app_id,title,date_release,win,mac,linux,rating,positive_ratio,user_reviews,price_final,steam_deck"
    games = (f"{i},{title(i)},2015-05-05,true,false,false,Very Positive,90,100,9.99,true" for i in range(ITEMS))
    (place / "games.csv").write_text("\n".join([head, *games]))
    (place / "users.csv").write_text("user_id,products,reviews\n1,2,3\n")
    write_lines(place / "games_metadata.json", [{"app_id": i, "description": "", "tags": []} for i in range(ITEMS)])
    return ["--ratings", "steam"]


def yelp(folder: Path) -> list[str]:
    rows = [
        {"review_id": f"r{n}", "user_id": f"u{u}", "business_id": f"b{i}", "stars": float(r), "useful": 0, "funny": 0,
         "cool": 0, "text": "Good food.\n\nNice.", "date": f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d %H:%M:%S}"}
        for n, (u, i, r, t) in enumerate(log())
    ]  # fmt: skip
    places = [
        {"business_id": f"b{i}", "name": title(i), "address": "1 Street", "city": "Reno", "state": "NV", "stars": 4.0,
         "attributes": {"ByAppointmentOnly": "True"} if i % 2 else None, "categories": "Cafes, Food", "hours": None}
        for i in range(ITEMS)
    ]  # fmt: skip
    write_lines(folder / "yelp_academic_dataset_review.json", rows)
    write_lines(folder / "yelp_academic_dataset_business.json", places)
    return ["--ratings", "yelp_academic_dataset_review.json", "--items", "yelp_academic_dataset_business.json"]


def mind(folder: Path) -> list[str]:
    place = folder / "MINDsmall_train"
    place.mkdir()
    by_user: dict[int, list[Row]] = {}
    for row in log():
        by_user.setdefault(row[0], []).append(row)
    lines = []
    for user, rows in by_user.items():
        history = " ".join(f"N{i}" for _, i, _, _ in rows[:8])
        for n in range(8, EACH, 2):
            time = datetime.fromtimestamp(rows[n][3], UTC)
            shown = " ".join(f"N{i}-{int(r > 3)}" for _, i, r, _ in rows[n : n + 2])
            clock = f"{time.month}/{time.day}/{time.year} {time:%I:%M:%S %p}"
            lines.append(f"{len(lines)}\tU{user}\t{clock}\t{history}\t{shown}")
    (place / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    news = (
        f'N{i}\tsports\tgolf\tIt is "{title(i)}"\tAll of it. {"Long. " * 40}\thttps://x\t[]\t[]' for i in range(ITEMS)
    )
    (place / "news.tsv").write_text("\n".join(news) + "\n")
    (place / "entity_embedding.vec").write_text("Q1\t0.1\n")
    return ["--ratings", "MINDsmall_train"]


def anime(folder: Path) -> list[str]:
    place = folder / "anime"
    place.mkdir()
    rows = (f"{u},{i},{2 * r if r > 1 else -1}" for u, i, r, _ in log())
    (place / "rating.csv").write_text("\n".join(["user_id,anime_id,rating", *rows]))
    shows = (f'{i},{title(i)},"Action, Drama",TV,64,9.26,793665' for i in range(ITEMS))
    (place / "anime.csv").write_text("\n".join(["anime_id,name,genre,type,episodes,rating,members", *shows]))
    return ["--ratings", "anime"]


def lastfm(folder: Path) -> list[str]:
    def clock(time: int) -> str:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    lines = [
        f'user_{u:06}\t{clock(t + play)}\t{"" if i % 9 else f"f1b1cf71-bd35-{i:04}"}\t{title(i)}\t\tSong "no. {play}'
        for u, i, r, t in log()
        for play in range(r)
    ]
    name = "userid-timestamp-artid-artname-traid-traname.tsv"
    (folder / name).write_text("\n".join(lines) + "\n")
    return ["--ratings", name]


FORMS: dict[str, tuple[Callable[[Path], list[str]], str, int]] = {
    "amazon_reviews_2023": (amazon, "no. 6. Toyland. Made to last. Made to last.", 360),
    "goodbooks": (goodbooks, "by Ann Lee, Bo Ray, 1998.0", 360),
    "goodreads": (goodreads, "1998. Poems. Poems.", 265),
    "book_crossing": (book_crossing, '& "café" by A; Lee, 1998', 265),
    "steam": (steam, ", 2015-05-05", 360),
    "yelp": (yelp, ", Reno: Cafes, Food", 360),
    "mind": (mind, ", sports. All of it. Long.", 360),
    "lastfm": (lastfm, "Candidate artist:", 360),
    "anime": (anime, "(TV, Action, Drama)", 265),
}
"""How a log is written, a part of the candidate's line, and the number of its ratings, about."""


@pytest.mark.parametrize("name", FORMS)
def test_the_recipe_reads_the_log_in_its_true_form(tmp_path: Path, name: str) -> None:
    write, line, ratings = FORMS[name]
    words = write(tmp_path)
    done = palate("prepare", str(RECIPES / f"{name}.yaml"), *words, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "out" / "manifest.json").read_text())["stats"]
    assert stats["users"] == USERS
    assert abs(stats["ratings"] - ratings) < 25
    examples = json.loads((tmp_path / "out" / "train.json").read_text())
    assert {example["output"] for example in examples} == {"Yes", "No"}
    assert all(line.partition("no. 6")[2] in example["input"] for example in examples), examples[0]["input"]
    assert "{" not in examples[0]["input"]
    shown = palate("inspect", *words[1:], "--json", cwd=tmp_path)
    needs_options = any(key in (RECIPES / f"{name}.yaml").read_text() for key in ("order: file", "  header: ["))
    assert shown.returncode == (2 if needs_options else 0), shown.stderr


def test_the_recipe_of_lastfm_reads_the_log_of_360_000_users(tmp_path: Path) -> None:
    name = "usersha1-artmbid-artname-plays.tsv"
    rows = (f"{u:040x}\t{'' if i % 9 else f'f1b1cf71-bd35-{i:04}'}\t{title(i)}\t{9 * r}" for u, i, r, _ in log())
    (tmp_path / name).write_text("\n".join(rows) + "\n")
    page = (RECIPES.parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    words = next(line.split() for line in page.splitlines() if line.startswith("    palate prepare") and name in line)
    done = palate("prepare", str(RECIPES / "lastfm.yaml"), *words[3:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "lastfm" / "manifest.json").read_text())["stats"]
    assert (stats["users"], stats["ratings"]) == (USERS, USERS * EACH)


def test_each_recipe_has_a_log_in_its_true_form() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*FORMS}

"""The catalogue finds titles as people type them."""

import random
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.errors import InputError
from palate.serve.schemas import Item
from palate.serve.search import Catalogue

REAL = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small" / "movies.csv"
TITLES = [
    "Matrix, The (1999)",
    "Seventh Son (2014)",
    "Seven (a.k.a. Se7en) (1995)",
    "Amélie (2001)",
    "WALL·E (2008)",
    "",
]


@pytest.fixture(scope="module")
def small() -> Catalogue:
    return Catalogue(pl.DataFrame({"item_id": [str(n) for n in range(len(TITLES))], "title": TITLES}))


@pytest.fixture(scope="module")
def films() -> Catalogue:
    if not REAL.is_file():
        pytest.skip("no ../shared")
    return Catalogue(pl.read_csv(REAL).rename({"movieId": "item_id"}))


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("toy story", "Toy Story (1995)"),
        ("toy stori", "Toy Story (1995)"),
        ("The Matrix", "Matrix, The (1999)"),
        ("matrx", "Matrix, The (1999)"),
        ("seven", "Seven (a.k.a. Se7en) (1995)"),
        ("It", "It (1990)"),
        ("up", "Up (2009)"),
        ("leon", "Léon: The Professional (a.k.a. The Professional) (Léon) (1994)"),
        ("das boot", "Boot, Das (Boat, The) (1981)"),
        ("lord rings", "Lord of the Rings, The (1978)"),
        ("inceptoin", "Inception (2010)"),
        ("shawshank redemtion", "Shawshank Redemption, The (1994)"),
        ("silense of the lambs", "Silence of the Lambs, The (1991)"),
        ("forest gump", "Forrest Gump (1994)"),
        ("schindlers list", "Schindler's List (1993)"),
        ("wall-e", "WALL·E (2008)"),
        ("eternal sunshne spotless mind", "Eternal Sunshine of the Spotless Mind (2004)"),
    ],
)
def test_the_first_result_is_the_film_that_is_meant(films: Catalogue, query: str, title: str) -> None:
    assert films.names[films.search(query, 5)[0]] == title


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("matrix", {"Matrix", "Matrix Reloaded", "Matrix Revolutions", "Animatrix"}),
        ("mattrix", {"Matrix", "Matrix Reloaded", "Matrix Revolutions"}),
        ("toy story", {"Toy Story", "Toy Story 2", "Toy Story 3"}),
        ("pulp ficton", {"Pulp Fiction"}),
        ("fargo 1996", {"Fargo"}),
        ("xyzzy", set()),
        ("qwertyuiop", set()),
        ("blorptastic", set()),
    ],
)
def test_titles_that_do_not_resemble_the_query_are_left_out(films: Catalogue, query: str, found: set[str]) -> None:
    assert {films.names[row].partition(" (")[0].removesuffix(", The") for row in films.search(query, 10)} == found


@pytest.mark.parametrize(("query", "word"), [("godfahter", "Godfather"), ("star wrs", "Star Wars")])
def test_titles_with_the_mistyped_words_come_first(films: Catalogue, query: str, word: str) -> None:
    assert all(word in films.names[row] for row in films.search(query, 4))


def test_mistyped_titles_are_found_and_nonsense_mostly_is_not(films: Catalogue) -> None:
    draw = random.Random(5)
    letter, missed, answered = lambda: draw.choice("abcdefghijklmnopqrstuvwxyz"), 0, 0
    for row in draw.sample(range(len(films.names)), 100):
        title = films.names[row]
        at = draw.randrange(1, len(title))
        wrong = (
            title[:at] + letter() + title[at:],
            title[:at] + letter() + title[at + 1 :],
            title[:at] + title[at + 1 :],
        )
        missed += row not in films.search(draw.choice(wrong), 10)
        answered += bool(films.search("".join(letter() for _ in range(7)), 1))
    assert (missed, answered) <= (2, 10)


def test_among_equal_matches_the_item_with_more_ratings_comes_first() -> None:
    titles = ["Star Kid (1997)", "Star Wars (1977)", "Star Trek (1979)", "Starship (1999)", "Alien (1979)"]
    items = pl.DataFrame({"item_id": range(5), "title": titles})

    assert Catalogue(items, np.array([8, 583, 9, 999, 999])).search("star", 5) == [1, 2, 0, 3]
    assert Catalogue(items, np.array([8, 9, 10, 0, 0])).search("srar", 3) == [0, 2, 1]
    assert Catalogue(items).search("star", 5) == [0, 1, 2, 3]


def test_every_title_finds_itself(films: Catalogue) -> None:
    for row in range(0, len(films.names), 97):
        found = films.search(films.names[row], 3)
        assert films.names[found[0]] == films.names[row]


def test_a_title_without_letters_finds_itself() -> None:
    assert Catalogue(pl.DataFrame({"item_id": [1, 2], "title": ["...", "!"]})).search("!", 3) == [1]


@examples(100)
@given(st.text(max_size=30), st.integers(1, 10))
def test_no_text_is_a_query_of_sqlite(query: str, limit: int) -> None:
    catalogue = Catalogue(pl.DataFrame({"item_id": [1, 2], "title": ["Heat (1995)", 'Say "OR" * (1990)']}))
    found = catalogue.search(query, limit)
    assert len(found) == len(set(found)) <= limit


def test_a_search_needs_no_thread_of_its_own(small: Catalogue) -> None:
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(small.search("matrx", 1))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [[0]] * 8


def test_an_item_is_named_by_id_or_title_and_the_error_names_the_nearest(small: Catalogue) -> None:
    assert small.row(Item(item_id=3), "here") == small.row(Item(title="amélie (2001)"), "here") == 3
    with pytest.raises(InputError, match=r"^here: there is no title 'Matrix', did you mean 'Matrix, The \(1999\)'\?$"):
        small.row(Item(title="Matrix"), "here")
    with pytest.raises(InputError, match=r"^here: there is no item '9', expected an item_id"):
        small.row(Item(item_id=9), "here")


def test_an_item_is_described_in_json_whatever_its_columns_are() -> None:
    items = pl.DataFrame({"item_id": [1], "title": ["A"], "cover": [b"\xff"], "price": [float("nan")]})
    shown = Catalogue(items).described(0)
    assert '"columns":{"cover":"\ufffd","price":null}' in shown.model_dump_json()

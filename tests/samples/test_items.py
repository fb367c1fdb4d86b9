import polars as pl
import pytest

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.prompt import PromptSpec
from palate.samples import build_samples, iter_examples
from palate.samples.items import shown_items


def test_genres_are_told_with_commas_and_none_as_none():
    items = pl.DataFrame({"title": list("abcd"), "genres": ["Adventure|Children's", "Drama", "(no genres listed)", ""]})
    genres = shown_items(items)["genres"].to_list()
    assert genres == ["Adventure, Children's", "Drama", "no genres listed", "no genres listed"]


@pytest.mark.parametrize(
    ("title", "year"),
    [
        ("Toy Story (1995)", "1995"),
        ("Justice League: Doom (2012) ", "2012"),
        ("Léon (a.k.a. The Professional) (1994)", "1994"),
        ("Fawlty Towers (1975-1979)", "1975"),
        ("Death Note (2006–2007)", "2006"),
        ("The OA (2016– )", "2016"),
        ("2001: A Space Odyssey", "unknown"),
        ("(500) Days of Summer", "unknown"),
        ("Blade Runner (1982) (Director's Cut)", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_year_is_the_one_that_a_title_ends_with(title, year):
    assert shown_items(pl.DataFrame({"title": [title, "M (1931)"]}))["year"].to_list() == [year, "1931"]


def test_the_year_of_a_title_without_one_is_that_of_its_release():
    items = pl.DataFrame({"title": ["Heat", "M (1931)", "?"], "release_date": ["15-Dec-1995", "01-Jan-1960", ""]})
    assert shown_items(items)["year"].to_list() == ["1995", "1931", "unknown"]


def test_a_tables_own_year_is_left_and_no_year_is_made_of_nothing():
    own = pl.DataFrame({"title": ["Heat (1995)"], "year": [1996], "genres": [["Crime"]]})
    assert shown_items(own).equals(own)
    assert shown_items(pl.DataFrame({"title": ["Emma", "Persuasion"]})).columns == ["title"]


def test_what_is_shown_is_shown_as_it_is():
    items = pl.DataFrame({"title": ["Heat (1995)", "?"], "genres": ["Action|Crime", ""], "release_date": ["", ""]})
    once = shown_items(items)
    assert shown_items(once).equals(once)
    assert shown_items(once[1:]).equals(once[1:])


def test_a_prompt_may_name_the_year_if_any_title_has_one(make_ratings, timeline_of):
    prompt = PromptSpec(candidate_line="{title}: {year}")
    dated = make_ratings(timeline_of(1, 9), title=[f"Film {n} ({1990 + n})" for n in range(9)])
    (train,) = iter_examples(build_samples(dated, PrepareConfig(history_len=3)), "train", prompt)
    assert "Film 3 (1993): 1993\n" in train["input"][0]
    undated = build_samples(make_ratings(timeline_of(1, 9)), PrepareConfig(history_len=3))
    with pytest.raises(InputError, match=r"prompt.candidate_line: names \{year\}, which the items do not have"):
        next(iter_examples(undated, "train", prompt))

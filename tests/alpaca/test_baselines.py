import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from tests.tallrec import example

from palate.alpaca.baselines import preferences_of

SAID = ["Alien (1979)", "Good, the Bad and the Ugly, The (1966)", "'71 (2014)", "M*A*S*H (1970)", "Léon: a, b", "?"]
titles = st.lists(st.sampled_from(SAID), max_size=5)


@given(st.lists(st.tuples(titles, titles), min_size=1, max_size=5))
def test_likes_and_dislikes_are_counted(histories: list[tuple[list[str], list[str]]]) -> None:
    texts = [example(liked, disliked, "T (1999)", "Yes.")["input"] for liked, disliked in histories]

    found = preferences_of(pl.Series(texts))

    assert found is not None
    assert found["liked"].to_list() == [len(liked) for liked, _ in histories]
    assert found["disliked"].to_list() == [len(disliked) for _, disliked in histories]
    assert found["target"].to_list() == ['"T (1999)"'] * len(texts)


def test_books_name_their_authors() -> None:
    text = (
        'User Preference: "A, the First" written by X, Jr. Y, "B" written by Z\nUser Unpreference: \n'
        'Whether the user will like the target book ""C" written by W"?'
    )

    found = preferences_of(pl.Series([text]))

    assert found is not None
    assert (found["liked"][0], found["disliked"][0]) == (2, 0)


def test_an_empty_history_says_one_half() -> None:
    texts = [example(*lists, "T", "No.")["input"] for lists in ((["a"], ["b", "c"]), ([], []), (["a"], []))]

    found = preferences_of(pl.Series(texts))

    assert found is not None
    np.testing.assert_allclose(found["share"], [1 / 3, 0.5, 1.0])


def test_other_texts_say_nothing() -> None:
    assert preferences_of(pl.Series([example(["a"], [], "T", "No.")["input"], "Something else"])) is None
    assert preferences_of(pl.Series([], dtype=pl.String)) is None

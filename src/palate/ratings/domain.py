"""What the items of a log are: a noun from the names of its files and columns."""

import re
from collections.abc import Iterable

from palate.ratings.load import Ratings

NOUNS = {
    "film": ("movie", "film", "imdb", "tmdb", "movielens", "ml-100k", "ml-latest"),
    "book": ("book", "isbn"),
    "song": ("song", "track"),
    "game": ("game",),
    "recipe": ("recipe",),
    "restaurant": ("restaurant",),
    "article": ("article", "news"),
    "product": ("product", "asin", "sku"),
}
"""Words in the names of files and columns, by the noun that they stand for."""


def noun_of(ratings: Ratings) -> str | None:
    """The noun for the items of a log; None if no name has a word of `NOUNS`.

    The columns of the item and the title count before files and other columns.
    """
    columns = [pair for roles in ratings.columns.values() for pair in roles.items()]
    names = [name for name, role in columns if "item_id" in role or "title" in role]
    return _noun(names) or _noun(ratings.columns) or _noun([*ratings.items.columns, *(name for name, _ in columns)])


def may_be_films(ratings: Ratings) -> bool:
    """Whether a name has a word for films, half of the titles end in a year, or the columns are not known."""
    names = {*ratings.inputs, *ratings.items.columns, *(name for roles in ratings.columns.values() for name in roles)}
    dated = int(ratings.items["title"].str.contains(r"\((19|20)\d\d\)\s*$").sum())
    named = any(_noun([name]) == "film" for name in (*names, ratings.name))
    return named or not ratings.columns or 2 * dated >= ratings.items.height


def _noun(names: Iterable[str]) -> str | None:
    """The noun of the first name with a word of `NOUNS`, such as movieId, book_title, products.csv."""
    for name in names:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        for noun, stems in NOUNS.items():
            if re.search(rf"(?<![a-z])({'|'.join(stems)})(s|ids?|names?|titles?)?(?![a-z])", words):
                return noun
    return None

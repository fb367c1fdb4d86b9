"""Where tables are: a named data set, a path, a URL of an object store, or one of a database."""

from collections.abc import Iterator
from contextlib import contextmanager

from palate.errors import InputError
from palate.ratings.archives import locate
from palate.ratings.source import Source, open_source


@contextmanager
def open_tables(source: str, encoding: str | None = None) -> Iterator[Source]:
    """The tables at a place, see `palate.ratings.source`, `remote` and `sql`; raises `InputError` for none."""
    if "://" not in source:
        with open_source(locate(source), encoding) as tables:
            yield tables
        return
    from palate.ratings.remote import open_remote
    from palate.ratings.sql import is_database, open_database

    if is_database(source):
        if encoding is not None:
            raise InputError("is of text files, expected none for a database", "ratings.encoding")
        with open_database(source) as tables:
            yield tables
        return
    with open_remote(source, encoding) as tables:
        yield tables

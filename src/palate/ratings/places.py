"""Where tables are: a named data set, a path, a URL of an object store, or one of a database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from palate.errors import InputError
from palate.ratings.archives import locate
from palate.ratings.remote import open_remote
from palate.ratings.source import Source, open_source
from palate.ratings.spreadsheet import SHEET


@contextmanager
def open_tables(source: str, encoding: str | None = None) -> Iterator[Source]:
    """The tables at a place, see `palate.ratings.source`, `remote` and `sql`; raises `InputError` for none.

    `?sheet=NAME` behind a path or a URL is a sheet of the spreadsheet there.
    """
    source, _, sheet = source.partition(SHEET)
    with _opened(source, encoding) as tables:
        yield replace(tables, sheet=sheet or None)


def _opened(source: str, encoding: str | None) -> AbstractContextManager[Source]:
    if "://" not in source:
        return open_source(locate(source), encoding)
    from palate.ratings.sql import is_database, open_database

    if not is_database(source):
        return open_remote(source, encoding)
    if encoding is not None:
        raise InputError("is of text files, expected none for a database", "ratings.encoding")
    return open_database(source)

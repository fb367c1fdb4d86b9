"""Writes ratings and events to a service's store, and tells after each request whether it was acknowledged."""

import sys

from palate.errors import PalateError
from palate.ratings import database
from palate.serve.schemas import NewEvent, NewRating
from palate.serve.store import Store

REQUESTS = 12
database._BUSY = 1  # seconds that SQLite waits where a fault has kept it from giving its lock back


def rows_of(number: int) -> list[NewRating]:
    """The ratings of a request: one to three."""
    return [
        NewRating(user_id=number, item_id=f"{number}/{n}", rating=1 + n, timestamp=number)
        for n in range(1 + number % 3)
    ]


def is_event(number: int) -> bool:
    """Whether a request has an event rather than ratings."""
    return number % 4 == 3


def write(folder: str) -> int:
    """Store the requests; prints the number of each that is acknowledged, and the error of each that is not."""
    status = 0
    try:
        store = Store(f"sqlite:///{folder}/feedback.sqlite")
    except PalateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for number in range(REQUESTS):
        try:
            if is_event(number):
                event = NewEvent(event="dismissed", user_id=number, item_id=number, timestamp=number)
                store.add_events([event], f"request {number}")
            else:
                store.add_ratings(rows_of(number), f"request {number}")
        except PalateError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = error.exit_code
        else:
            print(number, flush=True)
    store.close()
    return status

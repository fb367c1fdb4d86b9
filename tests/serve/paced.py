"""A service whose engine answers at a pace that a test sets, and a server for an app on a free port."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import polars as pl
import uvicorn

from palate.serve.app import Options, app_of
from palate.serve.engine import Effect, Engine, Longs, Model, NewRating, Part, Person, TokenOf, UnknownUserError
from palate.serve.server import bound, url_of
from palate.serve.source import EngineSource
from palate.serve.store import Store

TITLES = ["Toy Story (1995)", "Heat (1995)", "Matrix, The (1999)", "Fargo (1996)", "Se7en (1995)", "Alien (1979)"]
ITEMS = pl.DataFrame(
    {
        "item_id": [1, 6, 2571, 608, 47, 1214],
        "title": TITLES,
        "genres": ["Comedy, Children", "Action", "Action, Sci-Fi", "Comedy, Crime", "Crime", "Sci-Fi"],
        "year": ["1995", "1995", "1999", "1996", "1995", "1979"],
        "old": [False, False, False, False, False, True],
    }
)
FILTERS = {"genres": "list", "year": "number", "old": "flag", "title": "text"}


class PacedEngine(Engine):
    """Scores one item at a time, each after `seconds`; P(like) grows with the item's row and the ratings' sum.

    It shows what the service does while an engine works; what a real one answers is tested with a real one.
    """

    items, scale, default, has_text_ids = ITEMS, (0.5, 5.0), "steps", False
    models = {  # noqa: RUF012
        "steps": Model("steps", "Steps", "language model", True, 0.7),
        "other": Model("other", "Other", "baseline", False, None),
    }

    def __init__(self, name: str = "one", seconds: float = 0.0) -> None:
        self.name, self.seconds = name, seconds
        self.in_work = self.most = self.scored = 0
        self.closed = False
        self.about = {
            **{"palate": "0", "run": name, "default": "steps", "base": None, "adapter": None, "prompt": None},
            **{"calibration": None, "data": {}, "scale": self.scale, "threshold": 4.0, "filters": FILTERS},
            **{"verdict": [], "metrics": {"steps": {"auc": float("nan")}}},
            "models": [vars(each) for each in self.models.values()],
        }

    @property
    def ratings(self) -> Longs:
        return np.arange(self.items.height)

    def person(
        self, user_id: int | str | None, history: Sequence[NewRating] | None, newer: Sequence[NewRating] = ()
    ) -> Person:
        if history is not None:
            return Person("a guest", np.empty(0, np.int64), tuple(history))
        if str(user_id) != "42" and not newer:
            raise UnknownUserError("there is no such user")
        return Person(f"user {user_id}", np.arange(2 if str(user_id) == "42" else 0), tuple(newer))

    def past(self, person: Person) -> pl.DataFrame:
        rows = [(0, 5.0, 10, False), (1, 4.0, 20, False)][: person.rows.size] + [(*each, True) for each in person.newer]
        schema = {"item": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64, "stored": pl.Boolean}
        return pl.DataFrame(rows, schema, orient="row")

    def candidates(
        self, person: Person, among: Longs | None, retriever: str, number: int, *, include_seen: bool
    ) -> tuple[Longs, int]:
        rows = np.arange(len(TITLES)) if among is None else among
        seen = np.isin(rows, self.past(person)["item"].to_numpy()) & (not include_seen)
        return rows[~seen][: None if retriever == "all" else number], int(seen.sum())

    def score(
        self, model: str, person: Person, item: Longs, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Part]:
        assert not self.closed, "asked after it was closed"
        self.in_work += 1
        self.most = max(self.most, self.in_work)
        try:
            for position, row in enumerate(item.tolist()):
                time.sleep(self.seconds)
                if cancelled():
                    return
                self.scored += 1
                yield self._part(model, person, position, row)
        finally:
            self.in_work -= 1

    def _part(self, model: str, person: Person, position: int, row: int) -> Part:
        p = np.array([(1 + row + 0.1 * (self.past(person)["rating"].sum() % 5)) / 8])
        mass = None if model == "steps" else np.array([0.9])
        return Part(np.array([position]), p, np.log(p / (1 - p)), mass)

    def explain(self, model: str, person: Person, item: int) -> tuple[Part, list[Effect]]:
        past = self.past(person).select("item", "rating").rows()
        return self._part(model, person, 0, item), [Effect(row, rating, 0.1, 0.5) for row, rating in past]

    def prompt(self, person: Person, item: int) -> tuple[list[TokenOf], str, str]:
        raise LookupError

    def close(self) -> None:
        self.closed = True


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an app by uvicorn in a thread; gives its address."""
    sock = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield url_of(sock)
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def service(
    folder: Path, engine: Engine | Callable[[], Engine] | None = None, **options: Any
) -> Iterator[httpx.Client]:
    """A client of a service with a store in `folder`; the service has the engine, or loads it."""
    store = Store(f"sqlite:///{folder / 'feedback.sqlite'}")
    app = app_of(EngineSource(engine or PacedEngine()), store, Options(**options))
    try:
        with running(app) as url, httpx.Client(base_url=url, timeout=20) as client:
            yield client
    finally:
        store.close()

"""`EngineSource`: the engine that answers now, and its exchange for a new one while requests are in flight."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from palate.serve.engine import Engine
from palate.serve.problems import LoadingError
from palate.serve.schemas import ModelAnswer
from palate.serve.search import Catalogue, finite

log = logging.getLogger("palate.serve")


@dataclass
class Serving:
    """An engine, its items and its description; `requests` in flight use it."""

    engine: Engine
    catalogue: Catalogue
    about: ModelAnswer
    requests: int = 0
    retired: bool = False


def serving(engine: Engine) -> Serving:
    """An engine ready to serve: the index of its titles is built."""
    catalogue = Catalogue(engine.items, engine.ratings)
    catalogue.search("abc", 1)
    return Serving(engine, catalogue, ModelAnswer.model_validate(finite(dict(engine.about))))


@dataclass
class EngineSource:
    """Lends the current engine to requests; `refresh` exchanges it when `current` names another release.

    A request keeps the engine that it began with. An exchanged engine is closed when its last request has ended. Both
    engines are in memory until then.
    """

    first: Engine | Callable[[], Engine]
    """The first engine, or the function by which `open` loads it."""
    current: Callable[[], Path] | None = None
    """The folder of the newest release; None: there will be none."""
    load: Callable[[Path], Engine] | None = None
    run: str = "the run"
    """The name of what is loaded, for those who wait."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._now = serving(self.first) if isinstance(self.first, Engine) else None
        self.failure: Exception | None = None
        """Why the first engine cannot be loaded."""
        self.folder = self._seen = self._newest()
        """The folder of the release that answers, and of the last one that was found."""
        self.swaps = 0
        self.refused = False
        """Whether the newest release cannot be loaded, so that an earlier one answers."""

    @property
    def loading(self) -> bool:
        """Whether the first engine is not there yet."""
        return self._now is None

    def open(self) -> None:
        """Load the first engine if it is not there; `failure` keeps what that raises."""
        if isinstance(self.first, Engine) or not self.loading:
            return
        try:
            self._now = serving(self.first())
        except Exception as error:
            self.failure = error

    def check(self) -> None:
        """Raise `LoadingError` until the first engine is there."""
        if self.loading:
            raise LoadingError(self.run, time.monotonic() - self._began)

    @contextmanager
    def lease(self) -> Iterator[Serving]:
        """The engine for one request; raises `LoadingError` until the first one is there."""
        with self._lock:
            self.check()
            lent = self._now
            assert lent is not None
            lent.requests += 1
        try:
            yield lent
        finally:
            with self._lock:
                lent.requests -= 1
                last = lent.retired and not lent.requests
            if last:
                lent.engine.close()

    def swap(self, engine: Engine) -> None:
        """Answer further requests with another engine."""
        new = serving(engine)
        with self._lock:
            old, self._now = self._now, new
            assert old is not None
            old.retired = True
            idle = not old.requests
            self.swaps += 1
        if idle:
            old.engine.close()

    def refresh(self) -> bool:
        """Load a new release if there is one; returns whether there was. A release that cannot be loaded is logged."""
        release = self._newest()
        if self.loading or self.load is None or release == self._seen:
            return False
        self._seen = release  # also of one that fails: it would fail again
        if release is None:
            return False
        try:
            self.swap(self.load(release))
        except Exception as error:
            self.refused = True
            log.error("%s cannot be served, the earlier release stays: %s", release, error)
            return False
        self.folder, self.refused = release, False
        log.info("now serving %s", release)
        return True

    def _newest(self) -> Path | None:
        return None if self.current is None else self.current()

    def close(self) -> None:
        """Close the current engine."""
        if self._now is not None:
            self._now.engine.close()

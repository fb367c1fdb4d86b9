"""Long work that writes one file: its parts are stored with a key, and a later run resumes from them."""

import contextlib
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from palate.store.artifacts import atomic_file, write_json, writing
from palate.store.keys import Key, reason, recorded
from palate.store.lock import locked, remove_left

log = logging.getLogger(__name__)

KEY = "key.json"
_PART = re.compile(r"\d{10}-\d{10}")

T = TypeVar("T")


@dataclass(frozen=True)
class LongWork:
    """Work that writes the file `out`, valid for `key`, from `total` units (rows, users) in order.

    Meanwhile the folder `out.parts` has `key.json` and a part `BEGIN-END` with the result of these units.
    """

    what: str
    out: Path
    key: Key
    total: int
    unit: str

    def result(self, read: Callable[[], T | None], make: Callable[[int], T]) -> T:
        """The result of `read`, which reads `out` if it has this key; if None, that of `make(finished units)`.

        A second process waits for the first and takes its file. Raises `WorkError` if `out` cannot be written.
        """
        found = read()
        if found is None:
            with contextlib.ExitStack() as stack:
                with writing(self.out):
                    self.out.parent.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(self.out))
                found = read()
                if found is None:
                    found = make(self._finished())
                    with writing(self._folder):
                        shutil.rmtree(self._folder)
                    return found
        else:
            remove_left(self.out, self._folder)
        log.debug("%s is up to date: same %s", self.out, ", ".join(self.key))
        return found

    def parts(self) -> list[Path]:
        """The finished parts in order."""
        return sorted(path for path in self._folder.iterdir() if _PART.fullmatch(path.name))

    def part(self, begin: int, end: int) -> "contextlib.AbstractContextManager[IO[bytes]]":
        """Open the part of the units `begin` to `end` - 1; it appears when it is complete."""
        return atomic_file(self._folder / f"{begin:010d}-{end:010d}")

    @property
    def _folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}.parts")

    def _finished(self) -> int:
        """The number of finished units. Parts with another key are removed, and the log names what changed."""
        before = recorded(self._folder / KEY)
        why = reason(before.get("key", {}), self.key)
        if before and not why:
            parts = self.parts()
            done = int(parts[-1].name.rpartition("-")[2]) if parts else 0
            if done:
                log.info("%s resumes: %s of %s %s are finished",
                         self.what, f"{done:,}", f"{self.total:,}", self.unit)  # fmt: skip
            return done
        if before:
            log.info("%s starts over: %s since %s was written", self.what, why, self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        write_json(self._folder / KEY, {"key": dict(self.key)})
        return 0

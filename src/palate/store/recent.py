"""`Recent`: values in memory, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass
class Recent(Generic[Value]):
    """The values that were put or read last, of `most` bytes together; the least recently used leave first.

    Several threads may use it at once.
    """

    most: int
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    _kept: OrderedDict[Hashable, tuple[Value, int]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get(self, key: Hashable) -> Value | None:
        """A value that is kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of `size` bytes, unless it is larger than `most`, or its key has one."""
        with self._lock:
            if size > self.most or key in self._kept:
                return
            self._kept[key] = value, size
            self.bytes += size
            while self.bytes > self.most:
                self.bytes -= self._kept.popitem(last=False)[1][1]

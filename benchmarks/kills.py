"""Ratings that were acknowledged before the writer is killed are all there afterwards, none twice; and writes a second.

    python benchmarks/kills.py --sqlite 1000 --postgresql 100 --save      # about three minutes

A writer with eight clients stores ratings and says so after each request. It is killed (SIGKILL) at a random moment,
also while it starts. The next writer goes on where the answers ended, so the requests whose answers were lost
come again with their keys. PostgreSQL is a server of its own, started from Debian's binaries.
"""

import argparse
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from palate.ratings.database import connect
from palate.serve.schemas import NewRating
from palate.serve.store import Store
from report import ROOT, Result, number, publish

CLIENTS = 8
LONGEST = 0.06
"""Most seconds that a writer lives, from its start or from its first answer."""
SECONDS = 2.0
"""How long a rate is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill writers of the store at random; measure writes a second.")
    parser.add_argument("--sqlite", type=int, default=0, help="kills of a writer to SQLite (0)")
    parser.add_argument("--postgresql", type=int, default=0, help="kills of a writer to PostgreSQL (0)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="seconds of each rate; 0: no rates (2)")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    kills, rates = [], []
    for kind, opened, times in (("SQLite", sqlite, args.sqlite), ("PostgreSQL", postgresql, args.postgresql)):
        if times:
            with opened() as url:
                kills.append({"store": kind, **killed(url, times, args.seed)})
            with opened() as url:
                clients = (1, 8, 64) if args.seconds else ()
                rates += [{"store": kind, "clients": n, **rate(url, n, args.seconds)} for n in clients]
    results = [Result("writers killed at random moments", kills, KILLS)]
    if rates:
        results.append(Result("acknowledged requests of one rating", rates, RATES))
    publish("kills", results, as_json=args.json, save=args.save)


@contextmanager
def sqlite() -> Iterator[str]:
    """A store in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/feedback.sqlite"


@contextmanager
def postgresql() -> Iterator[str]:
    """A database of a new server."""
    sys.path.append(str(ROOT))
    from tests.postgres import serving

    with serving() as url:
        yield url


def rows_of(client: int, n: int) -> list[NewRating]:
    """The ratings of a client's request: one to three."""
    return [NewRating(user_id=client, item_id=f"{n}/{i}", rating=1 + n % 5, timestamp=n) for i in range(1 + n % 3)]


def killed(url: str, times: int, seed: int) -> dict[str, Any]:
    """Kill a writer `times` times; raises `SystemExit` for a lost, a repeated, or a wrong row."""
    draw, began = random.Random(seed), time.monotonic()
    answered, checked, last = [0] * CLIENTS, [0] * CLIENTS, 0
    seen: Counter[tuple[int, int]] = Counter()
    for kill in range(1, times + 1):
        answered = _write_and_die(url, answered, draw.uniform(0, LONGEST), begun=bool(kill % 2))
        if kill % 2 and kill < times:  # at every other kill the next writer is the first to open the file again
            continue
        with closing(connect(url, create=True)) as database:
            rows = database.rows("SELECT number, user_id, item_id, rating, key FROM ratings WHERE number > ?", [last])
            if database.is_file and database.rows("PRAGMA quick_check(1)") != [("ok",)]:
                raise SystemExit(f"{url} is damaged after {kill} kills")
        last = max([last, *(row[0] for row in rows)])
        found = [_checked(row) for row in rows]
        seen.update(found)
        expected = {(client, n) for client in range(CLIENTS) for n in range(checked[client], answered[client])}
        wrong = {each: seen[each] for each in expected | {*found} if seen[each] != len(rows_of(*each))}
        if wrong:
            raise SystemExit(f"after {kill} kills these requests (client, number) have other rows than sent: {wrong}")
        checked = list(answered)
    in_flight = len(seen) - sum(answered)
    return {"kills": times, "acknowledged": sum(answered), "rows": seen.total(), "lost": 0, "twice": 0,
            "stored without an answer": in_flight, "seconds": time.monotonic() - began}  # fmt: skip


def _checked(row: tuple[Any, ...]) -> tuple[int, int]:
    """The client and the request of a stored row, whose values must be those of `rows_of`."""
    _, user, item, stars, key = row
    client, n = map(int, key.strip('"').split("-"))
    if (int(user), item.strip('"').split("/")[0], stars) != (client, str(n), 1 + n % 5):
        raise SystemExit(f"another row was stored than sent: {row}")
    return client, n


def _write_and_die(url: str, answered: list[int], seconds: float, *, begun: bool) -> list[int]:
    """Start a writer, kill it after some seconds, and count each client's answered requests.

    `begun` counts the seconds from its first answer, so that a slow start does not leave all kills before it.
    """
    reading, writing = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            _write_forever(url, answered, writing)
        except BaseException as error:
            os.write(writing, f"! {error!r}\n".encode())
        os._exit(1)
    os.close(writing)
    if begun:
        select.select([reading], [], [], 60)
    time.sleep(seconds)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    with open(reading, encoding="utf-8") as answers:
        lines = answers.read().splitlines()
    now = list(answered)
    for client, word in (line.split(" ", 1) for line in lines):
        if client == "!":
            raise SystemExit(f"a writer failed: {word}")
        now[int(client)] = int(word) + 1
    return now


def _write_forever(url: str, first: list[int], answers: int) -> None:
    """Store requests from each client's first unanswered one on; every fourth is sent twice."""
    store = Store(url)

    def client(number: int) -> None:
        n = first[number]
        try:
            while True:
                for _ in range(2 if n % 4 == 0 else 1):
                    store.add_ratings(rows_of(number, n), f"{number}-{n}")
                os.write(answers, f"{number} {n}\n".encode())
                n += 1
        except BaseException as error:
            os.write(answers, f"! {error!r}\n".encode())

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rate(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """Requests of one rating that `clients` threads get answered in a second."""
    counts, took = [0] * clients, [0.0] * clients
    with closing(Store(url)) as store:
        end = time.monotonic() + seconds

        def client(number: int) -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                store.add_ratings([NewRating(user_id=number, item_id=counts[number], rating=3)])
                counts[number] += 1
                took[number] = max(took[number], time.monotonic() - began)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {"a second": sum(counts) / seconds, "slowest": max(took)}


Say = Callable[[Mapping[str, Any]], str]
KILLS: Mapping[str, Say] = {
    "": lambda row: row["store"],
    **{
        name: (lambda row, name=name: f"{row[name]:,}")  # type: ignore[misc]
        for name in ("kills", "acknowledged", "rows", "lost", "twice", "stored without an answer")
    },
    "took": lambda row: f"{number(row['seconds'])} s",
}
RATES: Mapping[str, Say] = {
    "": lambda row: row["store"],
    "clients": lambda row: str(row["clients"]),
    "a second": lambda row: number(row["a second"]),
    "slowest answer": lambda row: f"{number(1000 * row['slowest'])} ms",
}

if __name__ == "__main__":
    main()

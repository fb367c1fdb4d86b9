"""A service under load: requests a second, latencies, batching, the prefix cache, streaming, and a soak.

    palate run configs/demo.yaml
    python benchmarks/serve.py runs/demo --cutoff-len 512 --save    # about fifteen minutes on two cores
    python benchmarks/serve.py runs/demo --soak 10 --save           # ten minutes at twice the capacity

The service is a process of its own; this one sends requests to it over loopback, each client on its own connection,
about random users and items of the log. The language model is the run's fine-tuned one, without the baseline that it
corrects. The demo's cutoff leaves each candidate as many films of the history as fit, so that two candidates often
share nothing but the first line; a longer cutoff shows all prompts the same history, as other recipes do.
"""

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from palate.config import Override, load_config
from palate.samples import load_prepared
from report import ROOT, Result, number, publish

CLIENTS = (1, 8, 64)
SAME = 0.03
"""Most difference of two P(like) by one model: bfloat16 rounds by what else is in a pass."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a service under load.")
    parser.add_argument("run", type=Path, help="folder of a run with a fine-tuned model")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    parser.add_argument("--soak", type=float, default=0.0, help="only: minutes at twice the capacity")
    parser.add_argument("--quick", action="store_true", help="two seconds a row, three users")
    parser.add_argument("--classical", help="key of the classical model (the best by AUC)")
    parser.add_argument("--cutoff-len", type=int, help="tokens.cutoff_len in place of the run's")
    parser.add_argument("--together", type=int, default=16, help=argparse.SUPPRESS)
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    if args.server:
        be_server(args)
        return
    asked = Asked.of(args.run)
    seconds, users = (2.0, 3) if args.quick else (args.seconds, 20)
    if args.soak:
        publish("serve-soak", [soaked(args, asked, args.soak, seconds)], as_json=args.json, save=args.save)
        return
    with service(args) as server:
        spoken, classical = models_of(server)
        results = [*alone(server, asked, spoken, users)]
        results.insert(0, loaded(server, asked, (spoken, args.classical or classical), seconds))
        together = throughput(server, asked.score(spoken, 20), 8, seconds)
    with service(args, together=1) as server:
        single = throughput(server, asked.score(spoken, 20), 8, seconds)
    results.insert(1, batched(together, single))
    publish("serve", results, as_json=args.json, save=args.save)


def be_server(args: argparse.Namespace) -> None:
    """The service, with the worker's number of requests in a pass, which `palate serve` has no option for."""
    from palate.commands.engine import engine_of
    from palate.serve.app import Options, app_of
    from palate.serve.release import feedback
    from palate.serve.server import bound, url_of
    from palate.serve.server import run as serve
    from palate.serve.source import EngineSource
    from palate.serve.store import Store

    overrides = [Override("run_dir", str(args.run), "run")]
    if args.cutoff_len is not None:
        overrides.append(Override("tokens.cutoff_len", args.cutoff_len, "--cutoff-len"))
    engine = engine_of(load_config(args.run / "config.yaml", overrides), together=args.together)
    engine.warm()
    sock = bound("127.0.0.1", 0)
    store = Store(feedback(args.run))
    print(url_of(sock), flush=True)
    serve(app_of(EngineSource(engine), store, Options()), sock, 60.0)
    engine.close()
    store.close()


@dataclass(frozen=True)
class Server:
    """A running service: its address and its process."""

    url: str
    pid: int

    def memory(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])


@contextmanager
def service(args: argparse.Namespace, together: int = 16) -> Iterator[Server]:
    """A service in a process, its models warm."""
    command = [sys.executable, __file__, str(args.run.resolve()), "--server", "--together", str(together)]
    if args.cutoff_len is not None:
        command += ["--cutoff-len", str(args.cutoff_len)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("the service did not start")
        try:
            yield Server(url, process.pid)
        finally:
            process.terminate()


class Connection:
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self.http = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120)

    def close(self) -> None:
        """Close the connection."""
        self.http.close()

    def post(self, route: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body of an answer."""
        self.http.request("POST", f"/v1/{route}", json.dumps(body), {"Content-Type": "application/json"})
        answer = self.http.getresponse()
        return answer.status, answer.read()

    def first_part(self, body: Mapping[str, Any]) -> float:
        """Seconds to the first scored items of a stream, which is read to its end."""
        began, first = time.perf_counter(), 0.0
        self.http.request("POST", "/v1/recommend", json.dumps(body), {"Content-Type": "application/json"})
        for line in self.http.getresponse():
            if not first and line.startswith(b"event: scored"):
                first = time.perf_counter() - began
        return first


Next = Callable[[random.Random], tuple[str, dict[str, Any]]]
"""Draws a request: its route and body."""


@dataclass(frozen=True)
class Asked:
    """What requests are about: users and items of a run's log."""

    users: list[Any]
    items: list[Any]

    @classmethod
    def of(cls, run: Path) -> "Asked":
        config = load_config(run / "config.yaml", [Override("run_dir", str(run), "run")])
        samples = load_prepared(config.data_path).samples
        return cls(
            samples.timeline["user_id"].unique(maintain_order=True).to_list(), samples.items["item_id"].to_list()
        )

    def score(self, model: str, candidates: int) -> Next:
        """Score random items for a random user."""

        def draw(rng: random.Random) -> tuple[str, dict[str, Any]]:
            items = [{"item_id": item} for item in rng.sample(self.items, candidates)]
            return "score", {"user_id": rng.choice(self.users), "candidates": items, "model": model}

        return draw

    def recommend(self, model: str) -> Next:
        """The best ten of what the first stage finds for a random user."""
        return lambda rng: (
            "recommend",
            {"user_id": rng.choice(self.users), "model": model, "top_k": 10, "retriever": "item-knn", "retrieve": 50},
        )


@dataclass
class Load:
    """Answered requests: their seconds, and their number by status."""

    seconds: float = 0.0
    taken: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return self.statuses[200] / self.seconds

    def row(self) -> dict[str, Any]:
        """Figures for a table."""
        p50, p95, p99 = np.percentile(self.taken, [50, 95, 99]).tolist() if self.taken else [float("nan")] * 3
        return {"rate": self.rate, "p50": p50, "p95": p95, "p99": p99, "statuses": dict(self.statuses)}


def throughput(server: Server, draw: Next, clients: int, seconds: float) -> Load:
    """Each of the clients sends its next request when the last is answered."""
    load, lock, end = Load(), threading.Lock(), time.monotonic() + seconds

    def ask(seed: int) -> None:
        rng, connection = random.Random(seed), Connection(server)
        while time.monotonic() < end:
            route, body = draw(rng)
            began = time.perf_counter()
            status, _ = connection.post(route, body)
            with lock:
                load.taken.append(time.perf_counter() - began)
                load.statuses[status] += 1

    began = time.perf_counter()
    in_threads([partial(ask, seed) for seed in range(clients)])
    load.seconds = time.perf_counter() - began
    return load


def in_threads(calls: Sequence[Callable[[], None]]) -> None:
    """Run calls at once, and wait for all."""
    threads = [threading.Thread(target=call) for call in calls]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def models_of(server: Server) -> tuple[str, str]:
    """The language model that was fine-tuned, and the baseline of the highest AUC."""
    connection = Connection(server)
    connection.http.request("GET", "/v1/model")
    models = json.loads(connection.http.getresponse().read())["models"]
    spoken = [each["key"] for each in models if each["kind"] == "language model" and each["key"] != "base"]
    if not spoken:
        raise SystemExit("the run has no fine-tuned model")
    classical = max((m for m in models if m["kind"] == "baseline"), key=lambda each: each["auc"] or 0.0)
    return spoken[0], classical["key"]


def loaded(server: Server, asked: Asked, models: Sequence[str], seconds: float) -> Result:
    """Throughput and latencies by request, model and number of clients."""
    rows = []
    for model in models:
        kinds = {"score, 1 candidate": asked.score(model, 1), "score, 20 candidates": asked.score(model, 20),
                 "recommend, top 10": asked.recommend(model)}  # fmt: skip
        for kind, draw in kinds.items():
            for clients in CLIENTS:
                load = throughput(server, draw, clients, seconds)
                rows.append({"model": model, "request": kind, "clients": clients, **load.row()})
    return Result("Requests a second, and seconds to the answer", rows, LOADED)


def batched(together: Load, single: Load) -> Result:
    """One pass for several requests against one for each."""
    rows = [{"pass": "of several requests", **together.row(), "ratio": together.rate / single.rate},
            {"pass": "of one request", **single.row(), "ratio": 1.0}]  # fmt: skip
    columns = {"a pass of the model": lambda row: row["pass"], **{k: LOADED[k] for k in ("a second", "p50", "p99")},
               "ratio": lambda row: number(row["ratio"])}  # fmt: skip
    return Result("Dynamic batching: score, 20 candidates, 8 clients", rows, columns)


def alone(server: Server, asked: Asked, model: str, users: int) -> Iterator[Result]:
    """One client: a user's second request against the first, and the first items of a stream.

    The second request computes the candidates' own tokens, the first those of the history, too: that bounds the ratio.
    """
    rng, connection = random.Random(13), Connection(server)
    drawn = rng.sample(asked.users, 3 * users)
    rows = []
    for candidates, some in ((1, drawn[:users]), (20, drawn[users : 2 * users])):
        taken: list[list[float]] = [[], []]
        tokens = []
        for user in some:
            for nth in taken:
                _, body = asked.score(model, candidates)(rng)
                began = time.perf_counter()
                connection.post("score", {**body, "user_id": user})
                nth.append(time.perf_counter() - began)
            tokens.append(tokens_of(connection, user, rng.sample(asked.items, 2)))
        first, second = (statistics.median(each) for each in taken)
        history, own = (statistics.median(each) for each in zip(*tokens, strict=True))
        rows.append({"candidates": candidates, "first": first, "second": second, "ratio": second / first,
                     "history": history, "own": own * candidates})  # fmt: skip
    seconds = {name: lambda row, name=name: f"{number(1000 * row[name])} ms" for name in ("first", "second")}

    def of_tokens(row: Mapping[str, Any]) -> str:
        return f"{row['own']:.0f} of {row['history'] + row['own']:.0f}"

    columns = {"candidates": lambda row: str(row["candidates"]), **seconds, "ratio": lambda row: number(row["ratio"]),
               "tokens of the second, of the first": of_tokens}  # fmt: skip
    yield Result(f"A user's second request, of other items: median of {users} users", rows, columns)
    parts = [connection.first_part({"user_id": user, "model": model, "stream": True}) for user in drawn[-users:]]
    rows = [{"median": statistics.median(parts), "max": max(parts)}]
    columns = {name: lambda row, name=name: f"{number(row[name])} s" for name in ("median", "max")}  # type: ignore[misc]
    yield Result(f"Time to the first streamed recommendations: {users} users", rows, columns)


def tokens_of(connection: Connection, user: Any, items: Sequence[Any]) -> tuple[int, float]:
    """The tokens that prompts of two candidates have in common, and the mean number of their own."""
    bodies = [connection.post("prompt", {"user_id": user, "candidate": {"item_id": item}})[1] for item in items]
    one, two = ([token["id"] for token in json.loads(body)["tokens"][:-2]] for body in bodies)  # without the answers
    same = next(n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return same, (len(one) + len(two)) / 2 - same


def soaked(args: argparse.Namespace, asked: Asked, minutes: float, seconds: float) -> Result:
    """Twice as many requests as the service can answer: memory, right answers, 429s, and what else came."""
    rng = random.Random(7)
    with service(args) as server:
        draw = asked.score(models_of(server)[0], 20)
        connection = Connection(server)
        bodies = [draw(rng)[1] for _ in range(20)]
        expected = [p_of(connection.post("score", body)[1]) for body in bodies]
        capacity = throughput(server, draw, 8, seconds).rate
        rate, began, tickets = 2 * capacity, time.monotonic(), iter(range(10**9))
        found: Counter[str] = Counter()
        memory, worst, lock = [], [0.0], threading.Lock()

        end = began + 60 * minutes

        def ask() -> None:
            while True:
                with lock:
                    at = began + next(tickets) / rate
                if max(at, time.monotonic()) > end:
                    return
                time.sleep(max(0.0, at - time.monotonic()))
                n, gap = int(at * 1e6) % len(bodies), 0.0
                try:
                    with closing(Connection(server)) as own:  # an idle one is closed after five seconds
                        status, answer = own.post("score", bodies[n])
                    gap = float(np.abs(p_of(answer) - expected[n]).max()) if status == 200 else 0.0
                    kind = "429" if status == 429 else "right" if status == 200 and gap <= SAME else f"wrong ({status})"
                except (OSError, http.client.HTTPException):
                    kind = "lost"
                with lock:
                    found[kind] += 1
                    worst[0] = max(worst[0], gap)

        def watch() -> None:
            while time.monotonic() < end:
                memory.append(server.memory())
                time.sleep(min(5.0, 6 * minutes))

        in_threads([watch, *[ask] * 128])
        with closing(Connection(server)) as connection:
            ready = connection.post("score", bodies[0])[0]
    quarter = max(1, len(memory) // 4)
    row = {"minutes": minutes, "capacity": capacity, "offered": sum(found.values()) / (60 * minutes), **found,
           "first": statistics.median(memory[quarter : 2 * quarter] or memory),
           "last": statistics.median(memory[-quarter:]), "worst": worst[0], "after": ready}  # fmt: skip
    title = f"{minutes:g} minutes at twice the capacity: score, 20 candidates; right: each P within {SAME:g}"
    return Result(title, [row], soak_columns(found))


def p_of(answer: bytes) -> Any:
    """P(like) of the candidates of an answer."""
    return np.array([each["p"] for each in json.loads(answer)["scores"]])


def soak_columns(found: Mapping[str, int]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Columns of the soak's table; what never came has none."""
    mib = {f"memory, {name} quarter": lambda row, key=key: f"{row[key] / 2**20:,.0f} MiB"
           for name, key in (("second", "first"), ("last", "last"))}  # fmt: skip
    return {
        "capacity, a second": lambda row: number(row["capacity"]),
        "offered": lambda row: number(row["offered"]),
        **{name: lambda row, name=name: f"{row[name]:,}" for name in sorted(found)},  # type: ignore[misc]
        "largest difference of P": lambda row: f"{row['worst']:.1g}",
        **mib,
        "status afterwards": lambda row: str(row["after"]),
    }


LOADED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda row: row["model"],
    "request": lambda row: row["request"],
    "clients": lambda row: str(row["clients"]),
    "a second": lambda row: number(row["rate"]),
    **{name: lambda row, name=name: f"{number(1000 * row[name])} ms" for name in ("p50", "p95", "p99")},  # type: ignore[misc]
    "other than 200": lambda row: (
        ", ".join(f"{n} × {s}" for s, n in sorted(row["statuses"].items()) if s != 200) or "–"
    ),
}


if __name__ == "__main__":
    main()

"""How fast samples are prepared and all users recommended to: on this machine alone, and on Ray with 1 and 2 processes.

    python benchmarks/scale.py --quick            # a tiny model on made-up ratings: does it all run?
    python benchmarks/scale.py --save             # SmolLM2-135M on 60 users of ml-latest-small, 50 candidates each
    python benchmarks/scale.py --cost --interactions 1e9 --scores 1e9 --price-hour 0.10 --price-gb 0.01

Each row is `palate recommend --all-users --retrieve N` in a process of its own, one after the other, with a thread for
each process that scores. `users/s` counts from the first user's recommendations to the last one's: Ray's start and the
loading of the model are only in `whole command`. The benchmark ends with an error if the files differ.

A simulator predicts the whole command on Ray from what is measured without it: the command with a model that answers at
once (until the first user, a user's prompts and their way to a process, writing), and as many processes at once as it
will have that load the model and score some users' prompts.

`palate prepare` is measured alike, on made-up ratings with Polars on one thread in each process.

`cores busy` is the processor time of the whole machine a second, and `of them the command` that of the command's own
process: on two cores, two processes beside a command that needs a part of one cannot be twice as fast.

`--cost` measures nothing: it works out seconds, bytes and money from the results of other benchmarks in `results/`, for
a machine like those on which they ran, and prints each constant with its source.
"""

import argparse
import heapq
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

import costs
import synthetic
from palate.errors import PalateError
from palate.ratings.load import load_ratings
from palate.store.artifacts import MANIFEST, read_json, sha256_file, sha256_of
from report import Result, in_own_process, number, publish
from training import CLAIMS, claim, tiny_model

WORKERS = (1, 2)
SAMPLE = 8
"""Users whose prompts are scored for the simulator."""

Prompts = tuple[list[int], list[list[int]]]
"""What a user's prompts have in common, and what follows in each."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure recommending to all users, locally and on Ray.")
    parser.add_argument("--ratings", default="ml-latest-small", help="a data set's name or path")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--users", type=int, default=60, help="the first users of the log (60)")
    parser.add_argument("--retrieve", type=int, default=50, help="candidates of a user (50)")
    parser.add_argument("--prepared", type=int, default=1_000_000, help="made-up ratings to prepare (1,000,000)")
    parser.add_argument("--cost", action="store_true", help="work out what a size costs, from kept results")
    parser.add_argument("--interactions", type=float, default=1e9, help="of the log, for --cost (1e9)")
    parser.add_argument("--scores", type=float, default=1e9, help="pairs of user and item, for --cost (1e9)")
    parser.add_argument("--items", type=float, default=1e4, help="of the catalogue, for --cost (1e4)")
    parser.add_argument("--price-hour", type=float, default=0.0, help="of a machine of two cores, for --cost")
    parser.add_argument("--price-gb", type=float, default=0.0, help="of a GB over the network, for --cost")
    parser.add_argument("--quick", action="store_true", help="a tiny model on made-up ratings: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    if args.cost:
        size = costs.Size(args.interactions, args.scores, args.items, args.price_hour, args.price_gb)
        publish("costs", costs.results(size), as_json=args.json, save=args.save)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as name:
        run = prepared(Path(name), args)
        rows = [{"side": "local", **in_own_process(recommended, run, [], args.retrieve, False)}]
        predicted = []
        for n in WORKERS:
            words = ["--engine", "ray", "--set", f"engine.workers={n}"]
            known = constants(run, words, n, args.retrieve)
            row = in_own_process(recommended, run, words, args.retrieve, False)
            rows.append({"side": f"Ray, {n} process{'es' * (n > 1)}", **row})
            predicted.append({**row, **known, "processes": n, "predicted": whole(known, row["users"], n)})
        log = Path(name, "log")
        synthetic.write(log, 50_000 if args.quick else args.prepared, 5_000)
        os.environ["POLARS_MAX_THREADS"] = "1"
        sides = [[], *(["--engine", "ray", "--set", f"engine.workers={n}"] for n in WORKERS)]
        made = [in_own_process(seconds_to_prepare, log, words) for words in sides]
    if len({each["sha256"] for each in made}) != 1:
        raise SystemExit("error: the prepared folders differ")
    made = [{**each, "side": row["side"], "local": made[0]["seconds"]} for each, row in zip(made, rows, strict=True)]
    rows = [{**row, "local": rows[0]["rate"]} for row in rows]
    if len({row["sha256"] for row in rows}) != 1:
        raise SystemExit("error: the files of recommendations differ")
    title = f"Recommend to {rows[0]['users']} users of {'made-up ratings' if args.quick else args.ratings}, "
    title += f"{args.retrieve} candidates each, {'a tiny model' if args.quick else args.model}: identical files"
    results = [
        Result(title, rows, COLUMNS),
        Result("The whole command, simulated", predicted, SIMULATED),
        Result(f"Prepare {made[0]['samples']:,} made-up samples: identical files", made, PREPARED),
        Result("Targets", claims(rows, predicted, made), CLAIMS),
    ]
    publish(f"scale{'-quick' if args.quick else ''}", results, as_json=args.json, save=args.save)


Rows = Sequence[Mapping[str, Any]]


def claims(rows: Rows, predicted: Rows, made: Rows) -> list[dict[str, Any]]:
    """What is claimed of Ray, and of the simulator."""
    local, one, two = rows
    here, alone, both = (row["seconds"] for row in made)
    return [
        claim("times the local time, prepared by one process", alone / here, "<=", 1.5),
        claim("of twice the speed of one process, prepared by two", alone / both / 2, ">=", 0.8),
        claim("times the local command's time, one process", one["seconds"] / local["seconds"], "<=", 1.5),
        claim("of twice the users/s of one process, two processes", two["rate"] / one["rate"] / 2, ">=", 0.8),
        *(
            claim(f"off the measured time, simulated: processes: {row['processes']}", abs(off(row)), "<=", 0.2)
            for row in predicted
        ),
    ]


def off(row: Mapping[str, Any]) -> float:
    """What share of the measured time the prediction is off by."""
    return float(row["predicted"] / row["seconds"] - 1)


def whole(known: Mapping[str, float], users: int, workers: int) -> float:
    """Predicted seconds of the whole command."""
    work = simulated(users, workers, known["prompts"], known["score"])
    return known["first"] - known["prompts"] + known["load"] + work + known["write"]


def simulated(users: int, workers: int, prompts: float, score: float) -> float:
    """Seconds from the first user's prompts to the last one's scores.

    The command makes one user's prompts (`prompts` s) after the other's; a free process scores them (`score` s).
    """
    free, made = [0.0] * workers, 0.0
    for _ in range(users):
        made += prompts
        heapq.heapreplace(free, max(free[0], made) + score)
    return max(free)


def constants(run: Path, words: list[str], workers: int, retrieve: int) -> dict[str, float]:
    """What the simulator knows, in seconds: all of it is measured without scoring on Ray."""
    found = in_own_process(recommended, run, words, retrieve, True)
    with ThreadPoolExecutor(workers) as pool:
        each = list(pool.map(lambda _: in_own_process(loaded_and_scored, run, found["asked"]), range(workers)))
    load, score = (sum(column) / workers for column in zip(*each, strict=True))
    found["prompts"] = 1 / found["rate"]
    return {name: found[name] for name in ("first", "prompts", "write")} | {"load": load, "score": score}


def loaded_and_scored(run: Path, asked: Sequence[Prompts]) -> tuple[float, float]:
    """Seconds to load the model, libraries included, and to score a user's prompts."""
    began = time.monotonic()
    from palate.commands.score import load_scorer
    from palate.config import load_config

    config = load_config(run / "config.yaml")
    backend = load_scorer(config, None).backend
    loaded = time.monotonic()
    for prefix, rests in asked:
        backend.answers_behind(prefix, rests, config.evaluate.batch_size, lambda n: None)
    return loaded - began, (time.monotonic() - loaded) / len(asked)


def prepared(folder: Path, args: argparse.Namespace) -> Path:
    """A run with the first users' ratings."""
    from palate.cli import main as palate

    (folder / "ratings").mkdir()
    (folder / "run").mkdir()
    if args.quick:
        synthetic.write(folder / "made", 9000, 1000)
        tiny_model(folder / "model")
        args.ratings, args.model = str(folder / "made"), str(folder / "model")
    log = load_ratings(args.ratings)
    first = log.frame["user_id"].unique().sort().head(args.users)
    log.frame.filter(pl.col("user_id").is_in(first.implode())).write_csv(folder / "ratings/ratings.csv")
    log.items.select("item_id", "title").write_csv(folder / "ratings/items.csv")
    config = {
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(folder / "ratings")},
        "model": {"base": args.model, "dtype": "float32"},
    }
    (folder / "run/config.yaml").write_text(yaml.safe_dump(config))
    if palate(["prepare", str(folder / "run")]) != 0:
        raise SystemExit("error: the ratings could not be prepared")
    return folder / "run"


def recommended(run: Path, words: list[str], retrieve: int, instant: bool) -> dict[str, Any]:
    """Recommend to all users: seconds of the command, users a second, and the file's hash.

    `instant` replaces the model by one that answers at once, and adds some of the prompts that it was `asked`.
    """
    from palate.cli import main as palate
    from palate.progress import Meter

    spent: list[Spent] = []
    asked: list[Prompts] = []
    advance = Meter.advance

    def noted(meter: Meter, n: int, note: str = "") -> None:
        spent.append(now())
        advance(meter, n, note)

    setattr(Meter, "advance", noted)  # noqa: B010
    if instant:
        answer_at_once(asked)
    out, began = run / "top.parquet", time.monotonic()
    options = ["--base-only", "--all-users", "--retrieve", str(retrieve), "--top-k", "10", "--out", str(out)]
    if palate(["recommend", str(run), *options, *words]) != 0:
        raise SystemExit("error: nothing was recommended")
    ended, first, last, n = time.monotonic(), spent[0], spent[-1], len(spent)
    found: dict[str, Any] = {"seconds": ended - began, "users": n, "rows": n * retrieve, **busy(first, last)}
    found |= {"first": first.clock - began, "write": ended - last.clock}
    found |= {"rate": (n - 1) / (last.clock - first.clock), "sha256": sha256_file(out)}
    out.unlink()
    return found | ({"asked": asked} if instant else {})


def answer_at_once(asked: list[Prompts]) -> None:
    """Have the processes of a cluster answer without a model; keep what some users' prompts are."""
    from palate.cluster.scorers import Scorers
    from palate.commands import score

    def loaded(*_: object) -> tuple[object, dict[str, object]]:  # sent whole: the processes do not find this file
        import numpy as np

        class Model:
            def answers_behind(self, prefix: object, rests: list[object], *_: object) -> object:
                return np.full((len(rests), 2), -1, np.float32)

        return Model(), {"adapter": {}, "model": "none", "dtype": "float32", "quantization": "none"}

    ask = Scorers.answers_behind

    def noted(scorers: Scorers, prefix: Any, rests: Any, *more: Any) -> Any:
        if len(asked) < SAMPLE:
            asked.append((list(prefix), [list(rest) for rest in rests]))
        return ask(scorers, prefix, rests, *more)

    setattr(score, "_loaded", loaded)  # noqa: B010
    setattr(Scorers, "answers_behind", noted)  # noqa: B010


def seconds_to_prepare(log: Path, words: list[str]) -> dict[str, Any]:
    """Prepare a log, Ray's start included: seconds, samples, and the hash of all files."""
    from palate.cli import main as palate

    out, began = log.parent / "prepared", now()
    if palate(["prepare", "--ratings", str(log), "--out", str(out), *words]) != 0:
        raise SystemExit("error: the ratings could not be prepared")
    ended, manifest = now(), read_json(out / MANIFEST)
    shutil.rmtree(out)
    found = {"seconds": ended.clock - began.clock, "samples": sum(manifest["stats"]["samples"].values())}
    return found | busy(began, ended) | {"sha256": sha256_of(manifest["outputs"])}


class Spent(NamedTuple):
    """A moment: the clock, and the processor seconds until then of this process and of the whole machine."""

    clock: float
    own: float
    machine: float


def now() -> Spent:
    """Read the clock, and the processor time from `/proc/stat` (user, nice, system, interrupts; not idle or stolen)."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    ticks = user + nice + system + irq + softirq
    return Spent(time.monotonic(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK"))


def busy(began: Spent, ended: Spent) -> dict[str, float]:
    """The cores that were busy between two moments, on average, and those of them with this process."""
    seconds = ended.clock - began.clock
    return {"busy": (ended.machine - began.machine) / seconds, "own": (ended.own - began.own) / seconds}


BUSY: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "cores busy": lambda row: f"{row['busy']:.2f}",
    "of them the command": lambda row: f"{row['own']:.2f}",
}
PREPARED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["side"],
    "whole command": lambda row: f"{number(row['seconds'])} s",
    "samples/s": lambda row: f"{row['samples'] / row['seconds']:,.0f}",
    "times local": lambda row: f"{row['local'] / row['seconds']:.2f}",
    **BUSY,
}
COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["side"],
    "users/s": lambda row: number(row["rate"]),
    "candidates/s": lambda row: number(row["rate"] * row["rows"] / row["users"]),
    "times local": lambda row: f"{row['rate'] / row['local']:.2f}",
    "whole command": lambda row: f"{number(row['seconds'])} s",
    **BUSY,
}
SIMULATED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "processes": lambda row: str(row["processes"]),
    "until the first user": lambda row: f"{number(row['first'])} s",
    "loading": lambda row: f"{number(row['load'])} s",
    "prompts of a user": lambda row: f"{number(1000 * row['prompts'])} ms",
    "scores of a user": lambda row: f"{number(1000 * row['score'])} ms",
    "writing": lambda row: f"{number(1000 * row['write'])} ms",
    "simulated": lambda row: f"{number(row['predicted'])} s",
    "measured": lambda row: f"{number(row['seconds'])} s",
    "off by": lambda row: f"{off(row):+.0%}",
}


if __name__ == "__main__":
    try:
        main()
    except PalateError as error:
        raise SystemExit(f"error: {error}") from None

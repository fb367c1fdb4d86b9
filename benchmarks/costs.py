"""What a size costs, worked out from kept results; `benchmarks/scale.py --cost` prints it."""

import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from palate.tokens.arrow import TOKEN_BYTES
from report import RESULTS, Result, number
from shapes import LEAD, SIZES

DAY = 86_400.0
FOUND = 100
"""Candidates of a user that the first stage finds."""
CATALOGUES = (1_000, 10_000, 100_000, 1_000_000)
MODELS = {"Qwen3-0.6B": False, "Qwen3-8B": True}
"""Larger models in `rank-shapes`, and whether their time is worked out from some layers."""


class Constant(NamedTuple):
    """What a unit of work takes, and where it was measured: a result in `results/`, or a script."""

    value: float
    what: str
    source: str


@dataclass(frozen=True)
class Size:
    """How much is to be done, and the reader's prices."""

    interactions: float
    scores: float
    """Pairs of user and item."""
    items: float
    """Items of the catalogue: `scores / items` users."""
    price_hour: float
    """Of a machine of two cores."""
    price_gb: float
    """Of a GB over the network."""


def kept(name: str, table: int, /, **wanted: object) -> Mapping[str, Any]:
    """The last row of a kept result's table that has these values."""
    rows = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"][table]["rows"]
    found: Mapping[str, Any] = [row for row in rows if wanted.items() <= row.items()][-1]
    return found


def constants() -> dict[str, Constant]:
    """What the costs are worked out from."""
    log, pairs = kept("growth", 0), kept("evaluate", 1, beside=True)
    tokens = kept("tokens", 0, name="Palate, from ratings.csv")
    few, many = (statistics.median(kept("ranking", 0, name="rank", candidates=n)["seconds"]) for n in (100, 1000))
    candidate = (many - few) / 900
    served = kept("serve", 0, model="strongest-text", request="recommend, top 10", clients=8)
    found = kept("retrieve", 1, retriever="item-kNN, 100 neighbours")["recall"][str(FOUND)]
    compose = (tokens["median"] - tokens["ready_seconds"]) / tokens["tokens"]
    return {
        "log": Constant(kept("reading", 0, form=".csv")["size"] / 32e6, "bytes an interaction, CSV", "reading"),
        "prepare": Constant(log["further"]["median"] / 1e6, "s an interaction, to tables of tokens", "growth"),
        "tables": Constant(log["further"]["disk"] / 1e6, "bytes an interaction, tables", "growth"),
        "samples": Constant(log["samples"] / log["millions"] / 1e6, "samples an interaction", "growth"),
        "tokens": Constant(log["tokens"] / log["samples"], "tokens a sample", "growth"),
        "compose": Constant(compose, "s a token that is composed", "tokens"),
        "1": Constant(_trained(1), "s a sample in training, SmolLM2-135M", "training"),
        "16": Constant(_trained(16), "s a sample, sixteen a prompt", "training"),
        "user": Constant(few - 100 * candidate, "s a user, SmolLM2-135M", "ranking"),
        "candidate": Constant(candidate, "s a candidate, SmolLM2-135M", "ranking"),
        **{name: Constant(_ranked(name), f"s a candidate of a hundred, {name}", "rank-shapes") for name in MODELS},
        "classical": Constant(pairs["seconds"] / _count(pairs["what"]), "s a pair, LightGBM in bulk", "evaluate"),
        "retrieve": Constant(1 / served["rate"], "s a user, first stage and a classical model by HTTP", "serve"),
        "recall": Constant(found, f"of the liked items are among the first {FOUND}", "retrieve"),
        "user bytes": Constant(4 * SIZES["history"][0], "bytes a user to a process of Ray", "shapes.py"),
        "candidate bytes": Constant(4 * (SIZES["candidate"][0] + LEAD) + 8, "bytes a candidate and back", "shapes.py"),
    }


def _trained(targets: int) -> float:
    return 1 / float(kept("training", 0, name="Palate", targets=targets)["examples_per_second"])


def _ranked(model: str) -> float:
    row = kept("rank-shapes", 0, shape=model, name="rank", worked_out=MODELS[model])
    return float(statistics.median(row["seconds"]) / row["candidates"])


def _count(text: str) -> int:
    found = re.search(r"[\d,]+(?= pairs)", text)
    assert found is not None
    return int(found[0].replace(",", ""))


def costs(c: Mapping[str, float], size: Size) -> Iterator[dict[str, Any]]:
    """A row a piece of work: `seconds` of one machine, and bytes on `disk` and over the `network`."""
    samples = c["samples"] * size.interactions
    log, tables = (c[name] * size.interactions for name in ("log", "tables"))
    tokens = c["tokens"] * samples
    yield _row("prepare, with tables of tokens", c["prepare"] * size.interactions, log + tables, log)
    yield _row("compose all tokens once", c["compose"] * tokens)
    yield _row("… and write them (`palate tokenize`)", None, TOKEN_BYTES * tokens)
    yield _row("train, an epoch", c["1"] * samples)
    yield _row("train, an epoch, sixteen samples a prompt", c["16"] * samples)
    users = size.scores / size.items
    sent = c["user bytes"] * users
    yield _row("score all pairs, LightGBM", c["classical"] * size.scores)
    whole = c["user"] * users + c["candidate"] * size.scores
    yield _row("score all pairs, SmolLM2-135M", whole, 0, sent + c["candidate bytes"] * size.scores)
    for name in MODELS:
        yield _row(f"score all pairs, {name}", c[name] * size.scores, 0, sent + c["candidate bytes"] * size.scores)
    few = FOUND * users
    first = c["retrieve"] * users
    of_few = sent + c["candidate bytes"] * few
    yield _row(f"retrieve {FOUND}, then SmolLM2-135M", first + c["user"] * users + c["candidate"] * few, 0, of_few)
    for name in MODELS:
        yield _row(f"retrieve {FOUND}, then {name}", first + c[name] * few, 0, of_few)


def _row(what: str, seconds: float | None, disk: float = 0, network: float = 0) -> dict[str, Any]:
    return {"what": what, "seconds": seconds, "disk": disk, "network": network}


def users_a_day(c: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Users for whom one machine ranks a catalogue in a day."""
    for items in CATALOGUES:
        yield {
            "items": items,
            "classical": DAY / (c["classical"] * items),
            "language": DAY / (c["user"] + c["candidate"] * items),
            "two-stage": DAY / (c["retrieve"] + c["user"] + c["candidate"] * FOUND),
        }


def results(size: Size) -> list[Result]:
    """The tables."""
    known = constants()
    c = {name: each.value for name, each in known.items()}
    title = f"{size.interactions:g} interactions, {size.scores:g} scores: {size.scores / size.items:,.0f} users × "
    title += f"{size.items:,.0f} items; one machine of two cores"
    return [
        Result(title, list(costs(c, size)), columns(size)),
        Result("Users for whom one machine ranks the catalogue in a day", list(users_a_day(c)), USERS),
        Result("Constants", [each._asdict() for each in known.values()], CONSTANTS),
    ]


def columns(size: Size) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """What is shown of a row, with the reader's prices."""

    def money(row: Mapping[str, Any]) -> str:
        seconds = row["seconds"]
        price = row["network"] / 1e9 * size.price_gb + (seconds or 0) / 3600 * size.price_hour
        return "" if seconds is None else number(price)

    return {
        "work": lambda row: row["what"],
        "time": lambda row: "" if row["seconds"] is None else duration(row["seconds"]),
        "disk": lambda row: gigabytes(row["disk"]),
        "network": lambda row: gigabytes(row["network"]),
        "money": money,
    }


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there is one."""
    units = {"years": 365 * DAY, "days": DAY, "h": 3600.0, "min": 60.0, "s": 1.0}
    unit = next((unit for unit, each in units.items() if seconds >= each), "s")
    return f"{number(seconds / units[unit])} {unit}"


def gigabytes(size: float) -> str:
    """Bytes in GB; nothing for none."""
    return f"{number(size / 1e9)} GB" if size else ""


USERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "items": lambda row: f"{row['items']:,}",
    "LightGBM, all": lambda row: number(row["classical"]),
    "SmolLM2-135M, all": lambda row: number(row["language"]),
    f"retrieve {FOUND}, then SmolLM2-135M": lambda row: number(row["two-stage"]),
}
CONSTANTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "constant": lambda row: number(row["value"]),
    "of": lambda row: row["what"],
    "measured in": lambda row: row["source"],
}

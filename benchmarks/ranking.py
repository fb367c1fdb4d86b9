"""How fast a user's candidates are ranked behind one prefix, beside whole prompts and beside generating an answer.

    python benchmarks/ranking.py --quick          # a tiny model on made-up ratings: does it all run?
    python benchmarks/ranking.py --save           # SmolLM2-135M on ml-latest-small, the guide's prompt

All sides begin at titles and end at scores: putting into words and tokenizing are in the times, loading is not. `rank`
ranks all candidates. Whole prompts, in batches of several sizes, and generating, one prompt at a time, are timed on a
slice of them, as the table says. Before anything is timed, `rank` is compared with whole prompts in float32; the
benchmark ends with an error if they differ. Each row is a process of its own, one after the other.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import synthetic
from palate.errors import PalateError
from palate.prompt.messages import to_generation_messages
from report import Result, clock, in_own_process, number, publish, python_peak, said
from training import CLAIMS, claim, tiny_model

EXACT = 1e-4
"""How far P and mass may be apart in float32."""
NEW_TOKENS = 5
"""That are generated to be looked at: enough for an answer with an empty think block before it."""


@dataclass(frozen=True)
class Task:
    """What is ranked by which model."""

    model: str
    ratings: str
    candidates: Sequence[int]
    sliced: int
    """Whole prompts that are timed."""
    generated: int
    """Prompts for which text is generated."""
    batches: Sequence[int]
    repeats: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast candidates are ranked behind one prefix.")
    parser.add_argument("--ratings", default="ml-latest-small", help="a data set's name or path")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--slice", type=int, default=64, help="whole prompts that are timed (64)")
    parser.add_argument("--generated", type=int, default=16, help="prompts for which text is generated (16)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="whole prompts in a batch (1 8 32)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed (3)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few candidates: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        task = small(Path(name)) if args.quick else Task(
            args.model, args.ratings, args.candidates, args.slice, args.generated, args.batches, args.repeats
        )  # fmt: skip
        try:
            results = list(measured(task, args.quick))
        except PalateError as error:
            sys.exit(f"error: {error}")
    publish(f"ranking{'-quick' if args.quick else ''}", results, as_json=args.json, save=args.save)


def small(folder: Path) -> Task:
    """A tiny model with a real tokenizer on ratings that are made up."""
    synthetic.write(folder / "ratings", ratings=3_000, titles=1_000, seed=1)
    in_own_process(tiny_model, folder / "model")
    return Task(str(folder / "model"), str(folder / "ratings"), [20, 100], 10, 2, [2, 5], 1)


def measured(task: Task, quick: bool) -> Iterator[Result]:
    """The tables."""
    apart = in_own_process(compared, task)
    if not apart <= EXACT:
        raise SystemExit(f"rank is {apart:.2g} off whole prompts in P or mass, expected {EXACT:g}: nothing was timed")
    ranks = [in_own_process(ranked, task, n) for n in task.candidates]
    wholes = [in_own_process(whole, task, size) for size in task.batches]
    generates = in_own_process(generated, task)
    rows = [*ranks, *wholes, generates]
    best = max(wholes, key=speed)
    for row in rows:
        row["times"] = speed(row) / speed(best)
    title = f"{'Quick look: a tiny model' if quick else task.model}, {Path(task.ratings).name}, the guide's prompt, "
    yield Result(f"{title}one user's candidates, float32", rows, SPEED)
    claims = [claim("P or mass of rank and of whole prompts apart, at most", apart, "<=", EXACT)]
    for row in ranks:
        n = f"{row['candidates']:,} candidates"
        claims.append(claim(f"times the best batches of whole prompts, {n}", speed(row) / speed(best), ">=", 8))
        claims.append(claim(f"times generating, {n}", speed(row) / speed(generates), ">=", 15))
    few, *_, many = ranks
    what = f"of the memory with {few['candidates']:,} candidates that {many['candidates']:,} take"
    claims.append(claim(what, many["peak"] / few["peak"], "<=", 1.2))
    yield Result("Targets", claims, CLAIMS)


def speed(row: Mapping[str, Any]) -> float:
    """Candidates a second."""
    return float(row["timed"] / np.median(row["seconds"]))


def asked(task: Task, n: int) -> tuple[list[dict[str, Any]], list[str]]:
    """A user's last history in the data, and n titles that the user has not seen, drawn."""
    from palate.config import PrepareConfig
    from palate.ratings.load import load_ratings
    from palate.samples import build_samples

    ratings = load_ratings(task.ratings)
    samples = build_samples(ratings, PrepareConfig())
    last = int(samples.position[-1])
    user = samples.timeline["user_id"][last]
    mine = samples.timeline.filter(samples.timeline["user_id"] == user)
    past = samples.timeline[last - samples.history_len : last].join(ratings.items, on="item_id", maintain_order="left")
    unseen = ratings.items.filter(~ratings.items["item_id"].is_in(mine["item_id"].implode()))["title"].to_list()
    drawn = np.random.default_rng(1).permutation(len(unseen))[:n]
    return past.select("title", "rating").to_dicts(), [unseen[i] for i in drawn]


def scorer_of(task: Task) -> Any:
    from palate.score.scorer import Scorer

    return Scorer(task.model, dtype="float32")


def conversations(scorer: Any, history: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> list[Any]:
    """One whole conversation a candidate."""
    lines = scorer.prompt.history(history, [item["rating"] for item in history])
    examples = [scorer.prompt.alpaca(lines, title, "", len(history)) for title in titles]
    return [to_generation_messages(example) for example in examples]


def compared(task: Task) -> float:
    """How far P and mass of `rank` are from those of whole prompts, one by one, at most."""
    scorer = scorer_of(task)
    history, titles = asked(task, task.sliced)
    shared = scorer.rank(history, titles)
    alone = scorer.score(conversations(scorer, history, titles), 1)
    return float(max(np.abs(shared.p - alone.p).max(), np.abs(shared.mass - alone.mass).max()))


def ranked(task: Task, n: int) -> dict[str, Any]:
    """`rank`, all candidates at once."""
    scorer = scorer_of(task)
    history, titles = asked(task, n)
    scorer.rank(history, titles[:8])  # probes, and warms up
    seconds = []
    for _ in range(task.repeats):
        with clock() as work:
            scorer.rank(history, titles)
        seconds.append(work.seconds)
    return {"name": "rank", "candidates": n, "timed": n, "seconds": seconds, "peak": python_peak()}


def whole(task: Task, batch: int) -> dict[str, Any]:
    """One whole prompt a candidate, in batches."""
    scorer = scorer_of(task)
    history, titles = asked(task, task.sliced)
    scorer.score(conversations(scorer, history, titles[:1]))
    seconds = []
    for _ in range(task.repeats):
        with clock() as work:
            scorer.score(conversations(scorer, history, titles), batch)
        seconds.append(work.seconds)
    name = f"whole prompts, batches of {batch}"
    timed = len(titles)
    return {"name": name, "candidates": None, "timed": timed, "seconds": seconds, "peak": python_peak()}


def generated(task: Task) -> dict[str, Any]:
    """Generate a few tokens for one prompt after the other, and look at the text, as the guide's inference does."""
    import torch

    scorer = scorer_of(task)
    tokenizer, model = scorer.chat.tokenizer, scorer.model
    history, titles = asked(task, task.generated)
    end = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def likes(messages: list[dict[str, str]]) -> bool:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(model.device)
        with torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=end)
        answer = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return bool(answer.strip().lower().startswith("yes"))

    likes(conversations(scorer, history, titles[:1])[0])
    seconds = []
    for _ in range(task.repeats):
        with clock() as work:
            for messages in conversations(scorer, history, titles):
                likes(messages)
        seconds.append(work.seconds)
    name = f"generate, {NEW_TOKENS} tokens"
    return {"name": name, "candidates": None, "timed": len(titles), "seconds": seconds, "peak": python_peak()}


SPEED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["name"],
    "candidates": lambda row: f"{row['candidates']:,}" if row["candidates"] else f"{row['timed']:,} of them",
    "median (min–max)": lambda row: said(row["seconds"]),
    "candidates/s": lambda row: number(speed(row)),
    "× whole prompts": lambda row: number(row["times"]),
    "largest process": lambda row: f"{row['peak'] / 2**20:,.0f} MiB",
}


if __name__ == "__main__":
    main()

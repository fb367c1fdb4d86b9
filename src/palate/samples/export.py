"""Write prepared data: Alpaca JSON for trainers, raw samples for scorers, and the tables."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.config import PrepareConfig, decisive_options
from palate.progress import track, working
from palate.prompt.spec import PromptSpec
from palate.ratings.load import Ratings
from palate.samples.build import Samples, checked_samples
from palate.samples.lines import CHUNK, Renderer, ranges, renderer
from palate.samples.negatives import FILE as NEGATIVES
from palate.samples.prepared import STAGE
from palate.samples.signals import FILE, USERS, Signals
from palate.samples.split import SPLITS
from palate.store.artifacts import atomic_folder, write_json, write_manifest
from palate.store.places import check_files
from palate.store.scratch import blocks_of

Write = Callable[[Renderer, NDArray[np.int64]], bytes]
"""Writes some samples of a renderer."""
Spread = Callable[[Renderer, Write, Iterable[NDArray[np.int64]]], Iterator[bytes]]
"""Writes chunks of samples, in their order."""

FILES = ("train.json", "eval.json", "test_raw.jsonl", "val_raw.jsonl", "dataset_info.json", "ratings.parquet",
         "items.parquet", NEGATIVES, FILE, USERS, "skipped.csv")  # fmt: skip
"""The names of all files that `prepare` may write beside the manifest."""
_RAW_CHUNK = CHUNK // 2  # a raw sample has its history twice, as text and as a list


def prepare(
    ratings: Ratings,
    options: PrepareConfig,
    prompt: PromptSpec,
    seed: int,
    out: Path,
    signals: Signals | None = None,
    spread: "Spread | None" = None,
) -> dict[str, Any]:
    """Build the samples and write the folder `out`; returns its manifest.

    Files: `train.json`, `eval.json`, `test_raw.jsonl`, `val_raw.jsonl`, `dataset_info.json`,
    `ratings.parquet`, `items.parquet`, `negatives.parquet` of likes, `signals.parquet` if the prompt names some (they
    come from `signals`), `users.parquet` if it names fields of users, `skipped.csv` if the ratings have a report of
    rows, and last `manifest.json`.
    The same ratings, options, prompt and seed give the same bytes. `spread` renders them elsewhere, as
    `palate.cluster.samples` does. Raises `InputError` as `checked_samples` and
    `renderer` do, and for a folder with files that may be the user's, before it writes anything.
    """
    check_files(out, "palate prepare", STAGE, FILES)
    samples = checked_samples(ratings, options, seed)
    if prompt.signals and signals is not None:
        samples = replace(samples, signals=signals.of(samples))
    render = renderer(samples, prompt)
    spread = spread or _here
    drawn = draw(samples.of("val"), options.max_eval, seed)
    reading = (
        {} if ratings.likes is None else {"likes": ratings.likes.rule, "negatives_per_like": ratings.likes.per_like}
    )
    reading |= ratings.options
    with atomic_folder(out) as folder:
        train = samples.of("train")
        chunks = track(_chunks(train, CHUNK), train.size, "writing train.json")
        _write_array(folder / "train.json", spread(render, _alpaca, chunks))
        with working("writing test and validation samples"):
            _write_array(folder / "eval.json", _here(render, _alpaca, [drawn] if drawn.size else []))
            for split in ("test", "val"):
                chunks = _chunks(samples.of(split), _RAW_CHUNK)
                _write_lines(folder / f"{split}_raw.jsonl", spread(render, _raw, chunks))
            write_json(folder / "dataset_info.json", _dataset_info())
            samples.timeline.write_parquet(folder / "ratings.parquet", compression="zstd")
            samples.items.write_parquet(folder / "items.parquet", compression="zstd")
            if samples.negative is not None:
                _negatives(samples).write_parquet(folder / NEGATIVES, compression="zstd")
            if samples.signals is not None:
                samples.signals.write_parquet(folder / FILE, compression="zstd")
            if samples.users is not None and "user" in prompt.signals:
                samples.users.write_parquet(folder / USERS, compression="zstd")
            if ratings.skipped is not None:
                _as_text(ratings.skipped).write_csv(folder / "skipped.csv")
        return write_manifest(
            folder,
            STAGE,
            inputs=ratings.inputs,
            options=decisive_options(options, prompt, seed)
            | ({"ratings": reading} if reading else {})
            | ({"signals": dict(signals.made_from)} if signals is not None and signals.made_from else {}),
            stats=_stats(ratings, samples, drawn.size),
        )


def draw(index: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` elements of `index`, drawn without replacement, in the order of `index`."""
    chosen = np.random.default_rng(seed).choice(index.size, size=min(count, index.size), replace=False)
    return index[np.sort(chosen)]


def _chunks(index: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, index.size, size):
        yield index[start : start + size]


def _here(render: Renderer, write: Write, chunks: Iterable[NDArray[np.int64]]) -> Iterator[bytes]:
    return (write(render, chunk) for chunk in chunks)


def _alpaca(render: Renderer, index: NDArray[np.int64]) -> bytes:
    """Alpaca examples as JSON lines."""
    examples = render.examples(index)
    no_turns = pl.Series("history", [[]], dtype=pl.List(pl.String))
    return examples.with_columns(no_turns.new_from_index(0, examples.height)).write_ndjson().encode()


def _raw(render: Renderer, index: NDArray[np.int64]) -> bytes:
    """Raw samples of a split as JSON lines."""
    samples = render.samples
    position, target, lengths = samples.position[index], render.target[index], samples.histories[index]
    rows = ranges(position - lengths, lengths)
    titles = samples.items["title"].gather(render.item.gather(rows))
    past = samples.timeline[rows].select("item_id", titles, "rating", "timestamp").to_struct("history")
    frame = render.lines(index).with_columns(
        pl.Series("label", samples.label[index]).replace_strict([True, False], ["Yes", "No"], return_dtype=pl.String),
        pl.lit(SPLITS[samples.split[index[0]]]).alias("split"),
        samples.timeline["user_id"].gather(position),
        *samples.timeline[target].select("item_id", "timestamp", "rating").get_columns(),
        _as_lists(past, lengths),
    )
    return frame.write_ndjson().encode()


def _negatives(samples: Samples) -> pl.DataFrame:
    """The content of `negatives.parquet`."""
    assert samples.negative is not None
    sampled = samples.negative >= 0
    item = samples.items["item_id"].gather(samples.negative[sampled])
    return pl.DataFrame({"row": samples.position[sampled], "item_id": item})


def _as_lists(values: pl.Series, lengths: NDArray[np.int64]) -> pl.Series:
    """Split values into consecutive lists of these lengths."""
    if lengths.size and lengths[0] and (lengths == lengths[0]).all():
        return values.reshape((lengths.size, int(lengths[0])))
    of = pl.Series("list", np.repeat(np.arange(lengths.size), lengths))
    lists = pl.DataFrame([of, values]).group_by("list").agg(values.name)
    every = pl.DataFrame({"list": np.arange(lengths.size)})
    return every.join(lists, on="list", how="left", maintain_order="left")[values.name].fill_null([])


def _write_lines(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(chunks)


def _write_array(path: Path, chunks: Iterable[bytes]) -> None:
    """Write JSON lines as one JSON array with one object a line; JSON escapes line breaks within texts."""
    with path.open("wb") as file:
        before = b"[\n"
        for chunk in chunks:
            file.write(before + chunk[:-1].replace(b"\n", b",\n"))
            before = b",\n"
        file.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _as_text(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with an apostrophe before texts that a spreadsheet would take as a formula."""
    texts = pl.col(pl.String)
    formula = texts.str.contains(r"^[=+\-@\t\r]")
    return rows.with_columns(pl.when(formula).then("'" + texts).otherwise(texts).name.keep())


def _dataset_info() -> dict[str, Any]:
    """The `dataset_info.json` that LLaMA-Factory reads in a `dataset_dir`."""
    columns = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
    files = {"palate_train": "train.json", "palate_eval": "eval.json"}
    return {
        name: {"file_name": file, "formatting": "alpaca", "columns": {**columns, "history": "history"}}
        for name, file in files.items()
    }


def _users_in(samples: Samples) -> int:
    """The number of users with samples, which are grouped by user."""
    ids, position = samples.timeline["user_id"], samples.position
    blocks = blocks_of(position.size, samples.scratch)
    runs = (ids.gather(position[max(0, block.start - 1) : block.stop]).rle().len() for block in blocks)
    return sum(count - (n > 0) for n, count in enumerate(runs))


def _stats(ratings: Ratings, samples: Samples, evaluated: int) -> dict[str, Any]:
    """Counts for the manifest, and the form of times that are no plain seconds."""
    users, items = ratings.frame["user_id"].n_unique(), ratings.frame["item_id"].n_unique()
    return {
        "name": ratings.name,
        "users": users,
        "users_with_samples": _users_in(samples),
        "items": items,
        "ratings": ratings.frame.height,
        "scale": list(ratings.scale),
        **({"times": ratings.times} if ratings.dated else {}),
        "density": round(ratings.frame.height / (users * items), 6),
        "samples": {name: int(samples.of(name).size) for name in SPLITS},
        "yes": {name: int(samples.label[samples.of(name)].sum()) for name in SPLITS},
        "eval": evaluated,
    }

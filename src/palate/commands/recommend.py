"""Recommend: what a user, a written history, or every user would most likely like."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from palate import console
from palate.commands.calibrate import source_of
from palate.commands.evaluate import model_name
from palate.commands.prepare import prepared, token_options
from palate.commands.score import load_scorer, model_key
from palate.commands.server_model import check_scored_with
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.measure.calibration import FILE, Calibration, load_calibration
from palate.progress import clock
from palate.store.artifacts import sha256_file, sha256_of

if TYPE_CHECKING:
    import polars as pl

    from palate.recommend.recommender import Asker, Recommender
    from palate.samples import Prepared
    from palate.score.scorer import Scorer

Retrieving = Literal["item-knn", "popularity"]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """Who asks, and about what; one of `user`, `history` and `all_users` says who.

    Raises `InputError` for options that contradict each other.
    """

    user: str | None = None
    history: Path | None = None
    all_users: bool = False
    top_k: int = 10
    retrieve: int | None = None
    """Candidates of the first stage; None: all items, or those of `candidates`."""
    retriever: Retrieving | None = None
    candidates: Path | None = None
    include_seen: bool = False
    out: Path | None = None
    """The Parquet file of `all_users`."""

    def __post_init__(self) -> None:
        if (self.user is not None) + (self.history is not None) + self.all_users != 1:
            raise InputError(
                "names no recipient, expected one of --user, --history and --all-users", "palate recommend"
            )
        if self.top_k < 1:
            raise InputError(f"{self.top_k}, expected 1 or more", "--top-k")
        if self.retrieve is not None and self.retrieve < self.top_k:
            raise InputError(f"{self.retrieve}, expected as many as --top-k at least: {self.top_k}", "--retrieve")
        if self.retrieve is not None and self.candidates is not None:
            raise InputError("names the candidates, expected no --retrieve beside it", "--candidates")
        if self.retriever is not None and self.retrieve is None:
            raise InputError("selects a first stage, expected --retrieve N beside it", "--retriever")
        if self.all_users and (self.out is None or self.out.suffix != ".parquet"):
            raise InputError("writes a file, expected --out FILE.parquet beside it", "--all-users")
        if self.out is not None and not self.all_users:
            raise InputError("is the output of --all-users, expected both", "--out")

    @property
    def first_stage(self) -> Retrieving | None:
        """What finds the candidates; None where all, or those of a file, are scored."""
        return None if self.retrieve is None else self.retriever or "item-knn"


def recommend(
    config: Config, request: Request, *, adapter: Path | None = None, base_only: bool = False, as_json: bool = False
) -> None:
    """Print recommendations for one user, or write those for all users.

    Without `adapter` it is the run's own. Raises `InputError` if there is no adapter, unless `base_only` is set, for a
    user without ratings, and for files that name unknown items.
    """
    from palate.models.adapter import as_trained, check_same_prompt, chosen_adapter
    from palate.recommend.batch import kept_recommendations

    console.start_logging()
    adapter = chosen_adapter(config, adapter, base_only)  # wrong input is reported before the model is loaded
    config = as_trained(config, adapter)
    data = prepared(config)
    guest, listed = _files(config, request, data)
    asker = None if request.all_users else _asker(request, data, guest)
    if request.out is not None:
        kept_recommendations(request.out, {})
    chat = check_scored_with(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    scorer = load_scorer(config, adapter)
    model = model_key(scorer, config, adapter)
    folder = adapter or config.run_path
    calibration = None
    if config.score.calibration != "none":
        calibration = load_calibration(folder, source=source_of(config, chat, model))
    if calibration is None:
        log.info("P(like) is not calibrated: %s holds no calibration", folder)
    recommender = _recommender(config, request, data, scorer, (guest, listed), calibration)
    if asker is not None:
        about = {"model": model_name(config), "adapter": None if adapter is None else str(adapter)}
        _for_one(recommender, request, asker, about, as_json)
        return
    key = {
        "data": {name: data.manifest["outputs"][name] for name in ("ratings.parquet", "items.parquet")},
        "options": data.manifest["options"],
        "tokens": config.tokens.model_dump(mode="json", exclude={"num_proc"}),
        **model,
        "calibration": None if calibration is None else sha256_file(folder / FILE),
        "candidates": "all" if listed is None else sha256_of(listed.tolist()),
        "include_seen": request.include_seen,
        "retriever": request.first_stage,
        "retrieve": request.retrieve,
        "top_k": request.top_k,
    }
    _for_all(recommender, request, data, key, as_json)


def _for_one(
    recommender: "Recommender", request: Request, asker: "Asker", about: dict[str, str | None], as_json: bool
) -> None:
    """Rank for one asker, and print."""
    from palate.progress import Meter
    from palate.recommend.table import history_line, rich_table

    samples, shown = recommender.prompts.render.samples, recommender.shown(asker)
    if shown < samples.history_len:
        told = "%s has %d of the %d ratings that prompts showed in training"
        log.warning(told, asker.name, shown, samples.history_len)
    item, left_out = recommender.candidates_for(asker)
    if not item.size:
        place = request.candidates or "palate recommend"
        raise InputError(f"{asker.name} has rated every candidate, expected others or --include-seen", place)
    began = time.monotonic()
    with Meter("scoring", item.size, "candidates", console=console.err) as meter:
        ranked = recommender.rank(asker, item, request.top_k, meter.advance)
    seconds = time.monotonic() - began
    if as_json:
        scored: dict[str, Any] = {"candidates": item.size, "items": samples.items.height, "left_out_as_seen": left_out}
        scored |= {"seconds": seconds, **about, "retriever": request.first_stage}
        found = {"for": asker.name, "recommendations": ranked.to_dicts(), "scored": scored}
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    past = recommender.past(asker)
    titles = samples.items["title"].gather(past.item).to_list()
    model = f"{about['model']} {'without an adapter' if about['adapter'] is None else 'with ' + about['adapter']}"
    how = "" if request.first_stage is None else f", found by {request.first_stage}"
    seen = f"; {left_out:,} left out as rated before" if left_out else ""
    count = f"{item.size:,} of {samples.items.height:,} items"
    console.out.print()
    said = history_line(asker.name, titles, past.rating.tolist(), shown, console.out.width)
    console.out.print(said, highlight=False)
    console.out.print()
    console.out.print(rich_table(ranked, console.out.width))
    console.out.print()
    console.out.print(f"{model} scored {count}{how}, in {clock(seconds)}{seen}", highlight=False, style="dim")


def _for_all(
    recommender: "Recommender", request: Request, data: "Prepared", key: dict[str, Any], as_json: bool
) -> None:
    """Rank for all users into a file, and print what it holds."""
    import polars as pl

    from palate.recommend.batch import recommend_all
    from palate.recommend.recommender import Asker

    out = request.out
    assert out is not None
    runs = data.samples.timeline["user_id"].rle().struct.unnest()
    ends = runs["len"].cast(pl.Int64).cum_sum().to_list()
    users = runs["value"]
    each = zip(users.to_list(), [0, *ends[:-1]], ends, strict=True)
    askers = [Asker(f"user {user}", begin, end) for user, begin, end in each]
    found = recommend_all(recommender, askers, users, request.top_k, out, key, console.err)
    count = found["user_id"].n_unique()
    if as_json:
        print(json.dumps({"file": str(out), "users": count, "rows": found.height}, indent=2))
        return
    told = f"{found.height:,} recommendations for {count:,} users in {out}"
    console.out.print(told, highlight=False, soft_wrap=True)


def _files(config: Config, request: Request, data: "Prepared") -> "tuple[pl.DataFrame | None, Longs | None]":
    """The history and the candidates that files name."""
    from palate.recommend.files import read_candidates, read_history
    from palate.recommend.lookup import Lookup

    lookup = Lookup(data.samples.items)
    columns = {str(role): name for role, name in config.ratings.columns.items()}
    scale = _scale(config, data)
    guest = None if request.history is None else read_history(request.history, lookup, scale, columns)
    listed = None if request.candidates is None else read_candidates(request.candidates, lookup)
    return guest, listed


def _scale(config: Config, data: "Prepared") -> tuple[float, float]:
    """The lowest and highest rating that the data may hold, whether or not the log holds them."""
    scale = config.ratings.scale or data.manifest["stats"].get("scale")
    if scale is None:  # prepared before the manifest had it
        rating = data.samples.timeline["rating"].to_numpy()
        scale = (rating.min(), rating.max())
    low, high = scale
    return float(low), float(high)


def _asker(request: Request, data: "Prepared", guest: "pl.DataFrame | None") -> "Asker":
    """The one who asks; raises `InputError` for a user that has no ratings."""
    import polars as pl

    from palate.recommend.recommender import Asker

    timeline = data.samples.timeline
    if guest is not None:
        return Asker(str(request.history), timeline.height, timeline.height + guest.height)
    users = timeline["user_id"]
    rows = (users.cast(pl.String) == request.user).arg_true()
    if not len(rows):
        few = f"from {users.min()!s} to {users.max()!s}" if users.dtype.is_integer() else f"such as {users[0]}"
        name = data.manifest["stats"]["name"]
        raise InputError(f"{name} has no user {request.user!r}, expected one of {users.n_unique():,} {few}", "--user")
    return Asker(f"user {request.user}", int(rows[0]), int(rows[-1]) + 1)


def _recommender(
    config: Config,
    request: Request,
    data: "Prepared",
    scorer: "Scorer",
    named: "tuple[pl.DataFrame | None, Longs | None]",
    calibration: Calibration | None,
) -> "Recommender":
    """The model and its candidates; `named` are the history and the candidates of files."""
    from palate.baselines.means import Means
    from palate.baselines.retriever import ItemKNN, Popularity, RetrieverData
    from palate.recommend.recommender import Candidates, Recommender
    from palate.samples.lines import renderer
    from palate.samples.questions import asked_now
    from palate.score.prompt_writer import PromptWriter

    guest, listed = named
    questions = asked_now(data.samples, guest)
    render = renderer(questions.samples, config.prompt)
    known = RetrieverData.of(data.samples)
    candidates = Candidates(listed=listed, include_seen=request.include_seen)
    if request.retrieve is not None:
        kind = Popularity if request.first_stage == "popularity" else ItemKNN
        candidates = Candidates(kind.fit(known), request.retrieve, include_seen=request.include_seen)
    return Recommender(
        scorer,
        PromptWriter(render, scorer.chat, token_options(config)),
        render.item.to_numpy().astype(np.int64),
        int(questions.target[0]),
        Means.fit(known),
        candidates,
        calibration,
        config.evaluate.batch_size,
    )

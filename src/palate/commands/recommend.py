"""Recommend: what a user, a written history, or every user would most likely like."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from palate import console
from palate.commands.calibrate import source_of
from palate.commands.evaluate import model_name
from palate.commands.prepare import prepared, token_options
from palate.commands.server_model import check_scored_with
from palate.commands.train import load_scorer, model_key
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.measure.calibration import FILE, load_calibration, sigmoid
from palate.progress import clock
from palate.store.artifacts import sha256_file, sha256_of

if TYPE_CHECKING:
    import polars as pl

    from palate.baselines.retriever import Retriever, RetrieverData
    from palate.recommend.recommender import Asker, Calibrate, Recommender
    from palate.samples import Prepared
    from palate.score.scorer import Scorer

RetrieverName = Literal["item-knn", "popularity"]
RETRIEVERS: tuple[RetrieverName, ...] = ("item-knn", "popularity")


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
    retriever: RetrieverName | None = None
    candidates: Path | None = None
    include_seen: bool = False
    out: Path | None = None
    """The Parquet file of `all_users`."""

    def __post_init__(self) -> None:
        if (self.user is not None) + (self.history is not None) + self.all_users != 1:
            raise InputError("says for whom, expected one of --user, --history and --all-users", "palate recommend")
        if self.top_k < 1:
            raise InputError(f"{self.top_k}, expected 1 or more", "--top-k")
        if self.retrieve is not None and self.retrieve < self.top_k:
            raise InputError(f"{self.retrieve}, expected as many as --top-k at least: {self.top_k}", "--retrieve")
        if self.retrieve is not None and self.candidates is not None:
            raise InputError("names the candidates, expected no --retrieve beside it", "--candidates")
        if self.retriever is not None and self.retrieve is None:
            raise InputError("says who finds candidates, expected --retrieve N beside it", "--retriever")
        if self.all_users and (self.out is None or self.out.suffix != ".parquet"):
            raise InputError("writes a file, expected --out FILE.parquet beside it", "--all-users")
        if self.out is not None and not self.all_users:
            raise InputError("says where --all-users writes, expected it beside it", "--out")


def recommend(
    config: Config, request: Request, *, adapter: Path | None = None, base_only: bool = False, as_json: bool = False
) -> None:
    """Print recommendations for one user, or write those for all users.

    Without `adapter` it is the run's own. Raises `InputError` if there is no adapter, unless `base_only` asks for none,
    for a user that has no ratings, and for files that name what is not there.
    """
    from palate.models.adapter import as_trained, check_same_prompt, chosen_adapter

    console.start_logging()
    adapter = chosen_adapter(config, adapter, base_only)  # what is wrong is told before anything is loaded
    config = as_trained(config, adapter)
    data = prepared(config)
    guest, listed = _files(config, request, data)
    asker = None if request.all_users else _asker(request, data, guest)
    chat = check_scored_with(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    if request.all_users:
        _for_all(config, request, data, adapter, listed, as_json)
    elif asker is not None:
        _for_one(config, request, data, adapter, listed, asker, guest, as_json)


def calibration_of(config: Config, scorer: "Scorer", adapter: Path | None) -> "tuple[Calibrate, str | None]":
    """P(like) of logits by the calibration that lies beside the adapter, and the hash of its file; else uncalibrated.

    Raises `InputError` if the calibration is of another model, adapter or prompt.
    """
    folder = adapter or config.run_path
    known = None
    if config.score.calibration != "none":
        source = source_of(config, scorer.chat, model_key(scorer, config, adapter))
        known = load_calibration(folder, source=source)
    if known is None:
        log.info("P(like) is not calibrated: %s holds no calibration", folder)
    p_of = sigmoid if known is None else known.p

    def p(logit: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(p_of(logit.astype(np.float64)), np.float32)

    return p, None if known is None else sha256_file(folder / FILE)


def _for_one(
    config: Config,
    request: Request,
    data: "Prepared",
    adapter: Path | None,
    listed: NDArray[np.int64] | None,
    asker: "Asker",
    guest: "pl.DataFrame | None",
    as_json: bool,
) -> None:
    """Rank for one asker, and print."""
    from palate.progress import Meter
    from palate.recommend.table import history_line, rich_table

    recommender = _recommender(config, request, data, adapter, listed, guest)
    _say_if_short(recommender, asker)
    item, left_out = recommender.asked(asker)
    items = data.samples.items.height
    if not item.size:
        place = request.candidates or "palate recommend"
        raise InputError(f"{asker.name} has rated every candidate, expected others or --include-seen", place)
    began = time.monotonic()
    with Meter("scoring", item.size, "candidates", console=console.err) as meter:
        ranked = recommender.rank(asker, item, request.top_k, meter.advance)
    seconds = time.monotonic() - began
    if as_json:
        scored = {"candidates": int(item.size), "items": items, "left_out_as_seen": left_out, "seconds": seconds}
        about = {"model": model_name(config), "adapter": adapter and str(adapter), "retriever": _retriever(request)}
        found = {"for": asker.name, "recommendations": ranked.to_dicts(), "scored": scored | about}
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    past = recommender.past(asker)
    titles = data.samples.items["title"].gather(past.item).to_list()
    console.out.print()
    said = history_line(asker.name, titles, past.rating.tolist(), recommender.shown(asker), console.out.width)
    console.out.print(said, markup=False, highlight=False)
    console.out.print()
    console.out.print(rich_table(ranked, console.out.width))
    how = f", found by {_retriever(request)}" if request.retrieve is not None else ""
    seen = f"; {left_out:,} left out as rated before" if left_out else ""
    model = f"{model_name(config)} {f'with {adapter}' if adapter is not None else 'without an adapter'}"
    told = f"{model} scored {item.size:,} of {items:,} items{how}, in {clock(seconds)}{seen}"
    console.out.print()
    console.out.print(told, markup=False, highlight=False, style="dim")


def _for_all(
    config: Config,
    request: Request,
    data: "Prepared",
    adapter: Path | None,
    listed: NDArray[np.int64] | None,
    as_json: bool,
) -> None:
    """Rank for all users into a file, and print what it holds."""
    import polars as pl

    from palate.recommend.batch import kept_recommendations, recommend_all
    from palate.recommend.recommender import Asker

    out = request.out
    assert out is not None
    kept_recommendations(out, {})  # a file that is not ours is told before a model is loaded
    recommender = _recommender(config, request, data, adapter, listed, None)
    scorer = recommender.scorer
    key = {
        "data": {name: data.manifest["outputs"][name] for name in ("ratings.parquet", "items.parquet")},
        "options": data.manifest["options"],
        "tokens": config.tokens.model_dump(mode="json", exclude={"num_proc"}),
        **model_key(scorer, config, adapter),
        "calibration": calibration_of(config, scorer, adapter)[1],
        "candidates": "all" if listed is None else sha256_of(listed.tolist()),
        "include_seen": request.include_seen,
        "retriever": _retriever(request),
        "retrieve": request.retrieve,
        "top_k": request.top_k,
    }
    runs = data.samples.timeline["user_id"].rle().struct.unnest()
    ends = runs["len"].cast(pl.Int64).cum_sum().to_list()
    users = runs["value"]
    askers = [
        Asker(f"user {user}", begin, end)
        for user, begin, end in zip(users.to_list(), [0, *ends[:-1]], ends, strict=True)
    ]
    found = recommend_all(recommender, askers, users, request.top_k, out, key, console.err)
    count = found["user_id"].n_unique()
    if as_json:
        print(json.dumps({"file": str(out), "users": count, "rows": found.height}, indent=2))
        return
    told = f"{found.height:,} recommendations for {count:,} users in {out}"
    console.out.print(told, markup=False, highlight=False, soft_wrap=True)


def _files(
    config: Config, request: Request, data: "Prepared"
) -> "tuple[pl.DataFrame | None, NDArray[np.int64] | None]":
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
    adapter: Path | None,
    listed: NDArray[np.int64] | None,
    guest: "pl.DataFrame | None",
) -> "Recommender":
    """The model, and what it is to be asked."""
    from palate.baselines.means import Means
    from palate.baselines.retriever import RetrieverData
    from palate.recommend.recommender import Candidates, Recommender
    from palate.samples.lines import renderer
    from palate.samples.questions import asked_now
    from palate.score.prompt_writer import PromptWriter

    questions = asked_now(data.samples, guest)
    render = renderer(questions.samples, config.prompt)
    known = RetrieverData.of(data.samples)
    candidates = Candidates(listed=listed, include_seen=request.include_seen)
    if request.retrieve is not None:
        candidates = Candidates(_fitted(request, known), request.retrieve, include_seen=request.include_seen)
    scorer = load_scorer(config, adapter)
    return Recommender(
        scorer,
        PromptWriter(render, scorer.chat, token_options(config)),
        render.item.to_numpy().astype(np.int64),
        int(questions.target[0]),
        Means.fit(known),
        candidates,
        calibration_of(config, scorer, adapter)[0],
        config.evaluate.batch_size,
    )


def _fitted(request: Request, known: "RetrieverData") -> "Retriever":
    """The retriever that is asked for."""
    from palate.baselines.retriever import ItemKNN, Popularity

    return Popularity.fit(known) if _retriever(request) == "popularity" else ItemKNN.fit(known)


def _retriever(request: Request) -> RetrieverName | None:
    """The retriever that is asked for, None if none is."""
    return None if request.retrieve is None else request.retriever or RETRIEVERS[0]


def _say_if_short(recommender: "Recommender", asker: "Asker") -> None:
    """Tell of a history that is shorter than those that the model was trained on."""
    wanted, shown = recommender.prompts.render.samples.history_len, recommender.shown(asker)
    if shown < wanted:
        log.warning("%s has %d of the %d ratings that prompts showed in training", asker.name, shown, wanted)

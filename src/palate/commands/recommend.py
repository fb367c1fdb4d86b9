"""Recommend: what a user, a written history, or every user would most likely like."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from palate import __version__, console
from palate.commands.calibrate import source_of
from palate.commands.correction import correction_of
from palate.commands.evaluate import model_name
from palate.commands.item_vectors import check_vectors
from palate.commands.prepare import kept_baselines, prepared, text_vectors, token_options
from palate.commands.score import load_scorer, model_key
from palate.commands.server_model import check_scored_with
from palate.commands.signals import signals_now
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.measure.calibration import FILE, Calibration, load_calibration, sigmoid
from palate.measure.offset import load_offset
from palate.progress import clock
from palate.store.artifacts import sha256_file, sha256_of

if TYPE_CHECKING:
    import polars as pl

    from palate.baselines.platt import Predict
    from palate.baselines.statistics import BaselineData
    from palate.recommend.recommender import Asker, BaselineScores, Recommender, Score
    from palate.samples import Prepared, Samples
    from palate.score.backend import InOrder
    from palate.text.vectors import Vectors

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
        recipients = (self.user is not None) + (self.history is not None) + self.all_users
        if recipients != 1:
            found = f"names {'several recipients' if recipients else 'no recipient'}"
            raise InputError(f"{found}, expected one of --user, --history and --all-users", "palate recommend")
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


@dataclass(frozen=True)
class _Model:
    """A language model or a baseline that ranks."""

    name: str
    """In the last line of the output."""
    about: dict[str, str | None]
    """In the JSON."""
    key: dict[str, Any]
    """What its scores depend on, beside the data."""
    score: "Score"
    samples: "Samples"
    """The log, then the ratings of the guest."""
    item: Longs
    """The row in the item table of each row of the timeline."""
    calibration: Calibration | None = None
    prompts: bool = True
    """Whether it reads prompts."""
    in_order: "InOrder" = map
    """How it works through the users."""


def recommend(
    config: Config,
    request: Request,
    *,
    adapter: Path | None = None,
    base_only: bool = False,
    baseline: str | None = None,
    as_json: bool = False,
) -> None:
    """Print recommendations for one user, or write those for all users, with a language model or with a baseline.

    Without `adapter` it is the run's own. Raises `InputError` if there is no adapter, unless `base_only` is set, for a
    user without ratings, and for files that name unknown items.
    """
    from palate.recommend.batch import kept_recommendations
    from palate.samples.prepared import hashes_of

    console.start_logging()
    if baseline is None:
        config, adapter = _with_adapter(config, adapter, base_only)
    elif adapter is not None or base_only:
        raise InputError(f"{baseline} is a baseline, expected neither --adapter nor --base-only beside it", "--model")
    elif config.engine.name == "ray":
        raise InputError(f"{baseline} is a baseline, which ranks in this process, expected local", "--engine")
    data = prepared(config)
    guest, listed = _files(config, request, data)
    asker = None if request.all_users else _asker(request, data, guest)
    if request.out is not None:
        kept_recommendations(request.out, {})
    if baseline is None:
        model = _language_model(config, data, adapter, guest)
    else:
        model = _baseline(config, data, baseline, guest)
    recommender = _recommender(request, data, model, listed)
    if asker is not None:
        _for_one(recommender, request, asker, model, as_json)
        return
    key = {
        "data": hashes_of(data.manifest),
        "options": data.manifest["options"],
        **model.key,
        "candidates": "all" if listed is None else sha256_of(listed.tolist()),
        "include_seen": request.include_seen,
        "retriever": request.first_stage,
        "retrieve": request.retrieve,
        "top_k": request.top_k,
    }
    _for_all(recommender, request, data, key, as_json, model.in_order)


def _with_adapter(config: Config, adapter: Path | None, base_only: bool) -> tuple[Config, Path | None]:
    """The config with the base model that the chosen adapter names; wrong input is reported before anything loads."""
    from palate.models.adapter import as_trained, chosen_adapter

    adapter = chosen_adapter(config, adapter, base_only)
    return as_trained(config, adapter), adapter


def _language_model(config: Config, data: "Prepared", adapter: Path | None, guest: "pl.DataFrame | None") -> _Model:
    """The base model, with an adapter and its calibration if there are any."""
    from palate.models.adapter import check_same_prompt
    from palate.recommend.recommender import PromptScores, SumScores
    from palate.samples.lines import renderer
    from palate.samples.questions import asked_now
    from palate.score.prompt_writer import PromptWriter

    chat = check_scored_with(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    check_vectors(config, data, adapter)
    scorer = load_scorer(config, adapter)
    key = model_key(scorer, config, adapter)
    folder = adapter or config.run_path
    calibration = None
    sum_of = correction_of(config, data, adapter, load_offset(folder, source=source_of(config, chat, key)))
    if sum_of is None and config.score.calibration != "none":
        calibration = load_calibration(folder, source=source_of(config, chat, key))
    if calibration is None and sum_of is None:
        log.info("P(like) is not calibrated: %s holds no calibration", folder)
    questions = asked_now(data.samples, guest)
    asked = signals_now(config, data.samples, kept_baselines(config, data), guest)
    render = renderer(questions.samples, config.prompt, asked)
    prompts = PromptWriter(render, scorer.chat, token_options(config))
    about = {"model": model_name(config), "adapter": None if adapter is None else str(adapter)}
    own = PromptScores(scorer, prompts, int(questions.target[0]), config.evaluate.batch_size)
    score: Score = own
    name = f"{about['model']} {'without an adapter' if adapter is None else f'with {adapter}'}"
    if sum_of is not None:
        sum_of.warn()
        vectors = text_vectors(config, data) if sum_of.reads_text else None
        baseline = _baseline_scores(config, data, sum_of.predictor, guest, vectors)
        score, name = (
            SumScores(own, baseline, sum_of.offset.added, sum_of.offset.alpha),
            f"{sum_of.offset.baseline} + {name}",
        )
        key = {**key, "offset": sum_of.describe()}
    return _Model(
        name=name,
        about=about,
        key={
            "tokens": config.tokens.model_dump(mode="json", exclude={"num_proc"}),
            **key,
            "calibration": None if calibration is None else sha256_file(folder / FILE),
        },
        score=score,
        samples=questions.samples,
        item=render.item.to_numpy().astype(np.int64),
        calibration=calibration,
        in_order=scorer.in_order,
    )


def _baseline(config: Config, data: "Prepared", name: str, guest: "pl.DataFrame | None") -> _Model:
    """A baseline as the run kept it; fitted first, and kept, if the run has none."""
    from palate.baselines.registry import RANKERS, fit_one, stored
    from palate.baselines.statistics import BaselineData
    from palate.samples.queries import item_rows
    from palate.samples.questions import asked_now

    baseline, kept = RANKERS[name], kept_baselines(config, data)
    if baseline.lacks_package:
        raise InputError(f"{name} needs {baseline.needs}: pip install 'palate[train]'", "--model")
    if baseline.reads_text and config.text.encoder is None:
        raise InputError(f"{name} reads the items' text, expected an encoder: --set text.encoder=minilm", "--model")
    vectors = text_vectors(config, data) if baseline.reads_text else None
    state = stored(baseline, kept, vectors)
    if state is None:
        state = fit_one(baseline, BaselineData.of(data.samples, config.seed, vectors=vectors), kept)
    identity = {} if vectors is None else {"text": vectors.identity}
    samples = asked_now(data.samples, guest).samples
    return _Model(
        name=baseline.label,
        about={"model": name, "adapter": None},
        key={"palate": __version__, "baseline": name, "seed": config.seed} | identity,
        score=_baseline_scores(config, data, lambda known: baseline.predictor(known, state), guest, vectors),
        samples=samples,
        item=item_rows(samples),
        prompts=False,
    )


def _baseline_scores(
    config: Config,
    data: "Prepared",
    of: "Callable[[BaselineData], Predict]",
    guest: "pl.DataFrame | None",
    vectors: "Vectors | None",
) -> "BaselineScores":
    """Scores by a fitted baseline after every user's last rating, the guest's included."""
    from palate.baselines.statistics import BaselineData
    from palate.recommend.recommender import BaselineScores, ends_of, with_ends

    guests = 0 if guest is None else 1
    known = BaselineData.of(with_ends(data.samples, guest), config.seed, guests, vectors)
    return BaselineScores(of(known), ends_of(data.samples))


def _for_one(recommender: "Recommender", request: Request, asker: "Asker", model: _Model, as_json: bool) -> None:
    """Rank for one asker, and print."""
    from palate.progress import Meter
    from palate.recommend.table import history_line, rich_table

    samples, shown = recommender.samples, recommender.shown(asker)
    if model.prompts and shown < samples.history_len:
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
        scored |= {"seconds": seconds, **model.about, "retriever": request.first_stage}
        found = {"for": asker.name, "recommendations": ranked.to_dicts(), "scored": scored}
        console.print_json(found)
        return
    past = recommender.past(asker)
    titles = samples.items["title"].gather(past.item).to_list()
    how = "" if request.first_stage is None else f", found by {request.first_stage}"
    seen = f"; {left_out:,} left out as rated before" if left_out else ""
    count = f"{item.size:,} of {samples.items.height:,} items"
    console.out.print()
    width, likes = console.out.width, samples.likes is not None
    said = history_line(asker.name, titles, past.rating.tolist(), shown if model.prompts else None, width, likes=likes)
    console.out.print(said, highlight=False)
    console.out.print()
    console.out.print(rich_table(ranked, width, likes=likes))
    console.out.print()
    console.out.print(f"{model.name} scored {count}{how}, in {clock(seconds)}{seen}", highlight=False, style="dim")


def _for_all(
    recommender: "Recommender", request: Request, data: "Prepared", key: dict[str, Any], as_json: bool,
    in_order: "InOrder",
) -> None:  # fmt: skip
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
    found = recommend_all(recommender, askers, users, request.top_k, out, key, console.err, in_order)
    count = found["user_id"].n_unique()
    if as_json:
        console.print_json({"file": str(out), "users": count, "rows": found.height})
        return
    told = f"{found.height:,} recommendations for {count:,} users in {out}"
    console.out.print(told, highlight=False, soft_wrap=True)


def _files(config: Config, request: Request, data: "Prepared") -> "tuple[pl.DataFrame | None, Longs | None]":
    """The history and the candidates that files name."""
    from palate.recommend.files import read_candidates, read_history
    from palate.recommend.lookup import Lookup

    lookup = Lookup(data.samples.items)
    columns = {str(role): name for role, name in config.ratings.columns.items()}
    scale = scale_of(config, data)
    guest = None if request.history is None else read_history(request.history, lookup, scale, columns)
    listed = None if request.candidates is None else read_candidates(request.candidates, lookup)
    return guest, listed


def scale_of(config: Config, data: "Prepared") -> tuple[float, float]:
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


def _recommender(request: Request, data: "Prepared", model: _Model, listed: "Longs | None") -> "Recommender":
    """The model and its candidates; `listed` are those of a file."""
    from palate.baselines.means import Means
    from palate.baselines.retriever import ItemKNN, Popularity, RetrieverData
    from palate.recommend.recommender import Candidates, Recommender

    known = RetrieverData.of(data.samples)
    candidates = Candidates(listed=listed, include_seen=request.include_seen)
    if request.retrieve is not None:
        kind = Popularity if request.first_stage == "popularity" else ItemKNN
        candidates = Candidates(kind.fit(known), request.retrieve, include_seen=request.include_seen)
    to_p = sigmoid if model.calibration is None else model.calibration.p
    return Recommender(model.score, model.samples, model.item, Means.fit(known), candidates, to_p)

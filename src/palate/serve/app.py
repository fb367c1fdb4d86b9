"""`app_of`: the routes of the service, and the state behind them."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.openapi.utils import get_openapi
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from palate import __version__
from palate.serve import schemas
from palate.serve.admission import Admission, Emit, Stopped
from palate.serve.answers import Answers
from palate.serve.engine import TOGETHER
from palate.serve.examples import EXAMPLES
from palate.serve.guard import LOCAL, Guard
from palate.serve.metrics import Metrics
from palate.serve.problems import ProblemError, add_handlers, documented, expect_json
from palate.serve.source import EngineSource
from palate.serve.store import Store
from palate.validation import shown

log = logging.getLogger("palate.serve")
T = TypeVar("T")

PAGE = Path(__file__).parent / "page"
POLL = 2.0
"""Seconds between two looks for a new release."""
FINDINGS = 60.0
"""Seconds for which findings about the store are kept."""
ASKED = documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
STORED = documented(400, 401, 403, 408, 409, 413, 415, 422, 429, 503)
READ = documented(401, 403, 404, 422, 429, 503)
JSON = [Depends(expect_json)]
EVENTS = {"start": "Started", "scored": "ScoredPart", "end": "RecommendAnswer", "error": "Problem"}
"""The events of a stream, and the schemas of their data."""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {
                    "description": "each event",
                    "oneOf": [
                        {
                            "type": "object",
                            "required": ["event", "data"],
                            "examples": [{"event": event, "data": json.dumps(EXAMPLES[schema][0])}],
                            "properties": {
                                "event": {"const": event},
                                "data": {
                                    "type": "string",
                                    "contentMediaType": "application/json",
                                    "contentSchema": {"$ref": f"#/components/schemas/{schema}"},
                                },
                            },
                        }
                        for event, schema in EVENTS.items()
                    ],
                }
            }
        }
    }
}
REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""What the report may load: its own styles and pictures, which lie in the file."""
DESCRIPTION = f"""Recommendations by the models of a run. A person is a user of the log, or a history of rated items.
Errors are `application/problem+json` (RFC 9457). The service listens before its models are loaded: until then all
routes but `/healthz` and `/metrics` answer 503 with `Retry-After`, a problem of the type `{schemas.LOADING}`."""


@dataclass(frozen=True)
class Options:
    """Limits of the service, and its API key."""

    key: str | None = None
    """Without it the service answers only under the names of this machine."""
    names: tuple[str, ...] = LOCAL
    in_work: int = 16
    """Requests that a language model works on at once, in common batches; classical models take one for each core."""
    queue: int = 64
    """Requests that wait for these; further ones get 429."""
    seconds: float = 60.0
    """Longest work on a request, and longest wait before it."""
    body: int = 4 << 20
    """Most bytes of a body."""
    retrieve: int = 50
    """Candidates of the first stage, if a request names no number."""
    findings: Callable[[], Mapping[str, float]] | None = None
    """Values for `/metrics` that take seconds, as `palate.serve.monitor.gauges`; read again every minute at most."""
    log_requests: bool = False
    """Log the path, query and client of requests; else only the route."""
    log_routes: bool = False
    """Log the route without `--verbose`, too."""


@dataclass
class Service:
    """What the routes share."""

    source: EngineSource
    store: Store
    options: Options
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    """The service ends soon: `/readyz` says so, that no balancer sends more."""

    def __post_init__(self) -> None:
        self.models = Admission("model", self.options.in_work, self.options.queue, self.options.seconds)
        # Apart from language models, behind which they would wait. Classical models compute short questions that wait
        # together, so that more threads than cores have less work for each.
        self.classical = Admission("classical", TOGETHER, self.options.queue, self.options.seconds)
        # Items, users and the store answer in milliseconds, and do not wait behind the models.
        self.others = Admission("other", 8, 4 * self.options.queue, self.options.seconds)
        self.metrics.gauge("palate_queue", lambda: self.models.waiting + self.classical.waiting)
        self.metrics.gauge("palate_in_flight", lambda: self.models.in_work + self.classical.in_work)
        self.metrics.gauge("palate_swaps", lambda: self.source.swaps)
        self.metrics.gauge("palate_release_refused", lambda: float(self.source.refused))
        self.metrics.gauges(self._of_engine)
        self._found: dict[str, float] = {}
        self._next = -FINDINGS
        self._looking: asyncio.Future[None] | None = None

    def look(self) -> None:
        """Read the findings in a thread if the last ones are older than a minute; `/metrics` does not wait for them."""
        read, now = self.options.findings, time.monotonic()
        if read is None or now < self._next:
            return
        self._next = now + FINDINGS

        def keep() -> None:
            try:
                self._found = dict(read())
            except Exception as error:
                log.error("the store cannot be looked through: %s", error)

        self._looking = asyncio.ensure_future(asyncio.to_thread(keep))

    def _of_engine(self) -> Mapping[str, float]:
        if self.source.loading:
            return self._found
        with self.source.lease() as serving:
            offered: Callable[[], Mapping[str, float]] | None = getattr(serving.engine, "gauges", None)
            own = {} if offered is None else {f"palate_{name}": value for name, value in offered().items()}
        return own | self._found

    def line(self, asked: schemas.Person) -> Admission:
        """Where a request waits: by the models that it asks."""
        keys = [getattr(asked, "model", None), *getattr(asked, "beside", ())]
        with self.source.lease() as serving:
            engine = serving.engine
            models = [engine.models.get(key or engine.default) for key in keys]
        return self.classical if all(m is None or m.kind == "baseline" for m in models) else self.models

    def answering(self, call: Callable[[Answers, Stopped], T]) -> Callable[[Stopped], T]:
        """A call that is given the current engine when its thread begins."""

        def work(stopped: Stopped) -> T:
            with self.source.lease() as serving:
                scored = self.metrics.scored.inc
                return call(Answers(serving, self.store, self.options.retrieve, scored), stopped)

        return work

    async def check_ready(self) -> None:
        """Raise `ProblemError` unless requests are answered."""
        if self.draining:
            raise ProblemError(503, "the service ends")
        self.source.check()
        if not await asyncio.to_thread(self.store.ready):
            raise ProblemError(503, "the store does not answer")


def app_of(source: EngineSource, store: Store, options: Options) -> FastAPI:
    """The service's app; `app.state.service` is its `Service`. It loads the first engine when its lifespan begins."""
    service = Service(source, store, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # As a daemon it does not hold up the end of the process: nobody can interrupt the loading of a model.
        threading.Thread(target=source.open, name="loading", daemon=True).start()
        polling = asyncio.create_task(_poll(source))
        yield
        polling.cancel()
        service.models.close()
        service.classical.close()
        service.others.close()

    app = FastAPI(title="Palate", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    _add_models(app, service)
    _add_reading(app, service)
    _add_store(app, service)
    _add_health(app, service)
    free = {"/healthz", "/readyz", *_add_page(app)}
    add_handlers(app)
    app.add_middleware(
        Guard,
        metrics=service.metrics,
        key=options.key,
        local=options.names,
        body=options.body,
        free=free,
        log_requests=options.log_requests,
        log_routes=options.log_routes,
    )
    app.openapi = lambda: _openapi(app, options.key is not None)  # type: ignore[method-assign]
    return app


async def _poll(source: EngineSource) -> None:
    told = ""
    while True:
        await asyncio.sleep(POLL)
        try:
            await asyncio.to_thread(source.refresh)
        except Exception as error:  # a pointer that the next look may find whole
            if str(error) != told:
                told = str(error)
                log.error("the newest release cannot be read: %s", error)


def _add_models(app: FastAPI, service: Service) -> None:
    """The routes that ask a model."""
    line, answering = service.line, service.answering

    @app.post("/v1/score", dependencies=JSON, responses=ASKED)
    async def score(body: schemas.ScoreRequest, request: Request) -> schemas.ScoreAnswer:
        """P(like) of candidates, in their order."""
        return await line(body).run(request, answering(lambda answers, stopped: answers.score(body, stopped)))

    @app.post("/v1/recommend", dependencies=JSON, responses=ASKED | STREAM, response_model=schemas.RecommendAnswer)
    async def recommend(body: schemas.RecommendRequest, request: Request) -> Any:
        """The best items for a person; with `stream`, the events `start`, `scored`, `end` and `error` as they come."""
        if not body.stream:
            return await line(body).run(request, answering(lambda answers, stopped: answers.recommend(body, stopped)))

        def work(emit: Emit, stopped: Stopped) -> None:
            answering(lambda answers, stopped: answers.recommend(body, stopped, emit))(stopped)

        events = await line(body).stream(request, work)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    @app.post("/v1/explain", dependencies=JSON, responses=ASKED)
    async def explain(body: schemas.ExplainRequest, request: Request) -> schemas.ExplainAnswer:
        """Why this score: what each rating of the history does to it, by leaving it out."""
        return await line(body).run(request, answering(lambda answers, stopped: answers.explain(body, stopped)))

    @app.post("/v1/prompt", dependencies=JSON, responses=ASKED | documented(409))
    async def prompt(body: schemas.PromptRequest, request: Request) -> schemas.PromptAnswer:
        """What the language model reads for one candidate, token by token."""
        return await line(body).run(request, answering(lambda answers, _: answers.prompt(body)))


def _add_reading(app: FastAPI, service: Service) -> None:
    """The routes that read items, users and the model's description."""
    run, answering = service.others.run, service.answering

    @app.get("/v1/items", responses=READ)
    async def items(
        request: Request,
        q: Annotated[
            str,
            Query(
                min_length=1,
                max_length=schemas.TEXT,
                examples=["toy stori"],
                description="a title or a part of one, in any case, misspelt too",
            ),
        ],
        limit: Annotated[int, Query(ge=1, le=schemas.TOP, description="most items to find")] = 10,
    ) -> schemas.ItemsAnswer:
        """Search items by title; misspelt titles are found, too."""

        def find(answers: Answers, _: Stopped) -> schemas.ItemsAnswer:
            known = answers.serving.catalogue
            return schemas.ItemsAnswer(items=[known.described(row) for row in known.search(q, limit)])

        return await run(request, answering(find))

    @app.get("/v1/items/{item_id:path}", responses=READ)
    async def item(
        item_id: Annotated[str, InPath(description="an id of the item table")], request: Request
    ) -> schemas.ItemAnswer:
        """An item with all its columns."""

        def find(answers: Answers, _: Stopped) -> schemas.ItemAnswer:
            known = answers.serving.catalogue
            if (row := known.known(item_id)) is None:
                raise ProblemError(404, f"there is no item {shown(item_id)}, expected an id of the item table")
            return known.described(row)

        return await run(request, answering(find))

    @app.get("/v1/users/{user_id:path}", responses=READ)
    async def user(
        user_id: Annotated[
            str, InPath(min_length=1, max_length=schemas.TEXT, description="a user of the log or of the store")
        ],
        request: Request,
    ) -> schemas.UserAnswer:
        """A user's ratings: those of the log, then those that this service stored."""
        return await run(request, answering(lambda answers, _: answers.user(user_id)))

    @app.get("/v1/model", responses=documented(401, 403, 503))
    def model() -> schemas.ModelAnswer:
        """What serves: the models, their data, calibration, metrics and the verdict."""
        with service.source.lease() as serving:
            return serving.about.model_copy(update={"filter_values": serving.engine.filters.offered()})


def _add_store(app: FastAPI, service: Service) -> None:
    """The routes that store feedback: durable once they have answered."""
    run, answering = service.others.run, service.answering

    @app.post("/v1/ratings", dependencies=JSON, responses=STORED)
    async def ratings(body: schemas.RatingsRequest, request: Request) -> schemas.Stored:
        """Store ratings; later answers for these users read them."""
        return await run(request, answering(lambda answers, _: answers.store_ratings(body)))

    @app.post("/v1/events", dependencies=JSON, responses=STORED)
    async def events(body: schemas.EventsRequest, request: Request) -> schemas.Stored:
        """Store what happened to recommendations: shown, clicked, dismissed."""
        return await run(request, answering(lambda answers, _: answers.store_events(body)))


def _add_health(app: FastAPI, service: Service) -> None:
    """The routes for whoever runs the service."""

    @app.get("/healthz", responses=documented(403) | _text("ok"), response_class=PlainTextResponse)
    async def healthz() -> str:
        """The process answers, also while it loads the models: a liveness probe."""
        return "ok"

    @app.get("/readyz", responses=documented(403, 503) | _text("ready"), response_class=PlainTextResponse)
    async def readyz() -> str:
        """Requests are answered: the models are loaded, the store is open, and the service does not end.

        A readiness probe. While the models are being loaded 503 says for how long so far.
        """
        await service.check_ready()
        return "ready"

    page = _text("<!DOCTYPE html><title>demo · Palate</title>", "text/html")

    @app.get("/report", responses=documented(401, 403, 404, 503) | page, response_class=HTMLResponse)
    async def report() -> Response:
        """The run's report, a page without scripts."""
        service.source.check()
        file = service.source.folder and service.source.folder / "report.html"
        if file is None or not file.is_file():
            raise ProblemError(404, "this run has no report, `palate run` writes one")
        return FileResponse(file, headers={"Content-Security-Policy": REPORT})

    values = _text('palate_requests_total{route="/v1/score",status="200"} 1.0\n')

    @app.get("/metrics", responses=documented(401, 403) | values, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters and gauges in Prometheus's text format."""
        service.look()
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _text(example: str, kind: str = "text/plain") -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with text, for the OpenAPI description."""
    return {200: {"content": {kind: {"example": example}}}}


def _add_page(app: FastAPI) -> set[str]:
    """Serve the page's files; returns their paths. A mount at `/` would answer for all routes of another method."""
    files = StaticFiles(directory=PAGE)

    async def file(request: Request) -> Response:
        found = await files.get_response(request.url.path.lstrip("/") or "index.html", request.scope)
        found.headers["Cache-Control"] = "no-cache"  # a browser asks whether it is current
        return found

    paths = {"/", *(f"/{path.relative_to(PAGE).as_posix()}" for path in PAGE.rglob("*") if path.is_file())}
    for path in paths:
        app.add_route(path, file, include_in_schema=False)
    return paths


def _openapi(app: FastAPI, has_key: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 description, with the problems that routes answer with."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
        parts = made["components"]
        for model in (schemas.Problem, schemas.Started, schemas.ScoredPart):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            parts["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
        for name in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(name, None)
        for name, examples in EXAMPLES.items():
            parts["schemas"][name]["examples"] = examples
        if has_key:
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"key": []}]
            for path in ("/healthz", "/readyz"):
                made["paths"][path]["get"]["security"] = []
        app.openapi_schema = made
    return app.openapi_schema

"""Serve: a run's models behind HTTP, until a signal ends it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import console
from palate.config import Config, EngineConfig, Override, load_config
from palate.console import log
from palate.errors import InputError, PalateError, did_you_mean
from palate.store.artifacts import MANIFEST

if TYPE_CHECKING:
    from fastapi import FastAPI

    from palate.serve.engine import Engine
    from palate.serve.source import EngineSource

KEY_VARIABLE = "PALATE_API_KEY"
"""The environment variable with the key that clients send."""


@dataclass(frozen=True)
class Request:
    """How a run is served; see the options of `palate serve`."""

    host: str = "127.0.0.1"
    port: int = 8000
    store: str | None = None
    api_key_file: Path | None = None
    in_flight: int = 16
    queue: int = 64
    timeout: float = 60.0
    max_body: int = 4
    """MiB."""
    retrieve: int = 50
    log_requests: bool = False

    def __post_init__(self) -> None:
        for name, least in (("in_flight", 1), ("queue", 0), ("timeout", 0.1), ("max_body", 1), ("retrieve", 1)):
            value = getattr(self, name)
            if not value >= least:
                raise InputError(f"{value}, expected {least} or more", f"--{name.replace('_', '-')}")


def serve(config: Config, **options: Any) -> None:
    """Serve a run over HTTP; returns after SIGINT or SIGTERM, when every request in flight is answered.

    It listens first and loads the models then; a run without prepared data is prepared before. Raises `InputError`
    before it listens for a run that does not exist, a model that no run has, prepared data that is damaged, an address
    that is taken, and one that other machines reach without an API key; and later what the loading of the models
    raises, such as that this run lacks the model.
    """
    from palate.serve.server import bound, is_local, run, url_of

    console.start_logging()
    request = Request(**{each.name: options.pop(each.name) for each in fields(Request)})
    key = _key(request.api_key_file)
    if key is None and not is_local(request.host):
        reached = f"{request.host} can be reached from other machines"
        raise InputError(f"{reached}, expected an API key in ${KEY_VARIABLE} or --api-key-file", "--host")
    folder = config.run_path
    if not (folder / "config.yaml").is_file():
        raise InputError("there is no run, expected the folder that `palate run` made", folder)
    model = options.pop("model")
    _check_named(config, model)
    build = partial(_app, config, model, request, key, console.logs_json())

    def ready(url: str) -> None:
        console.out.print(f"serving {folder} at {url}", highlight=False, soft_wrap=True)

    if config.engine.name == "ray":
        with bound(request.host, request.port) as sock:  # Ray Serve opens its own
            address, url = sock.getsockname()[:2], url_of(sock)
        _on_cluster(config, request, partial(_open, build), address, partial(ready, url))
        return
    app = build()
    service = app.state.service
    try:
        sock = bound(request.host, request.port)
        failure = run(app, sock, request.timeout, partial(ready, url_of(sock)))
    finally:
        service.source.close()
        service.store.close()
    if failure is not None:
        raise failure
    if service.source.loading:  # in a thread, whose native code must not outlive the interpreter
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def _on_cluster(
    config: Config, request: Request, build: "partial[FastAPI]", address: tuple[str, int], ready: Callable[[], None]
) -> None:
    """Serve from replicas on a Ray cluster; raises `InputError` for a store that they cannot share."""
    from palate.cluster.service import serve_replicas
    from palate.ratings.database import connect

    if config.score.server is not None:
        raise InputError("scores already, expected no --engine ray beside it", "score.server")
    store = connect(_store_url(config, request), create=True)
    store.close()
    here = store.is_file
    if here and (config.engine.workers or 1) > 1:
        count = config.engine.workers
        raise InputError(f"is a file, which {count} replicas cannot share, expected postgresql://USER@HOST/NAME",
                         "--ratings")  # fmt: skip
    serve_replicas(build, config.engine, address, drain=2 * request.timeout + 1, here=here, on_ready=ready)


def _check_named(config: Config, model: str | None) -> None:
    """Raise `InputError` for a model that no run has; what this run kept shows when it is loaded."""
    from palate.baselines.registry import BASELINES
    from palate.serve.engine import ALONE, BASE, FINE_TUNED
    from palate.serve.release import current

    folder = current(config.run_path)
    has_language = config.score.server is not None or (folder / "adapter").is_dir()
    names = [*((FINE_TUNED, ALONE, BASE) if has_language else ()), *BASELINES]
    if model is not None and model not in names:
        raise InputError(f"is {model!r}, expected one of {', '.join(names)}{did_you_mean(model, names)}", "--model")


def _store_url(config: Config, request: Request) -> str:
    from palate.serve.release import feedback

    return request.store or config.ratings.also or feedback(config.run_path)


def _app(config: Config, model: str | None, request: Request, key: str | None, as_json: bool) -> "FastAPI":
    """The service's application of a run, with its models and its store; in each replica its own."""
    from palate.serve.app import Options, app_of
    from palate.serve.monitor import gauges
    from palate.serve.store import Store

    if not log.handlers:
        console.begin_log(as_json=as_json)
    config = config.model_copy(update={"engine": EngineConfig()})  # a replica scores by itself
    store = Store(_store_url(config, request))
    source = _source(config, model)
    limits = Options(
        key=key,
        names=(*Options.names, request.host),
        in_work=request.in_flight,
        queue=request.queue,
        seconds=request.timeout,
        body=request.max_body << 20,
        retrieve=request.retrieve,
        findings=lambda: gauges(config.run_path, store),
        log_requests=request.log_requests,
        log_routes=as_json,
    )
    return app_of(source, store, limits)


def _open(build: "partial[FastAPI]") -> "FastAPI":
    """The application with its models: Ray Serve takes a replica for ready when it is made."""
    app = build()
    source = app.state.service.source
    source.open()
    if source.failure is not None:
        raise source.failure
    return app


def _source(config: Config, model: str | None) -> "EngineSource":
    """The way to the engines of the run's current release and of the next ones.

    Raises `InputError` for what a look at the release's folder shows.
    """
    from palate.commands.prepare import check_prepared
    from palate.serve.release import POINTER, current
    from palate.serve.source import EngineSource

    run = config.run_path
    first = current(run)

    def load(folder: Path) -> "Engine":
        log.info("loading the models of %s", folder)
        engine = _loaded(config, model) if folder == run else _release(folder, model)
        engine.warm()
        return engine

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except PalateError as error:
            if first == run:
                raise
            why = f"cannot be served: {error}; remove {run / POINTER} to serve the run itself"
            raise InputError(why, first) from None

    def load_first() -> "Engine":
        with explained():
            return load(first)

    with explained():
        of = config if first == run else _config_of(first)
        if of.data_dir is None and of.ratings.source and not (of.data_path / MANIFEST).is_file():
            log.info("%s has no prepared data: it is prepared first, then the service listens", first)
        check_prepared(of)
    return EngineSource(load_first, lambda: current(run), load, run.name)


def _config_of(release: Path) -> Config:
    """The config of a release; raises `InputError` if it lacks prepared data."""
    config = load_config(release / "config.yaml", [Override("run_dir", str(release), str(release))])
    manifest = config.data_path / MANIFEST
    if not manifest.is_file():  # prepared here, its data would be others than those that were compared
        raise InputError("is missing, expected what `palate refresh` wrote", manifest)
    return config


def _release(folder: Path, model: str | None) -> "Engine":
    """The engine of a release, complete and with the model for which `palate refresh` switched; raises `InputError`."""
    from palate.serve.engine import FINE_TUNED
    from palate.serve.release import served

    engine, use = _loaded(_config_of(folder), model), served(folder)
    if (FINE_TUNED if use == "language-model" else use) not in engine.models:
        engine.close()
        raise InputError(f"lacks the model {use!r}, for which `palate refresh` switched to it", folder)
    return engine


def _loaded(config: Config, model: str | None) -> "Engine":
    from palate.commands.engine import engine_of

    try:
        return engine_of(config, model=model)
    except InputError as error:
        if error.place == "score.served_model":
            raise InputError(error.message, "--served-model") from None
        raise


def _key(file: Path | None) -> str | None:
    """The API key from a file, else from the environment; raises `InputError` for an empty one."""
    place: str | Path = KEY_VARIABLE if file is None else file
    if file is None:
        text = os.environ.get(KEY_VARIABLE)
    else:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}, expected a file with the API key", file) from None
        except UnicodeDecodeError:
            raise InputError("is not UTF-8 text, expected the API key", file) from None
    if text is None:
        return None
    if not text.strip():
        raise InputError("is empty, expected the API key", place)
    return text.strip()

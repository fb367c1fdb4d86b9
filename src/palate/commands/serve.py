"""Serve: a run's models behind HTTP, until a signal ends it."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import console
from palate.config import Config, Override, load_config
from palate.console import log
from palate.errors import InputError, PalateError
from palate.store.artifacts import MANIFEST

if TYPE_CHECKING:
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

    Raises `InputError` for a run that does not exist, an address that is taken, and one that other machines reach
    without an API key.
    """
    from palate.serve.app import Options, app_of
    from palate.serve.monitor import gauges
    from palate.serve.release import feedback
    from palate.serve.server import bound, is_local, run, url_of
    from palate.serve.store import Store

    console.start_logging()
    request = Request(**{each.name: options.pop(each.name) for each in fields(Request)})
    key = _key(request.api_key_file)
    if key is None and not is_local(request.host):
        reached = f"{request.host} can be reached from other machines"
        raise InputError(f"{reached}, expected an API key in ${KEY_VARIABLE} or --api-key-file", "--host")
    folder = config.run_path
    if not (folder / "config.yaml").is_file():
        raise InputError("there is no run, expected the folder that `palate run` made", folder)
    sock = bound(request.host, request.port)
    store = Store(request.store or config.ratings.also or feedback(folder))
    source = _source(config, options.pop("model"))
    limits = Options(
        key=key,
        names=(*Options.names, request.host),
        in_work=request.in_flight,
        queue=request.queue,
        seconds=request.timeout,
        body=request.max_body << 20,
        retrieve=request.retrieve,
        findings=lambda: gauges(folder, store),
        log_requests=request.log_requests,
        log_routes=console.logs_json(),
    )
    try:
        console.out.print(f"serving {folder} at {url_of(sock)}", highlight=False, soft_wrap=True)
        run(app_of(source, store, limits), sock, request.timeout)
    finally:
        source.close()
        store.close()


def _source(config: Config, model: str | None) -> "EngineSource":
    """The engine of the run's current release, and the way to the next one."""
    from palate.serve.release import POINTER, current
    from palate.serve.source import EngineSource

    run = config.run_path

    def load(folder: Path) -> "Engine":
        log.info("loading the models of %s", folder)
        engine = _loaded(config, model) if folder == run else _release(folder, model)
        engine.warm()
        return engine

    first = current(run)
    try:
        engine = load(first)
    except PalateError as error:
        if first == run:
            raise
        raise InputError(f"cannot be served: {error}; remove {run / POINTER} to serve the run itself", first) from None
    return EngineSource(engine, lambda: current(run), load)


def _release(folder: Path, model: str | None) -> "Engine":
    """The engine of a release, complete and with the model for which `palate refresh` switched; raises `InputError`."""
    from palate.serve.engine import FINE_TUNED
    from palate.serve.release import served

    config = load_config(folder / "config.yaml", [Override("run_dir", str(folder), str(folder))])
    manifest = config.data_path / MANIFEST
    if not manifest.is_file():  # prepared here, its data would be others than those that were compared
        raise InputError("is missing, expected what `palate refresh` wrote", manifest)
    engine, use = _loaded(config, model), served(folder)
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
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", "--api-key-file") from None
    if text is None:
        return None
    if not text.strip():
        raise InputError("is empty, expected the API key", place)
    return text.strip()

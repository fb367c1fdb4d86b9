"""Serving HTTP from processes of a Ray cluster, by Ray Serve."""

import logging
import re
import signal
import time
from collections.abc import Callable
from typing import Any

from palate.cluster.connection import Place, connect, on_node, slots
from palate.config import EngineConfig
from palate.errors import InputError, PalateError, WorkError

NAME = "palate"
"""The application of Ray Serve."""
HEAD = "node:__internal_head__"
"""The resource that Ray gives the head node alone."""
MANY = 2048
"""Requests that Ray Serve hands a replica at once: the application itself has them wait, and refuses."""


def serve_replicas(
    build: Callable[[], Any], engine: EngineConfig, address: tuple[str, int], *, drain: float, here: bool,
    on_ready: Callable[[], None],
) -> None:  # fmt: skip
    """Serve at an address of this node, the head, until SIGINT or SIGTERM, from `engine.workers` replicas (1).

    Each replica calls `build`, which returns its ASGI application; a picklable function of files that all nodes see.
    Ray Serve replaces a replica that ends. With `here` all are on this node. At the end requests in work have `drain`
    seconds. Raises `InputError` without Ray Serve, where it runs already, on another node than the head, and where
    this node has no room for `here`, and of `build`; `WorkError` if one ends before it is ready.
    """
    try:
        from ray import serve
    except ImportError:
        missing = "Ray Serve is not installed, expected it: pip install 'palate[ray-serve]'"
        raise InputError(missing, "--engine ray") from None
    ray = connect(engine)
    resources: dict[str, Any] = {**slots(ray, engine)[1]}
    nodes = {node["NodeID"]: node for node in ray.nodes()}
    node = nodes[ray.get_runtime_context().get_node_id()]
    has = node["Resources"]
    if HEAD not in has:
        raise InputError("listens at the head node of the cluster, expected this command there", "--engine ray")
    if here:
        if has.get("CPU", 0) < resources["num_cpus"] or has.get("GPU", 0) < resources.get("num_gpus", 0):
            why = "is a file, for which the replica must be on this node, which lacks its CPUs or GPU; expected"
            raise InputError(f"{why} postgresql://USER@HOST/NAME", "--ratings")
        resources |= {"resources": {f"node:{node['NodeManagerAddress']}": 0.001}}
    if any(each["namespace"] == "serve" for each in ray.util.list_named_actors(all_namespaces=True)):
        raise InputError("Ray Serve runs on this cluster already; `serve shutdown` ends it", "--engine ray")

    place = Place()

    def each() -> Any:
        try:
            place.enter()
            return build()
        except InputError as error:
            raise on_node(ray, error) from None

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    replica = serve.deployment(
        serve.ingress(each)(),
        name="replica",
        num_replicas=engine.workers or 1,
        ray_actor_options=resources,
        max_ongoing_requests=MANY,
        graceful_shutdown_timeout_s=drain,
        max_constructor_retry_count=1,  # a wrong option is wrong each time; successors are tried again and again
        logging_config={"log_level": "ERROR", "enable_access_log": False},  # which has paths, and these have ids
    )
    try:
        host, port = address
        options = {"host": host, "port": port}
        quiet = {"log_level": "CRITICAL", "enable_access_log": False}  # the controller repeats tracebacks of replicas
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config=quiet)
        try:
            serve.run(replica.bind(), name=NAME)
        except RuntimeError as error:
            status = serve.status().applications.get(NAME)
            messages = [each.message for each in status.deployments.values()] if status else []
            raise _cause("\n".join([str(error), *messages])) from error
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it is the wanted end, exit code 0
        on_ready()
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:  # of SIGTERM, too
            serve.delete(NAME, _blocking=False)  # ends when requests in work are answered; `shutdown` would cut them
            while NAME in serve.status().applications:
                time.sleep(0.1)
    finally:
        serve.shutdown()


def _cause(message: str) -> PalateError:
    """The error of Palate in the traceback of a replica, else one of its last line."""
    found = re.findall(r"palate\.errors\.InputError: (.*)", message)
    if found:
        return InputError(found[-1])
    return WorkError(f"the replicas do not start: {message.strip().splitlines()[-1]}")

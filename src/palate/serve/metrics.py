"""`Metrics`: what the service counts, for Prometheus."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Bounds of the latency histogram."""


class Metrics:
    """Counters of one service; every app has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "palate_requests",
            "requests by route and status; 499: the client left before the answer",
            ["route", "status"],
            **own,
        )
        self.seconds = Histogram("palate_request_seconds", "time to the answer", ["route"], buckets=SECONDS, **own)
        self.scored = Counter("palate_candidates_scored", "candidates that a model scored", **own)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is read when somebody asks."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def gauges(self, values: Callable[[], Mapping[str, float]]) -> None:
        """Values of any names, read when somebody asks, such as an engine's hits of its prefix cache."""
        self.registry.register(_Collector(values))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All values in Prometheus's text format."""
        return generate_latest(self.registry)


class _Collector:
    def __init__(self, values: Callable[[], Mapping[str, float]]) -> None:
        self._values = values

    def collect(self) -> Iterable[Metric]:
        for name, value in self._values().items():
            yield GaugeMetricFamily(name, name.removeprefix("palate_").replace("_", " "), value=value)

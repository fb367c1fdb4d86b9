"""`Metrics`: what the service counts, for Prometheus."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Bounds of the latency histogram."""
MEANINGS = {
    "palate_requests_total": "requests by route and status; 499: the client left before the answer",
    "palate_request_seconds": "seconds from a request to its answer, or to the end of its stream, by route",
    "palate_candidates_scored_total": "candidates that a model scored",
    "palate_queue": "requests that wait for a model",
    "palate_in_flight": "requests that a model works on",
    "palate_swaps": "releases taken since the start",
    "palate_release_refused": "1 if the newest release cannot be served, and the one before still is",
    "palate_model_requests": "requests in the line of the language model, not those in its current pass",
    "palate_model_passes": "passes of the language model since the release was loaded",
    "palate_prefix_hits": "histories found in the language model's cache since the release was loaded",
    "palate_prefix_misses": "histories that it had to compute",
    "palate_prefix_bytes": "size of the cached histories",
    "palate_stored_ratings": "ratings in the store",
    "palate_newer_ratings": "ratings in the store that the release was not built on",
    "palate_stored_events": "events in the store",
    "palate_drift_psi_ratings": "population stability index of the ratings, the newer against the learned ones",
    "palate_drift_psi_popularity": "population stability index of the popularity of the rated items",
    "palate_drift_psi_length": "population stability index of the length of the histories",
    "palate_drift_chance_ratings": "the PSI of the ratings that chance alone exceeds in one of 100 cases",
    "palate_drift_chance_popularity": "the PSI of the popularity that chance alone exceeds in one of 100 cases",
    "palate_drift_chance_length": "the PSI of the histories' length that chance alone exceeds in one of 100 cases",
    "palate_cold_users_share": "share of the users who rated that the models never learned from",
    "palate_cold_ratings_share": "share of the newer ratings by users with a shorter history than a prompt shows",
    "palate_cold_items_share": "share of the newly rated items that the models never learned from",
    "palate_cold_catalogue_share": "share of all items that the models never learned from",
    "palate_shown": "recommendations shown, by the model with the most that were rated later",
    "palate_answered": "of these, those that were rated later",
    "palate_answered_mean_p": "mean P(like) of these when they were shown",
    "palate_answered_liked_share": "share of these that the user liked",
    "palate_answered_slope": "calibration slope of these; 1 is right, less is overconfident",
    "palate_answered_ece": "expected calibration error of these",
    "palate_answered_ece_floor": "the expected calibration error that chance alone gives",
}
"""What each metric says, by its name; docs/serve.md lists them."""


class Metrics:
    """Counters of one service; every app has its own registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a line for each counter, with its first time
        self.registry = CollectorRegistry()

        def of(name: str) -> tuple[str, str]:
            return name, MEANINGS[name]

        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(*of("palate_requests_total"), ["route", "status"], **own)
        self.seconds = Histogram(*of("palate_request_seconds"), ["route"], buckets=SECONDS, **own)
        self.scored = Counter(*of("palate_candidates_scored_total"), **own)

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """A value that is read when somebody asks."""
        Gauge(name, MEANINGS[name], registry=self.registry).set_function(value)

    def gauges(self, values: Callable[[], Mapping[str, float]]) -> None:
        """Values by the names of `MEANINGS`, read when somebody asks, such as an engine's hits of its prefix cache."""
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
            yield GaugeMetricFamily(name, MEANINGS.get(name, name), value=value)

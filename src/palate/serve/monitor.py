"""Monitor: what a service's store says about the run that it serves, as findings and as gauges for `/metrics`."""

from dataclasses import asdict
from pathlib import Path

from palate.config import Override, load_config
from palate.measure.drift import Findings, findings
from palate.samples import load_prepared
from palate.serve.release import current
from palate.serve.store import Store


def look(run: Path, store: Store) -> Findings:
    """The findings about the folder that a run serves; reads its prepared ratings, and all of the store's."""
    folder = current(run)
    config = load_config(folder / "config.yaml", [Override("run_dir", str(folder), str(folder))])
    return findings(load_prepared(config.data_path, config.prepare.memory).samples, store.all_ratings(), store.events())


def gauges(run: Path, store: Store) -> dict[str, float]:
    """The findings as numbers by Prometheus names, without those that are undefined.

    Models share one calibration: that of the model with the most answers. Takes about as long as reading the prepared
    ratings, so a caller keeps the result for a minute.
    """
    found = look(run, store)
    values: dict[str, float | None] = {
        "palate_stored_ratings": found.stored,
        "palate_newer_ratings": found.newer,
        "palate_stored_events": found.events,
        **{f"palate_drift_psi_{each.of.split()[0]}": each.psi for each in found.drift},
        **{f"palate_drift_chance_{each.of.split()[0]}": each.chance for each in found.drift},
        **{f"palate_cold_{name}_share": share for name, share in asdict(found.cold).items()},
    }
    best = max(found.answered, key=lambda each: each.metrics.n, default=None)
    if best is not None:
        metrics = best.metrics
        values |= {"palate_shown": best.shown, "palate_answered": metrics.n, "palate_answered_mean_p": best.mean_p}
        values |= {"palate_answered_liked_share": metrics.base_rate, "palate_answered_slope": metrics.slope}
        values |= {"palate_answered_ece": metrics.ece, "palate_answered_ece_floor": metrics.ece_floor}
    return {name: float(value) for name, value in values.items() if value is not None}

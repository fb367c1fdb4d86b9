"""Page: templates filled in, with the filters and drawings that all of them share."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palate.measure.figures import bounds, difference_text, least, number
from palate.measure.metrics import METRIC_LABELS, metrics_in
from palate.report import forest, plots
from palate.report.table import cell, ece_text


def render(template: str, **told: Any) -> str:
    """A template of `pages/` as text. Whatever comes from outside is escaped: a title is never markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": cell,
        "ece": ece_text,
        "number": number,
        "bounds": bounds,
        "plain": plain,
        "least": least,
        "difference": difference_text,
    }
    environment.globals |= {"plots": plots, "forest": forest, "metrics_in": metrics_in, "metric_labels": METRIC_LABELS}
    return environment.get_template(template).render(**told)


def plain(value: Any) -> str:
    """A number as people write it, anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested statistics as (name, text), the names one behind the other."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name} · ")
        else:
            yield f"{prefix}{name}".replace("_", " "), plain(value)

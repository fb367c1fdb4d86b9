"""What the lines of a prompt may name, row by row: the slow and obvious way to what is rendered in columns."""

from typing import Any

from palate.prompt.item_tokens import FIELD, item_token
from palate.prompt.spec import PromptSpec
from palate.ratings.user_table import UNKNOWN
from palate.samples.build import Samples
from palate.samples.items import shown_items
from palate.samples.lines import renderer
from palate.samples.signals import NO_NEIGHBOUR

CONTEXT = PromptSpec(candidate_line="{item_mean} {item_count}")
"""A prompt that asks for the contexts and for nothing else."""


def prompt_rows(samples: Samples, prompt: PromptSpec) -> list[dict[str, Any]]:
    """Each row of the timeline: its item's columns and token, its rating, its signals, and its context if named."""
    shown = shown_items(samples.items).to_dicts()
    items = {row["item_id"]: row | {FIELD: item_token(n)} for n, row in enumerate(shown)}
    contexts = contexts_of(samples) if prompt.names_context else [{}] * samples.timeline.height
    rated = samples.timeline.select("item_id", "rating").rows()
    rows = [
        {**items[item], "rating": rating} | context for (item, rating), context in zip(rated, contexts, strict=True)
    ]
    if samples.signals is not None:
        titles = [*samples.items["title"], NO_NEIGHBOUR]  # NONE is the last
        for at, values in zip(samples.position.tolist(), samples.signals.to_dicts(), strict=True):
            rows[at] |= {**values, "neighbour": titles[values["neighbour"]]}
            if samples.users is not None and "user" in values:
                known = values["user"] >= 0
                person = samples.users.row(max(values["user"], 0), named=True)
                rows[at] |= {f"user.{name}": text if known else UNKNOWN for name, text in person.items()}
    return rows


def contexts_of(samples: Samples) -> list[dict[str, Any]]:
    """The context of each row of the timeline."""
    context = renderer(samples, CONTEXT).samples.context
    assert context is not None
    return context.values[context.code].to_dicts()

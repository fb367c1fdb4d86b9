"""Score the same rows with changed prompts, to see what the model uses; `palate.ablations` lists the changes.

What is left is no prompt that the model was trained on. So a fall of the AUC bounds what the thing taken away was worth
from above; no fall says that it was worth nothing. Other columns that a prompt names (`genres`, `year`, `item_mean`)
stay where titles are hidden.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.ablations import ABLATIONS, Ablation
from palate.measure.bootstrap import Interval, bootstrap, interval
from palate.measure.figures import bounds, difference_text, number
from palate.measure.metrics import measure
from palate.prompt.item_tokens import BRACKETS
from palate.prompt.spec import PromptSpec, split_template
from palate.samples.build import ROLES, Samples
from palate.samples.context import Context
from palate.samples.lines import renderer
from palate.samples.queries import candidate_rows
from palate.samples.questions import with_targets
from palate.samples.split import TEST

UNCHANGED = "unchanged"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ablated:
    """The model's metrics with changed prompts, compared with unchanged prompts on the same rows."""

    name: str
    auc: float | None
    interval: Interval | None
    difference: float | None
    """AUC minus the AUC with unchanged prompts."""
    difference_interval: Interval | None
    """Paired: both AUCs on the same resamples of users."""
    moved: float
    """Mean absolute change of P(like)."""


@dataclass(frozen=True)
class Ablations:
    """All ablations of one model."""

    model: str
    n: int
    auc: float | None
    """With unchanged prompts."""
    interval: Interval | None
    ablated: list[Ablated]
    halves: dict[str, tuple[float | None, float | None]]
    """AUC on the rows with the more popular half of the candidates, and on the others; keys: unchanged and empty."""
    follows_item_mean: float | None
    """Rank correlation of P(like) without a history with the item's mean training rating; None if not scored."""
    reading: list[str]
    """The conclusions, in sentences."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return asdict(self) | {"halves": {name: list(pair) for name, pair in self.halves.items()}}


def has_effect(name: str, prompt: PromptSpec) -> bool:
    """Whether the ablation changes prompts of this specification."""
    field = ABLATIONS[name].field
    lines = (prompt.history_line, prompt.candidate_line)
    return not field or any(part.field == field for line in lines for part in split_template(line))


def ablate(
    samples: Samples, prompt: PromptSpec, index: NDArray[np.int64], name: str, seed: int
) -> tuple[Samples, PromptSpec]:
    """Samples and prompt from which any renderer makes the prompts of the samples `index` (n,) under an ablation.

    The new samples are n test samples in the order of `index`, each with a separate copy of its history; the labels
    stay. Their timeline has `item_id` and `rating`; the context of each row (earlier ratings of its item) and the
    signals of each candidate are copies.
    """
    ablation = ABLATIONS[name]
    shown = np.zeros(index.size, np.int64) if ablation.history == "empty" else samples.histories[index]
    end = np.cumsum(shown + 1)
    position, of = end - 1, np.repeat(np.arange(index.size), shown + 1)
    rows = np.arange(of.size) + (samples.position[index] - position)[of]
    samples, target = with_targets(samples)
    rows[position] = target[index]
    if ablation.history == "shuffled":
        place = np.random.default_rng(seed).random(of.size)
        place[position] = 1  # the candidate stays behind its history
        rows = rows[np.lexsort((place, of))]
    context = None
    if prompt.names_context:
        whole = renderer(samples, prompt).samples.context
        context = None if whole is None else Context(whole.code[rows], whole.values)
    items = samples.items
    if prompt.names_vectors:  # the model's tokenizer has item tokens, whether or not the changed prompt names them
        items = items.with_columns(pl.col(pl.String).exclude("item_id").str.replace_many(list(BRACKETS), ["[", "]"]))
    ablated = replace(
        samples,
        items=items,
        timeline=samples.timeline[rows].select("item_id", "rating", split=pl.lit("test", ROLES)),
        position=position,
        negative=None,
        split=np.full(index.size, TEST, np.uint8),
        history_len=0 if ablation.history == "empty" else samples.history_len,
        history=None if samples.history is None else shown,
        context=context,
        signals=None if samples.signals is None else samples.signals[index],
    )
    lines = {line: _without(getattr(prompt, line), ablation) for line in ("history_line", "candidate_line")}
    return ablated, prompt.model_copy(update=lines)


def _without(template: str, ablation: Ablation) -> str:
    """A line with the ablation's text in place of its field."""
    parts = []
    for literal, field, spec in split_template(template):
        parts.append(literal.replace("{", "{{").replace("}", "}}"))
        if field is not None:
            value = f"{{{field}:{spec}}}" if spec else f"{{{field}}}"
            parts.append(ablation.text if field == ablation.field else value)
    return "".join(parts)


def compare_ablations(
    samples: Samples,
    index: NDArray[np.int64],
    scores: Mapping[str, Floats],
    *,
    model: str,
    resamples: int,
    seed: int,
) -> Ablations:
    """Measure ablations of one model.

    `index` (n,) are the scored samples, in the order of `scores`, which has P(like) (n,) of `UNCHANGED` and of each
    ablation.
    """
    y = samples.label[index]
    users = samples.user[samples.position[index]]
    replicates = bootstrap(y, users, scores, resamples=resamples, seed=seed)
    auc = {name: measure(y, p, users).auc for name, p in scores.items()}
    whole, unchanged = auc[UNCHANGED], replicates[UNCHANGED].get("auc")
    found = []
    for name in (name for name in scores if name != UNCHANGED):
        ablated, value = replicates[name].get("auc"), auc[name]
        found.append(
            Ablated(
                name=name,
                auc=value,
                interval=interval(ablated),
                difference=None if value is None or whole is None else value - whole,
                difference_interval=None if ablated is None or unchanged is None else interval(ablated - unchanged),
                moved=float(np.abs(scores[name] - scores[UNCHANGED]).mean()) if len(y) else 0.0,
            )
        )
    items = _trained_items(samples, index)
    count = items["count"].fill_null(0).to_numpy()
    popular = count > np.median(count) if len(count) else np.zeros(0, bool)
    halves = {
        name: (_auc(y, users, scores[name], popular), _auc(y, users, scores[name], ~popular))
        for name in (UNCHANGED, "empty")
        if name in scores
    }
    follows = _correlation(items["mean"], scores["empty"]) if "empty" in scores else None
    measured = Ablations(model, len(y), whole, interval(unchanged), found, halves, follows, [])
    return replace(measured, reading=reading(measured))


def _trained_items(samples: Samples, index: NDArray[np.int64]) -> pl.DataFrame:
    """`count` and `mean` of the training ratings of each sample's item; null for an item without any."""
    chosen = pl.DataFrame({"item_id": samples.items["item_id"].gather(candidate_rows(samples, index))})
    training = samples.timeline.filter(pl.col("split").is_in(["train", "warmup"]))
    items = training.group_by("item_id").agg(count=pl.len(), mean=pl.col("rating").mean())
    return chosen.join(items, on="item_id", how="left", maintain_order="left")


def _correlation(means: pl.Series, p: Floats) -> float | None:
    """Spearman's rank correlation over the rows with a mean; None where it is undefined."""
    both = pl.DataFrame({"mean": means, "p": p}).drop_nulls()
    found = both.select(pl.corr("mean", "p", method="spearman")).item() if len(both) > 1 else None
    return None if found is None or np.isnan(found) else float(found)


def _auc(y: NDArray[np.bool_], users: NDArray[np.int64], p: Floats, among: NDArray[np.bool_]) -> float | None:
    return measure(y[among], p[among], users[among]).auc


def reading(found: Ablations) -> list[str]:
    """The conclusions of the ablation table, in sentences that claim no more than the intervals."""
    if found.auc is None:
        return ["All rows have the same label, so they cannot compare ablations."]
    sentences = [_used(found, one) for one in found.ablated if one.auc is not None and one.difference is not None]
    empty = next((one for one in found.ablated if one.name == "empty" and one.auc is not None), None)
    if empty is not None:
        sentences.append(_item_prior(found, empty))
    return sentences


def _used(found: Ablations, one: Ablated) -> str:
    """A sentence on whether the model uses the ablated part of the prompt."""
    ablation = ABLATIONS[one.name]
    numbers = f"AUC {number(found.auc or 0)} → {number(one.auc or 0)}"
    if one.difference_interval is None:
        return f"{ablation.title.capitalize()}: {numbers}. Without an interval, this may be chance."
    numbers += f", difference {difference_text(one.difference, one.difference_interval, prose=True)}"
    if one.difference_interval.high < 0:
        return f"The model uses {ablation.removed}: {ablation.title} costs it ranking ({numbers})."
    if one.difference_interval.low > 0:
        return f"The model ranks better without {ablation.removed}: {numbers}."
    return f"It is not shown that {ablation.effect} the ranking: {numbers}."


def _item_prior(found: Ablations, empty: Ablated) -> str:
    """A sentence on the item prior: the model's ranking without a history."""
    if empty.interval is not None and empty.interval.high < 0.5:
        return (
            f"From the candidate alone it ranks backwards (AUC {number(empty.auc or 0)} {bounds(empty.interval)}): "
            "what it knows of items is not what these users liked."
        )
    if empty.interval is None or empty.interval.low <= 0.5:
        return (
            f"Without a history nothing is left that is told from chance (AUC {number(empty.auc or 0)}"
            + ("" if empty.interval is None else f" {bounds(empty.interval)}")
            + "): no sign that the model remembers how items were rated."
        )
    share = (empty.auc or 0) - 0.5, (found.auc or 0) - 0.5
    sentence = (
        f"From the candidate alone it still reaches AUC {number(empty.auc or 0)} {bounds(empty.interval)}"
        + (f", {100 * share[0] / share[1]:.0f}\N{NO-BREAK SPACE}% of its distance from chance" if share[1] > 0 else "")
        + ": an item prior, the same for every user"
    )
    if found.follows_item_mean is not None:
        sentence += f"; its rank correlation with the items' mean training ratings is {number(found.follows_item_mean)}"
    popular, rest = found.halves.get("empty", (None, None))
    if popular is not None and rest is not None:
        sentence += (
            f". On the more popular half of the rows the prior reaches {number(popular)}, on the others {number(rest)}"
        )
    return (
        f"{sentence}. A fine-tuned model can have it from the training samples; in a base model it can only come from "
        "texts that it was trained on."
    )


def table(found: Ablations) -> Sequence[tuple[str, str, str, str]]:
    """Rows of the ablation table: prompts, AUC with interval, difference with interval, mean change of P."""

    def cell(value: float | None, between: Interval | None) -> str:
        if value is None:
            return "–"
        return number(value) + ("" if between is None else f" {bounds(between)}")

    lines = [(UNCHANGED, cell(found.auc, found.interval), "", "")]
    for one in found.ablated:
        difference = difference_text(one.difference, one.difference_interval)
        lines.append((ABLATIONS[one.name].title, cell(one.auc, one.interval), difference, number(one.moved)))
    return lines

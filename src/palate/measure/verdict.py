"""Verdict: the conclusions of an evaluation, in sentences that claim no more than its intervals show."""

from collections.abc import Iterator, Sequence

from palate.measure.evaluation import Difference, Entry, Evaluation, Negatives
from palate.measure.figures import difference_text, number, percent
from palate.measure.keys import CONSTANT, FINE_TUNED, ZERO_SHOT
from palate.measure.slices import Slice, Slices

FEW_USERS = 100
"""With fewer users, percentile intervals over users are too narrow."""
NAMED = 3
"""Number of slices that a sentence names for either side."""
LOW_MASS = 0.9
"""If a model's two answers have less probability than this, the verdict warns."""


def verdict(evaluation: Evaluation) -> list[str]:
    """The sentences: models against baselines, fine-tuned against zero-shot, within users, calibration, warnings."""
    if not evaluation.n:
        return [f"No {evaluation.split} row was scored."]
    if evaluation.entries[0].metrics.auc is None:
        return [f"All {evaluation.n:,} rows have the same label, so they cannot compare models."]
    models = sorted((entry for entry in evaluation.models if not entry.aside), key=lambda entry: entry.key == ZERO_SHOT)
    if not models:
        best = max(evaluation.entries, key=lambda entry: entry.metrics.auc or 0.0)
        return [f"No model was scored. The best baseline is {name_in_prose(best)}, at AUC {best.metrics.auc:.3f}."]
    pooled = [_compared(evaluation, d) for d in _of(evaluation, "auc")]
    # `metrics.json` of earlier versions lacks the AUC over pairs
    per_user = list(_of(evaluation, "pair_auc")) or list(_of(evaluation, "gauc"))
    within = [_within_users(evaluation, d) for d in per_user if d.first == models[0].key][:1]
    warnings = [text for model in models for text in _warnings(evaluation, model)]
    if evaluation.unit == "rows":
        warnings.append("The data names no users: intervals resample rows, and are too narrow if a user has several.")
    elif evaluation.users < FEW_USERS:
        counted = "only one user" if evaluation.users == 1 else f"only {evaluation.users} users"
        warnings.append(f"The {evaluation.split} rows come from {counted}: all figures are imprecise.")
    sampled = [] if evaluation.negatives is None else [sampled_note(evaluation.negatives)]
    return [*pooled, *within, *sampled, *warnings]


def sampled_note(negatives: Negatives) -> str:
    """What the figures of a log of likes mean, and which are left out."""
    return (
        f"AUC and GAUC are {negatives}: the log has likes alone. Log loss, calibration and decisions at 0.5 depend on "
        "how many negatives are sampled, and baselines that learn from differences of ratings have none here: they are "
        "left out."
    )


def _of(evaluation: Evaluation, metric: str) -> Iterator[Difference]:
    """The differences of one metric, the fine-tuned model's first."""
    yield from sorted(
        (d for d in evaluation.differences if d.metric == metric),
        key=lambda d: (d.first == ZERO_SHOT, d.second == ZERO_SHOT),
    )


def name_in_prose(entry: Entry) -> str:
    """An entry's name in a sentence."""
    names = {
        ZERO_SHOT: "the zero-shot model",
        FINE_TUNED: "the fine-tuned model",
        CONSTANT: "the constant",
        "user-item": "the user and item means together",
    }
    if entry.corrects is not None:
        return f"the sum of {entry.corrects} and {names.get(entry.key, entry.key)}"
    if entry.key in names:
        return names[entry.key]
    plain = entry.kind == "baseline" and ("mean" in entry.label or "share" in entry.label)
    return f"the {entry.label}" if plain else entry.label


def _compared(evaluation: Evaluation, d: Difference) -> str:
    """One pooled difference as a sentence."""
    first, second = evaluation.entry(d.first), evaluation.entry(d.second)
    baselines = (e.metrics.auc or 0 for e in evaluation.entries if e.kind == "baseline")
    best = ", the best baseline" if second.kind == "baseline" and second.metrics.auc == max(baselines) else ""
    numbers = f"AUC {number(first.metrics.auc or 0)} against {number(second.metrics.auc or 0)}"
    who = name_in_prose(first)[0].upper() + name_in_prose(first)[1:]
    if d.interval is None:
        side = "is ahead of" if d.value > 0 else "does not beat"
        return f"{who} {side} {name_in_prose(second)}{best}: {numbers}. Without an interval, this may be chance."
    difference = f"difference {difference_text(d.value, d.interval, prose=True)}"
    if d.interval.low > 0:
        return f"{who} beats {name_in_prose(second)}{best}: {numbers}, {difference}."
    if d.interval.high < 0:
        return f"{who} does not beat {name_in_prose(second)}{best}: {numbers}, {difference}."
    if d.interval.low == d.interval.high == 0:
        return f"{who} sorts the rows exactly as {name_in_prose(second)}{best} does: {numbers}."
    side = "is ahead of" if d.value > 0 else "is behind" if d.value < 0 else "equals"
    return f"{who} {side} {name_in_prose(second)}{best}, but the interval includes zero: {numbers}, {difference}."


def _within_users(evaluation: Evaluation, d: Difference) -> str:
    """A sentence on the per-user AUC, which the users' differences in generosity do not affect."""
    first, second = evaluation.entry(d.first), evaluation.entry(d.second)
    best = "the best baseline there" if second.kind == "baseline" else "the model without training"
    reached, other = (getattr(entry.metrics, d.metric) or 0 for entry in (first, second))
    over = " over all pairs of a liked and a disliked row" if d.metric == "pair_auc" else ""
    sentence = (
        f"Within users ({first.metrics.gauc_users:,} have both classes), {name_in_prose(first)} reaches an AUC of "
        f"{number(reached)}{over}, and {name_in_prose(second)}, {best}, {number(other)}"
    )
    if d.interval is None:
        return sentence + "."
    return f"{sentence} (difference {difference_text(d.value, d.interval, prose=True)})."


def _warnings(evaluation: Evaluation, model: Entry) -> Iterator[str]:
    """Warnings about a model's probabilities."""
    who = name_in_prose(model)[0].upper() + name_in_prose(model)[1:]
    answers = {b.low >= 0.5 for b in model.histogram if b.liked + b.disliked}
    if len(answers) == 1 and evaluation.negatives is None:
        yield (
            f"{who} gives every row the same answer, {'Yes' if answers.pop() else 'No'}, at the threshold 0.5: "
            "only its order is informative."
        )
    constant = evaluation.entry(CONSTANT).metrics.log_loss
    if model.metrics.log_loss is not None and constant is not None and model.metrics.log_loss > constant:
        yield (
            f"The probabilities of {name_in_prose(model)} are worse than the constant base rate: "
            f"log loss {number(model.metrics.log_loss)} against {number(constant)}."
        )
    if model.mass is not None and model.mass.mean < LOW_MASS and model.corrects is None:
        yield (
            f"{who} puts {percent(model.mass.mean)} of its probability on the "
            f"two answers; the rest goes to other words, which P(like) leaves out."
        )


def slice_reading(slices: Slices, baseline: str) -> list[str]:
    """Sentences on the slices where the model is ahead or behind; `baseline` is the baseline's name in them."""
    counted = [part for part in slices.slices if not part.small and part.difference("auc").interval is not None]
    small = sum(part.small and part.n > 0 for part in slices.slices)
    if not counted:
        return ["No slice has enough users and rows for a comparison."]
    ahead, behind = (slices.ahead(key) for key in (slices.model, slices.baseline))
    rest = len(counted) - len(ahead) - len(behind)
    sentences = [
        f"Against {baseline}, the model sorts better on {len(ahead)} of {len(counted)} slices and worse on "
        f"{len(behind)}; on {rest} the interval of the AUC difference includes zero."
        + (f" {small} more are too small to count (grey)." if small else "")
    ]
    if ahead:
        sentences.append(f"It is ahead furthest on {_named(ahead)}.")
    if behind:
        sentences.append(f"It is behind furthest on {_named(behind)}.")
    return sentences


def _named(parts: Sequence[Slice]) -> str:
    gaps = [(part, number(part.difference("auc").value or 0.0, signed=True)) for part in parts[:NAMED]]
    return "; ".join(f"{part.dimension}: {part.label} ({gap})" for part, gap in gaps)

"""The proof of an export: the written model gives the same answers as base model and adapter.

A merge can fail without an error: it may omit the scaling, lose deltas in rounding, or untie embeddings. So Palate
loads the written model again and compares its logits at the decision token.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import WorkError
from palate.models.merge import in_float32
from palate.prompt.chat import Decision

Floats = NDArray[np.float32]

EXACT_LOGIT = 1e-3
"""Maximum difference of a logit without rounding; float32 gives 1e-4 or less."""
ROUNDED_P = 0.05
"""Maximum difference of P(like) with weights rounded to 16 or 8 bits."""
ROUNDED_SHARE = 0.5
"""Maximum ratio of the rounding's effect to the adapter's, both as root mean squares over logits. Rounding can hide a
small adapter; P(like) would not show it, since such an adapter hardly changes P(like)."""


ADDED = 1e-6
"""Maximum probability of all added tokens together at the decision token."""


@dataclass(frozen=True)
class ProbeAnswers:
    """A model's logits at the decision token of n prompts, (n, vocabulary), and P(like) among the answers, (n,)."""

    logits: Floats
    p: Floats


@dataclass(frozen=True)
class AnswerDifference:
    """The difference between two models' answers to the same prompts.

    `logit` and `p` are the largest differences, `rms` is the root mean square over all logits. `swapped` of the `pairs`
    of prompts have the opposite order by P(like).
    """

    logit: float
    rms: float
    p: float
    swapped: int
    pairs: int

    def __str__(self) -> str:
        order = "same order" if not self.swapped else f"{self.swapped} of {self.pairs} pairs in another order"
        return f"logits differ by {self.logit:.2g} at most, P(like) by {self.p:.2g}, {order}"


@dataclass(frozen=True)
class ExportProof:
    """The comparison of the written model with base and adapter.

    `export` is their difference. `adapter` is the difference of base and adapter from the base alone. `in_4_bits` is
    the difference of the written model from the base in 4 bits with the adapter, if the adapter was trained so.
    `exact`: no weight was rounded.
    """

    prompts: int
    export: AnswerDifference
    adapter: AnswerDifference
    in_4_bits: AnswerDifference | None
    exact: bool

    def check(self, what: str) -> None:
        """Raise `WorkError` if the written model differs by more than its number format explains."""
        found = f"{what}: does not answer as base and adapter do on {self.prompts} prompts: {self.export}"
        if self.exact and not self.export.logit <= EXACT_LOGIT:
            raise WorkError(f"{found}; expected logits within {EXACT_LOGIT:g}")
        if not self.exact and not self.export.p <= ROUNDED_P:
            raise WorkError(f"{found}; expected P(like) within {ROUNDED_P:g}, a wider number format is closer")
        if not self.exact and not self.export.rms <= ROUNDED_SHARE * self.adapter.rms:
            raise WorkError(
                f"{found}; rounding moves the logits by {self.export.rms:.2g}, the adapter by {self.adapter.rms:.2g} "
                "(root mean squares), expected half of that at most: a wider number format keeps what was learned"
            )

    def describe(self) -> dict[str, Any]:
        """The differences and their limits, for `export.json`."""
        limits: dict[str, float] = {"logit": EXACT_LOGIT} if self.exact else {"p": ROUNDED_P}
        if not self.exact:
            limits["rms"] = ROUNDED_SHARE * self.adapter.rms
        return {**asdict(self), "tolerance": limits}

    def __str__(self) -> str:
        effect = f"the adapter's own effect {self.adapter.logit:.2g} and {self.adapter.p:.2g}"
        lines = f"{self.prompts} prompts: {self.export}; {effect}"
        return (
            lines
            if self.in_4_bits is None
            else f"{lines}\n         against the base in 4 bits with it: {self.in_4_bits}"
        )


@dataclass(frozen=True)
class Target:
    """The reference for the written model: the answers of the base, and of base and adapter, in float32."""

    base: ProbeAnswers
    adapted: ProbeAnswers
    in_4_bits: ProbeAnswers | None = None

    def proof(self, written: ProbeAnswers, *, exact: bool) -> ExportProof:
        """Compare a written model's answers; raises `WorkError` as `difference`."""
        return ExportProof(
            len(self.adapted.p),
            difference(self.adapted, written),
            difference(self.base, self.adapted),
            difference(self.in_4_bits, written) if self.in_4_bits else None,
            exact,
        )


def answers(model: Any, decision: Decision, prompts: Sequence[Sequence[int]]) -> ProbeAnswers:
    """The answers of a causal language model, with or without an adapter, to prompts before the decision token.

    Prompts are passed one by one without padding, in float32, so that only the weights can cause differences.
    """
    import torch

    model.eval()
    rows = []
    with torch.inference_mode(), in_float32():
        for prompt in prompts:
            ids = torch.tensor([list(prompt)], device=model.device)
            rows.append(model(input_ids=ids, logits_to_keep=1, use_cache=False).logits[0, -1].float().cpu())
    logits = torch.stack(rows)
    p = logits[:, [decision.yes_id, decision.no_id]].softmax(-1)[:, 0]
    return ProbeAnswers(logits.numpy(), p.numpy())


def without_items(written: ProbeAnswers, vocabulary: int) -> ProbeAnswers:
    """The answers without the logits of added tokens; `vocabulary` is the base's number of logits.

    Raises `WorkError` if the added tokens together have a probability above `ADDED` at any decision token.
    """
    own, added = np.split(written.logits.astype(np.float64), [vocabulary], axis=1)
    if added.size:
        largest = (np.logaddexp.reduce(added, axis=1) - np.logaddexp.reduce(own, axis=1)).max()
        if not largest <= np.log(ADDED):
            raise WorkError(f"item tokens have a probability of {np.exp(largest):.2g}, expected {ADDED:g} at most")
    return ProbeAnswers(written.logits[:, :vocabulary], written.p)


def difference(one: ProbeAnswers, other: ProbeAnswers) -> AnswerDifference:
    """Compare two models' answers; raises `WorkError` if their vocabularies have different sizes."""
    if one.logits.shape != other.logits.shape:
        raise WorkError(f"{other.logits.shape[1]} logits a token were written of {one.logits.shape[1]}")
    apart = np.abs(one.logits - other.logits)
    i, j = np.triu_indices(len(one.p), 1)
    swapped = (one.p[i] - one.p[j]) * (other.p[i] - other.p[j]) < 0
    return AnswerDifference(
        logit=float(apart.max()),
        rms=float(np.sqrt(np.square(apart, dtype=np.float64).mean())),
        p=float(np.abs(one.p - other.p).max()),
        swapped=int(swapped.sum()),
        pairs=len(i),
    )

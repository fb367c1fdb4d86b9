"""What counts as the same model, and what does not."""

from typing import Any

import numpy as np
import pytest
import torch

from palate.errors import WorkError
from palate.models.proof import ProbeAnswers, Target, answers, difference
from palate.prompt.chat import Decision


def said(margins: Any, noise: float = 0.0) -> ProbeAnswers:
    """Answers of a vocabulary of 50 with these margins of yes (0) over no (1)."""
    draw = np.random.default_rng(0)
    logits = np.zeros((len(margins), 50), np.float32)
    logits[:, 0] = margins
    logits += noise * draw.standard_normal(logits.shape, np.float32)
    return ProbeAnswers(logits, 1 / (1 + np.exp(logits[:, 1] - logits[:, 0])))


def test_figures_of_a_difference() -> None:
    found = difference(said([0, 1, 2]), said([0, 3, 2]))

    assert found.logit == 2
    assert found.rms == pytest.approx((4 / 150) ** 0.5)
    assert found.p == pytest.approx(1 / (1 + np.exp(-3)) - 1 / (1 + np.exp(-1)))
    assert (found.swapped, found.pairs) == (1, 3)
    assert str(found) == "logits differ by 2 at most, P(like) by 0.22, 1 of 3 pairs in another order"


def test_vocabularies_of_different_sizes_are_no_comparison() -> None:
    with pytest.raises(WorkError, match="49 logits a token were written of 50"):
        difference(said([0]), ProbeAnswers(np.zeros((1, 49), np.float32), np.zeros(1, np.float32)))


BASE, ADAPTED = [0.0, 0.5, -1.0], [2.0, -1.0, 0.5]


def test_without_rounding_the_logits_must_be_the_same() -> None:
    target = Target(said(BASE), said(ADAPTED))

    target.proof(said(ADAPTED, 1e-4), exact=True).check("x")
    with pytest.raises(WorkError, match=r"^x: does not answer as .* on 3 prompts: .*; expected logits within 0.001$"):
        target.proof(said(ADAPTED, 1e-2), exact=True).check("x")
    target.proof(said(ADAPTED, 1e-2), exact=False).check("x")


def test_rounding_must_not_move_the_probability_far() -> None:
    proof = Target(said(BASE), said(ADAPTED)).proof(said([2.0, -1.0, 0.1]), exact=False)

    with pytest.raises(WorkError, match=r"expected P\(like\) within 0.05"):
        proof.check("x")


def test_rounding_must_not_drown_what_the_adapter_does() -> None:
    target = Target(said([2.0, -1.0, 0.5]), said([2.01, -1.01, 0.51]))

    with pytest.raises(WorkError, match="a wider number format keeps what was learned"):
        target.proof(target.base, exact=False).check("x")  # nothing of the adapter is left, P hardly moves
    target.proof(said([2.011, -1.011, 0.511]), exact=False).check("x")


def test_what_is_not_a_number_is_not_the_same() -> None:
    target = Target(said(BASE), said(ADAPTED))
    for exact in (True, False):
        with pytest.raises(WorkError):
            target.proof(said([np.nan] * 3), exact=exact).check("x")


def test_answers_are_those_at_the_last_token(base: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(base))
    prompts = [[5, 6, 7], list(range(40))]
    found = answers(model, Decision(11, 12, (), ()), prompts)

    for prompt, logits, p in zip(prompts, found.logits, found.p, strict=True):
        with torch.inference_mode():
            whole = model(torch.tensor([prompt])).logits[0, -1]
        assert np.allclose(logits, whole, atol=1e-5)
        assert p == pytest.approx(torch.softmax(whole[[11, 12]], 0)[0].item(), abs=1e-6)

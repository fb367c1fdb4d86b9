"""Scores in batches against one prompt at a time, with all logits computed the obvious way."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.small import CHATML, small_tokenizer
from tests.tiny import EMPTY_THINK, tiny_model, toy_config, toy_samples

from palate.errors import WorkError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.score.scorer import Scorer
from palate.tokens.plain import tokenize_func

CONFIG = toy_config(Path("unused"))
EXAMPLES = [
    CONFIG.prompt.alpaca(s["history_titles"], s["candidate_title"], s["label"], 3) for s in toy_samples(23, seed=3)
]


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    template = EMPTY_THINK if request.param == "qwen3" else CHATML
    return Scorer(tiny_model(request.param), chat=Chat(small_tokenizer(template)), cutoff_len=200)


def obvious(scorer: Scorer, example: dict[str, Any]) -> tuple[float, float, float]:
    """P, mass and logit from the logits of a whole training sequence, at the token before the answer."""
    row = tokenize_func(example, scorer.chat.tokenizer, scorer.cutoff_len)
    decision = scorer.chat.decision
    at = len(row["input_ids"]) - len(decision.tail) - 1
    assert row["input_ids"][at] in (decision.yes_id, decision.no_id)
    with torch.no_grad():
        logits = scorer.model(torch.tensor([row["input_ids"]])).logits[0, at - 1]
    yes, no = logits.softmax(-1)[[decision.yes_id, decision.no_id]].tolist()
    return yes / (yes + no), yes + no, (logits[decision.yes_id] - logits[decision.no_id]).item()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batches_score_as_one_by_one(scorer: Scorer, batch_size: int) -> None:
    expected = np.array([obvious(scorer, example) for example in EXAMPLES])
    p, mass, logit = scorer.score_examples(EXAMPLES, batch_size)
    assert p.dtype == mass.dtype == logit.dtype == np.float32
    np.testing.assert_allclose(p, expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(mass, expected[:, 1], rtol=1e-4)
    np.testing.assert_allclose(logit, expected[:, 2], atol=1e-4)
    assert p.std() > 0.01, "a test on equal scores would prove nothing"


def test_the_order_does_not_matter(scorer: Scorer) -> None:
    order = random.Random(0).sample(range(len(EXAMPLES)), len(EXAMPLES))
    p = scorer.score_examples(EXAMPLES, 5).p
    shuffled = scorer.score_examples([EXAMPLES[i] for i in order], 5).p
    np.testing.assert_allclose(shuffled, p[order], atol=1e-5)


def test_long_prompts_are_cut_where_training_cuts_them(scorer: Scorer) -> None:
    short = Scorer(scorer.model, chat=scorer.chat, cutoff_len=60)
    lengths = [len(ids) for ids in scorer.prompts([to_chat_messages(e)[:-1] for e in EXAMPLES])]
    assert max(lengths) > 60
    expected = [obvious(short, example)[0] for example in EXAMPLES]
    np.testing.assert_allclose(short.score_examples(EXAMPLES).p, expected, atol=1e-4)


def test_the_answer_of_an_example_is_not_looked_at(scorer: Scorer) -> None:
    swapped = [{**e, "output": "No" if e["output"] == "Yes" else "Yes"} for e in EXAMPLES]
    np.testing.assert_array_equal(scorer.score_examples(swapped).p, scorer.score_examples(EXAMPLES).p)


def test_bfloat16_scores_are_close_and_not_rounded_to_a_few(scorer: Scorer) -> None:
    import copy

    half = Scorer(copy.deepcopy(scorer.model).bfloat16(), chat=scorer.chat, cutoff_len=scorer.cutoff_len)
    p = scorer.score_examples(EXAMPLES).p
    rounded, mass, _ = half.score_examples(EXAMPLES)
    np.testing.assert_allclose(rounded, p, atol=0.05)
    assert len(set(rounded)) == len({example["input"] for example in EXAMPLES})
    assert (mass <= 1).all()


def test_logits_that_are_no_numbers_stop_the_work(scorer: Scorer) -> None:
    import copy

    broken = copy.deepcopy(scorer.model)
    broken.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(WorkError, match="not finite"):
        Scorer(broken, chat=scorer.chat, cutoff_len=200).score_examples(EXAMPLES[:2])

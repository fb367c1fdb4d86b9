"""One thread answers for many requests: the same scores as each prompt by itself, whoever else asks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.small import small_tokenizer
from tests.tiny import EMPTY_THINK, tiny_model

from palate.prompt.chat import Chat
from palate.score.backend import AnswerScores
from palate.score.scorer import Scorer
from palate.serve import worker as module
from palate.serve.worker import ClosedError, Worker

CHAT = Chat(small_tokenizer(EMPTY_THINK))


def scorer_of(kind: str = "qwen3", **changed: Any) -> Scorer:
    return Scorer(tiny_model(kind, **changed), chat=CHAT)


def request(prefix: int, sizes: list[int], seed: int) -> tuple[list[list[int]], int]:
    draw = np.random.default_rng(seed)
    head = draw.integers(0, 512, prefix).tolist()
    return [head + draw.integers(0, 512, size).tolist() for size in sizes], prefix


def asked(worker: Worker, prompts: list[list[int]], shared: int, **options: Any) -> Any:
    return worker.answers(prompts, [shared] * len(prompts), **options)


def collected(worker: Worker, prompts: list[list[int]], shared: int) -> AnswerScores:
    found = np.full((3, len(prompts)), np.nan)
    for rows, scores in worker.answers(prompts, [shared] * len(prompts)):
        assert np.isnan(found[0, rows]).all(), "a row came twice"
        found[:, rows] = scores
    return AnswerScores(*found)


REQUESTS = [
    request(*each, seed) for seed, each in enumerate([(30, [4, 9, 1]), (7, [12]), (51, [3] * 40), (30, [6, 6])])
]


@pytest.mark.parametrize("together", [1, 16])
@pytest.mark.parametrize("changed", [{}, {"num_key_value_heads": 4}])
def test_requests_at_the_same_time_get_the_scores_of_single_prompts(together: int, changed: dict[str, Any]) -> None:
    scorer = scorer_of(**changed)
    worker = Worker(scorer.backend, together=together)
    requests = [*REQUESTS, (REQUESTS[0][0], 0), *REQUESTS * 2]  # one of whole prompts between those behind prefixes
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: collected(worker, *each), requests))
    worker.close()
    for (prompts, _), scores in zip(requests, found, strict=True):
        expected = np.concatenate([scorer.score_ids([prompt]).logit for prompt in prompts])
        np.testing.assert_allclose(scores.logit, expected, atol=1e-4)
        assert expected.size == 1 or expected.std() > 0.1


def test_waiting_requests_share_a_pass_and_a_known_history_is_not_computed_again() -> None:
    scorer = scorer_of()
    worker = Worker(scorer.backend)
    collected(worker, *REQUESTS[1])  # probes the model
    seen: list[tuple[int, ...]] = []
    hook = scorer.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(ids[0].shape))
    held, gate = threading.Event(), threading.Event()

    def hold() -> bool:
        held.set()
        return gate.wait()

    blocked = threading.Thread(target=lambda: list(asked(worker, *request(5, [2], 9), cancelled=hold)))
    blocked.start()
    held.wait()  # the worker, while the others wait
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(collected, worker, *each) for each in REQUESTS[:1] + REQUESTS[3:]]
        while len(worker._waiting) < 2:
            pass
        gate.set()
        for each in waiting:
            each.result()
    blocked.join()
    assert seen == [(2, 30), (5, 9)], "one pass over both histories, one over all five candidates"
    seen.clear()
    collected(worker, *REQUESTS[0])
    hook.remove()
    assert seen == [(3, 9)]
    assert worker.gauges()["prefix_hits"] == 1
    worker.close()


def test_rows_of_one_request_may_have_several_prefixes() -> None:
    scorer = scorer_of()
    worker = Worker(scorer.backend)
    (a, n), (b, m) = request(30, [4, 9, 1], 1), request(11, [5, 2], 2)
    prompts, shared = [a[0], b[0], a[1], b[1], a[2]], [n, m, n, m, n]
    found = np.full(5, np.nan)
    for rows, scores in worker.answers(prompts, shared):
        found[rows] = scores.logit
    assert worker.gauges()["prefix_misses"] == 2
    worker.close()
    np.testing.assert_allclose(found, scorer.score_ids(prompts).logit, atol=1e-4)


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    worker = Worker(scorer_of().backend)
    long = asked(worker, *request(20, [30] * 300, 1))
    next(long)
    short = collected(worker, *request(20, [3], 2))
    assert np.isfinite(short.logit).all()
    assert sum(len(rows) for rows, _ in long) > 100, "the long one still had work before it"
    worker.close()


def test_a_request_that_nobody_reads_ends() -> None:
    worker = Worker(scorer_of().backend)
    answers = asked(worker, *request(20, [30] * 600, 1))
    next(answers)
    answers.close()
    collected(worker, *request(4, [3], 2))
    before = worker.passes
    collected(worker, *request(4, [3], 2))
    assert worker.passes == before + 1, "no pass for the one that was left"
    seen = []
    for rows, _ in asked(worker, *request(20, [30] * 600, 3), cancelled=lambda: bool(seen)):
        seen.append(rows)
    assert sum(map(len, seen)) < 600
    worker.close()


def test_an_error_reaches_its_request_and_the_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of()
    worker = Worker(scorer.backend)
    with monkeypatch.context() as broken:
        broken.setattr(module, "_chosen", lambda jobs, times: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            collected(worker, *REQUESTS[0])
    assert np.isfinite(collected(worker, *REQUESTS[0]).logit).all()
    worker.close()
    with pytest.raises(ClosedError):
        collected(worker, *REQUESTS[0])


def test_a_model_that_cannot_share_prefixes_reads_whole_prompts() -> None:
    scorer = scorer_of("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
                       max_position_embeddings=32)  # fmt: skip
    worker = Worker(scorer.backend)
    assert scorer.backend.reason(34) is not None
    found = collected(worker, *REQUESTS[0])
    np.testing.assert_allclose(found.logit, scorer.score_ids(REQUESTS[0][0]).logit, atol=1e-3)
    worker.close()

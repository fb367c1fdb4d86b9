from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from tests.measure.test_ladder import rows, step

from palate.measure.ladder import Skipped, Step, build_ladder
from palate.report.ladder import change_sentence, ladder_table, sentences

Y, USERS, SIGNAL = rows()
NOISE = np.random.default_rng(1).normal(size=Y.size)
LOGITS = {"a": SIGNAL + NOISE, "b": SIGNAL + 0.6 * NOISE + 0.6 * np.random.default_rng(2).normal(size=Y.size)}
CLOSE = [step(key, logit) for key, logit in LOGITS.items()]


def impossible() -> None:
    raise Skipped("not tried, as the time is up")


def test_as_many_rows_as_the_advice_says_show_the_gain() -> None:
    ladder = build_ladder(Y, USERS, CLOSE, resamples=200)
    assert ladder.used.key == "a"
    sentence = change_sentence(ladder)
    assert sentence.endswith("test rows, of more users, on which B gains as much as on these.")
    needed = int(sentence.split()[6].replace(",", ""))
    times = -(-needed // Y.size)
    assert 1 < times < 100
    more = [step(key, np.tile(logit, times)) for key, logit in LOGITS.items()]
    users = np.concatenate([USERS + n * Y.size for n in range(times)])
    assert build_ladder(np.tile(Y, times), users, more, resamples=200).used.key == "b"


@pytest.mark.parametrize(
    ("steps", "users", "told"),
    [
        ([step("a", SIGNAL), step("b", SIGNAL)], USERS, "only if B gains on them: on these it does not"),
        (CLOSE, 0 * USERS, "test rows of several users"),
        ([step("a", NOISE), Step("b", "B", impossible)], USERS, "a model that was not tried"),
        ([step("a", NOISE), step("b", SIGNAL)], USERS, "All models pay"),
        # B did not pay above A, but C is in use
        ([step("a", NOISE), step("b", 1.01 * NOISE + 0.01 * SIGNAL), step("c", SIGNAL)], USERS, "All models pay"),
    ],
)
def test_the_advice_says_what_would_change_it(steps: list[Step], users: np.ndarray, told: str) -> None:
    *_, last = sentences(build_ladder(Y, users, steps, resamples=50, whole=True))
    assert told in last


def test_an_interval_that_holds_zero_has_the_detectable_size_below_it() -> None:
    labels = ["user + item", "LightGBM (strongest) + text"]
    steps = [Step(each.key, label, each.score) for each, label in zip(CLOSE, labels, strict=True)]
    steps.append(step("c", SIGNAL[::2], np.arange(0, Y.size, 2)))
    ladder = build_ladder(Y, USERS, steps, resamples=100, whole=True)
    page = StringIO()
    Console(file=page, width=80).print(ladder_table(ladder, "600 rows"))
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert sum("detects 0." in line for line in lines) == sum(not rung.pays for rung in ladder.rungs) == 1

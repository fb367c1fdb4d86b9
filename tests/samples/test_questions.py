"""Questions as rows of a timeline: what is asked reads as a sample with the same history and item does."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.config import PrepareConfig
from palate.prompt import PromptSpec
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples
from palate.samples.lines import renderer
from palate.samples.questions import asked_now, asked_then

PROMPTS = [
    PromptSpec(),
    PromptSpec(
        history_line="{n}. {title} {rating:.1f} of {item_mean:.1f}",
        candidate_line="{title} ({genres}), rated {item_mean:.1f} by {item_count} users",
    ),
]


def samples_of(rows: list[tuple[int, int, float, int]], history_len: int = 3) -> Samples:
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
    names = [f"Film {i}" for i in range(6)]
    items = pl.DataFrame({"item_id": range(6), "title": names, "genres": ["A|B", "", "C"] * 2})
    ratings = Ratings(pl.DataFrame(rows, schema=schema, orient="row"), items, "test", {}, (0.5, 5))
    return build_samples(ratings, PrepareConfig(history_len=history_len))


rated = st.tuples(st.integers(0, 5), st.sampled_from([0.5, 3.0, 4.0, 5.0]), st.integers(0, 9))


@pytest.mark.parametrize("prompt", PROMPTS)
@examples(25)
@given(each=st.lists(st.lists(rated, min_size=5, max_size=12), min_size=2, max_size=3))
def test_a_question_about_a_samples_item_at_its_time_reads_as_the_sample(
    prompt: PromptSpec, each: list[list[tuple[int, float, int]]]
) -> None:
    samples = samples_of([(user, *row) for user, rows in enumerate(each) for row in rows])
    own = samples.timeline["item_id"].to_numpy()[samples.position]
    questions = asked_then(samples, samples.position, own)
    asked = renderer(questions.samples, prompt).questions(samples.position, questions.target, samples.history_len)
    said = renderer(samples, prompt).examples(np.arange(samples.position.size))
    assert asked.rows() == said.select(asked.columns).rows()


def test_what_is_asked_now_knows_all_ratings_that_are_trained_on_and_no_other() -> None:
    rows = [(0, 1, 5.0, 1), (0, 2, 4.0, 2), (0, 3, 3.0, 3), (0, 4, 2.0, 4), (0, 1, 1.0, 5)]
    samples = samples_of(rows)
    assert samples.timeline["split"].to_list() == ["warmup", "warmup", "warmup", "train", "test"]
    questions = asked_now(samples)
    assert questions.samples.timeline["item_id"].gather(questions.target).to_list() == list(range(6))
    texts = renderer(questions.samples, PROMPTS[1]).lines_of(np.full(6, 5), questions.target, 3)["candidate_title"]
    mean = (5 + 4 + 3 + 2) / 4
    assert f"rated {(5 + 5 * mean) / 6:.1f} by 1 users" in texts[1]
    assert f"rated {mean:.1f} by 0 users" in texts[0]


def test_a_guests_history_stands_behind_all_ratings_and_changes_none_of_what_is_known() -> None:
    samples = samples_of([(0, i, 4.0, i) for i in range(6)])
    guest = pl.DataFrame({"item": [5, 0], "rating": [0.5, 1.5]})
    questions = asked_now(samples, guest)
    end = samples.timeline.height + 2
    assert questions.target.tolist() == list(range(end, end + 6))
    lines = renderer(questions.samples, PROMPTS[0]).lines_of(np.full(6, end), questions.target, 2)
    assert set(lines["history_titles"]) == {"1. Film 5 (rating ≈ 0.5)\n2. Film 0 (rating ≈ 1.5)"}
    assert lines["candidate_title"].to_list() == [f"Film {i}" for i in range(6)]
    with_guest, without = (
        renderer(each.samples, PROMPTS[1]).lines_of(np.full(6, 6), each.target, 3)
        for each in (questions, asked_now(samples))
    )
    assert with_guest.equals(without)


def test_a_history_may_be_empty() -> None:
    questions = asked_now(samples_of([(0, i, 4.0, i) for i in range(6)]))
    shown = renderer(questions.samples, PROMPTS[0]).questions(np.full(6, 6), questions.target, 0)
    assert shown["input"][2].startswith("User's last 0 watched movies:\n\n\nCandidate movie:\nFilm 2\n")

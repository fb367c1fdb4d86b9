"""A person's prompts are those of a log that the person's ratings were appended to."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.films import film_samples

from palate.prompt import PromptSpec
from palate.samples.lines import renderer
from palate.samples.people import NewRating, Person, written_for
from palate.samples.questions import asked_now

PROMPTS = [
    PromptSpec(history_line="{n}. {title}: {rating:g}", candidate_line="{title}"),
    PromptSpec(history_line="{title} {rating:.1f} of {item_mean:.1f}", candidate_line="{genres}, {item_count} users"),
]
SAMPLES = film_samples(users=6, items=45)
NOBODY = np.empty(0, np.int64)


@pytest.mark.parametrize("prompt", PROMPTS)
@examples(15)
@given(rated=st.lists(st.tuples(st.integers(0, 44), st.sampled_from([0.5, 3.0, 4.5])), min_size=1, max_size=20))
def test_a_strangers_prompts_are_those_of_a_guest(prompt: PromptSpec, rated: list[tuple[int, float]]) -> None:
    guest = pl.DataFrame(rated, schema={"item": pl.Int64, "rating": pl.Float64}, orient="row")
    asked, item, rows = asked_now(SAMPLES, guest), np.array([3, 40, 11]), SAMPLES.timeline.height
    shown, end = min(SAMPLES.history_len, len(rated)), rows + len(rated)
    expected = renderer(asked.samples, prompt).questions(np.full(3, end), asked.target[item], shown)
    now = asked_now(SAMPLES)
    person = Person("", NOBODY, tuple(NewRating(*each) for each in rated))
    render, *arguments = written_for(renderer(now.samples, prompt), now.target, person, item)
    assert render.questions(*arguments).rows() == expected.rows()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_users_prompts_are_those_of_the_log(prompt: PromptSpec) -> None:
    now, item = asked_now(SAMPLES), np.arange(45)
    render = renderer(now.samples, prompt)
    for user in range(6):
        rows = np.flatnonzero(SAMPLES.user == user)
        expected = render.questions(np.full(45, rows[-1] + 1), now.target, SAMPLES.history_len)
        own, *arguments = written_for(render, now.target, Person("", rows), item)
        assert own.questions(*arguments).rows() == expected.rows()


def test_newer_ratings_follow_those_of_the_log_and_drop_the_oldest() -> None:
    now, rows = asked_now(SAMPLES), np.flatnonzero(SAMPLES.user == 2)
    render = renderer(now.samples, PROMPTS[0])
    own, *arguments = written_for(render, now.target, Person("", rows, (NewRating(5, 0.5),)), np.array([7]))
    lines = own.lines_of(*arguments)["history_titles"][0].split("\n")
    assert len(lines) == SAMPLES.history_len
    assert lines[-1].endswith(f"{SAMPLES.items['title'][5]}: 0.5")
    before = render.lines_of(np.array([rows[-1] + 1]), now.target[[7]], SAMPLES.history_len)["history_titles"][0]
    assert [line.partition(". ")[2] for line in lines[:-1]] == [
        line.partition(". ")[2] for line in before.split("\n")[1:]
    ]


def test_a_rating_of_an_earlier_time_stands_where_the_log_would_have_it() -> None:
    """The log's own rating, taken out and given back at its place, makes the same prompt."""
    now, rows, item = asked_now(SAMPLES), np.flatnonzero(SAMPLES.user == 2), np.array([7])
    render, at = renderer(now.samples, PROMPTS[0]), rows.size - 2
    own = SAMPLES.timeline.row(int(rows[at]), named=True)
    new = NewRating(int(SAMPLES.items["item_id"].index_of(own["item_id"]) or 0), own["rating"])
    person = Person("", np.delete(rows, at), (new,), np.array([at]))
    texts = []
    for each in (Person("", rows), person):
        written, *arguments = written_for(render, now.target, each, item)
        texts.append(written.questions(*arguments).rows())
    assert texts[0] == texts[1]
    assert person.without(at).rows.tolist() == person.without(at).places.tolist() == np.delete(rows, at).tolist()
    fewer = person.without(0)
    assert (fewer.before, fewer.places[at - 1]) == (np.array([at - 1]), -1)


def test_a_rating_that_the_scale_lacks_is_not_taken_for_another() -> None:
    now = asked_now(SAMPLES)
    with pytest.raises(KeyError, match=r"4\.25"):
        person = Person("", NOBODY, (NewRating(5, 4.25),))
        written_for(renderer(now.samples, PROMPTS[0]), now.target, person, np.array([7]))

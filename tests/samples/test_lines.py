import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.prompt_rows import prompt_rows

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.prompt import PromptSpec
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples, iter_examples

TITLES = st.one_of(
    st.sampled_from(
        ["", '"quoted"', "a\nb", "tab\tand\x00nul", "🎬 émoji\u2028", "<|im_end|>", "{title}", "\\n", "50%"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
PROMPTS = st.sampled_from(
    [
        PromptSpec(),
        PromptSpec(history_line="{title} [{genres}] {rating} #{n:02d}", candidate_line="{title} ({genres})"),
        PromptSpec(history_line="{rating:>5.2f}{{{title!s}}}".replace("!s", ""), yes="👍", no="👎"),
        PromptSpec(history_line="{n}{n}", candidate_line="{year:>6}{title:.3}", history_header="Seen:"),
        PromptSpec(history_line="", candidate_line="", system="", instruction=""),
        PromptSpec(history_line="- {title}", history_header="{history_len} {history_len}", question="{?"),
        PromptSpec(
            history_line="{n}. {title} {rating:.1f} of {item_mean:.1f}",
            candidate_line="{title} ({genres}) – rated {item_mean:.1f} by {item_count:,} users",
        ),
        PromptSpec(history_line="{item_count}{item_mean}", candidate_line="{item_count} & {item_mean:.2f}"),
    ]
)


def plain_examples(samples: Samples, split: str, prompt: PromptSpec) -> list[dict[str, object]]:
    """Each sample by the plain renderer, one at a time."""
    rows = prompt_rows(samples, prompt)
    examples = []
    for index in samples.of(split):
        at = int(samples.position[index])
        past = rows[at - samples.history_len : at]
        history, candidate = prompt.history(past, [row["rating"] for row in past]), prompt.candidate(rows[at])
        label = prompt.label(bool(samples.label[index]))
        example = prompt.alpaca(history, candidate, label, samples.history_len)
        examples.append({k: v for k, v in example.items() if k != "history"})
    return examples


@examples(80)
@given(titles=st.lists(TITLES, min_size=6, max_size=6), prompt=PROMPTS, data=st.data())
def test_a_chunk_of_samples_reads_as_the_plain_renderer_writes_each(titles, prompt, data):
    count = data.draw(st.integers(5, 20))
    rated = st.tuples(st.integers(0, 5), st.sampled_from([0.5, 1, 3.7, 4, 5]))
    rows = [(u, *data.draw(rated), t) for u in range(2) for t in range(count)]
    frame = pl.DataFrame(
        rows,
        schema={"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64},
        orient="row",
    )
    items = pl.DataFrame(
        {"item_id": range(6), "title": titles, "genres": titles[::-1], "year": [1990, 1991, 2000, 1, 5, 2024]}
    )
    samples = build_samples(Ratings(frame, items, "test", {}, (0, 5)), PrepareConfig(history_len=3))
    for split in ("train", "val", "test"):
        chunks = list(iter_examples(samples, split, prompt, chunk=3))
        assert [row for c in chunks for row in c.rows(named=True)] == plain_examples(samples, split, prompt)


def test_indices_count_within_the_split_and_keep_their_order(make_ratings, timeline_of):
    samples = build_samples(make_ratings(timeline_of(1, 40) + timeline_of(2, 40)), PrepareConfig(history_len=3))
    everything = pl.concat(iter_examples(samples, "train", PromptSpec()))
    indices = [5, 0, everything.height - 1]
    chosen = pl.concat(iter_examples(samples, "train", PromptSpec(), indices=pl.Series(indices).to_numpy(), chunk=2))
    assert chosen.equals(everything[indices])


def test_the_whole_of_ml_latest_small_reads_as_the_plain_renderer_writes_it(ml_latest_small):
    samples = build_samples(ml_latest_small, PrepareConfig())
    for split in ("val", "test"):
        fast = pl.concat(iter_examples(samples, split, PromptSpec()))
        assert fast.rows(named=True) == plain_examples(samples, split, PromptSpec())


def test_a_prompt_that_names_a_column_that_is_not_there_is_told_which_are(make_ratings, timeline_of):
    samples = build_samples(make_ratings(timeline_of(1, 9)), PrepareConfig(history_len=3))
    with pytest.raises(InputError, match=r"prompt.candidate_line: names \{genres\}.*one of item_id, title, item_mean"):
        next(iter_examples(samples, "train", PromptSpec(candidate_line="{title} {genres}")))


def test_a_column_that_is_called_as_a_figure_of_the_ratings_is_refused_where_it_is_named(make_ratings, timeline_of):
    ratings = make_ratings(timeline_of(1, 9), title=list("abcdefghi"), item_mean=[5.0] * 9)
    samples = build_samples(ratings, PrepareConfig(history_len=3))
    next(iter_examples(samples, "train", PromptSpec()))
    with pytest.raises(InputError, match=r"prompt.candidate_line: names \{item_mean\}, a column of the items"):
        next(iter_examples(samples, "train", PromptSpec(candidate_line="{title} {item_mean}")))


@pytest.mark.parametrize("line", ["{title:.1f}", "{rating:d}", "{n:s}", "{item_mean:d}", "{item_count:s}"])
def test_a_format_that_does_not_fit_its_values_is_the_prompts_error(make_ratings, timeline_of, line):
    samples = build_samples(make_ratings(timeline_of(1, 9)), PrepareConfig(history_len=3))
    with pytest.raises(InputError, match=r"prompt.history_line: .* cannot be written as"):
        next(iter_examples(samples, "train", PromptSpec(history_line=line)))


def test_an_item_without_a_row_in_the_item_table_is_named(make_ratings, timeline_of):
    ratings = make_ratings(timeline_of(1, 9))
    ratings = Ratings(ratings.frame, ratings.items[1:], "test", {}, (0.5, 5))
    with pytest.raises(InputError, match="item 100 has ratings but no row in the item table"):
        next(iter_examples(build_samples(ratings, PrepareConfig(history_len=3)), "train", PromptSpec()))

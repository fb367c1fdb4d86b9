"""A recommendation's prompt is the test sample's prompt for the same history, item and time, token for token."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.acceptance.ratings import write_ratings
from tests.small import all_small, small_tokenizer
from tests.tiny import EMPTY_THINK, tiny_model

from palate.baselines.signals import estimate_state, signals_of, source_of
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.spec import PromptSpec
from palate.prompt.tokenizer import load_tokenizer
from palate.ratings.load import load_ratings
from palate.samples import Samples, build_samples
from palate.samples.lines import renderer
from palate.samples.queries import Queries
from palate.samples.questions import asked_then
from palate.score.prompt_writer import PromptWriter
from palate.score.scorer import Scorer
from palate.store.hub import locate
from palate.tokens.dataset import Options, TokenDataset, token_datasets

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"
CONTEXT = PromptSpec(
    history_line="{n}. {title} {rating:.1f} of {item_mean:.1f}",
    candidate_line="{title} ({genres}), {item_mean:.1f} by {item_count}",
)
SIGNALS = PromptSpec(
    candidate_line="{title} {estimate:.0%} {neighbour:short} {neighbour_mean} {user_deviation:+.1f} {item_deviation}",
    estimate="online",
)
USERS = PromptSpec(candidate_line="{title} for {user.job}, {user.age}: {user_deviation}")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = write_ratings(tmp_path_factory.mktemp("ratings"), users=4, each=24)
    users = pl.DataFrame({"user_id": ["3", "1", "2"], "age": ["20", "unknown", "9"], "job": ["nurse", "actor", "cook"]})
    return replace(build_samples(load_ratings(str(folder)), PrepareConfig(history_len=5)), users=users)


def asked(samples: Samples, prompt: PromptSpec, chat: Chat, options: Options, split: str = "test") -> Any:
    """The prompts of a split's samples as questions about pairs of a history and an item."""
    queries = Queries.of_samples(samples, split)
    position = queries.anchor
    questions = asked_then(samples, position, queries.item)
    data = BaselineData.of(samples)
    source = source_of(data, prompt, estimate_state(data, prompt))
    render = renderer(questions.samples, prompt, lambda anchor, item: source.of(Queries(anchor, item)))
    prompts = PromptWriter(render, chat, options)
    return prompts.ids(position, questions.target, samples.history_len)


def scored(samples: Samples, prompt: PromptSpec, chat: Chat, options: Options, split: str = "test") -> TokenDataset:
    if prompt.signals:
        samples = replace(samples, signals=signals_of(BaselineData.of(samples), prompt))
    return token_datasets(samples, prompt, chat, options, splits=[split])[split]


@pytest.mark.parametrize(
    "prompt", [PromptSpec(), CONTEXT, SIGNALS, USERS], ids=["titles", "context", "signals", "users"]
)
@pytest.mark.parametrize("name", sorted(all_small()))
def test_with_every_kind_of_tokenizer(samples: Samples, prompt: PromptSpec, name: str) -> None:
    chat = Chat(all_small()[name])
    assert asked(samples, prompt, chat, Options()) == scored(samples, prompt, chat, Options()).prompts()


def ranked(samples: Samples, prompt: PromptSpec, chat: Chat, options: Options) -> list[list[int]]:
    """The prompts of the test samples as `Scorer.rank` asks them."""
    scorer = Scorer(
        tiny_model(), chat=chat, prompt=prompt, history_len=samples.history_len,
        cutoff_len=options.cutoff_len, truncation=options.truncation,
    )  # fmt: skip
    rows = samples.timeline.join(samples.items, on="item_id", maintain_order="left").to_dicts()
    position = samples.position[samples.of("test")].tolist()
    return [scorer.rank_prompts(rows[at - samples.history_len : at], [rows[at]])[0] for at in position]


@pytest.mark.parametrize("truncation", ["left", "middle", "history"])
@pytest.mark.parametrize("cutoff", [405, 440])
def test_cut_as_the_samples_are(samples: Samples, truncation: Any, cutoff: int) -> None:
    chat, options = Chat(small_tokenizer(EMPTY_THINK)), Options(cutoff, truncation)
    expected = scored(samples, PromptSpec(), chat, options)
    assert (expected.whole_lengths.total > cutoff).any(), "a test in which nothing is cut would prove nothing"
    assert asked(samples, PromptSpec(), chat, options) == expected.prompts()
    assert ranked(samples, PromptSpec(), chat, options) == expected.prompts()


def test_samples_that_training_would_drop_are_cut_on_the_left(samples: Samples) -> None:
    chat = Chat(small_tokenizer(EMPTY_THINK))
    found = asked(samples, PromptSpec(), chat, Options(405, "drop"))
    assert found == scored(samples, PromptSpec(), chat, Options(405, "left")).prompts()
    assert found == ranked(samples, PromptSpec(), chat, Options(405, "drop"))


@pytest.mark.parametrize(
    ("truncation", "cutoff", "words"),
    [
        ("error", 100, "tokens.truncation=error"),
        ("right", 100, "tokens.truncation=right"),
        ("history", 100, "too long without any history"),
        ("left", 8, "would cut into the answer"),
    ],
)
def test_what_may_not_be_cut_is_refused(samples: Samples, truncation: Any, cutoff: int, words: str) -> None:
    chat = Chat(small_tokenizer(EMPTY_THINK))
    with pytest.raises(InputError, match=words):
        asked(samples, PromptSpec(), chat, Options(cutoff, truncation))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="ml-latest-small is not there")
@pytest.mark.skipif(locate("qwen3", tokenizer=True).path is None, reason="the data package of qwen3 is absent")
def test_on_the_validation_samples_of_ml_latest_small() -> None:
    samples = build_samples(load_ratings(str(SHARED)), PrepareConfig(val_ratio=0.01))
    chat = Chat(load_tokenizer("qwen3"))
    expected = scored(samples, CONTEXT, chat, Options(), "val").prompts()
    assert asked(samples, CONTEXT, chat, Options(), "val") == expected

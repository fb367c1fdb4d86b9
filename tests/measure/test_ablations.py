"""Ablations: prompts that say less, made by the one renderer, and what is read from their scores."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from tests.rated import samples_of
from tests.small import CHATML, small_tokenizer

from palate.ablations import ABLATIONS
from palate.config import PrepareConfig
from palate.measure.ablations import UNCHANGED, ablate, compare_ablations, has_effect, reading
from palate.measure.bootstrap import Interval
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.ratings.load import Ratings
from palate.samples.build import Samples, build_samples
from palate.samples.lines import renderer
from palate.tokens.dataset import Options, token_datasets

LINES = {
    "history_line": "{n}. {title} [{genres}] {{{rating:.1f}}} {item_mean:.1f}",
    "candidate_line": "{title} ({year})",
}


@pytest.fixture(scope="module")
def samples() -> Samples:
    rng = np.random.default_rng(0)
    rows = [
        (u, int(i), float(rng.integers(1, 6)), int(rng.integers(99))) for u in range(9) for i in rng.permutation(30)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    items = pl.DataFrame(
        {"item_id": range(30), "title": [f"Film {i} ({1960 + i})" for i in range(30)], "genres": ["Drama|War"] * 30}
    )
    return build_samples(Ratings(frame, items, "test", {}, (1.0, 5.0)), PrepareConfig(history_len=4, test_ratio=0.3))


def said(samples: Samples, prompt: PromptSpec, index: Any) -> list[str]:
    return renderer(samples, prompt).examples(np.asarray(index))["input"].to_list()


def ablated(samples: Samples, prompt: PromptSpec, index: Any, ablation: str, seed: int = 13) -> list[str]:
    changed, asked = ablate(samples, prompt, np.asarray(index), ablation, seed)
    assert changed.label.tolist() == samples.label[np.asarray(index)].tolist()
    return said(changed, asked, np.arange(len(index)))


def lines_of(text: str) -> tuple[list[str], str]:
    """The history's lines and the candidate."""
    blocks = text.split("\n\n")
    return [line for line in blocks[0].split("\n")[1:] if line], blocks[-2].strip().split("\n")[1]


@pytest.mark.parametrize("prompt", [PromptSpec(), PromptSpec(**LINES)])
def test_each_ablation_takes_away_what_it_says_and_nothing_else(samples: Samples, prompt: PromptSpec) -> None:
    index = samples.of("test")[[5, 0, 17, 3]]
    plain = said(samples, prompt, index)
    titles = samples.items["title"].to_list()
    for before, after in zip(plain, ablated(samples, prompt, index, "titles"), strict=True):
        told = before
        for title in sorted(titles, key=len, reverse=True):
            told = told.replace(title, "(hidden)")
        assert after == told
        assert "Film" not in after
    for before, after in zip(plain, ablated(samples, prompt, index, "empty"), strict=True):
        assert lines_of(after) == ([], lines_of(before)[1])
    for before, after in zip(plain, ablated(samples, prompt, index, "ratings"), strict=True):
        assert lines_of(after)[1] == lines_of(before)[1]
        assert all("?" in line and "Film" in line for line in lines_of(after)[0])
        masked = prompt.model_copy(update={"history_line": prompt.history_line.replace("{rating:.1f}", "?")})
        assert after == said(samples, masked, index)[plain.index(before)]


def test_shuffling_keeps_what_was_rated_how_and_the_candidate(samples: Samples) -> None:
    prompt = PromptSpec(history_line="{title} {rating:.0f}")
    index = samples.of("test")
    plain, mixed = said(samples, prompt, index), ablated(samples, prompt, index, "shuffle")
    for before, after in zip(plain, mixed, strict=True):
        assert sorted(lines_of(before)[0]) == sorted(lines_of(after)[0])
        assert lines_of(before)[1] == lines_of(after)[1]
    moved = np.mean([before != after for before, after in zip(plain, mixed, strict=True)])
    assert moved > 0.8  # of 24 orders one leaves everything where it was
    assert mixed == ablated(samples, prompt, index, "shuffle")
    assert mixed != ablated(samples, prompt, index, "shuffle", seed=14)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_composed_prompts_are_those_of_the_plain_path(samples: Samples, ablation: str) -> None:
    chat = Chat(small_tokenizer(CHATML))
    prompt = PromptSpec(**LINES)
    index = samples.of("test")
    changed, asked = ablate(samples, prompt, index, ablation, 13)
    tokens = token_datasets(changed, asked, chat, Options(2000), splits=["test"])["test"]
    assert len(tokens) == len(index)
    examples = renderer(changed, asked).examples(np.arange(len(index))).to_dicts()
    conversations = [to_chat_messages(example)[:-1] for example in examples]
    assert tokens.prompts() == chat.decision_prompts(conversations)
    assert tokens.labels.tolist() == samples.label[index].tolist()


def test_what_the_prompt_does_not_show_cannot_be_hidden() -> None:
    bare = PromptSpec(history_line="{item_mean}", candidate_line="{year}")
    assert [name for name in ABLATIONS if has_effect(name, bare)] == ["shuffle", "empty"]
    shown = PromptSpec(candidate_line="{title} {item_vector}")
    assert all(has_effect(name, shown) for name in ABLATIONS)


def test_without_vectors_a_title_still_becomes_no_item_token(samples: Samples) -> None:
    """Only the vector changes: the tokenizer of the model that is scored has item tokens."""
    titles = pl.concat([pl.Series("title", ["Film ⟦3⟧"]), samples.items["title"][1:]])
    hostile = replace(samples, items=samples.items.with_columns(titles))
    prompt = PromptSpec(history_line="{item_vector} {title}", candidate_line="{title} {item_vector}")
    changed, asked = ablate(hostile, prompt, hostile.of("test"), "vectors", 13)
    chat = Chat(small_tokenizer(CHATML)).with_items(samples.items.height)
    (tokens,) = token_datasets(changed, asked, chat, Options(2000, "left", "all"), splits=["test"]).values()
    texts = [chat.backend.decode(tokens[n]["input_ids"]) for n in range(len(tokens))]
    assert any("? Film [3]" in text for text in texts)
    assert all(max(tokens[n]["input_ids"]) < (chat.first_item or 0) for n in range(len(tokens)))


@pytest.fixture(scope="module")
def compared(timeline: pl.DataFrame) -> Callable[..., Any]:
    samples = samples_of(timeline)
    index = samples.of("test")
    y = samples.label[index]

    def compare(**strengths: float) -> Any:
        rng = np.random.default_rng(0)
        noise = rng.normal(size=len(y))
        scores = {name: 1 / (1 + np.exp(-(k * (2 * y - 1) + noise))) for name, k in strengths.items()}
        found = compare_ablations(samples, index, scores, model="tiny", resamples=100, seed=1)
        assert found.auc == pytest.approx(roc_auc_score(y, scores[UNCHANGED]))
        for one in found.ablated:
            assert one.auc == pytest.approx(roc_auc_score(y, scores[one.name]))
            assert one.difference == pytest.approx(one.auc - found.auc)
            assert one.moved == pytest.approx(np.abs(scores[one.name] - scores[UNCHANGED]).mean())
        return found

    return compare


def test_the_reading_says_what_the_model_uses(compared: Callable[..., Any]) -> None:
    found = compared(unchanged=0.8, titles=3.0, shuffle=0.8, empty=0.4, ratings=0.1)
    titles, shuffle, empty, ratings, prior = found.reading
    assert titles.startswith("The model ranks better without the titles: AUC 0.")
    assert shuffle.startswith("It is not shown that the history's order helps")
    assert "+0.000 [+0.000, +0.000]" in shuffle
    assert empty.startswith("The model uses the history")
    assert ratings.startswith("The model uses the ratings in the history: hiding the history's ratings costs it rank")
    assert "From the candidate alone it still reaches AUC 0." in prior
    assert "On the more popular half of the rows" in prior


def test_the_reading_does_not_find_a_prior_where_there_is_none(compared: Callable[..., Any]) -> None:
    found = compared(unchanged=1.5, empty=0.0)
    assert "nothing is left that is told from chance" in found.reading[-1]
    backwards = replace(found.ablated[0], auc=0.3, interval=Interval(0.2, 0.4))
    assert "ranks backwards" in reading(replace(found, ablated=[backwards]))[-1]


def test_one_class_has_no_ablations_to_tell_apart(timeline: pl.DataFrame) -> None:
    samples = samples_of(timeline)
    index = np.flatnonzero(samples.label)
    p = np.full(len(index), 0.5)
    found = compare_ablations(samples, index, {UNCHANGED: p, "empty": p}, model="tiny", resamples=20, seed=1)
    assert found.reading == ["All rows have the same label, so they cannot compare ablations."]
    assert found.to_dict()["ablated"][0]["auc"] is None

"""Steps, shares and forward passes over prompts of any sizes."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.config import Config
from palate.tokens.dataset import Ragged
from palate.tokens.packed import Longs
from palate.tokens.shared import SharedHistory
from palate.train.schedule import Schedule, fill_steps, rate_of, samples_in_step, schedule_of
from palate.train.training_prompts import TrainingPrompts


class Lengths:
    """Sequences of which only the lengths are known."""

    answer_only, lead, identity = False, 0, "lengths"

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths, np.int32)
        self.responses = np.full(len(lengths), 2, np.int32)
        self.labels = np.zeros(len(lengths), bool)

    def __len__(self) -> int:
        return int(self.lengths.size)

    def ragged(self, indices: object = None) -> Ragged:
        raise NotImplementedError


def prompts_of(sizes: list[int], prefix: int = 50, seed: int = 0) -> SharedHistory:
    draw = np.random.default_rng(seed)
    shared = SharedHistory(Lengths((prefix + draw.integers(5, 30, sum(sizes))).tolist()))
    shared.first = np.cumsum([0, *sizes])
    shared.prefix = np.full(len(sizes), prefix)
    return shared


def samples(pieces: Longs) -> list[int]:
    return [sample for begin, end in pieces.tolist() for sample in range(begin, end)]


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=40)


@given(sizes=SIZES, per_step=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_sample_is_trained_once_an_epoch_in_steps_of_one_size(sizes: list[int], per_step: int, seed: int) -> None:
    prompts = prompts_of(sizes)
    steps = fill_steps(prompts.pieces(), per_step, seed)
    assert sorted(s for step in steps for s in samples(step)) == list(range(sum(sizes)))
    assert all(len(samples(step)) == per_step for step in steps[:-1])
    assert len(steps) == -(-sum(sizes) // per_step)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for step in steps:
        for begin, end in step.tolist():
            assert len(set(owner[begin:end])) == 1


@given(sizes=SIZES, per_step=st.integers(1, 12), world=st.integers(1, 5), budget=st.integers(20, 400))
def test_devices_share_a_step_and_make_as_many_passes(sizes: list[int], per_step: int, world: int, budget: int) -> None:
    prompts = prompts_of(sizes)
    schedule = Schedule(prompts, per_step, budget, seed=1)
    for step in range(schedule.steps):
        ranks = [schedule.passes(step, rank, world) for rank in range(world)]
        assert len({len(rank) for rank in ranks}) == 1
        trained = [s for rank in ranks for each in rank if each.counts for s in samples(each.pieces)]
        assert sorted(trained) == sorted(samples(schedule.pieces(step)))
        for each in (each for rank in ranks for each in rank):
            tokens = prompts.tokens(each.pieces)
            assert tokens.sum() <= budget or len(samples(each.pieces)) == 1
        assert schedule.trained(step) == 2 * len(trained)


@given(sizes=SIZES, per_step=st.integers(1, 12), steps=st.integers(0, 40))
def test_samples_are_counted_as_they_are_trained(sizes: list[int], per_step: int, steps: int) -> None:
    schedule = Schedule(prompts_of(sizes), per_step, 1000, seed=1)
    assert schedule.samples_in(steps) == sum(len(samples(schedule.pieces(step))) for step in range(steps))


def test_few_prompts_are_torn_apart() -> None:
    draw = np.random.default_rng(0)
    sizes = [16] * 300 + draw.integers(1, 16, 100).tolist()
    steps = fill_steps(prompts_of(sizes).pieces(), 16, 0)
    pieces = sum(len(step) for step in steps)
    assert pieces <= 1.05 * len(sizes)


def test_no_prompt_is_split_unless_a_budget_asks_for_it() -> None:
    prompts, train = prompts_of([8] * 4, prefix=100), {"batch_size": 1, "gradient_accumulation": 16}
    for budget, passes in ((None, 2), (100, 16)):
        config = Config.model_validate({"train": {**train, "targets_per_prompt": 8, "tokens_per_batch": budget}})
        schedule = schedule_of(config, TrainingPrompts(prompts, 32, None))
        assert len(schedule.passes(0)) == passes


def test_epochs_differ_and_a_seed_repeats_itself() -> None:
    prompts = prompts_of([3, 1, 4, 1, 5, 9, 2, 6])
    first, again, other = (Schedule(prompts, 4, 500, seed, epochs=2) for seed in (1, 1, 2))
    order = [samples(first.pieces(step)) for step in range(first.steps)]
    assert order == [samples(again.pieces(step)) for step in range(again.steps)]
    assert order != [samples(other.pieces(step)) for step in range(other.steps)]
    half = first.steps_per_epoch
    assert order[:half] != order[half:]
    assert Counter(chain(*order[:half])) == Counter(chain(*order[half:]))
    assert first.pieces(half + 1).tolist() == first.pieces(half + 1).tolist()


def test_epochs_may_be_parts_and_steps_may_be_counted() -> None:
    prompts = prompts_of([4] * 10)
    assert Schedule(prompts, 4, 500, 0, epochs=1.5).steps == 15
    assert Schedule(prompts, 4, 500, 0, max_steps=37).steps == 37


@pytest.mark.parametrize("world", [2, 3, 8])
def test_one_prompt_keeps_all_devices_busy(world: int) -> None:
    prompts = prompts_of([16])
    schedule = Schedule(prompts, 16, 10_000, 0)
    loads = [sum(int(prompts.tokens(each.pieces).sum()) for each in schedule.passes(0, r, world)) for r in range(world)]
    assert max(loads) <= 1.6 * min(loads)


@given(sizes=SIZES, tokens=st.integers(8, 3_000))
def test_a_step_may_be_counted_in_tokens(sizes: list[int], tokens: int) -> None:
    prompts = prompts_of(sizes)
    train = {"tokens_per_step": tokens, "batch_size": 4, "gradient_accumulation": 1, "learning_rate": 1e-4}
    config = Config.model_validate({"train": train})
    schedule = schedule_of(config, TrainingPrompts(prompts, 1, None))
    each = prompts.tokens(prompts.pieces()).sum() / sum(sizes)
    assert abs(schedule.samples_per_step - max(1, tokens / each)) <= 0.5
    assert rate_of(config.train, schedule.samples_per_step) ** 2 * 4 == pytest.approx(1e-8 * schedule.samples_per_step)


def test_a_step_of_tokens_has_whole_prompts() -> None:
    options = Config.model_validate({"train": {"tokens_per_step": 4_000, "targets_per_prompt": 16}}).train
    assert samples_in_step(options, 70.0) == 64
    assert samples_in_step(options, 1_000.0) == 4
    assert samples_in_step(options, 1e6) == 1

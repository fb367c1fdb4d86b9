"""A plan's arithmetic: steps, FLOPs with and without sharing, what fits and what would."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.plan.test_formulas import described

from palate.commands.plan import prices_of
from palate.config import Config
from palate.errors import InputError
from palate.plan import Device, Plan, Workload, find_device, predict
from palate.plan.devices import MARGIN
from palate.plan.flops import COMPILED
from palate.plan.predict import fitted, schedule, with_checkpointing


def config_of(folder: Path, **train: Any) -> Config:
    usual = {"batch_size": 4, "gradient_accumulation": 2, "gradient_checkpointing": False}
    return described(folder, "qwen3", layers=5, **(usual | train))


@pytest.mark.parametrize(
    ("train", "steps", "samples"),
    [
        ({}, 13, 100),
        ({"epochs": 2}, 26, 200),
        ({"epochs": 0.5}, 7, 56),
        ({"max_steps": 3}, 3, 24),
        ({"max_steps": 15}, 15, 116),
    ],
)
def test_steps_and_samples_are_counted_as_the_trainer_counts_them(
    train: dict[str, Any], steps: int, samples: int
) -> None:
    config = Config.model_validate({"train": {"batch_size": 4, "gradient_accumulation": 2} | train})
    found = schedule(config, Workload.of_lengths(np.full(100, 50), 2))

    assert (found.steps, found.samples, found.step_samples) == (steps, samples, 8)
    assert (found.micro_batches, found.pass_tokens, found.pass_labelled) == (2, 200, 8)


def test_sharing_saves_the_prefixes_and_nothing_else(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    shared = Workload(np.full(20, 4), np.full(20, 300), np.full(80, 25), 2)
    plan = predict(config, shared, devices=[])
    apart = predict(config, Workload.of_lengths(shared.lengths, 2), devices=[])

    tokens = 20 * (300 + 4 * 25) / (80 * 325)
    assert plan.compute.total["linear"] == pytest.approx(tokens * apart.compute.total["linear"], rel=0.01)
    assert plan.compute.total["lora"] == pytest.approx(tokens * apart.compute.total["lora"], rel=0.01)
    assert plan.compute.total["head"] == pytest.approx(apart.compute.total["head"], rel=0.01)
    assert plan.compute.separate == pytest.approx(apart.compute.sum, rel=0.01)
    assert plan.compute.usual > apart.compute.sum > 2 * plan.compute.sum
    assert plan.schedule.pass_tokens >= shared.longest_sequence == 400


def on(plan_config: Config, gigabytes: float, **more: Any) -> Plan:
    device = Device("card", {"float32": 1e12, "bfloat16": 2e12}, gigabytes * 1e9, None, 0.5, framework=0.0)
    return predict(plan_config, Workload.of_lengths(np.full(64, 200), 2), devices=[device], **more)


def test_time_is_flops_over_speed_and_money_is_time_times_price(tmp_path: Path) -> None:
    plan = on(config_of(tmp_path), 1, prices={"card": 3600})
    estimate = plan.estimates[0]

    assert estimate.fits
    assert estimate.remedy is None
    assert estimate.seconds == pytest.approx(plan.compute.sum / 0.5e12)
    assert estimate.seconds_a_step == pytest.approx(plan.seconds_a_step(0.5e12))
    assert estimate.cost == pytest.approx(estimate.seconds)


def test_a_remedy_makes_it_fit(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    whole = on(config, 1).estimates[0].memory
    fixed = whole.fixed / 1e9
    activations = whole.total / 1e9 - fixed

    for room, expected in ((0.6, {}), (0.2, {"train.gradient_checkpointing": True})):
        gigabytes = (fixed + room * activations) / 0.95
        estimate = on(config, gigabytes).estimates[0]
        assert not estimate.fits
        assert estimate.remedy is not None
        assert expected.items() <= estimate.remedy.items()
        values = {key.removeprefix("train."): value for key, value in estimate.remedy.items()}
        tried = config.model_copy(update={"train": config.train.model_copy(update=values)})
        alone = on(tried, gigabytes).estimates[0]
        assert alone.fits
        assert estimate.seconds == pytest.approx(alone.seconds)
        assert (estimate.seconds > 1.2 * on(config, 1).estimates[0].seconds) == bool(expected)
    assert on(config, fixed / 100).estimates[0].remedy is None


@pytest.mark.parametrize("room", [0.6, 0.2])
def test_what_is_too_small_has_the_time_that_the_remedy_takes(tmp_path: Path, room: float) -> None:
    """On a card whose memory is so slow that each pass costs the same."""
    config = config_of(tmp_path)
    whole = on(config, 1).estimates[0].memory
    size = (whole.fixed + room * (whole.total - whole.fixed)) / 0.95
    slow = Device("card", {"float32": 1e12, "bfloat16": 2e12}, size, 1e6, 0.5, framework=0.0)
    work = Workload.of_lengths(np.full(64, 200), 2)
    estimate = predict(config, work, devices=[slow], prices={"card": 3600}).estimates[0]
    assert estimate.remedy is not None
    values = {key.removeprefix("train."): value for key, value in estimate.remedy.items()}
    tried = config.model_copy(update={"train": config.train.model_copy(update=values)})
    alone = predict(tried, work, devices=[slow]).estimates[0]

    assert estimate.seconds == pytest.approx(alone.seconds)
    assert estimate.cost == pytest.approx(estimate.seconds)


def test_layers_of_a_long_run_on_a_gpu_are_compiled_and_start_fewer_kernels(tmp_path: Path) -> None:
    """On a GPU that is so fast that it only waits for kernels to start."""
    fast = Device("card", {"float32": 1e30, "bfloat16": 1e30}, 1e12, 1e30)

    def seconds(device: Device, work: Workload, **train: Any) -> float:
        return predict(config_of(tmp_path, **train), work, devices=[device]).estimates[0].seconds_a_step

    short, long = (Workload.of_lengths(np.full(count, 50), 2) for count in (800, 1_600))  # 100 and 200 steps
    plain = seconds(fast, short)
    assert seconds(fast, long, kernels="none") == pytest.approx(plain)
    assert seconds(fast, long) == seconds(fast, short, kernels="compile") == pytest.approx(COMPILED * plain)
    assert seconds(replace(fast, gpu=False), long) == pytest.approx(plain)


def test_checkpointing_is_the_fastest_that_fits(tmp_path: Path) -> None:
    config, dtype = config_of(tmp_path, gradient_checkpointing="auto"), "float32"
    found, size = [], {}
    for choice in (False, "selective", True):
        size[choice] = on(config_of(tmp_path, gradient_checkpointing=choice), 1).memory(dtype, 0.0).total
    assert size[True] < size["selective"] < size[False]
    for room in (size[False], size["selective"], size[True] / 2):
        card = Device("card", {dtype: 1.0}, 1.01 * room / MARGIN, None, framework=0.0)
        found.append(with_checkpointing(on(config, 1), card).config.train.gradient_checkpointing)
    assert found == [False, "selective", True]
    assert with_checkpointing(on(config, 1), replace(card, gpu=False)).config.train.gradient_checkpointing is False


def test_checkpointing_is_chosen_for_this_machines_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, work = config_of(tmp_path, gradient_checkpointing="auto"), Workload.of_lengths(np.full(100, 100), 2)
    monkeypatch.setattr(Workload, "of_schedule", lambda schedule: work)
    schedule: Any = None
    assert fitted(config, schedule) is config  # on a CPU
    monkeypatch.setattr("palate.models.load.device", lambda: torch.device("cuda"))
    for memory, choice in ((80e9, False), (1.0, True)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda on, m=memory: SimpleNamespace(total_memory=m))
        assert fitted(config, schedule).train.gradient_checkpointing is choice


def test_auto_is_bfloat16_where_a_device_has_it() -> None:
    assert Device("old", {"float32": 1.0}, 1, 1).dtype("auto") == "float32"
    assert Device("new", {"float32": 1.0, "bfloat16": 2.0}, 1, 1).dtype("auto") == "bfloat16"
    assert find_device("rtx 4090") == "RTX4090"


def test_prices_are_for_known_devices() -> None:
    assert prices_of(["h100=2.5", "this-machine=0"]) == {"H100": 2.5, "this machine": 0}
    for wrong, words in (("H10=2", "did you mean 'H100'"), ("H100=cheap", "NAME=PRICE"), ("H100", "NAME=PRICE")):
        with pytest.raises(InputError, match=words):
            prices_of([wrong])

"""Plan: predicts tokens, FLOPs, memory and time of a training run."""

import math
from collections.abc import Sequence
from typing import Any

from palate import console
from palate.commands.prepare import chat_of, outdated, prepared, samples_of, tokens_of, tokens_of_ratings
from palate.commands.signals import signalled
from palate.commands.unrated import tokens_with_unrated
from palate.config import Config
from palate.errors import InputError
from palate.models.load import check_at_hand
from palate.plan import DEVICES, Plan, Workload, find_device, load_shape, predict
from palate.plan.devices import this_machine
from palate.plan.show import as_json as summary
from palate.plan.show import plan_tables
from palate.store.artifacts import MANIFEST
from palate.tokens.examples import load_examples
from palate.train.schedule import schedule_of
from palate.train.training_prompts import prompts_of

TRAINING = 0.6
"""Share of a budget of time that training takes; scoring takes the rest."""


def show_plan(config: Config, *, from_ratings: bool = False, prices: Sequence[str] = (), as_json: bool = False) -> Plan:
    """Print tokens, FLOPs, memory and time of the training run, or JSON; returns the plan.

    `prices` are `NAME=PRICE`, an hour on a device. Samples come from the prepared data, or straight from the ratings.
    """
    console.start_logging()
    wanted = prices_of(prices)
    config = config.model_copy(update={"model": check_at_hand(config.model)})
    shape = load_shape(config)
    work, source = workload_of(config, from_ratings=from_ratings)
    here = this_machine(shape.config, config, work.longest_sequence)
    plan = predict(config, work, shape=shape, devices=[*DEVICES, here], prices=wanted)
    if as_json:
        console.print_json(summary(plan, source))
    else:
        console.out.print(plan_tables(plan, source))
    return plan


def prices_of(texts: Sequence[str]) -> dict[str, float]:
    """Prices per hour by device; raises `InputError` for an unknown device and for an invalid price."""
    prices = {}
    for text in texts:
        name, equals, price = text.partition("=")
        try:
            value = float(price)
        except ValueError:
            value = math.nan
        if not equals or not (0 <= value < math.inf):
            raise InputError(f"{text!r}, expected NAME=PRICE per hour, such as H100=2.50", "--price")
        prices[find_device(name, "--price")] = value
    return prices


def workload_of(config: Config, *, from_ratings: bool = False) -> tuple[Workload, str]:
    """The tokens of the config's training samples, and their source."""
    chat = chat_of(config)
    folder = config.data_path
    from_ratings = from_ratings or outdated(config)
    train: Any
    if not from_ratings and not (folder / MANIFEST).is_file() and (folder / "train.json").is_file():
        train, name = load_examples(folder / "train.json"), str(folder / "train.json")
    else:
        reads = from_ratings or (
            config.ratings.source and config.data_dir is None and not (folder / MANIFEST).is_file()
        )
        name = f"{config.ratings.source if reads else folder}, train"
        if config.train.unrated:
            samples = signalled(config, samples_of(config)[0])[0] if reads else prepared(config).samples
            train = tokens_with_unrated(config, samples, chat, name)
        elif reads:
            train = tokens_of_ratings(config, chat, ["train"])["train"]
        else:
            train = tokens_of(config, prepared(config), chat, ["train"])["train"]
    return Workload.of_schedule(schedule_of(config, prompts_of(config, chat, train, None))), name


def samples_within(config: Config, seconds: float) -> tuple[int, int]:
    """The numbers of samples to train on and of rows to score that this machine can do in about `seconds`.

    Training, with all its epochs and seeds, takes `TRAINING` of the time. A scored row is the forward pass of a prompt
    with one target, a third of a training step on it.
    """
    shape, found = load_shape(config), []
    passes = config.train.epochs * config.train.seeds
    for targets, share in ((config.train.targets_per_prompt, TRAINING / passes), (1, 3 * (1 - TRAINING))):
        train = {"targets_per_prompt": targets, "max_samples": None, "epochs": 1.0, "max_steps": None}
        options = config.train.model_copy(update=train | {"ranking_weight": 0.0})
        one = config.model_copy(update={"train": options})
        work, _ = workload_of(one)
        here = this_machine(shape.config, one, work.longest_sequence)
        (estimate,) = predict(one, work, shape=shape, devices=[here]).estimates
        found.append(min(int(share * seconds * work.samples / estimate.seconds), work.samples))
    return found[0], found[1]

"""A training with unrated pairs: what they are taught, beside which samples, and what leaves them out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load
from tests.acceptance.ratings import write_ratings
from tests.examples import mostly_slow
from tests.tiny import tiny_model
from tests.train.test_answers import ANSWERS, adapted, packed_of, prompts_for, rank_by_rank, trainer_on

from palate.baselines.registry import RANKERS
from palate.baselines.signals import SignalSource
from palate.baselines.statistics import PARTS
from palate.cli import main
from palate.commands.plan import workload_of
from palate.commands.prepare import baseline_data, check_model, prepare, prepared
from palate.commands.train import _beside, _training_data, train
from palate.config import Config
from palate.samples.queries import Queries, candidate_rows
from palate.samples.unrated import with_unrated
from palate.tokens.dataset import TokenDataset
from palate.train.answers import ranking_loss
from palate.train.attention import choose_attention
from palate.train.finetune import _with_vectors
from palate.train.schedule import Schedule
from palate.train.training_prompts import TrainingPrompts, prompts_of

EACH = 2


@pytest.fixture
def options(tmp_path: Path, base: Path) -> dict[str, Any]:
    """A config of a short training on a logistic regression's probabilities, with two pairs a sample."""
    return {
        "run_dir": str(tmp_path / "run"),
        "ratings": {"source": str(write_ratings(tmp_path / "ratings"))},
        "prepare": {"history_len": 5, "max_eval": 12, "val_ratio": 0.1},
        "prompt": {"system": "S", "instruction": "I", "question": "Yes or No?"},
        "model": {"base": str(base), "dtype": "float32"},
        "train": {
            "teacher": "logistic", "unrated": EACH, "max_samples": 12, "batch_size": 6, "gradient_accumulation": 1,
            "save_steps": 1, "save_total_limit": 9, "logging_steps": 2, "learning_rate": 0.01, "targets_per_prompt": 3,
            "ranking_weight": 0.3, "lora": {"r": 4, "alpha": 8},
        },
    }  # fmt: skip


def changed(options: dict[str, Any], **train: Any) -> Config:
    return Config.model_validate({**options, "train": {**options["train"], **train}})


def prompts_in(config: Config) -> TrainingPrompts:
    """What `palate train` trains on."""
    chat, beside = check_model(config), _beside(config)
    assert beside is not None
    chat, _ = _with_vectors(config, chat, beside)
    tokens, evaluated, _ = _training_data(config, chat)
    return prompts_of(config, chat, tokens, evaluated, beside)


def numbers(prompts: TrainingPrompts) -> np.ndarray:
    """The numbers of the samples in the dataset's order."""
    assert isinstance(prompts.train.source, TokenDataset)
    return prompts.train.source.numbers


@pytest.mark.parametrize("k", [1, 3])
def test_pairs_stand_beside_their_sample_and_learn_what_the_teacher_says_of_them(
    options: dict[str, Any], k: int
) -> None:
    config = changed(options, targets_per_prompt=k, ranking_weight=0)
    prepare(config)
    prompts, plain = prompts_in(config), prompts_in(changed(options, targets_per_prompt=k, ranking_weight=0, unrated=0))
    assert plain.rated is None
    assert prompts.taught is not None
    assert plain.taught is not None
    data = prepared(config)
    both = with_unrated(data.samples, EACH, config.seed)
    assert both.negative is not None
    index = both.of("train")[numbers(prompts)]
    position, item, rated = both.position[index], candidate_rows(both, index), both.negative[index] < 0
    np.testing.assert_array_equal(prompts.rated, rated)
    assert 12 < prompts.unrated == (~rated).sum() <= EACH * 12

    # The samples that are drawn without pairs, and the pairs of no others.
    own = data.samples.position[data.samples.of("train")[numbers(plain)]]
    assert position[rated].tolist() == own.tolist()
    assert set(position) == set(own)
    np.testing.assert_array_equal(prompts.taught[rated], plain.taught)

    # The teacher's probability of each, by a fit without the samples of the user's part.
    known, logistic = baseline_data(config, data, text=False), RANKERS["logistic"]
    for part in range(PARTS):
        others = known.leaving_out(part, apart=False)
        rows = np.flatnonzero(known.fold[position] % PARTS == part)
        expected = logistic.predictor(others, logistic.fitted(others))(Queries(position[rows], item[rows]))
        np.testing.assert_allclose(prompts.taught[rows], expected, rtol=1e-12)

    # A sequence asks about its own item, and a pair's says No; targets at the same time share their prompt.
    packed = prompts.train.pack(prompts.train.pieces())
    titles, decode = data.samples.items["title"], check_model(config).tokenizer.decode
    for j, n in enumerate(packed.samples):
        assert titles[int(item[n])] in decode(packed.alone(j).input_ids)
        assert packed.liked[j] <= rated[n]
    shared = {(int(row), int(prompt)) for row, prompt in zip(position[packed.samples], packed.prompt_of, strict=True)}
    assert len(shared) == (len(own) if k > 1 else packed.samples.size)
    assert workload_of(config)[0].samples == packed.samples.size


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_of_an_order_has_an_unrated_target(seed: int) -> None:
    draw = np.random.default_rng(seed)
    packed = packed_of(np.sort(draw.integers(0, 4, 30)), draw.random(30) < 0.5)
    rated = draw.random(30) < 0.6
    margin = torch.from_numpy(draw.normal(size=30)).requires_grad_()
    loss = ranking_loss(margin, packed, rated)
    loss.backward()
    alone = packed_of(packed.prompt_of[rated], packed.liked[rated])
    assert loss.item() == pytest.approx(rank_by_rank(margin.detach()[rated], alone).item())
    assert margin.grad is not None
    assert (margin.grad[~rated] == 0).all()
    assert (margin.grad[rated] != 0).any()


def test_accuracy_takes_the_teachers_answer_where_there_is_no_other(tmp_path: Path) -> None:
    prompts = prompts_for("gpt2_like", tmp_path, 5)
    n, model = prompts.order.size, adapted(tiny_model("qwen3", 2048))
    draw = np.random.default_rng(0)
    taught, rated = draw.random(n), draw.random(n) < 0.5
    attention = choose_attention(model, "auto", 5, 400)
    trainer = trainer_on(model, Schedule(prompts, 20, 1500, seed=0), attention, tmp_path, taught=taught)
    trainer.rated = rated
    packed = prompts.pack(prompts.pieces()[:5])
    logits = torch.randn(packed.at.size, 2048, generator=torch.Generator().manual_seed(0))
    sums = trainer._losses(logits, packed, trainer._taught(packed))[1]
    says_yes = (logits[packed.decision, ANSWERS[0]] > logits[packed.decision, ANSWERS[1]]).numpy()
    answer = np.where(rated[packed.samples], packed.liked, taught[packed.samples] > 0.5)
    assert sums[2] == (says_yes == answer).sum()
    assert (answer != packed.liked).any()


@pytest.mark.parametrize(("method", "k"), mostly_slow([("lora", 3), ("lora", 1), ("full", 3)], [("lora", 3)]))
def test_a_resumed_training_leaves_the_same_bytes(options: dict[str, Any], method: str, k: int) -> None:
    config = changed(options, method=method, targets_per_prompt=k, ranking_weight=0.3 if k > 1 else 0)
    prepare(config)
    kept = []
    for dropped in ((), (2, 3, 4, 5, 6)):
        for step in dropped:
            (config.run_path / f"checkpoints/checkpoint-{step}/whole").unlink(missing_ok=True)
        adapter = train(config)
        facts = json.loads((adapter / "training.json").read_text())
        assert facts["resumed_at"] == (1 if dropped else 0)
        assert facts["samples"] == 12 + facts["unrated"] > 24
        assert facts["steps"] == -(-facts["samples"] // 6)
        kept.append((adapter / "adapter_model.safetensors").read_bytes())
    assert f"{facts['unrated']} of them unrated pairs" in (adapter / "README.md").read_text()
    assert any("lora_B" in name and w.any() for name, w in load(kept[0]).items()) or method == "full"
    assert kept[0] == kept[1]


def test_pairs_have_signals_and_vectors_as_samples_have_them(options: dict[str, Any]) -> None:
    line = "{title} {item_vector} ({estimate:.0%}, {user_deviation:+.1f}, {item_deviation:+.1f})"
    config = changed({**options, "prompt": {**options["prompt"], "candidate_line": line, "estimate": "online"}})
    prepare(config)
    data, prompts = prepared(config), prompts_in(config)
    assert prompts.shown is not None
    both, known = with_unrated(data.samples, EACH, config.seed), baseline_data(config, data, text=False)
    index = both.of("train")[numbers(prompts)]
    queries = Queries(both.position[index], candidate_rows(both, index))
    part = known.fold[queries.anchor] % PARTS
    np.testing.assert_array_equal(prompts.shown.part, part)
    expected = SignalSource(known, ("user_deviation", "item_deviation")).of(queries)
    fits = [known.leaving_out(n, apart=True) for n in range(PARTS)]  # of nothing that the user ever said
    estimates = [RANKERS["online"].predictor(fit, RANKERS["online"].fitted(fit))(queries) for fit in fits]
    tokenizer = check_model(config).tokenizer
    packed = prompts.train.pack(prompts.train.pieces())
    for j, n in enumerate(packed.samples.tolist()):
        text = tokenizer.decode(packed.alone(j).input_ids)
        estimate, *deviations = re.findall(r"\((\d+)%, ([+-][\d.]+), ([+-][\d.]+)\)", text)[-1]
        assert int(estimate) == np.rint(100 * estimates[part[n]][n])
        assert tuple(map(float, deviations)) == expected.row(n)


def test_what_cannot_be_labelled_is_refused(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for train_options, ratings, told in (
        ({"teacher": None}, {}, "'train': unrated=2 adds items that only a teacher labels, expected a baseline"),
        ({"teacher": "logistic-knn"}, {"likes": "uniform"}, "train.unrated=2 adds items that the user never took"),
    ):
        config = {**options, "train": {**options["train"], **train_options}}
        config["ratings"] = {**options["ratings"], **ratings}
        assert told in refused(config, capsys)
    config = changed(options, unrated=0, teacher=None)
    prepare(config)
    (config.data_path / "manifest.json").unlink()  # Alpaca files of another program have none
    told = refused({**options, "data_dir": str(config.data_path)}, capsys)
    assert told == "error: train.unrated: draws items that a user never rated, which needs ratings, expected 0"


def refused(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which `palate plan` refuses a config."""
    path = Path(config["run_dir"]).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    assert main(["plan", str(path)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    return line

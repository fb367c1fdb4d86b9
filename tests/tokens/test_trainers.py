"""Token datasets in the hands of those that read them: torch's DataLoader, `datasets`, TRL's trainer."""

import pickle
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk
from tests.acceptance.ratings import write_ratings
from tests.examples import mostly_slow
from tests.small import small_tokenizer

from palate.config import PrepareConfig
from palate.prompt.chat import Chat
from palate.prompt.spec import PromptSpec
from palate.ratings.load import load_ratings
from palate.samples.build import build_samples
from palate.tokens.arrow import write_dataset
from palate.tokens.dataset import COLUMNS, Options, TokenDataset, token_datasets

SHORT = PromptSpec(system="S", instruction="Like it?", history_header="Last:", candidate_header="Next:", question="?")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenDataset]:
    ratings = load_ratings(str(write_ratings(tmp_path_factory.mktemp("log") / "ratings", users=4, each=20)))
    samples = build_samples(ratings, PrepareConfig(history_len=3))
    options = Options(cutoff_len=100)
    return token_datasets(samples, SHORT, Chat(small_tokenizer()), options, data=dict(ratings.inputs))


@pytest.fixture(scope="module")
def written(tokens: dict[str, TokenDataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("written")
    for split, dataset in tokens.items():
        write_dataset(folder / split, [dataset.ragged()], split=split)
    return {split: load_from_disk(str(folder / split)) for split in tokens}


def plain(rows: Any) -> list[dict[str, list[int]]]:
    return [{name: np.asarray(row[name]).tolist() for name in COLUMNS} for row in rows]


def test_a_pickle_holds_names_only(tokens: dict[str, TokenDataset]) -> None:
    dataset = tokens["train"]
    dataset[0]  # whatever was computed by then stays here

    data = pickle.dumps(dataset)

    assert len(data) < 2000
    assert plain(pickle.loads(data)) == plain(dataset)
    assert len(pickle.dumps(dataset.as_hf())) < 8 * len(dataset) + 5000


@pytest.mark.parametrize(
    ("context", "kind"), mostly_slow(product(["fork", "spawn"], ["tokens", "hf"]), product(["fork"], ["tokens", "hf"]))
)
def test_workers_compose_the_same_batches(tokens: dict[str, TokenDataset], context: str, kind: str) -> None:
    data = pytest.importorskip("torch.utils.data")
    dataset = tokens["val"] if kind == "tokens" else tokens["val"].as_hf()
    dataset[0]

    here = data.DataLoader(dataset, batch_size=3, collate_fn=list)
    there = data.DataLoader(dataset, batch_size=3, collate_fn=list, num_workers=2, multiprocessing_context=context)

    batches = [plain(batch) for batch in here]
    assert [plain(batch) for batch in there] == batches
    assert [row for batch in batches for row in batch] == plain(tokens["val"])


def test_the_library_composes_the_rows_that_it_chooses(
    tokens: dict[str, TokenDataset], written: dict[str, Dataset]
) -> None:
    lazy, stored = tokens["train"].as_hf(), written["train"]
    assert len(lazy) == len(stored)

    for choose in (
        lambda d: d,
        lambda d: d.select([5, 2, 9, 2]),
        lambda d: d.select(range(4, 8)),
        lambda d: d.shuffle(seed=3),
        lambda d: d.shuffle(seed=3).select(range(6)).shuffle(seed=4),
        lambda d: d.train_test_split(test_size=0.25, seed=1)["train"],
        lambda d: d.train_test_split(test_size=0.25, seed=1)["test"],
        lambda d: d.shard(3, 1),
        lambda d: d.skip(10).take(3),
        lambda d: d.filter(lambda row: len(row["input_ids"]) > 80),
        lambda d: d.shuffle(seed=3).flatten_indices(),
        lambda d: concatenate_datasets([d.select([3]), d.select([1, 2])]),
        lambda d: d.map(lambda row: {"labels": [-100] + [7] * (len(row["labels"]) - 1)}).shuffle(seed=3),
    ):
        assert plain(choose(lazy)) == plain(choose(stored))
    assert plain([lazy[-1]]) == plain([stored[-1]])
    assert plain(lazy.__getitems__([4, 1])) == plain(stored.__getitems__([4, 1]))
    assert [row.tolist() for row in lazy["input_ids"]] == stored["input_ids"][:]


def test_what_map_adds_or_writes_is_kept(tokens: dict[str, TokenDataset]) -> None:
    lazy = tokens["train"].as_hf()

    counted = lazy.map(lambda row: {"n": len(row["input_ids"])})
    assert [row["n"] for row in counted] == tokens["train"].lengths.tolist()
    assert plain(counted) == plain(tokens["train"])
    assert list(counted.select_columns("n")) == [{"n": n} for n in tokens["train"].lengths.tolist()]

    # Ids of one length, every one of them the number of a sample too.
    changed = lazy.map(lambda row: {name: [1, 2] for name in COLUMNS}, remove_columns="input_ids")
    assert plain(changed) == [{name: [1, 2] for name in COLUMNS}] * len(lazy)


def test_a_selection_is_composed_by_the_library_too(tokens: dict[str, TokenDataset]) -> None:
    chosen = tokens["train"].select([7, 3, 3])

    assert plain(chosen.as_hf()) == plain([tokens["train"][n] for n in (7, 3, 3)])


@pytest.mark.parametrize("workers", [0, 2])
def test_trl_trains_on_composed_samples_as_on_stored_ones(
    tokens: dict[str, TokenDataset], written: dict[str, Dataset], tmp_path: Path, workers: int
) -> None:
    trl = pytest.importorskip("trl")
    from tests.tiny import tiny_model

    def losses(train: Dataset, evaluated: Dataset, name: str, **preparation: Any) -> list[float]:
        options = trl.SFTConfig(
            output_dir=str(tmp_path / name),
            max_steps=2,
            per_device_train_batch_size=4,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            learning_rate=1e-2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            dataloader_num_workers=workers,
            **preparation,
        )
        trainer = trl.SFTTrainer(
            tiny_model(), options, train_dataset=train, eval_dataset=evaluated, processing_class=small_tokenizer()
        )
        trainer.train()
        return [entry[key] for entry in trainer.state.log_history for key in ("loss", "eval_loss") if key in entry]

    skip = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    composed = losses(tokens["train"].as_hf(), tokens["val"].as_hf(), "composed", **skip)
    stored = losses(written["train"], written["val"], "stored", **skip)
    as_a_user_would = losses(written["train"], written["val"], "prepared", max_length=None)

    assert len(composed) == 4
    assert composed == stored == as_a_user_would
    assert composed[1] != composed[3]

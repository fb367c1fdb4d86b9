"""A token folder that is carried elsewhere gives the samples that it was written from."""

import shutil
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.examples import mostly_slow
from tests.templates.kinds import KINDS, tokenizer_of
from tests.titles import TITLES
from tests.tokens.test_dataset import PROMPTS, TOKENIZERS, as_lists, composed, samples_of
from tests.tokens.test_kernel import everything
from tests.tokens.test_shared import with_users

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.template import DATE
from palate.prompt.tokenizer import dated, tokenizer_identity
from palate.tokens.portable import MANIFEST, Portable, is_portable, open_portable, write_portable

DATA = {"outputs": {"ratings.parquet": "0" * 64}}


@pytest.mark.parametrize(
    ("name", "truncation"),
    mostly_slow(
        product(TOKENIZERS, ["left", "history", "drop"]),
        [*product(["byte_level_bpe", "phi3_like"], ["left", "history", "drop"]), ("unigram", "left")],
    ),
)
def test_a_carried_folder_gives_the_same_samples(name: str, truncation: Any, tmp_path: Path) -> None:
    spec, samples = PROMPTS["many fields"], with_users(samples_of(TITLES[:60]))
    chat = Chat(TOKENIZERS[name], spec.yes, spec.no)
    cache = tmp_path / "cache"
    cutoff = int(np.quantile(composed(samples, spec, chat, cache)["train"].lengths, 0.8))
    datasets = composed(samples, spec, chat, cache, cutoff_len=cutoff, truncation=truncation)
    carried = {"train": datasets["train"], "eval": datasets["val"].select([1, 0]), "test": datasets["test"]}
    wanted = {split: as_lists(dataset) for split, dataset in carried.items()}
    identities = {split: dataset.identity for split, dataset in carried.items()}
    packed = everything(datasets["train"]) if truncation != "drop" else []
    ids = {"user_id": np.arange(3), "item_id": np.arange(3) + 7}
    (tmp_path / "T").mkdir()
    write_portable(tmp_path / "T", carried, ids, chat, {}, DATA)
    shutil.rmtree(cache)
    del datasets, carried

    shutil.move(tmp_path / "T", tmp_path / "elsewhere")
    assert is_portable(tmp_path / "elsewhere")
    found = open_portable(tmp_path / "elsewhere")
    found.check_tokenizer(chat)
    for split, rows in wanted.items():
        dataset = found.dataset(split, chat)
        assert as_lists(dataset) == rows
        assert dataset.identity == identities[split]
    if packed:
        for got, expected in zip(everything(found.dataset("train", chat)), packed, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert found.test_ids["item_id"].tolist() == [7, 8, 9]
    assert found.data_manifest == DATA


def test_some_of_these_samples_are_tokenized_whole(tmp_path: Path) -> None:
    spec, samples = PROMPTS["many fields"], with_users(samples_of(TITLES[:60]))
    chats = [Chat(TOKENIZERS[name], spec.yes, spec.no) for name in ("byte_level_bpe", "phi3_like", "unigram")]
    unproved = [composed(samples, spec, chat, tmp_path)["train"].tables.unproved("train").size for chat in chats]
    assert any(unproved)
    assert not all(unproved)


def test_what_is_no_such_folder_is_named(tmp_path: Path) -> None:
    assert not is_portable(tmp_path)
    for text, said in (
        ('{"palate": "1", "stage": "prepare", "outputs": {}}', "is not of a portable token folder"),
        ("[]", "has another JSON value, expected an object"),
        ("{}", "palate is missing; write the folder again with `palate tokenize --portable`"),
        ('{"palate": "1", "stage": "portable", "outputs": {}, "options": {"format": 0}}', "is of format 0, expected 1"),
    ):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(InputError, match=said):
            open_portable(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind, template in KINDS.items() if isinstance(template, str)])
def test_a_folder_that_an_earlier_version_rendered_otherwise_is_refused(tmp_path: Path, kind: str) -> None:
    chat = Chat(dated(tokenizer_of(kind), DATE))
    identity = tokenizer_identity(chat.tokenizer) | {"chat template": sha256(KINDS[kind].encode()).hexdigest()}
    about = {"tokenizer": identity, "decision": chat.decision.describe(chat.tokenizer)}
    found = Portable(tmp_path, {}, about)

    if kind in ("plain", "trimming", "think block", "think block when asked", "no generation prompt"):
        found.check_tokenizer(chat)
    else:
        with pytest.raises(InputError, match="was made by an earlier version that rendered the chat template"):
            found.check_tokenizer(chat)

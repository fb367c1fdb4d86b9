"""Revisions of the hub's repositories, with a cache of the hub that holds two commits of a tiny model."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.small import CHATML, small_tokenizer
from tests.tiny import random_adapter, tiny_folder, toy_config

from palate.commands.prepare import chat_of, check_model
from palate.commands.score import load_scorer
from palate.config import Config
from palate.errors import InputError
from palate.models.adapter import as_trained
from palate.models.load import load_base_model
from palate.prompt.tokenizer import load_tokenizer
from palate.score.scorer import Scorer
from palate.store.artifacts import sha256_file
from palate.store.hub import weights_digest

OLD, NEW = "a" * 40, "b" * 40
BASE, OTHER = "org/tiny", "org/words"
OLD_TEMPLATE = CHATML.replace("message['content']", "'(old) ' + message['content']")


def publish(hub: Path, repository: str, commit: str, folder: Path) -> None:
    """Put a folder into the hub's cache as a commit, which `main` then is."""
    home = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants  # reads the environment, which says offline only by now

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_tokenizer.cache_clear()
    publish(tmp_path / "hub", BASE, OLD, tiny_folder(tmp_path / "old", tokenizer=small_tokenizer(OLD_TEMPLATE)))
    publish(tmp_path / "hub", BASE, NEW, tiny_folder(tmp_path / "new", seed=1))
    return tmp_path / "hub"


def at(revision: str | None, **sections: object) -> Config:
    return toy_config(Path(BASE), model={"revision": revision}, **sections)


def forget_what_palate_wrote(adapter: Path) -> Path:
    """Leave what PEFT alone writes."""
    (adapter / "palate.json").unlink()
    return adapter


@pytest.mark.parametrize("foreign", [False, True])
def test_the_revision_that_an_adapter_records_is_the_one_that_is_loaded(tmp_path: Path, foreign: bool) -> None:
    adapter = random_adapter(at(OLD), tmp_path / "adapter")
    assert json.loads((adapter / "adapter_config.json").read_text())["revision"] == OLD
    if foreign:
        forget_what_palate_wrote(adapter)
    wanted = load_base_model(at(OLD).model)[0].lm_head.weight
    config = as_trained(at(None), adapter)
    assert "(old)" in check_model(config).text([{"role": "user", "content": "U"}])
    for scorer in (load_scorer(config, adapter), Scorer(BASE, adapter, dtype="float32")):
        assert torch.equal(scorer.model.get_output_embeddings().weight, wanted)
        assert "(old)" in scorer.chat.text([{"role": "user", "content": "U"}])


def test_another_revision_than_the_adapters_is_refused(tmp_path: Path) -> None:
    adapter = random_adapter(at(OLD), tmp_path / "adapter")
    with pytest.raises(
        InputError, match=rf"adapter_config.json: records revision '{OLD}' of {BASE}, the config has '{NEW}'"
    ):
        as_trained(at(NEW), adapter)
    moved = toy_config(tmp_path / "new")
    assert as_trained(moved, adapter) == moved, "a folder has no revisions"


def test_the_models_revision_is_not_that_of_another_repositorys_tokenizer(hub: Path, tmp_path: Path) -> None:
    publish(hub, OTHER, "c" * 40, tiny_folder(tmp_path / "words", tokenizer=small_tokenizer(CHATML)))
    config = at(OLD, tokens={"tokenizer": OTHER})
    for chat in (chat_of(config), load_scorer(config, None).chat):
        assert chat.tokenizer.chat_template == CHATML
    config = at(OLD, tokens={"tokenizer": BASE})
    for chat in (chat_of(config), load_scorer(config, None).chat):
        assert chat.tokenizer.chat_template == OLD_TEMPLATE


def test_a_cached_revision_without_main_is_at_hand(hub: Path) -> None:
    (hub / "models--org--tiny" / "refs" / "main").unlink()
    assert check_model(at(OLD)).tokenizer.chat_template == OLD_TEMPLATE


def test_a_file_of_weights_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    digest = weights_digest(weights)
    assert digest == sha256_file(weights)
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text("0" * 64)
    assert weights_digest(weights) == "0" * 64, "it was read again"
    kept.write_text("cut off")
    assert weights_digest(weights) == digest == kept.read_text()
    state = weights.stat()
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert weights_digest(weights) == sha256_file(weights) != digest


def test_a_cache_that_takes_no_files_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert weights_digest(tmp_path / "file") == sha256_file(tmp_path / "file")

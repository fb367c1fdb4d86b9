"""What is downloaded from a hub, and what is said when that fails; the hub is `tests.hub`."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from rich.console import Console
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.hub import Hub, serving
from tests.tiny import random_adapter, tiny_folder, tiny_model, toy_config

import palate.snapshot as module
from palate.config import Config
from palate.errors import InputError, WorkError
from palate.models.adapter import as_trained
from palate.models.load import load_base_model, load_config
from palate.snapshot import snapshot
from palate.store import hub as store

ROOT = Path(__file__).parents[1]
NAME = "org/tiny"
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HF_HUB_OFFLINE")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two shards, and beside them what is not to be downloaded."""
    home = tiny_folder(tmp_path_factory.mktemp("hub") / "tiny")
    (home / "model.safetensors").unlink()
    tiny_model().save_pretrained(home, max_shard_size="300KB")
    others = ("pytorch_model.bin", "tiny.gguf", "consolidated.safetensors", "original/consolidated.00.pth", "README.md")
    for name in (*others, "onnx/model.json"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(b"not needed")
    return home


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        served.publish(NAME, folder)
        store.hub_is_out_of_reach.cache_clear()
        module._listing.cache_clear()
        yield served
    store.hub_is_out_of_reach.cache_clear()
    module._listing.cache_clear()


def at(name: str = NAME, revision: str | None = None) -> Config:
    return toy_config(Path(name), model={"revision": revision})


def test_only_what_is_read_is_downloaded_once_and_its_size_is_told_before(
    hub: Hub, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "palate")
    model, tokenizer = load_base_model(at().model)

    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    small = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert len(shards) > 1
    assert sorted(hub.downloads()) == sorted([*small, "model.safetensors.index.json", *shards])
    assert hub.downloads()[-len(shards) :] == shards, "first what says whether the weights are of any use"
    assert model.name_or_path == tokenizer.name_or_path == NAME
    size = sum((folder / name).stat().st_size for name in shards)
    (told,) = [record.getMessage() for record in caplog.records if "free" in record.getMessage()]
    said = rf"org/tiny: ([\d.]+) kB in {len(shards)} files to {tmp_path / 'cache'}, [\d.]+ [TG]B free"
    found = re.fullmatch(said, told)
    assert found
    assert float(found[1]) == pytest.approx(size / 1000, rel=0.1)
    before = len(hub.asked)
    load_base_model(at().model)
    assert len(hub.asked) == before, "all is cached, and the commit known"


def test_the_commit_is_recorded_with_the_adapter_and_is_the_base_from_then_on(
    hub: Hub, tmp_path: Path, folder: Path
) -> None:
    adapter = random_adapter(at(), tmp_path / "adapter")
    for file, keys in {"palate.json": ("base", "revision"), "adapter_config.json": ("revision",)}.items():
        value: Any = json.loads((adapter / file).read_text())
        for key in keys:
            value = value[key]
        assert value == "a" * 40
    hub.publish(NAME, tiny_folder(tmp_path / "newer", seed=1), "b" * 40)
    module._listing.cache_clear()
    assert as_trained(at(), adapter).model.revision == "a" * 40
    with pytest.raises(InputError, match=f"records revision '{'a' * 40}' of org/tiny, the config has 'main'"):
        as_trained(at(revision="main"), adapter)


def test_a_branch_at_the_adapters_commit_is_the_same_revision(hub: Hub, tmp_path: Path) -> None:
    adapter = random_adapter(at(), tmp_path / "adapter")
    assert as_trained(at(revision="main"), adapter).model.revision == "a" * 40


def test_one_bar_counts_the_bytes_of_all_files(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("palate.progress.err", Console(file=screen, force_terminal=True, width=100))
    snapshot(NAME, weights=True)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    size = sum((folder / name).stat().st_size for name in hub.downloads()) / 1000
    assert re.search(rf"tiny ━+ {size:.1f}/{size:.1f} kB", shown)
    assert not re.search(r"\n.*\n", shown.strip()), "one line"


def test_a_download_that_breaks_off_goes_on_within_the_file(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 400)  # 10 MiB: the client keeps whole pieces alone
    shard = sorted(folder.glob("model-*.safetensors"))[0].name
    hub.breaks[shard] = 1000
    found = snapshot(NAME, weights=True)
    assert (found / shard).read_bytes() == (folder / shard).read_bytes()
    assert hub.downloads().count(shard) == 2
    assert any(line.endswith(f"{shard} bytes=800-") for line in hub.asked), "it goes on within the file"


def test_a_file_that_the_hub_fails_to_send_is_told_as_such(hub: Hub, folder: Path) -> None:
    hub.fails["tokenizer.json"] = 500
    with pytest.raises(WorkError, match=rf"org/tiny: cannot be downloaded from {hub.url}: .*500.*; the same command"):
        snapshot(NAME)


def test_a_file_that_is_cut_off_in_the_cache_is_downloaded_again(hub: Hub, folder: Path) -> None:
    found = snapshot(NAME, weights=True)
    for name in ("config.json", shard := sorted(folder.glob("model-*.safetensors"))[0].name):
        (found / name).resolve().write_bytes((folder / name).read_bytes()[:100])
    hub.asked.clear()
    found = snapshot(NAME, weights=True)
    assert hub.downloads() == ["config.json", shard]
    assert all((found / name).read_bytes() == (folder / name).read_bytes() for name in hub.downloads())


def test_an_index_that_names_no_files_is_refused(hub: Hub, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    with pytest.raises(InputError, match=r"index\.json: weight_map is no object, expected one with the file of each"):
        snapshot(hub.publish("org/other", copy), weights=True)


def test_an_interrupted_download_goes_on_with_the_next_file(hub: Hub, folder: Path, tmp_path: Path) -> None:
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    hub.seconds[shards[1]] = 60
    snapshot(NAME)
    main = "from palate.snapshot import snapshot; snapshot('org/tiny', weights=True)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_CACHE": str(tmp_path / "cache")}
    child = subprocess.Popen([sys.executable, "-c", main], env=environment, stderr=subprocess.PIPE, text=True)
    while shards[1] not in hub.downloads():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)
    assert f"org/tiny: stopped after 1 of {len(shards)} files; the same command downloads the others" in said

    hub.seconds.clear()
    hub.asked.clear()
    snapshot(NAME, weights=True)
    assert hub.downloads() == shards[1:]
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_what_does_not_fit_is_refused_before(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot(NAME)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9000, 0, 9000))
    with pytest.raises(WorkError, match=r"org/tiny: .* kB in \d files to .*, where 9.0 kB are free: expected more, or"):
        snapshot(NAME, weights=True)
    assert not any(name.endswith(".safetensors") for name in hub.downloads())


def test_a_gated_repository_is_told_with_the_address_and_the_login(hub: Hub) -> None:
    hub.gated[NAME] = "Access to model org/tiny is restricted and you are not in the authorized list."
    with pytest.raises(InputError) as caught:
        load_base_model(at().model)
    assert str(caught.value) == (
        "org/tiny: is gated: Access to model org/tiny is restricted and you are not in the authorized list; "
        f"ask for access at {hub.url}/org/tiny, then log in with `hf auth login` or set HF_TOKEN"
    )
    with pytest.raises(InputError, match="is gated"):
        load_config(at().model)


def test_a_private_or_misspelt_repository_and_an_unknown_revision_are_told_in_a_line(hub: Hub) -> None:
    with pytest.raises(InputError) as caught:
        load_base_model(at("org/tinny").model)
    expected = f"org/tinny: is no repository at {hub.url}, or a private one: check the name, or log in with"
    assert str(caught.value).startswith(expected)
    with pytest.raises(InputError) as caught:
        load_base_model(at(revision="v9").model)
    assert str(caught.value) == "org/tiny: has no revision 'v9', expected a branch, a tag or a commit"


def test_a_hub_that_is_gone_is_told_unless_all_is_cached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorkError, match=r"org/tiny: it is not in the .* cannot be reached: .*refused"):
        snapshot(NAME, weights=True)
    assert snapshot(NAME).name == "a" * 40


def test_a_command_ends_with_one_line_and_the_code_of_its_kind(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated[hub.publish("org/gated", folder)] = "Your request to access model org/gated is awaiting a review."
    ratings = write_ratings(tmp_path / "ratings")

    def ends(name: str) -> tuple[int, str]:
        done = palate("plan", "--ratings", ratings, "--model", name)
        assert done.stderr.count("\n") == 1
        return done.returncode, done.stderr

    code, line = ends("org/gated")
    assert code == 2
    assert line.startswith(
        "error: org/gated: is gated: Your request to access model org/gated is awaiting a review; ask"
    )
    assert ends("org/absent")[0] == 2
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, line = ends("org/elsewhere")
    assert code == 1
    assert "the hub cannot be reached" in line


def test_a_checkpoint_that_cannot_be_loaded_is_refused_before_its_weights_are_downloaded(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "awq"}}))
    hub.publish("Qwen/Qwen3-8B-AWQ", copy)
    with pytest.raises(InputError) as caught:
        load_base_model(at("Qwen/Qwen3-8B-AWQ").model)
    assert str(caught.value) == (
        "Qwen/Qwen3-8B-AWQ: is stored in AWQ, which Palate does not load, expected the unquantized Qwen3-8B; "
        "model.quantization=nf4 holds that in 4 bits"
    )
    assert not any(name.endswith(".safetensors") for name in hub.downloads())

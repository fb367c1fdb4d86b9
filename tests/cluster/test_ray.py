"""Scoring and training on a Ray cluster of two nodes: the result of this machine, whatever ends half-way."""

import os
import re
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.acceptance.ratings import write_ratings
from tests.tiny import random_adapter, tiny_folder

from palate.cli import main
from palate.cluster.scorers import Load, Scorers
from palate.config import EngineConfig, load_config
from palate.errors import InputError, PalateError

ray = pytest.importorskip("ray", reason="without palate[ray]")

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


class Nodes:
    """A cluster of nodes with one CPU; this process belongs to the head, the others may be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        self.words = ["--engine", "ray", "--address", self.cluster.address]

    def kill(self) -> None:
        """Kill a node that works, with all its processes at once."""
        from ray._private.state import available_resources_per_node

        free = available_resources_per_node()
        busy = next(node for node in self.cluster.worker_nodes if not free[node.node_id].get("CPU"))
        self.cluster.remove_node(busy, allow_graceful=False)

    def have(self, count: int) -> None:
        """Have `count` nodes."""
        while len(self.cluster.worker_nodes) + 1 < count:
            self.cluster.add_node(**NODE)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        try:
            found = Nodes()
        except Exception as error:
            pytest.skip(f"Ray cannot start here: {error}")
        found.have(2)
        yield found
        ray.shutdown()
        found.cluster.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with prepared data and an adapter of random weights."""
    folder = tmp_path_factory.mktemp("cluster")
    config = {
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_ratings(folder / "ratings", users=60))},
        "prepare": {"history_len": 5},
        "model": {"base": str(tiny_folder(folder / "model")), "dtype": "float32"},
        "train": {"max_samples": 64, "batch_size": 4, "gradient_accumulation": 1, "save_steps": 4, "logging_steps": 1},
        "evaluate": {"batch_size": 2},
    }
    (folder / "run").mkdir()
    (folder / "run/config.yaml").write_text(yaml.safe_dump(config))
    assert main(["prepare", str(folder / "run")]) == 0
    random_adapter(load_config(folder / "run/config.yaml"), folder / "run/adapter")
    return folder / "run"


def after(made: Callable[[], Any], do: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something is there."""

    def watch() -> None:
        until = time.monotonic() + 120
        while not made() and time.monotonic() < until:
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def contents(folder: Path) -> dict[Path, bytes]:
    """The bytes of each file in a folder."""
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["recommend", "--model", "lightgbm", "--all-users", "--out", "x.parquet"], "--engine: lightgbm is a baseline"),
        (["train", "--launch", "2"], "--engine ray: starts processes of a Ray cluster, expected no --launch beside it"),
        (["tokenize", "--portable"], "--portable: is written by this process, expected no --engine ray beside it"),
        (["score", "--set", "score.server=http://localhost:1"], "score.server: scores already, expected no --engine"),
        (["score", "--address", "ray://head:10001"], "--address: is 'ray://head:10001', expected HOST:PORT of a"),
        (["score"], "--engine ray: Ray is not installed, expected it: pip install 'palate[ray]'"),
    ],
)
def test_what_ray_does_not_do_is_refused_in_one_line(
    run: Path, words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if words == ["score"]:
        monkeypatch.setitem(sys.modules, "ray", None)
    assert main([words[0], str(run), "--engine", "ray", *words[1:]]) == 2
    told = capfd.readouterr().err.splitlines()
    assert told[-1].startswith(f"error: {line}")
    assert len(told) == 1


def test_a_node_killed_while_it_scores_changes_nothing(
    run: Path, nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    words = ["score", str(run), "--split", "train", "--max-samples", "320", "--out"]
    assert main([*words, str(here)]) == 0
    killing = after(lambda: list(tmp_path.glob("there.npz.parts/0*-??????????")), nodes.kill)
    assert main([*words, str(there), *nodes.words]) == 0
    killing.join()
    assert re.search("a scorer.* ended .*: another one takes over its work", capfd.readouterr().err)
    assert there.read_bytes() == here.read_bytes()


@pytest.mark.slow
def test_a_training_whose_node_is_killed_resumes_to_the_same_adapter(run: Path, nodes: Nodes, tmp_path: Path) -> None:
    nodes.have(3)
    here, there = tmp_path / "here", tmp_path / "there"
    words = ["train", str(run), "--data", str(run / "data")]
    assert main([*words, "--launch", "2", "--out", str(here)]) == 0
    killing = after(lambda: list(there.glob("checkpoints/checkpoint-*/whole")), nodes.kill)
    assert main([*words, *nodes.words, "--set", "engine.workers=2", "--out", str(there)]) == 0
    killing.join()
    assert "training resumes from" in (there / "run.log").read_text()
    weights = "adapter/adapter_model.safetensors"
    assert (there / weights).read_bytes() == (here / weights).read_bytes()


@pytest.mark.slow
def test_one_process_of_the_cluster_trains_and_refuses_as_this_one_does(
    run: Path, nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes.have(2)
    here, there = tmp_path / "here", tmp_path / "there"
    words = ["train", str(run), "--data", str(run / "data"), "--max-samples", "16", "--out"]
    assert main([*words, str(here)]) == 0
    assert main([*words, str(there), *nodes.words]) == 0
    weights = "adapter/adapter_model.safetensors"
    assert (there / weights).read_bytes() == (here / weights).read_bytes()
    assert not (there / "ray").exists()
    assert main([*words, str(there), *nodes.words, "--set", "train.scheduler=sideways"]) == 2
    assert re.search(r"^error: train: .*sideways.* \(on node [\d.]+\)$", capfd.readouterr().err, re.MULTILINE)


@pytest.mark.slow
def test_a_node_killed_while_it_recommends_changes_nothing(
    run: Path, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes.have(2)
    monkeypatch.setattr("palate.recommend.batch.EVERY", 0.0)
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    words = ["recommend", str(run), "--all-users", "--retrieve", "20", "--top-k", "3", "--out"]
    assert main([*words, str(here)]) == 0
    killing = after(lambda: list(tmp_path.glob("there.parquet.parts/0*-??????????")), nodes.kill)
    assert main([*words, str(there), *nodes.words]) == 0
    killing.join()
    assert re.search("a scorer.* ended .*: another one takes over its work", capfd.readouterr().err)
    assert there.read_bytes() == here.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["local", "ray"])
def test_one_engine_resumes_what_was_interrupted_on_the_other(
    run: Path, nodes: Nodes, first: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes.have(2)
    words = ["score", str(run), "--split", "train", "--max-samples", "400", "--out"]
    assert main([*words, str(tmp_path / "whole.npz")]) == 0
    on, then = (nodes.words, []) if first == "ray" else ([], nodes.words)
    interrupting = after(lambda: list(tmp_path.glob("some.npz.parts/0*-??????????")), interrupt_main)
    assert main([*words, str(tmp_path / "some.npz"), *on]) == 130
    interrupting.join()
    assert main([*words, str(tmp_path / "some.npz"), *then]) == 0
    assert "scoring some resumes: " in capfd.readouterr().err
    assert (tmp_path / "some.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.slow
def test_a_node_killed_while_it_evaluates_several_models_changes_nothing(
    run: Path, nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes.have(2)
    options = ["evaluate.baselines=quick", "evaluate.bootstrap=0", "evaluate.rank_users=3", "score.calibration=none"]
    words = ["evaluate", str(run), "--max-samples", "160", *(word for option in options for word in ("--set", option))]
    assert main([*words, "--out", str(tmp_path / "here")]) == 0
    killing = after(lambda: list(tmp_path.glob("there/scores/*.parts/0*-??????????")), nodes.kill)
    assert main([*words, "--out", str(tmp_path / "there"), *nodes.words]) == 0
    killing.join()
    assert re.search("a scorer.* ended .*: another one takes over its work", capfd.readouterr().err)
    files = sorted(path.name for path in (tmp_path / "here/scores").glob("*.*") if "speed" not in path.name)
    assert files == ["fine-tuned.parquet", "ranking-fine-tuned.npz", "zero-shot.parquet"]
    for name in files:
        assert (tmp_path / "there/scores" / name).read_bytes() == (tmp_path / "here/scores" / name).read_bytes(), name


@pytest.mark.slow
def test_a_node_killed_while_it_prepares_changes_nothing(
    run: Path, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.have(2)
    monkeypatch.setattr("palate.samples.export.CHUNK", 8)
    monkeypatch.setattr("palate.samples.export._RAW_CHUNK", 4)
    folders = {name: tmp_path / name for name in ("here", "one", "killed")}
    assert main(["prepare", str(run), "--out", str(folders["here"])]) == 0
    assert main(["prepare", str(run), "--out", str(folders["one"]), *nodes.words, "--set", "engine.workers=1"]) == 0

    def kill() -> None:
        nodes.cluster.remove_node(nodes.cluster.worker_nodes.copy().pop(), allow_graceful=False)

    killing = after(lambda: [file for file in tmp_path.glob(".killed.*/train.json") if file.stat().st_size], kill)
    assert main(["prepare", str(run), "--out", str(folders["killed"]), *nodes.words]) == 0
    killing.join()
    assert contents(folders["one"]) == contents(folders["killed"]) == contents(folders["here"])


@pytest.mark.slow
def test_a_node_killed_while_it_writes_tokens_changes_nothing(
    run: Path, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.have(2)
    for place in ("commands.tokenize.write_dataset", "cluster.tokens.shards_of"):
        module, _, name = place.rpartition(".")
        whole = getattr(import_module(f"palate.{module}"), name)
        monkeypatch.setattr(f"palate.{place}", partial(whole, shard_bytes=10_000))
    folders = {name: tmp_path / name for name in ("here", "one", "killed")}
    assert main(["tokenize", str(run), "--out", str(folders["here"])]) == 0
    shards = len(list(folders["here"].glob("train/*.arrow")))
    assert main(["tokenize", str(run), "--out", str(folders["one"]), *nodes.words, "--set", "engine.workers=1"]) == 0
    written = []

    def kill() -> None:
        written.extend(tmp_path.glob(".killed.*/train/.data-?????.arrow"))
        nodes.cluster.remove_node(nodes.cluster.worker_nodes.copy().pop(), allow_graceful=False)

    killing = after(lambda: list(tmp_path.glob(".killed.*/train/.data-00003.arrow")), kill)
    assert main(["tokenize", str(run), "--out", str(folders["killed"]), *nodes.words]) == 0
    killing.join()
    assert 0 < len(written) < shards / 2
    assert contents(folders["one"]) == contents(folders["killed"]) == contents(folders["here"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attribute", "value", "line"),
    [
        ("partial", lambda _, n: Path(f"/unshared/{n}"), r"/unshared: cannot be read \(No .*\), .* \(on node [\d.]+\)"),
        (
            "_written",
            lambda *_: os._exit(9),
            "3 processes of the Ray cluster ended during one shard, the last .*",
        ),
    ],
)
def test_tokens_that_no_other_process_could_write_leave_nothing(
    run: Path, nodes: Nodes, attribute: str, value: Callable[..., Any], line: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    nodes.have(2)
    monkeypatch.setattr(f"palate.cluster.tokens.{attribute}", value)
    assert main(["tokenize", str(run), "--out", str(tmp_path / "tokens"), *nodes.words]) in (1, 2)
    assert re.search(f"^error: {line}$", capfd.readouterr().err, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def dying(where: str) -> Load:
    """A model whose process ends: as it answers, or as it loads; or that another node has other files of."""

    def load() -> tuple[Any, dict[str, Any]]:
        import os

        import ray

        class Model:
            def answers_behind(self, *request: object) -> None:
                os._exit(9)

        if where == "loading":
            os._exit(9)
        if where == "files":
            raise InputError("not found", "/shared/adapter")
        return Model(), {"model": ray.get_runtime_context().get_node_id() if where == "nodes" else ""}

    return load


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("answering", "3 processes of the Ray cluster ended during the same part, the last with: "),
        ("loading", "3 processes of the Ray cluster ended during the loading of the model, the last with: "),
        ("files", r"/shared/adapter: not found \(on node [\d.]+\)"),
        ("nodes", r"--engine ray: node [\d.]+ has another model than the first one, expected the same on all nodes"),
    ],
)
def test_what_no_other_process_could_do_better_ends_the_run(nodes: Nodes, where: str, line: str) -> None:
    nodes.have(2)
    scorers = Scorers(dying(where), EngineConfig(name="ray", address=nodes.cluster.address))
    with pytest.raises(PalateError, match=f"^{line}"):
        list(scorers.in_order(lambda n: scorers.answers([[n]]), range(6)))

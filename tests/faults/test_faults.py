"""Whatever fails under a command, the next run has the right result, and the user was told: `make stress` in full."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from tests.faults.forks import KINDS, Fault, Forks, state, why_not
from tests.faults.rounds import FAULTS, Runner, difference, run_round, tree, unnamed
from tests.faults.stages import EVALUATE, PREPARE, PREPARE_OVER, TOKENIZE, TRAIN, WRITER, Stage

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
YEARS = 10 * 365 * 86_400


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="module", params=[PREPARE, PREPARE_OVER, TOKENIZE, TRAIN, EVALUATE], ids=lambda stage: stage.name)
def runner(request: pytest.FixtureRequest, forks: Forks) -> Runner:
    """A command that was run once."""
    return Runner(request.param, forks)


def assert_right(runner: Runner) -> None:
    assert not difference(runner.clean, runner.stage.read(runner.root))


@pytest.mark.parametrize("runner", [PREPARE, TOKENIZE], ids=lambda stage: stage.name, indirect=True)
def test_a_fork_and_a_new_process_make_the_same_calls(runner: Runner) -> None:
    assert unnamed(runner.traced()) == unnamed(runner.calls) == unnamed(runner.traced(fresh=True))


@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
def test_a_clock_that_jumps_changes_nothing(seconds: int, runner: Runner) -> None:
    at = 1 if seconds > 0 else len(runner.calls) // 2
    runner.reset()
    done = runner.forks.run(runner.words, Fault("clock", at, value=seconds))
    assert done.status == 0, done.stderr
    assert_right(runner)


@pytest.mark.parametrize(("reason", "below"), [(errno.EROFS, ""), (errno.EACCES, ""), (errno.ENOSPC, "cache")])
def test_a_folder_that_cannot_be_written_is_reported_with_its_name(reason: int, below: str, runner: Runner) -> None:
    runner.reset()
    before, kinds = tree(runner.root), ("create", "write", "name", "rename", "remove", "size", "attribute")
    done = runner.forks.run(runner.words, Fault("fail", kinds=kinds, value=reason, lasting=True, below=below))
    if runner.stage.name.startswith("prepare") and below == "cache":  # it does without
        assert done.status == 0
        assert_right(runner)
        return
    assert done.status == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(runner.root / below) in line
    assert os.strerror(reason) in line
    left = {name for name in tree(runner.root).keys() - before if not name.endswith(("/", "run.log", "config.yaml"))}
    assert not left
    assert all(before[name] == content for name, content in tree(runner.root).items() if name in before)


@pytest.mark.parametrize("runner", [TOKENIZE], ids=["tokenize"], indirect=True)
@pytest.mark.parametrize(("kind", "path"), [("write", "/tables/"), ("sync", "/lengths"), ("read", "/cache/")])
def test_an_io_error_in_the_cache_names_it(kind: str, path: str, runner: Runner) -> None:
    bit = str(1 << KINDS.index(kind))
    at = next(n for n, call in enumerate(runner.calls, 1) if call[0] == bit and path in call[1])
    assert runner.outcome(Fault("fail", at, (kind,), errno.EIO)) == ("reported", "")


@pytest.mark.parametrize(
    ("runner", "fault", "kind", "path"),
    [
        (TRAIN, "EINTR", "read", "run/data/ratings.parquet"),
        (TRAIN, "EIO", "look", "model/tokenizer.json"),
        (TRAIN, "EIO", "look", ""),  # a file that Rust has open
        (TRAIN, "EIO from then on", "read", "/tables.json"),
        (TRAIN, "ENOMEM", "open", "/checkpoint-1"),
        (TRAIN, "ENOMEM", "open", "run/manifest.json"),
        (TRAIN, "ENOSPC from then on", "rename", "run/adapter"),
        (TRAIN, "kill -9, half of a rename", "rename", "run/adapter"),
        (TRAIN, "kill -9, half of a rename", "rename", "/checkpoint-1/whole"),
        (EVALUATE, "EINTR", "open", "/adapter_model.safetensors"),
        (EVALUATE, "ENOMEM", "map", "/adapter_model.safetensors"),
        (EVALUATE, "ENOSPC from then on", "write", "run/evaluation/run.log"),
        (EVALUATE, "EACCES", "remove", "0000000000-0000000012"),
        (EVALUATE, "EMFILE", "open", "/fine-tuned.speed.json"),
        (EVALUATE, "kill -9 within a write", "write", ".speed.json.partial"),
        (EVALUATE, "kill -9, half of a rename", "rename", "run/baselines/constant.npz"),
    ],
    ids=lambda each: getattr(each, "name", each) or "open",
    indirect=["runner"],
)
def test_a_fault_is_reported_with_its_place_or_healed(runner: Runner, fault: str, kind: str, path: str) -> None:
    bit = str(1 << KINDS.index(kind))
    places = [
        n for n, call in enumerate(runner.calls, 1) if call[0] == bit and (path in call[1] if path else not call[1])
    ]
    assert places
    for at in (*places[:3], *places[3:][-2:]):
        met, why = runner.outcome(FAULTS[fault]._replace(at=at))
        assert not why
        assert met in ("reported", "killed", "unharmed")


@pytest.mark.parametrize("seconds", [1, pytest.param(120, marks=pytest.mark.slow)])
def test_a_run_beside_a_stopped_one_waits_for_it_and_both_are_right(seconds: int, runner: Runner) -> None:
    """The lock of a stopped process does not go with time; the other process says for what it waits."""
    lock = str(1 << KINDS.index("lock"))
    at = next(n for n, (kind, _) in enumerate(runner.calls, 1) if kind == lock) + 1
    runner.reset()
    stopped = runner.forks.start(runner.words, Fault("stop", at))
    _until(lambda: state(stopped[0]) == "T")
    other = runner.forks.start(runner.words)
    _until(lambda: "waiting for another process" in other[1].with_suffix(".err").read_text())
    time.sleep(seconds)
    assert state(other[0]) in ("S", "R", "D")
    os.kill(stopped[0], signal.SIGCONT)
    for each in (stopped, other):
        ended = runner.forks.end(each)
        assert ended.status == 0, ended.stderr
    assert_right(runner)


def test_two_runs_into_one_folder_at_once_are_both_right(runner: Runner) -> None:
    for _ in range(3 if runner.stage in (PREPARE, TOKENIZE) else 1):
        runner.reset()
        both = [runner.forks.start(runner.words) for _ in range(2)]
        assert [runner.forks.end(each).status for each in both] == [0, 0]
        assert_right(runner)


@pytest.mark.parametrize("stage", [PREPARE, WRITER], ids=lambda stage: stage.name)
def test_a_command_that_failed_anywhere_is_right_the_next_time(stage: Stage, forks: Forks) -> None:
    found = run_round(Runner(stage, forks), most=len(FAULTS))
    assert found.faults == len(FAULTS)
    assert not found.wrong


def test_half_of_a_rename_leaves_a_prepared_folder_that_prepare_replaces(forks: Forks) -> None:
    runner = Runner(PREPARE_OVER, forks)
    rename = str(1 << KINDS.index("rename"))
    places = [n for n, (kind, path) in enumerate(runner.calls, 1) if kind == rename and "/out/" in path]
    assert [runner.outcome(Fault("tear", at, ("rename",))) for at in places] == [("killed", "")] * len(places)


@pytest.mark.parametrize("runner", [TRAIN], ids=["train"], indirect=True)
@pytest.mark.parametrize("action", ["kill", "tear"])
def test_an_adapter_whose_training_was_killed_at_the_manifest_is_not_refused(action: str, runner: Runner) -> None:
    rename = str(1 << KINDS.index("rename"))
    places = [n for n, (kind, path) in enumerate(runner.calls, 1) if kind == rename and "run/manifest" in path]
    assert [runner.outcome(Fault(action, at)) for at in places] == [("killed", "")] * 2


def _until(so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end
        time.sleep(0.01)

"""Whatever fails under a command, the next run has the right result, and the user was told: `make stress` in full."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from tests.faults.forks import KINDS, Fault, Forks, state, why_not
from tests.faults.rounds import FAULTS, Runner, difference, run_round
from tests.faults.stages import PREPARE, STAGES, TOKENIZE, Stage

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
YEARS = 10 * 365 * 86_400


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="module")
def tokenize(forks: Forks) -> Runner:
    """`palate tokenize`, which writes the cache and a folder, run once."""
    return Runner(TOKENIZE, forks)


def assert_right(runner: Runner) -> None:
    assert not difference(runner.clean, runner.stage.read(runner.root))


@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
def test_a_clock_that_jumps_changes_nothing(seconds: int, tokenize: Runner) -> None:
    for at in (1, len(tokenize.calls) // 2):
        tokenize.reset()
        assert tokenize.forks.run(tokenize.words, Fault("clock", at, value=seconds)).fired
        assert_right(tokenize)


@pytest.mark.parametrize(("reason", "below"), [(errno.EROFS, ""), (errno.EACCES, ""), (errno.ENOSPC, "cache")])
def test_a_folder_that_cannot_be_written_is_reported_with_its_name(reason: int, below: str, tokenize: Runner) -> None:
    tokenize.reset()
    kinds = ("create", "write", "name", "remove", "size", "attribute")
    done = tokenize.forks.run(tokenize.words, Fault("fail", kinds=kinds, value=reason, lasting=True, below=below))
    assert done.status == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(tokenize.root / below) in line
    assert os.strerror(reason) in line
    assert not (tokenize.root / "out").exists()


@pytest.mark.parametrize(("kind", "path"), [("write", "/tables/"), ("sync", "/lengths"), ("read", "/cache/")])
def test_an_io_error_in_the_cache_names_it(kind: str, path: str, tokenize: Runner) -> None:
    bit = str(1 << KINDS.index(kind))
    at = next(n for n, call in enumerate(tokenize.calls, 1) if call[0] == bit and path in call[1])
    assert tokenize.outcome(Fault("fail", at, (kind,), errno.EIO)) == ("reported", "")


def test_a_run_beside_a_stopped_one_waits_for_it_and_both_are_right(tokenize: Runner) -> None:
    """The lock of a stopped process does not go with time; the other process says for what it waits."""
    at = next(n for n, (_, path) in enumerate(tokenize.calls, 1) if "cache/tables/" in path and ".partial-" in path)
    tokenize.reset()
    stopped = tokenize.forks.start(tokenize.words, Fault("stop", at))
    _until(lambda: state(stopped[0]) == "T")
    other = tokenize.forks.start(tokenize.words)
    _until(lambda: "waiting for another process" in other[1].with_suffix(".err").read_text())
    time.sleep(1)
    assert state(other[0]) in ("S", "R", "D")
    os.kill(stopped[0], signal.SIGCONT)
    for each in (stopped, other):
        ended = tokenize.forks.end(each)
        assert ended.status == 0, ended.stderr
    assert_right(tokenize)


def test_two_runs_into_one_folder_at_once_are_both_right(tokenize: Runner) -> None:
    for _ in range(3):
        tokenize.reset()
        both = [tokenize.forks.start(tokenize.words) for _ in range(2)]
        assert [tokenize.forks.end(each).status for each in both] == [0, 0]
        assert_right(tokenize)


@pytest.mark.parametrize("stage", [PREPARE, STAGES[-1]], ids=lambda stage: stage.name)
def test_a_command_that_failed_anywhere_is_right_the_next_time(stage: Stage, forks: Forks) -> None:
    found = run_round(Runner(stage, forks), most=len(FAULTS))
    assert found.faults == len(FAULTS)
    assert not found.wrong


def _until(so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end
        time.sleep(0.01)

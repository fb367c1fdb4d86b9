"""Inputs that are guided by coverage: what they are made of, and that libFuzzer finds a fault."""

import zlib
from pathlib import Path
from random import Random

import pytest
from tests.fuzz import guided
from tests.fuzz.readers import READERS


@pytest.mark.parametrize("reader", ["splits", "archives", "HTTP bodies"])
def test_an_input_is_its_files(reader: str, tmp_path: Path) -> None:
    case = READERS[reader].make(Random(1), tmp_path)
    data = guided.packed(tmp_path, case)
    (again := tmp_path / "again").mkdir()
    found = guided.written(data, again)
    assert found is not None
    assert (found.truth, found.path.name) == (case.truth, "again" if case.path == tmp_path else case.path.name)
    files = {path.name: path.read_bytes() for path in again.iterdir()}
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    cut = [guided.unpacked(data[:end]) for end in range(len(data))]
    assert all(each is None or len(each[1]) < len(files) + (case.truth is not None) for each in cut)


def test_one_file_changes_and_what_it_holds_is_known_only_with_a_checksum() -> None:
    for seed in range(200):
        data = guided.seeded(READERS["archives"], Random(seed))
        changed = guided.changed(READERS["archives"], data, Random(seed), lambda content: content + b"x")
        name, files = guided.unpacked(changed) or ("", {})
        assert name in files
        if name == "ratings.csv":
            assert files.get("truth", files[name]) == files[name]


@pytest.mark.parametrize("path", sorted(guided.FOUND.glob("*")), ids=lambda path: path.name)
def test_what_once_was_a_fault_is_none(path: Path) -> None:
    data = path.read_bytes()
    assert guided.read_again(path.name.partition(".")[0].replace("-", " "), data)[1] == "", zlib.crc32(data)


@pytest.mark.slow
def test_libfuzzer_finds_a_fault(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    found = guided.run("faulty", 1, tmp_path)
    assert "ValueError: a traceback" in found.fault
    (path,) = tmp_path.iterdir()
    assert guided.read_again("faulty", path.read_bytes())[1].startswith("ValueError: a traceback")

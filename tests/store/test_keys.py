from pathlib import Path

import pytest

from palate.store.artifacts import sha256_file
from palate.store.keys import changed, damage_in, reason, recorded


def test_a_reason_names_every_entry_that_differs_and_none_if_none_does() -> None:
    key = {"ratings": "r1", "prompt": {"yes": "Yes"}, "rows": (1, 2)}

    assert reason(key, {"rows": [1, 2], "prompt": {"yes": "Yes"}, "ratings": "r1"}) == ""
    assert reason(key, key | {"ratings": "r2"}) == "ratings changed"
    assert reason(key, key | {"prompt": {}, "rows": None}) == "prompt and rows changed"
    assert reason(key, {"seed": 1, **key, "ratings": "r2", "rows": []}) == "seed, ratings and rows changed"


def test_an_entry_that_one_key_lacks_differs_unless_it_is_null() -> None:
    assert changed({"keep": "best", "seed": 1}, {"seed": 1}) == ["keep"]
    assert changed({"seed": 1}, {"seed": 1, "keep": "best"}) == ["keep"]
    assert changed({"seed": 1}, {"seed": 1, "keep": None}) == []


@pytest.mark.parametrize("text", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_record_that_is_missing_or_damaged_is_empty(text: bytes | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "x.json").write_bytes(text)

    assert recorded(tmp_path / "x.json") == {}
    assert recorded(tmp_path) == {}


def test_damage_names_the_first_file_that_is_not_as_recorded(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    good = sha256_file(tmp_path / "a")

    assert damage_in(tmp_path, {"a": good}) is None
    assert damage_in(tmp_path, {"a": 3}) is None
    assert damage_in(tmp_path, {"a": {"size": 3, "sha256": good}}) is None
    assert damage_in(tmp_path, {"a": 4, "b": 1}) == ("a", "has 3 bytes, expected 4")
    assert damage_in(tmp_path, {"a": "0" * 64}) == ("a", "was changed")
    assert damage_in(tmp_path, {"a": "0" * 64}, hashes=False) is None
    assert damage_in(tmp_path, {"a": 3, "b": 1}) == ("b", "is missing")
    assert damage_in(tmp_path, {"a/b": 1}) == ("a/b", "is missing")

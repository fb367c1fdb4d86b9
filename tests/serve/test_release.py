"""The pointer to the folder that a run serves."""

import json
from pathlib import Path

import pytest

from palate.errors import InputError
from palate.serve.release import current, served, switch


def test_a_run_serves_itself_until_it_is_switched_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "1"
    folder.mkdir(parents=True)
    for each in (tmp_path, folder):
        (each / "config.yaml").touch()
    assert current(tmp_path) == tmp_path
    switch(tmp_path, folder)
    assert current(tmp_path) == folder
    switch(tmp_path, tmp_path)
    assert current(tmp_path) == tmp_path


@pytest.mark.parametrize("text", ["{", '{"folder": "releases/2"}', '{"folder": 1}', "{}"])
def test_a_damaged_pointer_is_an_error_and_not_another_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "release.json").write_text(text)
    with pytest.raises(InputError, match=r"release\.json"):
        current(tmp_path)


def test_the_served_model_is_what_the_evidence_recommends(tmp_path: Path) -> None:
    assert served(tmp_path, otherwise="online") == "online"
    (tmp_path / "refresh.json").write_text('{"use": "item-knn"}')
    assert served(tmp_path) == "item-knn"
    rows = [
        {"key": key, "kind": kind, "metrics": {"auc": auc}}
        for key, kind, auc in (
            ("a", "baseline", None),
            ("b", "baseline", 0.7),
            ("c", "baseline", 0.6),
            ("d", "model", 0.9),
        )
    ]
    (tmp_path / "metrics.json").write_text(json.dumps({"entries": rows, "ladder": None}))
    assert served(tmp_path) == "b"
    (tmp_path / "metrics.json").write_text(json.dumps({"entries": rows, "ladder": {"use": "language-model"}}))
    assert served(tmp_path) == "language-model"

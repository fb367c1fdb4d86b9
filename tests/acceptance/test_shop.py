"""A shop's log with its faults, from a first look to recommendations."""

import json
from pathlib import Path

import pytest
from tests.shop import write_shop

from palate.cli import main


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("work") / "shop")


def test_a_shops_log_leads_from_inspect_to_recommendations(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop.parent)
    assert main(["inspect", "shop", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["users"] == 3000
    assert found["dropped"] == {"item without a title": 4481, "no rating that is a number": 1751}
    assert found["time_form"].startswith("ISO text, 2023-01-0")
    assert {text["column"] for text in found["texts"]} == {"title", "category", "price", "description"}
    assert found["dropped"]["item without a title"] > 1000
    assert sum(found["dropped"].values()) - found["dropped"]["item without a title"] > 1000
    (sentence,) = (line for line in found["advice"] if "too few ratings" in line)
    assert sentence.endswith(f"`history_len 5` would keep {found['kept'][1]['users']:,}")

    assert main(["init", "shop"]) == 0
    assert main(["prepare", "palate.yaml"]) == 0
    printed = capsys.readouterr()
    assert "a prompt about products, history_len 5" in printed.out
    assert "speaks of movies" not in printed.err
    manifest = json.loads(Path("runs/shop/data/manifest.json").read_text())
    assert manifest["stats"]["users_with_samples"] == found["kept"][1]["users"]
    assert "Will the user like this product?" in manifest["options"]["prompt"]["question"]

    assert main(["baselines", "palate.yaml", "--set", "evaluate.baselines=quick", "--json"]) == 0
    measured = {entry["key"]: entry["metrics"]["auc"] for entry in json.loads(capsys.readouterr().out)["entries"]}
    assert measured["user-item"] > measured["item-mean"] > 0.6 > measured["constant"]

    assert main(["recommend", "palate.yaml", "--model", "item-knn", "--user", "C00005", "--top-k", "3"]) == 0
    printed = capsys.readouterr()
    assert "user C00005: 38 ratings" in printed.out
    assert len([line for line in printed.out.splitlines() if line[:1].isdigit()]) == 3

"""A shop's log, from a first look to prepared samples."""

import json
from pathlib import Path

import pytest
from tests.shop import write_shop

from palate.cli import main


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("work") / "shop")


def test_a_shop_is_inspected_and_prepared_from_the_config_that_init_writes(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop.parent)
    assert main(["inspect", "shop", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["users"] == 3000
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

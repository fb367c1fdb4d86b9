"""The commands of docs/tutorial.md, from a generated shop's log to recommendations."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from palate.baselines import registry
from palate.baselines.registry import REGISTRY
from palate.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
STEPS = re.compile(r"^    ((?:palate|python) [^\n]*)$|^```(yaml|csv)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(page: str) -> Iterator[list[str]]:
    """The commands of a page as words; files are written, and lines of the config replaced, where the page does so."""
    config = Path("palate.yaml")
    for command, kind, block in STEPS.findall(page):
        if command:
            yield shlex.split(command)
        elif kind == "csv":
            Path("me.csv").write_text(block)
        elif block.startswith(" "):
            key = block.partition(":")[0]
            config.write_text(re.sub(rf"^{key}:.*\n", block, config.read_text(), count=1, flags=re.MULTILINE))
        else:
            config.write_text(config.read_text() + block)


def test_the_tutorial_leads_from_a_shops_log_to_recommendations(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bar = [baseline for baseline in REGISTRY if baseline.quick or baseline.key == "lightgbm"]
    monkeypatch.setattr(registry, "REGISTRY", bar)  # tests/commands/test_baselines.py fits them all
    shutil.copytree(base, tmp_path / "smollm2-135m")
    small = re.sub(r"(samples[:=] ?)\d+", r"\g<1>48", PAGE)
    small = small.replace("\nevaluate:\n", "\nevaluate:\n  bootstrap: 50\n  baselines: quick\n")
    printed: dict[str, str] = {}
    for words in follow(small):
        if words[0] == "python":
            subprocess.run([sys.executable, ROOT / words[1], *words[2:]], check=True)
            continue
        code = main(words[1:])
        out, err = capsys.readouterr()
        assert code == 0, err
        printed[" ".join(words)] = out

    looked = " ".join(printed["palate inspect shop"].split())
    assert "4,481 item without a title; 1,751 no rating that is a number" in looked
    assert "1,273 of 3,000 users have too few ratings (<16); `history_len 5` would keep 2,664" in looked
    for figure in ("4,481", "1,751", "1,273", "3,000", "2,664"):
        assert figure in PAGE
    assert "a prompt about products, history_len 5" in printed["palate init shop"]
    written = Path("palate.yaml").read_text()
    assert 'question: "Will the user like this product?' in written
    assert "{category}, rated" in written
    shown = printed["palate baselines palate.yaml"]
    assert re.search(r"item mean +0\.69\d", shown)
    assert float(re.findall(r"LightGBM \(all features\) +(0\.\d+)", shown)[0]) > 0.74
    assert (tmp_path / "runs" / "shop" / "report.html").is_file()
    tables = [text for command, text in printed.items() if command.startswith("palate recommend")]
    assert [len(re.findall(r"^ *\d+ ", text, re.MULTILINE)) for text in tables] == [10, 10, 10]
    manifest = json.loads(Path("runs/shop/data/manifest.json").read_text())
    assert manifest["stats"]["users_with_samples"] == 2664
    assert manifest["stats"]["times"] == "ISO text, 2023-01-01 to 2024-11-30"

"""A service of a real run takes the release that `palate refresh` switches to, and drops no request."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.serve.paced import running
from tests.serve.test_admission import until
from tests.tiny import random_adapter

from palate.commands.serve import _source
from palate.config import Override, load_config
from palate.serve.app import Options, app_of
from palate.serve.release import switch
from palate.serve.store import Store


def test_a_release_takes_over_between_two_requests(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.serve.app.POLL", 0.2)
    home = shutil.copytree(run, tmp_path / "run")
    release = shutil.copytree(run, home / "releases" / "1")
    text = (release / "config.yaml").read_text().replace("name: toy", "name: toy-1")
    (release / "config.yaml").write_text(text)
    moved = load_config(release / "config.yaml", [Override("run_dir", str(release), "run_dir")])
    shutil.rmtree(release / "adapter")
    random_adapter(moved, release / "adapter", 0.3)
    source = _source(load_config(home / "config.yaml", [Override("run_dir", str(home), "run_dir")]), None)
    store, ended = Store(f"sqlite:///{tmp_path / 'store.sqlite'}"), threading.Event()
    asked = {"user_id": 3, "model": "fine-tuned", "candidates": [{"item_id": 40}, {"item_id": 7}]}

    def ask(url: str) -> list[tuple[int, tuple[float, ...]]]:
        found = []
        with httpx.Client(base_url=url, timeout=30) as client:
            while not ended.is_set():
                answer = client.post("/v1/score", json=asked)
                found.append((answer.status_code, tuple(round(each["p"], 5) for each in answer.json()["scores"])))
        return found

    with running(app_of(source, store, Options())) as url, ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(ask, url), pool.submit(ask, url)
        assert httpx.get(f"{url}/v1/model").json()["run"] == "toy"
        switch(home, release)
        assert until(lambda: httpx.get(f"{url}/v1/model").json()["run"] == "toy-1", 30)
        after = httpx.post(f"{url}/v1/score", json=asked).json()["scores"]
        ended.set()
        answers = [*one.result(), *two.result()]
    source.close()
    store.close()

    assert {status for status, _ in answers} == {200}
    given = {p for _, p in answers}
    assert len(given) == 2  # the old adapter's, and the new one's
    assert tuple(round(each["p"], 5) for each in after) in given

"""A service of a real run takes the release that `palate refresh` switches to, and drops no request."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
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

    def once(client: httpx.Client) -> tuple[int, list[float]]:
        answer = client.post("/v1/score", json=asked)
        return answer.status_code, [each["p"] for each in answer.json()["scores"]]

    def ask(url: str) -> list[tuple[int, list[float]]]:
        with httpx.Client(base_url=url, timeout=30) as client:
            return [once(client) for _ in iter(ended.is_set, True)]

    serving = running(app_of(source, store, Options()))
    with serving as url, ThreadPoolExecutor(2) as pool, httpx.Client(base_url=url, timeout=30) as client:
        assert until(lambda: client.get("/readyz").status_code == 200, 60)
        _, before = once(client)
        one, two = pool.submit(ask, url), pool.submit(ask, url)
        assert client.get("/v1/model").json()["run"] == "toy"
        switch(home, release)
        assert until(lambda: client.get("/v1/model").json()["run"] == "toy-1", 30)
        _, after = once(client)
        ended.set()
        answers = [*one.result(), *two.result()]
    source.close()
    store.close()

    assert {status for status, _ in answers} == {200}
    given = np.array([p for _, p in answers])
    of_old, of_new = (np.abs(given - p).max(1) < 1e-4 for p in (before, after))
    assert (of_old ^ of_new).all()
    assert of_old.any()

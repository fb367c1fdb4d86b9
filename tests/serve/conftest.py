"""A small run with a language model, and a service of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.command import palate
from tests.recipes import recipe_to_evaluate
from tests.serve.paced import running

from palate.config import Config, Override, load_config

FILMS = {
    1: ("Toy Story (1995)", "Animation|Comedy"),
    22: ("Braveheart (1995)", "Action|War"),
    33: ("Fargo (1996)", "Comedy|Crime"),
    50: ("Star Wars (1977)", "Action|Sci-Fi"),
}
"""Items that the documentation names."""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a tiny model, a random adapter, and one baseline, which takes no time to fit."""
    folder = recipe_to_evaluate(tmp_path_factory.mktemp("served"), adapter=1.0)
    table = folder / "ratings" / "movies.csv"
    lines = table.read_text().splitlines()
    for item, (title, genres) in FILMS.items():
        lines[item] = f'{item},"{title}",{genres}'
    table.write_text("\n".join(lines) + "\n")
    for words in (("prepare", folder), ("recommend", folder, "--user", "1", "--model", "user-item")):
        done = palate(*words)
        assert done.returncode == 0, done.stderr
    (folder / "run" / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    return folder / "run"


@pytest.fixture(scope="session")
def config(run: Path) -> Config:
    """The config of the run."""
    return load_config(run / "config.yaml", [Override("run_dir", str(run), "run_dir")])


@pytest.fixture(scope="session")
def served(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service of the run."""
    from palate.commands.engine import engine_of
    from palate.serve.app import Options, app_of
    from palate.serve.monitor import gauges
    from palate.serve.source import EngineSource
    from palate.serve.store import Store

    store = Store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'feedback.sqlite'}")
    source = EngineSource(engine_of(config), lambda: config.run_path)
    options = Options(findings=lambda: gauges(config.run_path, store))
    with running(app_of(source, store, options)) as url:
        yield url
    source.close()
    store.close()

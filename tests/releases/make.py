"""Write the fixture of a release, at each release: a tiny run, its model, its log and a store of feedback.

python -m tests.releases.make          # tests/releases/VERSION.zip, for the version that is installed
"""

import os
import tempfile
import zipfile
from contextlib import chdir
from pathlib import Path

import yaml
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.tiny import tiny_folder

from palate import __version__
from palate.serve.schemas import NewEvent, NewRating
from palate.serve.store import Store

CONFIG = {
    "name": "tiny",
    "run_dir": "run",
    "ratings": {"source": "ratings"},
    "prepare": {"history_len": 3, "val_ratio": 0.2, "test_ratio": 0.2},
    "model": {"base": "model", "dtype": "float32"},
    "train": {
        **{"batch_size": 4, "gradient_accumulation": 1, "max_samples": 24, "train_on": "answer"},
        **{"offset": "logistic", "lora": {"r": 4, "alpha": 8}},
    },
    "evaluate": {"bootstrap": 20, "baselines": "quick"},
}


def make(folder: Path) -> None:
    """A finished run and all that it needs, by relative paths."""
    write_ratings(folder / "ratings")
    tiny_folder(folder / "model", hidden=16)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    with chdir(folder):
        done = palate("run", "tiny.yaml")
        assert done.returncode == 0, done.stderr
        store = Store("sqlite:///run/feedback.sqlite")
        store.add_ratings([NewRating(user_id=1, item_id=2, rating=4.5, timestamp=2_000_000_000)], "first")
        store.add_events([NewEvent(event="shown", user_id=1, item_id=3, p=0.25, timestamp=2_000_000_001)])
        store.close()


def packed(folder: Path, path: Path) -> None:
    """The files in the order of their names, without times; checkpoints and the page belong to no format."""
    left_out = ("checkpoints", "report.html", "run.log")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and not any(part in left_out for part in name.split("/")):
                out.writestr(zipfile.ZipInfo(name), file.read_bytes(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
        packed(Path(temporary), Path(__file__).parent / f"{__version__}.zip")

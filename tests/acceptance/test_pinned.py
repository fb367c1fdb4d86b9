"""What a small fixed run leaves, held against what it left before: a change of the code alone changes no byte.

Text and integers are compared byte for byte. Decimal numbers may differ in their last digits from one processor to the
next, as kernels add in another order; they are compared to within `TOLERANCE`. `PALATE_PIN=write` records what is
there now; `PALATE_PIN=FOLDER` also keeps the files as they are, for a comparison byte for byte on one machine.
"""

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.tiny import tiny_folder

PINNED = Path(__file__).parent / "pinned"
TOLERANCE = 2e-3
DECIMAL = re.compile(r"[−-]?\d+\.\d+(?:e-?\d+)?")
TIMED = ("manifest.json", "entry.json")  # these have the time at which they were written
HASH = re.compile(r"\b[0-9a-f]{64}\b")  # in a JSON file: of files that hold decimal numbers
SECONDS = re.compile(r'"seconds": [\d.]+|(?<=class="n seconds">)[^<]+')
DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:\+00:00|Z| UTC)?")

CONFIG = {
    "name": "pinned",
    "run_dir": "run",
    "data_dir": "data",
    "ratings": {"source": "ratings"},
    "prepare": {"max_eval": 5, "val_ratio": 0.15},
    "model": {"base": "model", "dtype": "float32"},
    "train": {
        "max_samples": 24,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.05},
    },
    "evaluate": {"bootstrap": 50, "baselines": "quick"},
    "score": {"calibration": "platt"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands ran, all paths relative to it."""
    folder = tmp_path_factory.mktemp("pinned")
    write_ratings(folder / "ratings")
    tiny_folder(folder / "model")
    (folder / "pinned.yaml").write_text(yaml.safe_dump(CONFIG))
    for words in (
        ("run", "pinned.yaml"),
        ("tokenize", "--config", "pinned.yaml", "--portable", "--out", "tokens"),
        ("export", "run", "--merge", "--out", "exported"),
        ("recommend", "run", "--user", "3", "--top-k", "5", "--json"),
    ):
        done = palate(*words, cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / f"{words[0]}.stdout").write_text(done.stdout)
    return folder


def hashes(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in TIMED)
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}\n" for p in files)


def scores(folder: Path) -> str:
    """Every scored row, and its probability as a decimal number."""
    lines: list[str] = []
    for file in sorted(folder.glob("*.parquet")):
        lines.append(f"{file.name}\n{pl.read_parquet(file).write_csv()}")
    return "".join(lines)


def prompt(folder: Path) -> str:
    """What an exported model is asked for one candidate."""
    return HASH.sub("HASH", json.dumps(json.loads((folder / "palate.json").read_text()), indent=1, ensure_ascii=False))


CONTENTS = {
    "prepared.txt": lambda run: hashes(run / "data"),
    "tokens.txt": lambda run: hashes(run / "tokens"),
    "scores.txt": lambda run: scores(run / "run" / "scores"),
    "metrics.json": lambda run: HASH.sub("HASH", (run / "run" / "metrics.json").read_text()),
    "report.html": lambda run: (run / "run" / "report.html").read_text(),
    "recommended.json": lambda run: (run / "recommend.stdout").read_text(),
    "exported.json": lambda run: prompt(run / "exported"),
}


def parts(text: str) -> Iterator[tuple[str, float]]:
    """The text before each decimal number, and the number."""
    text = SECONDS.sub("SECONDS", DATE.sub("DATE", text))
    at = 0
    for found in DECIMAL.finditer(text):
        yield text[at : found.start()], float(found.group().replace("−", "-"))
        at = found.end()
    yield text[at:], 0.0


@pytest.mark.parametrize("name", CONTENTS)
def test_a_fixed_run_leaves_what_it_left_before(run: Path, name: str) -> None:
    now = CONTENTS[name](run)
    pinned = PINNED / f"{name}.gz"
    mode = os.environ.get("PALATE_PIN", "")
    if mode == "write":
        PINNED.mkdir(exist_ok=True)
        pinned.write_bytes(gzip.compress(now.encode(), mtime=0))
    elif mode:
        Path(mode).mkdir(parents=True, exist_ok=True)
        (Path(mode) / name).write_text(now)

    before, after = list(parts(gzip.decompress(pinned.read_bytes()).decode())), list(parts(now))

    for (old, a), (new, b) in zip(before, after, strict=False):
        assert new == old, f"changed: {name}"
        assert b == pytest.approx(a, rel=TOLERANCE, abs=TOLERANCE), f"changed after: {old[-200:]}"
    assert len(after) == len(before)

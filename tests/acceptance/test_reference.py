"""The guide's numbers on ml-latest-small, through the commands a user gives."""

import hashlib
import io
import json
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.tokenizer import load_tokenizer
from palate.samples import iter_examples, load_prepared
from palate.store.hub import locate
from palate.tokens.lengths import Lengths
from palate.tokens.plain import tokenize_func

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data" / "ml-latest-small"
REFERENCE = SHARED / "reference" / "ml-latest-small.qwen3.json"
CONFIG = "configs/qwen3_7b_movielens_qlora.yaml"

pytestmark = [
    pytest.mark.skipif(not REFERENCE.is_file() or not DATA.is_dir(), reason="../shared is not beside the project"),
    pytest.mark.skipif(locate("qwen3", tokenizer=True).path is None, reason="the data package of qwen3 is absent"),
]


@pytest.fixture(scope="module")
def reference() -> Any:
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as the guide's commands find it: configs and scripts, and the raw data in data/."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("configs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    (folder / "data" / "ml-latest-small").symlink_to(DATA)
    return folder


def command(workplace: Path, script: str, *words: str) -> str:
    """What one of the guide's scripts prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(workplace)
        patch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
    assert end.value.code == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def prepared_folder(workplace: Path) -> Path:
    command(workplace, "scripts/prepare_movielens.py")
    return workplace / "data" / "movielens_qwen3"


def test_the_files_hold_the_guides_samples(prepared_folder: Path, reference: Any) -> None:
    train = json.loads((prepared_folder / "train.json").read_text(encoding="utf-8"))
    evaluated = json.loads((prepared_folder / "eval.json").read_text(encoding="utf-8"))
    raw = [json.loads(line) for line in (prepared_folder / "test_raw.jsonl").open(encoding="utf-8")]

    assert (len(train), len(evaluated), len(raw)) == (78_271, 150, 8_965)
    assert sum(example["output"] == "Yes" for example in train) == reference["train"]["yes"]
    assert sum(sample["label"] == "Yes" for sample in raw) == reference["test"]["yes"]


def _prompt() -> Any:
    from palate.prompt.spec import PromptSpec

    return PromptSpec()


@pytest.mark.parametrize(
    "split", ["val", *(pytest.param(split, marks=pytest.mark.slow) for split in ("train", "test"))]
)
def test_every_token_of_every_sample_is_the_references(prepared_folder: Path, reference: Any, split: str) -> None:
    """By the plain path; `test_tokenize.py` has the fast path, for all splits."""
    chat, expected = Chat(load_tokenizer("qwen3")), reference[split]
    ids, total, response = hashlib.sha256(), [], []
    for chunk in iter_examples(load_prepared(prepared_folder).samples, split, _prompt()):
        for batch in chunk.iter_slices(1000):
            for row, prompt_len in chat.encode_batch([to_chat_messages(row) for row in batch.to_dicts()]):
                ids.update(np.array(row, "<i4").tobytes())
                total.append(len(row))
                response.append(len(row) - prompt_len)
    lengths = Lengths(np.array(total, np.int32), np.array(response, np.int32))

    assert len(lengths) == expected["samples"]
    assert int(lengths.total.sum()) == expected["tokens"]
    assert ids.hexdigest() == expected["sha256_input_ids"]
    assert hashlib.sha256(lengths.total.astype("<i4").tobytes()).hexdigest() == expected["sha256_lengths"]
    statistics = lengths.statistics()
    for name, value in expected["length"].items():
        assert statistics[name] == pytest.approx(value, abs=5e-5)
    assert lengths.truncation(512)["samples_cut"] == expected["over_512"]
    assert set(lengths.response.tolist()) == {7}


def test_the_whole_example_is_the_references(prepared_folder: Path, reference: Any) -> None:
    expected = reference["example"]
    data = load_prepared(prepared_folder)
    tokenizer = load_tokenizer("qwen3")
    timeline = data.samples.timeline[data.samples.position].with_row_index("n")
    row = timeline.filter(user_id=expected["user_id"], item_id=expected["item_id"])["n"].to_list()
    train = data.samples.of("train").tolist()
    example = next(iter_examples(data.samples, "train", _prompt(), indices=[train.index(row[0])])).to_dicts()[0]
    tokens = tokenize_func(example, tokenizer, 1024)

    assert tokenizer.apply_chat_template(to_chat_messages(example), tokenize=False) == expected["text"]
    assert tokens["input_ids"] == expected["input_ids"]
    assert tokens["labels"] == [-100] * expected["prompt_tokens"] + expected["response_ids"]


def test_the_guides_length_commands_print_its_statistics(workplace: Path, prepared_folder: Path) -> None:
    text = command(workplace, "scripts/check_seq_len.py", "--config", CONFIG, "--show-examples", "2")

    for line in ("min 393", "max 875", "mean 435", "p50 432", "p90 458", "p95 468", "p99 493", "p100 875"):
        name, value = line.split()
        assert any(shown.split()[:2] == [name, value] for shown in text.splitlines()), line
    assert "Example 2 of 2" in text
    assert "413 × -100, then [151667, 271, 151668, 271, 9454, 151645, 198]" in text

    text = command(workplace, "scripts/check_seq_len.py", "--config", CONFIG, "--show-examples", "0")
    assert "Truncation at cutoff_len = 1024" in text
    assert "Example" not in text

    text = command(workplace, "scripts/check_seq_len.py", "--config", CONFIG, "--cutoff-len", "512")
    assert any(row.split()[:3] == ["512", "←", "286"] for row in text.splitlines())

"""Vectors of items in the prompt, from `palate run` to an exported model, on a signal that only they have."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_folder, toy_config

from palate.cli import main
from palate.config import load_config
from palate.prompt.messages import to_generation_messages
from palate.samples import load_prepared
from palate.score.scorer import Scorer
from palate.store.artifacts import sha256_file

LINES = {"history_line": "{item_vector} {title} {rating:g}", "candidate_line": "{title} {item_vector}"}


LISTED = 280
"""Items of the table: more tokens than the tiny base has unused rows."""


def write_log(folder: Path, users: int = 30, each: int = 20, items: int = 60) -> Path:
    """Items whose titles say nothing, half of them liked by nearly everybody; most items have no rating."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    rows = ["userId,movieId,rating,timestamp"]
    titles = ["movieId,title", *(f"{item},{'xyz'[item % 3] * 3}" for item in range(1, LISTED + 1))]
    for user in range(1, users + 1):
        for time, item in enumerate(draw.sample(range(1, items + 1), each)):
            rating = 5.0 if (item % 2 == 0) == (draw.random() < 0.95) else 1.0
            rows.append(f"{user},{item},{rating},{1_000_000 + 1000 * user + time}")
    (folder / "movies.csv").write_text("\n".join(titles) + "\n")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a config whose run went through."""
    folder = tmp_path_factory.mktemp("vectors")
    toy = toy_config(tiny_folder(folder / "model", "llama"))
    config = {
        **toy.model_dump(include={"name", "model", "tokens"}, mode="json"),
        "prompt": toy.prompt.model_dump(mode="json") | LINES,
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_log(folder / "ratings"))},
        "prepare": {"history_len": 3, "val_ratio": 0.2, "test_ratio": 0.2, "max_eval": 40},
        "train": {
            "epochs": 1, "batch_size": 4, "gradient_accumulation": 1, "learning_rate": 0.01, "targets_per_prompt": 2,
            "train_on": "answer", "lora": {"r": 8, "alpha": 16, "dropout": 0.0},
        },
        "evaluate": {"bootstrap": 20, "baselines": "quick", "ablations": ["vectors"]},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(folder / "config.yaml")]) == 0
    return folder


def palate(*words: str | Path) -> int:
    return main([str(word) for word in words])


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def p_of(home: Path, *words: str | Path) -> Any:
    """P(like) of the test rows, scored with the run's config."""
    out = home / "scores.npz"
    assert palate("score", "--config", home / "config.yaml", *words, "--out", out) == 0
    with np.load(out) as file:
        return file["p"]


def test_a_model_learns_from_vectors_what_no_title_says(home: Path) -> None:
    entries = {entry["key"]: entry["metrics"]["auc"] for entry in metrics(home / "run")["entries"]}
    assert entries["fine-tuned"] > 0.9
    assert entries["zero-shot"] < 0.65  # the base alone reads a token that is the same for all items
    hidden = metrics(home / "run")["ablations"]["ablated"]
    assert [(row["name"], row["difference"] < -0.2) for row in hidden] == [("vectors", True)]
    record = json.loads((home / "run" / "adapter" / "palate.json").read_text())["item_vectors"]
    assert record["sha256"] == sha256_file(home / "run" / "adapter" / "item_vectors.safetensors")
    assert "adapter/item_vectors.safetensors" in json.loads((home / "run" / "manifest.json").read_text())["outputs"]


def test_composed_prompts_shared_prefixes_and_written_histories_score_the_same(home: Path) -> None:
    """A test row's P(like) by its composed ids, and by its text behind a prefix that candidates share."""
    config = load_config(home / "config.yaml")
    scorer, samples = Scorer(home / "model", home / "run" / "adapter"), load_prepared(home / "run" / "data").samples
    assert scorer.prompt == config.prompt
    row_of = {item: n for n, item in enumerate(samples.items["item_id"].to_list())}
    rows = [
        {"title": samples.items["title"][row_of[item]], "item_vector": row_of[item], "rating": rating}
        for item, rating in samples.timeline.select("item_id", "rating").iter_rows()
    ]
    p = p_of(home)
    for n, position in enumerate(samples.position[samples.of("test")].tolist()[:6]):
        candidates = [rows[position], rows[position - 4], rows[position - 5]]
        found = scorer.rank(rows[position - 3 : position], candidates)
        assert found.p[0] == pytest.approx(p[n], abs=1e-5)


def test_a_portable_folder_scores_the_same(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    portable, config = tmp_path / "portable", home / "config.yaml"
    assert palate("tokenize", "--config", config, "--portable", "--out", portable) == 0
    adapter = home / "run" / "adapter"
    np.testing.assert_array_equal(p_of(home, "--data", portable, "--adapter", adapter), p_of(home))
    words = ("score", "--config", config, "--adapter", adapter, "--set", "seed=14", "--set", f"run_dir={tmp_path}")
    assert f"{adapter}: has vectors of other ratings than " in refused(capsys, *words, "--out", tmp_path / "p.npz")


def test_recommendations_are_the_liked_items(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = tmp_path / "history.csv"
    history.write_text("item_id,rating\n1,1\n2,5\n30,5\n")
    for who in (("--user", "3"), ("--history", history)):
        capsys.readouterr()
        assert palate("recommend", "--config", home / "config.yaml", *who, "--json") == 0
        found = json.loads(capsys.readouterr().out)["recommendations"]
        assert sum(row["item_id"] % 2 == 0 and row["item_id"] <= 60 for row in found) >= 9


def test_an_exported_model_needs_no_palate(home: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = tmp_path / "merged"
    assert palate("export", "--merge", "--config", home / "config.yaml", "--out", merged) == 0
    tokenizer, model = AutoTokenizer.from_pretrained(merged), AutoModelForCausalLM.from_pretrained(merged)
    about = json.loads((merged / "palate.json").read_text())
    assert model.config.vocab_size == about["item_vectors"]["first"] + LISTED == len(tokenizer)
    yes, no = (about["decision"][answer]["id"] for answer in ("yes", "no"))
    scorer, tests = Scorer(home / "model", home / "run" / "adapter"), home / "run" / "data" / "test_raw.jsonl"
    prompt = load_config(home / "config.yaml").prompt
    for line in tests.read_text(encoding="utf-8").splitlines()[:6]:
        sample = json.loads(line)
        example = prompt.alpaca(sample["history_titles"], sample["candidate_title"], "", 3)
        messages = to_generation_messages(example)
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text + about["decision"]["response_before"], add_special_tokens=False)
        assert [ids] == scorer.prompts([messages])
        with torch.inference_mode():
            log_p = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        found = scorer.score([messages])
        assert float(log_p[yes].exp() + log_p[no].exp()) == pytest.approx(float(found.mass[0]), abs=1e-5)
        assert float(log_p[yes] - log_p[no]) == pytest.approx(float(found.logit[0]), abs=1e-4)
    # Palate takes the folder for a base that has the vectors.
    alone = p_of(home, "--base-only", "--model", merged)
    np.testing.assert_allclose(alone, p_of(home), atol=1e-5)


def test_item_tokens_are_shown_in_examples_and_told_to_other_trainers(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert palate("lengths", "--config", home / "config.yaml", "--show-examples", "1") == 0
    assert capsys.readouterr().out.count("⟦") >= 3 * 4  # as an example, as messages, as tokens
    assert palate("tokenize", "--config", home / "config.yaml", "--out", tmp_path / "tokens") == 0
    assert "a trainer must add 280 embeddings for them" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert palate(*words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_vectors_that_are_not_the_adapters_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = shutil.copytree(home / "run" / "adapter", tmp_path / "adapter")
    file, about = adapter / "item_vectors.safetensors", adapter / "palate.json"
    command = ("score", "--config", home / "config.yaml", "--adapter", adapter, "--out", tmp_path / "scores.npz")
    whole, record = load_file(file), json.loads(about.read_text())

    def write(hashed: bool = True, **changed: Any) -> None:
        save_file({**whole, **changed}, file)
        own = {"sha256": sha256_file(file)} if hashed else {}
        about.write_text(json.dumps({**record, "item_vectors": {**record["item_vectors"], **own}}))

    write(hashed=False, scale=2 * whole["scale"])
    assert f"{file}: was changed, expected the file that the training wrote" in refused(capsys, *command)
    write(vectors=whole["vectors"] * float("nan"))
    assert f"{file}: vectors holds NaN or infinite numbers, expected finite ones" in refused(capsys, *command)
    write(**{"2.weight": whole["2.weight"][:5].contiguous()})
    assert f"{file}: has no 2.weight of shape (64, 256), which this base needs" in refused(capsys, *command)
    write(vectors=whole["vectors"][:5].contiguous())
    assert f"{file}: has no vectors of 280 items" in refused(capsys, *command)
    file.write_bytes(b"none")
    assert f"{file}: is broken or cut off" in refused(capsys, *command)
    file.unlink()
    assert f"{file}: is missing, expected the vectors of the adapter's item tokens" in refused(capsys, *command)
    write()
    assert palate(*command) == 0
    for key, value, told in (
        ("data", "0" * 64, f"{adapter}: has vectors of other ratings than "),
        ("first", 7, f"{adapter}: has item tokens from id 7, the tokenizer from "),
        ("count", "x", "item_vectors.count is 'x', expected a whole number"),
    ):
        about.write_text(json.dumps({**record, "item_vectors": {**record["item_vectors"], key: value}}))
        assert told in refused(capsys, *command)


def test_what_has_no_test_is_refused(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = refused(capsys, "export", "--merge", "--gguf", "f16", "--config", home / "config.yaml")
    assert told == "error: --gguf: cannot be tested with the adapter's 280 item tokens, expected --merge alone"
    own = home / "ratings" / "movies.csv"
    before = own.read_text()
    own.write_text(before.replace("movieId,title", "movieId,title,item_vector").replace("xxx\n", "xxx,1\n")
                   .replace("yyy\n", "yyy,1\n").replace("zzz\n", "zzz,1\n"))  # fmt: skip
    words = ("prepare", "--config", home / "config.yaml", "--set", f"run_dir={tmp_path / 'run'}")
    assert "names {item_vector}, a column of the items and also the items' vectors" in refused(capsys, *words)
    own.write_text(before)

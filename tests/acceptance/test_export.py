"""`palate export` as a user meets it: what was trained is what is served."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from tests.acceptance.ratings import write_ratings
from tests.tiny import tiny_folder

from palate.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose run has data, an adapter, and its scores."""
    folder = tmp_path_factory.mktemp("export")
    config = {
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_ratings(folder / "ratings", users=4))},
        "model": {"base": str(tiny_folder(folder / "model")), "dtype": "float32"},
        "train": {"max_samples": 16, "learning_rate": 0.005, "gradient_accumulation": 1, "lora": {"r": 4}},
        "evaluate": {"bootstrap": 0, "zero_shot": False, "baselines": "quick"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(folder / "tiny.yaml")]) == 0
    assert main(["evaluate", "--config", str(folder / "tiny.yaml"), "--out", str(folder / "adapted")]) == 0
    return folder


def test_the_exported_model_alone_scores_as_base_and_adapter_do(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(trained / "tiny.yaml")
    capsys.readouterr()
    assert main(["export", "--merge", recipe]) == 0
    shown = capsys.readouterr().out
    merged = trained / "run" / "merged"
    assert shown.startswith(f"exported {merged} (float32, ")
    assert " prompts: logits differ by" in shown

    again = ["--base-only", "--model", str(merged), "--out", str(trained / "alone")]
    assert main(["evaluate", "--config", recipe, *again]) == 0
    assert main(["evaluate", "--config", recipe, "--base-only", "--out", str(trained / "base")]) == 0
    adapted, alone, base = (
        pl.read_parquet(next((trained / folder / "scores").glob("*.parquet")))["p"].to_numpy()
        for folder in ("adapted", "alone", "base")
    )
    assert np.abs(alone - adapted).max() < 1e-5
    assert np.abs(base - adapted).max() > 0.01


def test_the_recipe_of_the_docs_reads_the_same_probability_without_palate(trained: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["export", "--merge", "--adapter", str(trained / "run" / "adapter")]) == 0  # finds the run's config
    folder = trained / "run" / "merged"
    about = json.loads((folder / "palate.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    yes, no = (about["decision"][answer]["id"] for answer in ("yes", "no"))

    sample = json.loads((trained / "run" / "data" / "test_raw.jsonl").read_text().splitlines()[0])
    prompt = about["prompt"]
    header = prompt["history_header"].format(history_len=about["history_len"])
    question = (
        f"{prompt['instruction']}\n\n{header}\n{sample['history_titles']}\n\n"
        f"{prompt['candidate_header']}\n{sample['candidate_title']}\n\n{prompt['question']}"
    )
    messages = [{"role": "system", "content": prompt["system"]}, {"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text + about["decision"]["response_before"], add_special_tokens=False)
    with torch.inference_mode():
        logits = model(torch.tensor([ids[-(about["cutoff_len"] - 2) :]])).logits[0, -1]
    p = torch.softmax(logits[[yes, no]], 0)[0].item()

    first = pl.read_parquet(next((trained / "adapted" / "scores").glob("*.parquet"))).row(0, named=True)
    assert first["row"] == 0
    assert p == pytest.approx(first["p"], abs=1e-5)


def test_what_is_asked_has_to_be_said(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained / "tiny.yaml")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told == [
        "error: palate export: nothing to write, expected --merge (a model folder), --gguf (a file for llama.cpp), "
        "or both"
    ]


def test_a_folder_that_is_no_export_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(p.name for p in trained.iterdir())
    for folder, said in (("ratings", "would replace the input"), ("model", "exists and is no earlier export")):
        assert main(["export", "--merge", str(trained / "tiny.yaml"), "--out", str(trained / folder)]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        assert told[0].startswith(f"error: {trained / folder}: {said}")
    assert sorted(p.name for p in trained.iterdir()) == before

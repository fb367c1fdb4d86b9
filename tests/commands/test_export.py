"""An export is whole, proved and replaceable, or it is not there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.disk import files_of_at_most
from tests.tiny import random_adapter, tiny_folder, tiny_model, toy_config

import palate.models.proof
from palate.commands.export import export
from palate.config import Config, write_config
from palate.errors import InputError, WorkError
from palate.models.load import load_base_model
from palate.store.artifacts import sha256_file

CONVERTER = Path(__file__).parents[1] / "models" / "converter.py"


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Config:
    return toy_config(base, run_dir=str(tmp_path / "run"))


@pytest.fixture
def adapter(config: Config) -> Path:
    """The run's own."""
    return random_adapter(config, config.run_path / "adapter")


@pytest.fixture
def wide(tmp_path: Path) -> Config:
    """A run whose base has Qwen3's own head size: transformers takes no other from a GGUF file."""
    base = tiny_folder(tmp_path / "models" / "wide", head_dim=128)
    config = toy_config(base, run_dir=str(tmp_path / "run"))
    random_adapter(config, config.run_path / "adapter")
    return config


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_folder_has_the_model_its_prompt_and_the_proof(
    config: Config, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(config, merge=True)
    record = json.loads((folder / "export.json").read_text())

    assert folder == config.run_path / "merged"
    model_files = {"config.json", "generation_config.json", "model.safetensors"}
    tokenizer_files = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert set(files(folder)) == model_files | tokenizer_files | {"palate.json", "export.json"}
    described = json.loads((adapter / "palate.json").read_text())
    assert json.loads((folder / "palate.json").read_text()) == {k: v for k, v in described.items() if k != "sha256"}
    assert record["adapter"]["adapter_model.safetensors"] == sha256_file(adapter / "adapter_model.safetensors")
    assert record["base"]["weights"] == json.loads((adapter / "palate.json").read_text())["base"]["weights"]
    for name in model_files | tokenizer_files:
        assert record["files"][name]["sha256"] == sha256_file(folder / name)
    proof = record["proof"]
    assert record["dtype"] == "float32"
    assert proof["prompts"] == 24
    assert proof["export"]["logit"] < 1e-4 < 0.01 < proof["adapter"]["logit"]
    assert proof["export"]["swapped"] == 0
    assert proof["tolerance"] == {"logit": 1e-3}
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert str(folder) in shown[0]
    assert "24 prompts: logits differ by" in shown[1]


def test_the_runs_own_validation_examples_are_asked(config: Config, adapter: Path, tmp_path: Path) -> None:
    example = config.prompt.alpaca("1. x (4.0)", "aaaaaa", "Yes", 3)
    config.data_path.mkdir()
    (config.data_path / "eval.json").write_text(json.dumps([example | {"input": f"{n}"} for n in range(3)]))

    record = json.loads((export(config, merge=True) / "export.json").read_text())
    assert record["proof"]["prompts"] == 3


def test_a_base_in_bfloat16_gives_a_model_in_bfloat16(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    tiny_model().bfloat16().save_pretrained(base)
    config = toy_config(base, run_dir=str(tmp_path / "run"))
    random_adapter(config, config.run_path / "adapter")

    folder = export(config, merge=True)
    record = json.loads((folder / "export.json").read_text())
    assert record["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert 1e-4 < record["proof"]["export"]["logit"] < record["proof"]["adapter"]["logit"]
    assert set(record["proof"]["tolerance"]) == {"p", "rms"}

    export(config, merge=True, dtype="float32")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float32}


def test_what_an_adapter_does_must_survive_the_rounding(config: Config, tmp_path: Path) -> None:
    random_adapter(config, config.run_path / "adapter", scale=1e-4)

    with pytest.raises(WorkError, match="a wider number format keeps what was learned"):
        export(config, merge=True, dtype="bfloat16")
    assert not (config.run_path / "merged").exists()
    export(config, merge=True, dtype="float32")


def test_an_adapter_of_a_base_in_4_bits_goes_into_the_full_weights(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"quantization": "nf4", "dtype": "bfloat16"}
    config = toy_config(base, run_dir=str(tmp_path / "run"), model=model)
    random_adapter(config, config.run_path / "adapter")

    folder = export(config, merge=True)
    record = json.loads((folder / "export.json").read_text())
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert record["base"]["quantization"] == "nf4"
    assert record["proof"]["export"]["logit"] < 1e-4
    assert record["proof"]["in_4_bits"]["logit"] > 0.01
    assert "against the base in 4 bits" in capsys.readouterr().out


def test_a_base_that_is_stored_in_4_bits_has_no_weights_to_merge_into(base: Path, tmp_path: Path) -> None:
    small, tokenizer = load_base_model(toy_config(base, model={"quantization": "nf4"}).model)
    small.save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    config = toy_config(tmp_path / "small", run_dir=str(tmp_path / "run"))
    random_adapter(config, config.run_path / "adapter")

    with pytest.raises(InputError, match="small: is stored quantized, expected the full-precision model"):
        export(config, merge=True)


def test_an_adapter_from_elsewhere_gets_a_description(config: Config, adapter: Path) -> None:
    described = json.loads((adapter / "palate.json").read_text())
    del described["sha256"]
    (adapter / "palate.json").unlink()

    assert json.loads((export(config, merge=True) / "palate.json").read_text()) == described


def test_a_merge_that_does_not_answer_the_same_leaves_nothing(tmp_path: Path) -> None:
    config = toy_config(tiny_folder(tmp_path / "base", "llama"), run_dir=str(tmp_path / "run"))
    # An adapter of a tied head alone: merging changes the input embeddings with it.
    random_adapter(config, config.run_path / "adapter", target_modules=["q_proj", "lm_head"])

    with pytest.raises(WorkError, match="the merged model: does not answer as base and adapter do on 24 prompts"):
        export(config, merge=True)
    assert [p.name for p in config.run_path.iterdir()] == ["adapter"]


def test_an_earlier_export_is_replaced_whole(config: Config, adapter: Path) -> None:
    folder = export(config, merge=True)
    first = files(folder)
    random_adapter(config, adapter, scale=0.2)

    export(config, merge=True)
    second = files(folder)
    assert second.keys() == first.keys()
    assert second["model.safetensors"] != first["model.safetensors"]
    (folder / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis.txt, expected an empty folder or one that `palate export`"):
        export(config, merge=True)
    assert files(folder).keys() - {"thesis.txt"} == first.keys()


def test_nothing_else_is_ever_replaced(config: Config, adapter: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    before = files(tmp_path)

    for place, words in [
        (tmp_path / "mine", "exists and is no earlier export"),
        (tmp_path / "file", "is a file, expected a folder"),
        (adapter, "exists and is no earlier export"),
    ]:
        with pytest.raises(InputError, match=f"{place}: {words}"):
            export(config, merge=True, out=str(place))
    assert files(tmp_path) == before

    moved = Path(shutil.copytree(base, tmp_path / "base"))
    (moved / "export.json").write_text("{}")
    with pytest.raises(InputError, match="which the export is made from"):
        export(toy_config(moved, run_dir=str(config.run_path)), merge=True, out=str(moved))


def test_an_empty_folder_is_filled(config: Config, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert export(config, merge=True, out=str(tmp_path / "empty")) == tmp_path / "empty"
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_an_interrupted_export_leaves_the_earlier_one(
    config: Config, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(config, merge=True)
    before = files(config.run_path)
    answers, calls = palate.models.proof.answers, []

    def interrupt(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:  # base and adapter were asked; the written model is not
            raise KeyboardInterrupt
        return answers(*args)

    monkeypatch.setattr("palate.commands.export.answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(config, merge=True, dtype="bfloat16")
    assert files(config.run_path) == before
    with pytest.raises(KeyboardInterrupt):
        calls.clear()
        export(config, merge=True, out=str(folder.with_name("other")))
    assert sorted(p.name for p in config.run_path.iterdir()) == ["adapter", "merged"]


def without_large_weights(base: Path, tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "base", hidden=16, num_hidden_layers=1)


@pytest.mark.parametrize(
    ("size", "model"),
    [(100, None), (50_000, None), (80_000, without_large_weights)],
    ids=["config", "weights", "tokenizer"],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    base: Path, tmp_path: Path, size: int, model: Callable[[Path, Path], Path] | None
) -> None:
    config = toy_config(model(base, tmp_path) if model else base, run_dir=str(tmp_path / "run"))
    adapter = random_adapter(config, config.run_path / "adapter")

    with files_of_at_most(size), pytest.raises(WorkError, match=r"run/merged: cannot be written: .*[Ff]ile too large"):
        export(config, merge=True)
    assert [p.name for p in config.run_path.iterdir()] == [adapter.name]


def test_what_to_write_has_to_be_said(config: Config) -> None:
    with pytest.raises(InputError, match=r"palate export: nothing to write, expected --merge .* --gguf"):
        export(config)


def test_there_has_to_be_an_adapter_of_this_prompt(config: Config, adapter: Path) -> None:
    with pytest.raises(InputError, match="nowhere: there is no adapter"):
        export(config, merge=True, adapter=Path("nowhere"))
    other = config.model_copy(update={"prompt": config.prompt.model_copy(update={"question": "Well?"})})
    with pytest.raises(InputError, match=r"was trained with prompt\.question"):
        export(other, merge=True)


PEAK = """
import re, sys, threading, time
from pathlib import Path
import bitsandbytes, peft, torch
from palate.commands.export import export
from palate.config import load_config

config = load_config(Path(sys.argv[1]))
anonymous = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = most = anonymous()

def watch():
    global most
    while True:
        most = max(most, anonymous())
        time.sleep(0.001)

threading.Thread(target=watch, daemon=True).start()
export(config, merge=True)
print((most - before) / 1000)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts a process's own memory")
def test_a_merge_holds_one_file_of_the_model(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    wide = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8}
    model = tiny_model(**wide).bfloat16()
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="10MB")
    size = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 1e6
    config = toy_config(base, run_dir=str(tmp_path / "run"), model={"dtype": "bfloat16"})
    random_adapter(config, config.run_path / "adapter")
    config.data_path.mkdir()
    example = config.prompt.alpaca("1. x (4.0)", "aaaaaa", "Yes", 3)
    (config.data_path / "eval.json").write_text(json.dumps([example]))
    write_config(config, tmp_path / "config.yaml")

    command = [sys.executable, "-c", PEAK, str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    peak = float(done.stdout.splitlines()[-1])
    assert size > 150
    assert peak < 200, "the model in float32 alone has 310, the rest of this is libraries"


def test_a_gguf_file_alone(wide: Config) -> None:
    folder = export(wide, gguf="f16", converter=CONVERTER)
    record = json.loads((folder / "export.json").read_text())

    assert folder == wide.run_path / "gguf"
    assert set(files(folder)) == {"toy-f16.gguf", "palate.json", "export.json"}
    assert record["gguf"]["sha256"] == sha256_file(folder / "toy-f16.gguf")
    assert 0 < record["gguf"]["proof"]["export"]["logit"] < 0.05 < record["gguf"]["proof"]["adapter"]["logit"]
    assert "files" not in record


def test_a_gguf_file_in_the_model_folder(wide: Config, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(wide, merge=True, gguf="f32", converter=CONVERTER)
    record = json.loads((folder / "export.json").read_text())

    assert {"model.safetensors", "toy-f32.gguf"} <= set(files(folder))
    assert record["proof"]["export"]["logit"] < 1e-4
    assert record["gguf"]["proof"]["tolerance"] == {"logit": 1e-3}
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_converter_that_changes_a_weight_is_found_out(
    wide: Config, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("SPOIL", "layer")
    with pytest.raises(WorkError, match=rf"toy-{kind}\.gguf: does not answer as base and adapter do"):
        export(wide, gguf=kind, converter=CONVERTER)
    assert [p.name for p in wide.run_path.iterdir()] == ["adapter"]


def test_the_model_folder_is_kept_when_its_gguf_file_fails(
    wide: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPOIL", "file")
    with pytest.raises(WorkError, match=r"converter\.py: failed with exit code 1: ValueError: BPE pre-tokenizer"):
        export(wide, merge=True, gguf="f16", converter=CONVERTER)
    folder = wide.run_path / "merged"
    assert "gguf" not in json.loads((folder / "export.json").read_text())
    assert not list(wide.run_path.rglob("*.gguf"))

    shutil.rmtree(folder)
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"--gguf: needs llama\.cpp's convert_hf_to_gguf\.py"):
        export(wide, gguf="f16")
    assert not folder.exists()
    with pytest.raises(InputError, match=r"--gguf: needs llama\.cpp's convert_hf_to_gguf\.py"):
        export(wide, merge=True, gguf="f16")
    assert (folder / "model.safetensors").is_file()

"""The merged folder holds the base's weights with the adapter's added, and nothing that is PEFT's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import random_adapter, tiny_folder, tiny_model, toy_config, toy_dataset

from palate.errors import WorkError
from palate.models import merge as module
from palate.models.adapter import load_adapter
from palate.models.load import load_base_model
from palate.models.merge import in_float32, merge, read_model, stored_alike, write_merged, write_model
from palate.train.finetune import train

SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("qwen3", {"tie_word_embeddings": False}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("llama", {"tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True}),
]
PROBE = torch.arange(5, 300, 7)[None]


def merged_folder(tmp_path: Path, kind: str, changed: dict[str, Any], dtype: str = "float32") -> tuple[Path, Any]:
    """A base, an adapter, and both in one folder; the logits of base and adapter beside it."""
    config = toy_config(tiny_folder(tmp_path / "base", kind, **changed))
    adapter = random_adapter(config, tmp_path / "adapter")
    model, tokenizer = load_base_model(config.model)
    adapted = load_adapter(model, adapter)
    with torch.inference_mode():
        expected = adapted(PROBE).logits
    write_model(merge(adapted), tokenizer, tmp_path / "merged", dtype)
    return tmp_path / "merged", expected


@pytest.mark.parametrize(("kind", "changed"), SHAPES, ids=lambda value: str(value))
def test_transformers_alone_loads_the_folder_and_answers_as_base_and_adapter(
    tmp_path: Path, kind: str, changed: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, expected = merged_folder(tmp_path, kind, changed)
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    base = AutoModelForCausalLM.from_pretrained(str(tmp_path / "base"))
    with torch.inference_mode():
        assert (model(PROBE).logits - expected).abs().max() < 1e-4
        assert (base(PROBE).logits - expected).abs().max() > 0.1

    saved, original = load_file(folder / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert saved.keys() == original.keys()
    assert AutoTokenizer.from_pretrained(str(folder)).chat_template
    assert (folder / "generation_config.json").is_file()


def test_layers_that_were_trained_as_a_whole_take_the_place_of_the_bases(tmp_path: Path) -> None:
    config = toy_config(tiny_folder(tmp_path / "base", "qwen3"), train={"method": "full", "max_steps": 2})
    adapter = train(config, toy_dataset(16, config), None, tmp_path).adapter
    model, tokenizer = load_base_model(config.model)
    plain = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapted = load_adapter(model, adapter)
    with torch.inference_mode():
        expected = adapted(PROBE).logits
    write_model(merge(adapted), tokenizer, tmp_path / "merged", "float32")

    merged = read_model(tmp_path / "merged")
    with torch.inference_mode():
        assert torch.equal(merged(PROBE).logits, expected)
    same = {name for name, weight in merged.state_dict().items() if torch.equal(weight, plain[name])}
    assert same == {"model.embed_tokens.weight", "lm_head.weight"}


def random_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("kind", "changed"), SHAPES, ids=lambda value: str(value))
def test_written_file_by_file_it_is_bit_for_bit_the_model_merged_in_memory(
    tmp_path: Path, kind: str, changed: dict[str, Any], method: str, stored: str
) -> None:
    base = tiny_folder(tmp_path / "base", kind, **changed)
    plain = tiny_model(kind, **changed).to(torch.float32 if stored == "float32" else torch.bfloat16)
    plain.model.norm.to(torch.float32 if stored == "mixed" else plain.dtype)
    (base / "model.safetensors").unlink()
    plain.save_pretrained(base, max_shard_size="200KB")
    config = toy_config(base, train={"method": method, "max_steps": 2})
    if method == "lora":
        adapter = random_adapter(config, tmp_path / "adapter")
    else:
        adapter = train(config, toy_dataset(16, config), None, tmp_path).adapter
    model, tokenizer = load_base_model(config.model)
    write_model(merge(load_adapter(model, adapter)), tokenizer, tmp_path / "whole", "bfloat16")

    held = stored_alike(base)
    assert held == ("bfloat16" if stored == "bfloat16" else "float32")
    mapped = load_base_model(config.model.model_copy(update={"dtype": held}))[0]
    with in_float32():
        adapted = load_adapter(mapped, adapter, exact=True)
    write_merged(adapted, base, tokenizer, tmp_path / "files", "bfloat16")

    files = sorted((tmp_path / "files").glob("*.safetensors"))
    assert len(files) == len(list(base.glob("*.safetensors"))) > 1, "one file after the other"
    together = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    assert together.keys() == expected.keys()
    assert all(torch.equal(together[name], tensor) for name, tensor in expected.items())
    ours, theirs = random_bytes(tmp_path / "files"), random_bytes(tmp_path / "whole")
    index = json.loads(ours.pop("model.safetensors.index.json"))
    assert {name: index["weight_map"][name] for name in expected} == index["weight_map"]
    assert ours == theirs
    with torch.inference_mode(), in_float32():
        assert torch.equal(read_model(tmp_path / "files")(PROBE).logits, read_model(tmp_path / "whole")(PROBE).logits)


def test_a_large_file_is_written_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 100_000)
    config = toy_config(tiny_folder(tmp_path / "base"))
    adapter = random_adapter(config, tmp_path / "adapter")
    model, tokenizer = load_base_model(config.model)
    adapted = load_adapter(model, adapter, exact=True)
    write_merged(adapted, tmp_path / "base", tokenizer, tmp_path / "files", "float32")
    sizes = [file.stat().st_size for file in (tmp_path / "files").glob("*.safetensors")]
    assert len(sizes) > 3
    assert sorted(sizes)[-3] < 110_000  # the embeddings and the head are one tensor each
    with torch.inference_mode():
        expected = adapted(PROBE).logits
        assert (read_model(tmp_path / "files")(PROBE).logits - expected).abs().max() < 1e-4


def test_what_is_not_tensor_by_tensor_that_of_the_base_is_merged_in_memory(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", "llama", tie_word_embeddings=True)
    config = toy_config(base)
    head = random_adapter(config, tmp_path / "head", target_modules=["q_proj", "lm_head"])
    for adapter, changed in ((head, None), (random_adapter(config, tmp_path / "all"), "model.norm.weight")):
        model, tokenizer = load_base_model(config.model)
        adapted = load_adapter(model, adapter, exact=True)
        with torch.inference_mode():
            expected = adapted(PROBE).logits
        if changed:
            tensors = load_file(base / "model.safetensors")
            tensors[f"{changed}_of_another_name"] = tensors.pop(changed)
            save_file(tensors, base / "model.safetensors", {"format": "pt"})
        assert module._files(adapted, base, torch.float32) is None
        write_merged(adapted, base, tokenizer, tmp_path / "merged", "float32")
        with torch.inference_mode():
            apart = (read_model(tmp_path / "merged")(PROBE).logits - expected).abs().max()
        assert (apart < 1e-4) == bool(changed), "a tied head changes the embeddings, too"


def test_whoever_may_read_the_config_may_read_the_weights(tmp_path: Path) -> None:
    folder, _ = merged_folder(tmp_path, "qwen3", {})

    assert {p.stat().st_mode for p in folder.iterdir()} == {(folder / "config.json").stat().st_mode}


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_tied_as_they_were(tmp_path: Path, kind: str, tied: bool) -> None:
    folder, _ = merged_folder(tmp_path, kind, {"tie_word_embeddings": tied})

    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) is not tied
    model = read_model(folder)
    same = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert same is tied


def test_a_weight_in_bfloat16_is_the_float32_sum_rounded_once(tmp_path: Path) -> None:
    folder, _ = merged_folder(tmp_path, "qwen3", {}, "bfloat16")
    saved, base = load_file(folder / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    deltas = load_file(tmp_path / "adapter" / "adapter_model.safetensors")

    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    adapted = [name for name in saved if "_proj" in name]
    assert len(adapted) == 14
    for name in adapted:
        place = f"base_model.model.{name.removesuffix('.weight')}"
        delta = 8 / 4 * deltas[f"{place}.lora_B.weight"] @ deltas[f"{place}.lora_A.weight"]
        assert torch.equal(saved[name], (base[name] + delta).bfloat16())


def test_a_file_with_other_weights_than_the_model_has_is_not_read(tmp_path: Path) -> None:
    folder, _ = merged_folder(tmp_path, "qwen3", {})
    whole = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"

    save_file({k: v for k, v in whole.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WorkError, match=rf"merged: was written with missing weights \(1, first: {name}\)"):
        read_model(folder)
    extra = {"model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(1)}
    save_file(whole | extra, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WorkError, match=r"unexpected weights \(1, first: .*lora_A"):
        read_model(folder)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(WorkError, match="merged: was written and cannot be read back: "):
        read_model(folder)

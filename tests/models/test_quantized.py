"""Checkpoints that are stored quantized, written here: those that train and score, and those that are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.small import CHATML, small_tokenizer
from tests.tiny import toy_config, toy_dataset

from palate.commands.prepare import check_model
from palate.config import ModelConfig
from palate.errors import InputError
from palate.models.load import check_at_hand, load_base_model, load_model, quantization_of, weights_fingerprint
from palate.plan import load_shape
from palate.train.finetune import train

PROBE = torch.arange(5, 300, 7)[None]
BLOCK = 32


def logits(folder: Path, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_model(ModelConfig(base=str(folder), dtype="float32", **options))(PROBE).logits
    return found


def learns(folder: Path, out: Path) -> float:
    """The loss of the last of some steps, less that of the first."""
    config = toy_config(folder, train={"max_steps": 12})
    train(config, toy_dataset(48, config), None, out)
    losses = [json.loads(line).get("loss") for line in (out / "training_log.jsonl").read_text().splitlines()]
    found = [loss for loss in losses if loss is not None]
    return float(found[-1] - found[0])


def settings(folder: Path, **changed: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_checkpoint_of_bitsandbytes_trains_and_scores_as_it_is_stored(base: Path, tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    in_4 = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_compute_dtype": torch.float16}
    options = BitsAndBytesConfig(**({"load_in_8bit": True} if kind == "int8" else in_4))
    stored = AutoModelForCausalLM.from_pretrained(base, quantization_config=options, device_map={"": "cpu"})
    stored.save_pretrained(tmp_path / "stored")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "stored")

    model, _ = load_base_model(ModelConfig(base=str(tmp_path / "stored"), dtype="float32"))
    assert quantization_of(model) == (kind if kind != "int8" else "bitsandbytes")
    assert 0.01 < (logits(tmp_path / "stored") - logits(base)).abs().max() < 3
    if kind != "int8":
        layer = model.model.layers[0].mlp.up_proj
        assert layer.compute_dtype == torch.float32, "that of the checkpoint is another machine's"
        asked = load_model(ModelConfig(base=str(tmp_path / "stored"), quantization="nf4"))
        assert quantization_of(asked) == kind
        config = toy_config(tmp_path / "stored")
        assert check_at_hand(config.model).quantization == "nf4", "palate plan counts 4 bits"
        assert load_shape(config).frozen == load_shape(toy_config(base)).frozen
    assert learns(tmp_path / "stored", tmp_path / "run") < -1


def fp8_folder(base: Path, folder: Path) -> Path:
    """The base with its linear layers in blocks of FP8."""
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    for name in [name for name in tensors if "_proj" in name]:
        rows, columns = tensors[name].shape
        blocks = tensors[name].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3)) / 448
        tensors[name] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    how = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    settings(folder, quantization_config=how)
    return folder


def test_a_checkpoint_in_fp8_is_read_as_plain_weights(base: Path, tmp_path: Path) -> None:
    stored = fp8_folder(base, tmp_path / "stored")
    model = load_model(ModelConfig(base=str(stored), dtype="float32"))
    weight = model.model.layers[0].mlp.up_proj.weight
    expected = load_file(base / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert weight.dtype == torch.float32
    assert 0 < (weight - expected).abs().max() < 0.04 * expected.abs().max()
    assert quantization_of(model) == "none"
    assert 0.001 < (logits(stored) - logits(base)).abs().max() < 1
    assert weights_fingerprint(model) != weights_fingerprint(load_model(ModelConfig(base=str(base))))
    assert learns(stored, tmp_path / "run") < -1


def test_a_checkpoint_in_mxfp4_is_read_as_plain_weights(tmp_path: Path) -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    folder = tmp_path / "stored"
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = GptOssConfig(**shape, vocab_size=512, num_hidden_layers=2, num_local_experts=4, head_dim=16)
    GptOssForCausalLM(config).save_pretrained(folder)
    small_tokenizer(CHATML).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    expected = {}
    for name in [name for name in tensors if name.endswith("_proj") and "experts" in name]:
        experts, inputs, outputs = tensors[name].shape
        codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32), generator=torch.manual_seed(0))
        scales = torch.randint(120, 126, (experts, outputs, inputs // 32))
        plain = values[codes] * torch.exp2(scales.float() - 127)[..., None]
        expected[name] = plain.reshape(experts, outputs, inputs).transpose(1, 2)
        del tensors[name]
        tensors[f"{name}_blocks"] = (codes[..., ::2] + 16 * codes[..., 1::2]).to(torch.uint8)
        tensors[f"{name}_scales"] = scales.to(torch.uint8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings(folder, quantization_config={"quant_method": "mxfp4"})

    model = load_model(ModelConfig(base=str(folder), dtype="float32"))
    assert quantization_of(model) == "none"
    assert len(expected) == 4
    for name, weight in expected.items():
        assert torch.equal(model.get_parameter(name), weight)
    assert learns(folder, tmp_path / "run") < -0.2


METHODS = {
    "awq": "is stored in AWQ, which Palate does not load, expected the unquantized Qwen3-8B; model.quantization=nf4",
    "gptq": "is stored in GPTQ, which",
    "compressed-tensors": "is stored in compressed-tensors, which",
    "torchao": "is stored in torchao, which",
}


@pytest.mark.parametrize("method", METHODS)
def test_other_checkpoints_are_refused_before_any_work(base: Path, tmp_path: Path, method: str) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "Qwen3-8B-AWQ"))
    (folder / "model.safetensors").unlink()
    settings(folder, quantization_config={"quant_method": method})
    for work in (lambda: check_model(toy_config(folder)), lambda: load_base_model(toy_config(folder).model)):
        with pytest.raises(InputError) as caught:
            work()
        assert f"Qwen3-8B-AWQ: {METHODS[method]}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((f"Qwen3-8B-{suffix}", "the unquantized Qwen3-8B;")
          for suffix in ("hqq", "AQLM-2Bit", "torchao-int8wo", "compressed-tensors", "FBGEMM_FP8", "quanto-int4")),
        ("model", "an unquantized checkpoint of the model;"),
    ],
)  # fmt: skip
def test_no_refused_checkpoint_is_named_as_its_own_way_out(
    base: Path, tmp_path: Path, name: str, expected: str
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / name))
    settings(folder, quantization_config={"quant_method": "other"})
    with pytest.raises(InputError, match=f"expected {expected}"):
        load_base_model(toy_config(folder).model)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Qwen3-8B-FP8", "Qwen3-8B"),
        ("Qwen3-8B-unsloth-bnb-4bit", "Qwen3-8B"),
        ("Llama-3.1-8B-Instruct-quantized.w4a16", "Llama-3.1-8B-Instruct"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen2.5-7B-Instruct"),
    ],
)
def test_4_bits_of_8_are_refused_with_the_names_of_both_ways_out(
    base: Path, tmp_path: Path, name: str, plain: str
) -> None:
    folder = fp8_folder(base, tmp_path / name)
    with pytest.raises(InputError) as caught:
        load_model(ModelConfig(base=str(folder), quantization="nf4"))
    assert str(caught.value).endswith(
        f"{name}: is stored in FP8 and cannot be put into nf4, expected model.quantization=none, or the unquantized "
        f"{plain}"
    )

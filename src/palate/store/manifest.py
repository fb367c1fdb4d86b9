"""Read the JSON records that Palate wrote, and refuse those whose keys or types were changed since."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from palate.errors import InputError
from palate.store.artifacts import read_json
from palate.validation import wrong

PREPARE_AGAIN = "run `palate prepare` again"
_NEGATIVES = "negatives.parquet"


class Record(BaseModel):
    """The keys of a record that Palate reads, of exactly these types; it may have others."""

    model_config = ConfigDict(strict=True)


class Manifest(Record):
    """The `manifest.json` of any stage."""

    palate: str
    stage: str
    inputs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    outputs: dict[str, str]
    replacing: dict[str, str] = {}
    """The hashes of an adapter that is about to be renamed into a run."""


class _Counts(Record):
    train: int
    val: int
    test: int


class _Stats(Record):
    name: str
    users: int
    items: int
    ratings: int
    scale: list[float] | None = Field(None, min_length=2, max_length=2)
    samples: _Counts


class _Reading(Record):
    likes: Literal["uniform", "popularity"] | None = None
    negatives_per_like: int = 4


class _Prepare(Record):
    history_len: int = Field(ge=1)
    rating_threshold: float


class _Options(Record):
    prepare: _Prepare
    prompt: dict[str, Any]
    ratings: _Reading = _Reading()


class SamplesManifest(Manifest):
    """The manifest of samples, prepared or as tokens."""

    options: _Options  # type: ignore[assignment]


class PreparedManifest(SamplesManifest):
    """The keys of a prepared folder's manifest that other stages read."""

    stats: _Stats  # type: ignore[assignment]

    @model_validator(mode="after")
    def _says_how_dislikes_are_sampled(self) -> "PreparedManifest":
        if _NEGATIVES in self.outputs and self.options.ratings.likes is None:
            raise ValueError(f"options.ratings.likes is missing beside {_NEGATIVES}")
        return self


def check_record(value: Any, kind: type[BaseModel], path: Path, remedy: str = "") -> None:
    """Raise `InputError` with the first key of a record in `path` that lacks, or has another type or value."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        raise InputError(" ".join(wrong(error.errors()[0])) + (remedy and f"; {remedy}"), path) from None


def read_manifest(path: Path, remedy: str, kind: type[Manifest] = Manifest) -> dict[str, Any]:
    """The manifest in the file `path`; raises `InputError`, with what to do, if it is damaged or was edited."""
    manifest: dict[str, Any] = read_json(path)
    check_record(manifest, kind, path, remedy)
    return manifest

"""The names of splits in columns and file names; without Polars, because training can run without it."""

import posixpath
from collections.abc import Sequence

from palate.errors import InputError
from palate.ratings.formats import split_suffixes

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
"""Names of each split in the column and in file names: `valid.csv`, `valid_ood2.csv`, `ml.valid.inter`."""


def split_files(names: Sequence[str]) -> dict[str, str]:
    """The file name of each split's table; raises `InputError` if two files are of one split."""
    found: dict[str, str] = {}
    for name in names:
        stem, suffix = posixpath.splitext(posixpath.basename(name).lower())
        words = stem.replace("-", "_").replace(".", "_").split("_")
        words = words if suffix == ".inter" else words[:1]  # RecBole puts the data set's name first
        split = next((split for word in words for split, called in SPLIT_NAMES.items() if word in called), None)
        if split is None or suffix not in ("", *split_suffixes()):  # a saved dataset has none
            continue
        if split in found:
            raise InputError(f"is of the split {split}, as {found[split]} is, expected one file for each split", name)
        found[split] = name
    return found

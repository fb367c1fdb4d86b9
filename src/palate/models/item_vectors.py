"""`ItemVectors`: one vector per item, for the tokens of `{item_vector}`; without torch."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]

FILE = "item_vectors.safetensors"
"""In an adapter's folder: the vectors of all training ratings, and the projector's weights."""


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Vectors of the items, in the order of the item table.

    `values` (items, d) float32 is of all training ratings. `apart` (parts, items, d) float32 leaves out the ratings of
    one part of the users each, and is in the same space. `part` (n,) int64 is the part of each training sample's
    user: a training prompt shows vectors of other users' ratings, so no answer is in its own prompt.
    """

    values: Singles
    apart: Singles
    part: NDArray[np.int64]

    @property
    def versions(self) -> Singles:
        """All vectors, (1 + parts, items, d) float32: `values`, then `apart`."""
        return np.concatenate([self.values[None], self.apart])

    @cached_property
    def identity(self) -> str:
        """A hash of all numbers."""
        digest = hashlib.sha256(str(self.versions.shape).encode())
        digest.update(self.versions.astype("<f4").tobytes())
        digest.update(self.part.astype("<i8").tobytes())
        return digest.hexdigest()

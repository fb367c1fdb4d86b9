"""Block mask: which tiles of a packed sequence's scores FlexAttention computes, and in which it applies the mask.

A mask is a union of disjoint parts: each prefix and each block attends to itself causally, a triangle; each block
attends to the prefix of its prompt, a rectangle. The scores of a tile within a part are counted by products of
overlaps, on the host. `create_block_mask` of PyTorch computes the mask of all tokens by all tokens on the device.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.tokens.packed import Longs, Packed, upload

TILE = 128
"""FlexAttention's default block size."""


def scores_in_tiles(packed: Packed) -> NDArray[np.float64]:
    """The number of unmasked scores in each tile of queries (rows) and keys, (tiles, tiles)."""
    prefix, prefix_end = packed.prefix[packed.prompt_of], packed.prefix_end[packed.prompt_of]
    blocks = _overlaps(packed.block, packed.block_end, len(packed))
    rectangles = blocks @ _overlaps(prefix, prefix_end, len(packed)).T
    own = np.concatenate([blocks, _overlaps(packed.prefix, packed.prefix_end, len(packed))], axis=1)
    # A tile below the diagonal has no key after a query; on it, queries and keys are the same tokens.
    triangles = np.tril(own @ own.T, -1) + np.diag((own * (own + 1) / 2).sum(1))
    return np.asarray(rectangles + triangles)


def _overlaps(begin: Longs, end: Longs, tokens: int) -> NDArray[np.float64]:
    """The number of tokens that each tile (row) shares with each range, (tiles, n); float64, for a fast product."""
    tile = np.arange(0, tokens, TILE)[:, None]
    shared: Longs = np.maximum(0, np.minimum(tile + TILE, end) - np.maximum(tile, begin))
    return shared.astype(np.float64)


def block_mask(packed: Packed, device: Any) -> Any:
    """FlexAttention's block mask of a packed sequence."""
    from torch.nn.attention.flex_attention import BlockMask

    prompt, block = (upload(owner, device) for owner in packed.owners())

    def sees(batch: Any, head: Any, q: Any, k: Any) -> Any:
        return (k <= q) & (prompt[q] == prompt[k]) & ((block[k] < 0) | (block[q] == block[k]))

    scores = scores_in_tiles(packed)
    whole = scores == TILE * TILE
    tiles = [upload(part, device) for kind in ((scores > 0) & ~whole, whole) for part in _listed(kind)]
    return BlockMask.from_kv_blocks(*tiles, BLOCK_SIZE=TILE, mask_mod=sees, seq_lengths=(len(packed), len(packed)))


def _listed(tiles: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The number of true tiles in each row, (1, 1, rows), and all columns, those of true tiles first."""
    columns = np.argsort(~tiles, axis=1, kind="stable")
    return tiles.sum(1).astype(np.int32)[None, None], columns.astype(np.int32)[None, None]

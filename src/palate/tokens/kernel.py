"""The compiled loop that turns programs and timelines into token ids, and the one that only measures them.

Ids are copied in blocks of 16, a vector register at a time, whatever a fragment's length: what is written too
much is overwritten by the next fragment. Compiled once a machine; numba keeps the result.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

BLOCK = 16
LEFT, RIGHT, MIDDLE = range(3)
"""Which end of a sequence is cut where it is too long."""
IGNORED = -100


@intrinsic  # type: ignore[untyped-decorator]
def _copy_block(typing: Any, to: Any, at: Any, source: Any, start: Any) -> Any:
    """`to[at : at + BLOCK] = source[start : start + BLOCK]` for int32 arrays, unaligned and unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = ir.VectorType(ir.IntType(32), BLOCK).as_pointer()
        places = []
        for array, offset, kind in zip(arguments[::2], arguments[1::2], signature.args[::2], strict=True):
            data = context.make_array(kind)(context, builder, array).data
            places.append(builder.bitcast(builder.gep(data, [offset]), block))
        builder.store(builder.load(places[1], align=4), places[0], align=4)
        return context.get_dummy_value()

    return numba.types.void(to, at, source, start), generate


@numba.njit(cache=True, nogil=True)
def measure(word, position, program, steps, first, length, out):
    """Lengths of samples: `out[i]` is that of the sample at `position[i]` with `program[i]` history items."""
    for i in range(position.size):
        total = 0
        for j in range(first[program[i]], first[program[i] + 1]):
            total += length[steps[j, 1] + ((word[position[i] + steps[j, 0]] >> steps[j, 2]) & steps[j, 3])]
        out[i] = total


@numba.njit(cache=True, nogil=True)
def touched(word, position, steps, first, length, items, begin, end, out):
    """How many history items of each sample have ids in `begin[i]` to `end[i]`, the part that is cut."""
    for i in range(position.size):
        at, last, found = 0, 0, 0
        for j in range(first[items], first[items + 1]):
            n = length[steps[j, 1] + ((word[position[i] + steps[j, 0]] >> steps[j, 2]) & steps[j, 3])]
            if steps[j, 0] < 0 and steps[j, 0] != last and at < end[i] and at + n > begin[i]:
                found, last = found + 1, steps[j, 0]
            at += n
        out[i] = found


@numba.njit(cache=True, nogil=True)
def _whole(word, position, program, steps, first, start, length, tokens, out, at):
    """Write one whole sample to `out[at:]` and return where it ends."""
    for j in range(first[program], first[program + 1]):
        f = steps[j, 1] + ((word[position + steps[j, 0]] >> steps[j, 2]) & steps[j, 3])
        n = length[f]
        for k in range(0, n, BLOCK):
            _copy_block(out, at + k, tokens, start[f] + k)
        at += n
    return at


@numba.njit(cache=True, nogil=True)
def compose(
    word,
    position,
    program,
    plain,
    steps,
    first,
    start,
    length,
    tokens,
    plain_start,
    plain_tokens,
    whole,
    kept,
    side,
    out,
    at,
):
    """Write samples one after the other to `out`, sample i from `at[i]` on, `kept[i]` of its `whole[i]` ids.

    `plain[i]` is −1, or which sequence of `plain_tokens` sample i is. `out` has BLOCK more ids than are wanted.
    """
    scratch = np.empty(0, np.int32)
    for i in range(position.size):
        n, p = whole[i], plain[i]
        if n == kept[i] and p < 0:
            _whole(word, position[i], program[i], steps, first, start, length, tokens, out, at[i])
            continue
        if scratch.size < n + BLOCK:
            scratch = np.empty(2 * (n + BLOCK), np.int32)
        if p < 0:
            _whole(word, position[i], program[i], steps, first, start, length, tokens, scratch, 0)
        else:
            scratch[:n] = plain_tokens[plain_start[p] : plain_start[p] + n]
        head = 0 if side == LEFT else kept[i] if side == RIGHT else kept[i] // 2
        tail = kept[i] - head
        out[at[i] : at[i] + head] = scratch[:head]
        out[at[i] + head : at[i] + kept[i]] = scratch[n - tail : n]


@numba.njit(cache=True, nogil=True)
def label(ids, at, kept, response, answer, out):
    """Labels: the last `response[i]` ids of sample i, IGNORED elsewhere; with `answer` ≥ 0 only that one of them."""
    for i in range(kept.size):
        end = at[i] + kept[i]
        begin = end - response[i]
        out[at[i] : end] = IGNORED
        if answer < 0:
            out[begin:end] = ids[begin:end]
        else:
            out[begin + answer] = ids[begin + answer]


@numba.njit(cache=True, nogil=True)
def pad(ids, at, kept, response, answer, ids2, mask2, labels2):
    """Ragged ids into a batch padded on the right: rows of `ids2`, `mask2` and `labels2` (n, width) int64.

    The batch is filled with padding already: pad id, 0 and IGNORED.
    """
    for i in range(kept.size):
        n = kept[i]
        begin = n - response[i]
        for j in range(n):
            ids2[i, j] = ids[at[i] + j]
            mask2[i, j] = 1
        if answer < 0:
            for j in range(begin, n):
                labels2[i, j] = ids[at[i] + j]
        else:
            labels2[i, begin + answer] = ids[at[i] + begin + answer]

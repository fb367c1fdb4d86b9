"""The loops over samples: from programs and timelines to token ids and labels, or to lengths alone.

numba compiles them once on each machine; without numba Python runs them, with the same result. Ids are copied in blocks
of 16, the size of a vector register. A copy may exceed its fragment's end; the next fragment overwrites the excess.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="untyped-decorator"

import logging
import os
from pathlib import Path

import numpy as np

from palate.store.hub import cache_dir
from palate.tokens.fragments import IGNORED, OVERREAD

log = logging.getLogger(__name__)

BLOCK = OVERREAD

try:
    import numba
    from llvmlite import ir
    from numba.extending import intrinsic
except ImportError as error:  # numba is missing, or does not support the installed NumPy
    log.info("the loops that compose tokens are not compiled, with the same result: %s", error)

    def compiled(loop):
        """The loop without compilation."""
        return loop

    def _copy_block(to, at, source, start):
        to[at : at + BLOCK] = source[start : start + BLOCK]
else:
    if not os.access(Path(__file__).parent, os.W_OK) and not numba.config.CACHE_DIR:
        numba.config.CACHE_DIR = str(cache_dir() / "numba")  # the installation is read-only
    if not numba.config.CACHE_DIR and not any((Path(__file__).parent / "__pycache__").glob("kernel.*.nbi")):
        log.info("compiling the loops that compose tokens, once on this machine: some seconds")
    compiled = numba.njit(cache=True, nogil=True)

    @intrinsic
    def _copy_block(typing, to, at, source, start):
        """`to[at : at + BLOCK] = source[start : start + BLOCK]` for int32 arrays, unaligned and unchecked."""

        def generate(context, builder, signature, arguments):
            block = ir.VectorType(ir.IntType(32), BLOCK).as_pointer()
            places = []
            for array, offset, kind in zip(arguments[::2], arguments[1::2], signature.args[::2], strict=True):
                data = context.make_array(kind)(context, builder, array).data
                places.append(builder.bitcast(builder.gep(data, [offset]), block))
            builder.store(builder.load(places[1], align=4), places[0], align=4)
            return context.get_dummy_value()

        return numba.types.void(to, at, source, start), generate


@compiled
def pack(row, code, rating, scale, shift, out):
    """Words without labels: `code[row[i]]`, and from bit `shift` on the index of `rating[i]` in the sorted `scale`."""
    for i in range(row.size):
        low, high = 0, scale.size - 1
        while low < high:
            middle = (low + high) // 2
            if scale[middle] < rating[i]:
                low = middle + 1
            else:
                high = middle
        out[i] = code[row[i]] | (low << shift)


@compiled
def measure(word, position, target, program, steps, first, length, out):
    """Lengths of samples: the `program[i]` ratings before row `position[i]`, and the candidate at row `target[i]`.

    `out[i]` is the number of ids before the candidate, which are independent of it, and the number of all ids.
    """
    for i in range(position.size):
        total, shared = 0, -1
        for j in range(first[program[i]], first[program[i] + 1]):
            row = target[i] + steps[j, 0]
            if steps[j, 0] < 0:
                row = position[i] + steps[j, 0]
            elif shared < 0 and steps[j, 3] != 0:
                shared = total
            total += length[steps[j, 1] + ((word[row] >> steps[j, 2]) & steps[j, 3])]
        out[i, 0], out[i, 1] = max(shared, 0), total


@compiled
def count_cut_lines(word, position, steps, first, length, items, lead, trail, begin, end, out):
    """The number of history lines of each sample with ids in the part that is cut, `begin[i]` to `end[i]`.

    A line begins `lead[k]` ids after its first step's begin and ends `trail[k]` ids after its last step's end. A line
    without ids (BERT drops a title of spaces) does not count.
    """
    for i in range(position.size):
        at, line, opens, closes, found = 0, 0, 0, 0, 0
        for j in range(first[items], first[items + 1]):
            n = length[steps[j, 1] + ((word[position[i] + steps[j, 0]] >> steps[j, 2]) & steps[j, 3])]
            if steps[j, 0] < 0:
                if steps[j, 0] != line:
                    found += line < 0 and opens < closes and opens < end[i] and closes > begin[i]
                    line, opens = steps[j, 0], at + lead[steps[j, 0]]
                closes = at + n + trail[line]
            at += n
        out[i] = found + (line < 0 and opens < closes and opens < end[i] and closes > begin[i])


@compiled
def _whole(word, position, target, program, steps, first, start, length, tokens, out, at):
    """Write one whole sample to `out[at:]` and return its end."""
    for j in range(first[program], first[program + 1]):
        row = (position if steps[j, 0] < 0 else target) + steps[j, 0]
        f = steps[j, 1] + ((word[row] >> steps[j, 2]) & steps[j, 3])
        n = length[f]
        for k in range(0, n, BLOCK):
            _copy_block(out, at + k, tokens, start[f] + k)
        at += n
    return at


@compiled
def compose(word, position, target, program, plain, steps, first, start, length, tokens, plain_start, plain_tokens,
            whole, kept, head, response, answer, out, labels, at):  # fmt: skip
    """Write samples to `out`: `kept[i]` of the `whole[i]` ids of sample i, from `at[i]` on.

    Its history is the ratings before row `position[i]`, its candidate the item of row `target[i]`. `plain[i]` is the
    number of its sequence in `plain_tokens`, or −1 for a sample to compose. A cut sample keeps `head` ids at its
    beginning and the others at its end. `out` must have BLOCK extra ids. `labels`, unless empty, get the last
    `response[i]` ids of each sample and IGNORED elsewhere; with `answer` ≥ 0 only that one of the last ids.
    """
    scratch = np.empty(0, np.int32)
    for i in range(position.size):
        n, p, begin = whole[i], plain[i], at[i]
        end = begin + kept[i]
        if n == kept[i] and p < 0:
            _whole(word, position[i], target[i], program[i], steps, first, start, length, tokens, out, begin)
        else:
            if scratch.size < n + BLOCK:
                scratch = np.empty(2 * (n + BLOCK), np.int32)
            if p < 0:
                _whole(word, position[i], target[i], program[i], steps, first, start, length, tokens, scratch, 0)
            else:
                scratch[:n] = plain_tokens[plain_start[p] : plain_start[p] + n]
            middle = begin + min(head, kept[i])
            out[begin:middle] = scratch[: middle - begin]
            out[middle:end] = scratch[n - (end - middle) : n]
        if labels.size:
            trained = end - response[i]
            labels[begin:end] = IGNORED
            if answer < 0:
                labels[trained:end] = out[trained:end]
            else:
                labels[trained + answer] = out[trained + answer]

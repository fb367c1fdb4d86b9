"""The compiled loop that turns programs and timelines into token ids, and the one that only measures them.

Ids are copied in blocks of 16, a vector register at a time, whatever a fragment's length: what is written too
much is overwritten by the next fragment. Compiled once a machine; numba keeps the result.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import logging
import os
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from palate.store.hub import cache_dir
from palate.tokens.fragments import LEFT, OVERREAD, RIGHT

log = logging.getLogger(__name__)

if not os.access(Path(__file__).parent, os.W_OK) and not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(cache_dir() / "numba")  # an installation that may only be read

if not numba.config.CACHE_DIR and not any((Path(__file__).parent / "__pycache__").glob("kernel.*.nbi")):
    log.info("compiling the loops that compose tokens, once on this machine: some seconds")

BLOCK = OVERREAD
IGNORED = -100
UNICODE = 0x110000


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
def pack(row, code, rating, scale, shift, out):
    """Words without labels: `code[row[i]]`, and from bit `shift` on where `rating[i]` stands in the sorted `scale`."""
    for i in range(row.size):
        low, high = 0, scale.size - 1
        while low < high:
            middle = (low + high) // 2
            if scale[middle] < rating[i]:
                low = middle + 1
            else:
                high = middle
        out[i] = code[row[i]] | (low << shift)


@numba.njit(cache=True, nogil=True)
def slide(word, position, history_len, item, rating, candidate, label, shifts, masks, constant, out):
    """Lengths of whole samples as a window over the timeline: what a rating adds does not depend on its line.

    `item`, `rating`, `candidate` and `label` hold what each code adds; `shifts` and `masks` where a word has the
    codes of item, rating and label.
    """
    last, window = -1, 0
    for i in range(position.size):
        p = position[i]
        begin = p - history_len
        if last >= 0 and p == last + 1:
            w = word[begin - 1]
            window -= item[(w >> shifts[0]) & masks[0]] + rating[(w >> shifts[1]) & masks[1]]
            begin = last
        else:
            window = 0
        for k in range(begin, p):
            window += item[(word[k] >> shifts[0]) & masks[0]] + rating[(word[k] >> shifts[1]) & masks[1]]
        last, w = p, word[p]
        ends = candidate[(w >> shifts[0]) & masks[0]] + label[(w >> shifts[2]) & masks[2]]
        out[i] = constant + window + ends


@numba.njit(cache=True, nogil=True)
def measure(word, position, target, program, steps, first, length, out):
    """Lengths of samples: the `program[i]` ratings before row `position[i]`, and the candidate at row `target[i]`.

    `out[i]` are the ids before the candidate, which do not depend on it, and all ids.
    """
    for i in range(position.size):
        total, shared = 0, -1
        for j in range(first[program[i]], first[program[i] + 1]):
            row = target[i]
            if steps[j, 0] < 0:
                row = position[i] + steps[j, 0]
            elif shared < 0 and steps[j, 3] != 0:
                shared = total
            total += length[steps[j, 1] + ((word[row] >> steps[j, 2]) & steps[j, 3])]
        out[i, 0], out[i, 1] = max(shared, 0), total


@numba.njit(cache=True, nogil=True)
def touched(word, position, steps, first, length, items, lead, trail, begin, end, out):
    """How many history lines of each sample have ids in `begin[i]` to `end[i]`, the part that is cut.

    A line reaches from `lead[k]` ids after its first step's beginning to `trail[k]` after its last step's end; one
    without ids (BERT drops a title of spaces) loses nothing.
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


@numba.njit(cache=True, nogil=True)
def _whole(word, position, target, program, steps, first, start, length, tokens, out, at):
    """Write one whole sample to `out[at:]` and return where it ends."""
    for j in range(first[program], first[program + 1]):
        row = position + steps[j, 0] if steps[j, 0] < 0 else target
        f = steps[j, 1] + ((word[row] >> steps[j, 2]) & steps[j, 3])
        n = length[f]
        for k in range(0, n, BLOCK):
            _copy_block(out, at + k, tokens, start[f] + k)
        at += n
    return at


@numba.njit(cache=True, nogil=True)
def compose(
    word,
    position,
    target,
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

    Its history are the ratings before row `position[i]`, its candidate is that of row `target[i]`. `plain[i]` is −1, or
    which sequence of `plain_tokens` sample i is. `out` has BLOCK more ids than are wanted.
    """
    scratch = np.empty(0, np.int32)
    for i in range(position.size):
        n, p = whole[i], plain[i]
        if n == kept[i] and p < 0:
            _whole(word, position[i], target[i], program[i], steps, first, start, length, tokens, out, at[i])
            continue
        if scratch.size < n + BLOCK:
            scratch = np.empty(2 * (n + BLOCK), np.int32)
        if p < 0:
            _whole(word, position[i], target[i], program[i], steps, first, start, length, tokens, scratch, 0)
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
def split(text, begin, kind, i, counts, places, asked, slots, entries, arena, out, first):
    """Cut texts into segments, number the distinct ones; returns the first text for which there was no room.

    Text i is the UTF-8 bytes `text[begin[i] : begin[i + 1]]`; its segments are `out[first[i] : first[i + 1]]`. It has
    none if `kind[i]` < 0 or there is no safe place in it. A first segment is of kind 1 + 2 `kind[i]`, a last one of
    kind 2 + 2 `kind[i]`, others of kind 0. Segments are the same if kind, bytes and the character that follows are.

    `places` is a hash table of what is known of the characters around a place, see `_is_safe`; `slots` one of segments,
    whose `entries` are: hash, where the bytes are in `arena`, kind, where the segment was met in `text`.
    `counts` are the places asked for, the segments, the bytes in `arena`.
    """
    while i < begin.size - 1:
        a, b = begin[i], begin[i + 1]
        # Each byte might be a segment, with four bytes of the character that follows.
        if counts[1] + b - a > entries.shape[0] or counts[2] + 5 * (b - a) > arena.size:
            return i
        n, last = first[i], a
        for p in range(a + 1, b if kind[i] >= 0 else a):
            if not _is_candidate(text, p):
                continue
            left, right, beyond = p - 1, p + 1, p + 2
            while text[left] & 0xC0 == 0x80:
                left -= 1
            while right < b and text[right] & 0xC0 == 0x80:
                right += 1
            beyond = right + 1
            while beyond < b and text[beyond] & 0xC0 == 0x80:
                beyond += 1
            around = _character(text, left, p) * UNICODE + _character(text, p, right)
            around = around * UNICODE + (_character(text, right, beyond) if right < b else 0)
            if _is_safe(around, places, asked, counts):
                own = 1 + 2 * kind[i] if last == a else 0
                out[n] = _number(text, last, p, right, own, counts, slots, entries, arena)
                n, last = n + 1, p
        if last > a:
            out[n] = _number(text, last, b, b, 2 + 2 * kind[i], counts, slots, entries, arena)
            n += 1
        first[i + 1] = n
        i += 1
    return i


@numba.njit(cache=True, nogil=True, inline="always")
def _is_candidate(text, p):
    """Whether words or lines begin at byte p: before white space or a delimiter, and after a line's end."""
    c, before = text[p], text[p - 1]
    if c <= 32:
        return before > 32
    if before == 10 or c == 44 or c == 59 or c == 124:  # , ; |
        return True
    return (c == 0xE3 and text[p + 1] == 0x80) or (c == 0xEF and text[p + 1] == 0xBC)  # CJK punctuation


@numba.njit(cache=True, nogil=True, inline="always")
def _character(text, begin, end):
    """The code point of the UTF-8 bytes `text[begin:end]`."""
    code = np.int64(text[begin])
    if end - begin > 1:
        code &= 0x7F >> (end - begin)
        for p in range(begin + 1, end):
            code = code << 6 | text[p] & 0x3F
    return code


@numba.njit(cache=True, nogil=True, inline="always")
def _is_safe(around, places, asked, counts):
    """Whether a place between such characters is proved; one that is not known yet is not, but put down in `asked`.

    A slot of `places` is 2 × the characters, + 1 if proved.
    """
    mask = places.size - 1
    slot = np.int64(np.uint64(around) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & mask
    while places[slot] >> 1 != around:
        if places[slot] == 0:
            if counts[0] < asked.size:
                places[slot] = around << 1
                asked[counts[0]] = slot
                counts[0] += 1
            return False
        slot = slot + 1 & mask
    return places[slot] & 1 == 1


@numba.njit(cache=True, nogil=True, inline="always")
def _number(text, begin, end, beyond, kind, counts, slots, entries, arena):
    """The number of a segment `text[begin:end]`, which is told from others by its bytes to `beyond`."""
    value = np.uint64(kind + 0x1000193)
    for p in range(begin, beyond):
        value = (value ^ text[p]) * np.uint64(0x100000001B3)
    found = np.int64(value ^ value >> np.uint64(32))
    size, mask = beyond - begin, slots.size - 1
    slot = found & mask
    while slots[slot] >= 0:
        number = slots[slot]
        at = entries[number, 1]
        if entries[number, 0] == found and entries[number, 2] - at == size and entries[number, 3] == kind:
            k = 0
            while k < size and arena[at + k] == text[begin + k]:
                k += 1
            if k == size:
                return number
        slot = slot + 1 & mask
    number, at = counts[1], counts[2]
    slots[slot] = number
    for k in range(size):
        arena[at + k] = text[begin + k]
    entries[number, 0], entries[number, 1], entries[number, 2], entries[number, 3] = found, at, at + size, kind
    entries[number, 4], entries[number, 5] = begin, end
    counts[1], counts[2] = number + 1, at + size
    return number


@numba.njit(cache=True, nogil=True)
def rehash(entries, known, slots):
    """Enter the first `known` segments into `slots`, which are −1 where free."""
    mask = slots.size - 1
    for number in range(known):
        slot = entries[number, 0] & mask
        while slots[slot] >= 0:
            slot = slot + 1 & mask
        slots[slot] = number


@numba.njit(cache=True, nogil=True)
def join(segments, first, start, length, tokens, skip, out, at):
    """Write texts as the ids of their segments, text i from `at[i]` on, without its first `skip[i]` ids.

    `out` has BLOCK more ids than are wanted.
    """
    for i in range(at.size):
        to, left_out = at[i], skip[i]
        for k in range(first[i], first[i + 1]):
            begin, n = start[segments[k]], length[segments[k]]
            if left_out >= n:
                left_out -= n
                continue
            begin, n, left_out = begin + left_out, n - left_out, 0
            for j in range(0, n, BLOCK):
                _copy_block(out, to + j, tokens, begin + j)
            to += n

"""Alpaca examples of any origin as tokens: cut where no token can span, every distinct segment tokenized once.

The user's turn is cut before white space, delimiters and lines, at each place of which `Boundaries` proves that no
token spans it, going by the character before and the two after. The tokens of a segment then depend on its own text
and the character that follows, and a text is its segments' tokens one after the other. The first segment takes the
template before the turn with it, the last one the template after it and the answer (see `palate.tokens.turns`).
Examples that are not of this form, or that nothing is proved for, are tokenized whole.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.progress import track
from palate.prompt.chat import Chat
from palate.tokens.lengths import Lengths
from palate.tokens.plain import conversation
from palate.tokens.proof.boundaries import Boundaries
from palate.tokens.turns import Turns, no_turns

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

ROWS = 4096
"""Examples that are cut and composed at once."""
CONTEXT = 8
"""Bytes of true text around a segment when it is tokenized."""
PLACES = 1 << 16
"""Room for distinct places; of more than half as many nothing is asked, and no cut is made there."""
ROOM = 1 << 26
"""Bytes of distinct segments after which they are forgotten, and learned anew."""
FEW = 4096
"""New segments that are tokenized whether or not they repeat."""
CHECKED = 64
"""Examples that are tokenized whole as well, to check what was proved."""
UNICODE = 0x110000

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Examples that follow each other: their lengths and the lengths of their responses, (n,) int64, untruncated."""

    total: Longs
    response: Longs
    _segments: Ints
    _first: Longs
    _pieces: "_Pieces"
    _whole: Mapping[int, Sequence[int]]

    def compose(self, kept: Longs) -> tuple[Ints, Longs]:
        """The last `kept[i]` ids of each example, one after the other, and where each begins, (n + 1,)."""
        from palate.tokens import kernel

        at = np.concatenate([[0], np.cumsum(kept)])
        out = np.empty(int(at[-1]) + kernel.BLOCK, np.int32)
        skip = self.total - kept
        skip[list(self._whole)] = np.iinfo(np.int64).max  # nothing is written for them: it might be too much
        pieces = self._pieces
        kernel.join(self._segments, self._first, pieces.start, pieces.length, pieces.tokens, skip, out, at[:-1])
        for row, ids in self._whole.items():
            out[at[row] : at[row + 1]] = ids[len(ids) - int(kept[row]) :]
        return out[: int(at[-1])], at


def encode_examples(dataset: "Dataset", chat: Chat, name: str = "") -> Iterator[Batch]:
    """Tokenize an Alpaca dataset, in its order; what cannot be composed is tokenized whole."""
    composer, done, whole = _Composer(chat), 0, 0
    batches = dataset.with_format("arrow").iter(batch_size=ROWS)
    for table in track(batches, len(dataset), f"tokenizing {name}".strip()):
        batch = composer.batch(pl.DataFrame(table))
        done, whole = done + batch.total.size, whole + len(batch._whole)
        yield batch
    if whole:
        log.info("tokens: %s of %s examples are tokenized whole", f"{whole:,}", f"{done:,}")


def measure_examples(dataset: "Dataset", chat: Chat, name: str = "") -> Lengths:
    """The lengths of an Alpaca dataset's examples before any truncation; no ids are composed."""
    lengths = [np.stack([batch.total, batch.response]) for batch in encode_examples(dataset, chat, name)]
    total, response = np.concatenate([np.zeros((2, 0)), *lengths], axis=1).astype(np.int32)
    return Lengths(total, response)


@dataclass(frozen=True)
class _Pieces:
    """The ids of segment s are `tokens[start[s] : start[s] + length[s]]`; of `bad` ones they are not known."""

    tokens: Ints
    start: Longs
    length: Longs
    bad: NDArray[np.bool_]

    @classmethod
    def none(cls) -> "_Pieces":
        longs = np.zeros(0, np.int64)
        return cls(np.zeros(0, np.int32), longs, longs, np.zeros(0, bool))

    def extended(self, found: Sequence[Sequence[int] | None]) -> "_Pieces":
        """These and more; the tokens end with a block that may be read and means nothing."""
        from palate.tokens.kernel import BLOCK

        length = np.array([len(ids or ()) for ids in found], np.int64)
        used = int(self.length.sum())
        new = np.fromiter((token for ids in found for token in ids or ()), np.int32, int(length.sum()))
        return _Pieces(
            np.concatenate([self.tokens[:used], new, np.zeros(BLOCK, np.int32)]),
            np.concatenate([self.start, used + np.cumsum(length) - length]),
            np.concatenate([self.length, length]),
            np.concatenate([self.bad, [ids is None for ids in found]]),
        )


@dataclass
class _Composer:
    """Everything learned of a tokenizer and its template by the examples so far."""

    chat: Chat
    fits: bool = True
    """Whether examples may be composed at all."""
    checked: bool = False
    told: bool = False
    """Whether the log says that segments hardly ever repeat."""

    def __post_init__(self) -> None:
        self.turns = Turns(self.chat)
        self.boundaries = Boundaries(self.chat.ordinary)
        self._refuse(self.boundaries.reason)
        self.places, self.asked = np.zeros(PLACES, np.int64), np.zeros(PLACES // 2, np.int64)
        self.counts, self.proved = np.zeros(3, np.int64), 0
        self._forget()

    def batch(self, rows: pl.DataFrame) -> Batch:
        """Cut the examples, tokenize segments that were not met before, and leave the rest to the plain path."""
        text, kind = self.turns.of(rows) if self.fits else no_turns(rows)
        data, begin = _bytes(text)
        segments, first = self._split(data, begin, kind)
        known = self.proved
        if self._prove() > known // 8:  # as yet too few places were known to be safe
            self._forget()
            segments, first = self._split(data, begin, kind)
        new = int(self.counts[1]) - self.pieces.length.size
        if new > max(FEW, segments.size // 2):
            if not self.told:
                log.info("tokens: %s of %s segments are new, so whole examples are faster", new, segments.size)
            self.told = True
            self._forget()
            segments, first = segments[:0], np.zeros_like(first)
        self._learn(data, begin)
        pieces = self.pieces
        composed = np.diff(first) > 0
        if pieces.bad.any():
            composed &= _sums(pieces.bad[segments].astype(np.int64), first) == 0
        total = _sums(pieces.length[segments], first)
        response = np.array([t.response for t in self.turns.templates] or [0], np.int64)[kind]
        sample = np.flatnonzero(composed)
        if sample.size and self.fits and not self.checked:
            self.checked = True
            sample = sample[np.unique(np.linspace(0, sample.size - 1, CHECKED).astype(np.int64))]
            trial = Batch(total, response, segments, first, pieces, {})
            ids, at = trial.compose(total)
            for row, (encoded, prompt_len) in zip(sample.tolist(), self._whole(rows[sample]), strict=True):
                if ids[at[row] : at[row + 1]].tolist() != encoded or response[row] != len(encoded) - prompt_len:
                    self._refuse("composed examples differ from whole ones, which is a defect: please report it")
        whole: dict[int, Sequence[int]] = {}
        left = np.flatnonzero(~composed) if self.fits else np.arange(rows.height)
        if left.size:
            for row, (encoded, prompt_len) in zip(left.tolist(), self._whole(rows[left]), strict=True):
                whole[row] = encoded
                total[row], response[row] = len(encoded), len(encoded) - prompt_len
        return Batch(total, response, segments, first, pieces, whole)

    def _whole(self, rows: pl.DataFrame) -> list[Any]:
        return self.chat.encode_batch([conversation(row) for row in rows.to_dicts()])

    def _refuse(self, reason: str | None) -> None:
        if reason:
            log.warning("tokens: every example is tokenized whole, which takes long: %s", reason)
            self.fits = False

    def _forget(self) -> None:
        self.slots = np.full(PLACES, -1, np.int32)
        self.entries, self.arena = np.empty((PLACES // 2, 6), np.int64), np.empty(1 << 20, np.uint8)
        self.counts[1:] = 0
        self.pieces = _Pieces.none()

    def _split(self, data: NDArray[np.uint8], begin: Longs, kind: Longs) -> tuple[Ints, Longs]:
        """Segments of the texts, as numbers."""
        from palate.tokens import kernel

        if self.counts[2] > ROOM:
            self._forget()
        out, first, row = np.empty(data.size, np.int32), np.zeros(begin.size, np.int64), 0
        while (
            row := kernel.split(
                data, begin, kind, row, self.counts, self.places, self.asked,
                self.slots, self.entries, self.arena, out, first,
            )
        ) < begin.size - 1:  # fmt: skip
            self.slots = np.full(2 * self.slots.size, -1, np.int32)
            self.entries = np.concatenate([self.entries, np.empty_like(self.entries)])
            self.arena = np.concatenate([self.arena, np.empty_like(self.arena)])
            kernel.rehash(self.entries, self.counts[1], self.slots)
        return out[: first[-1]], first

    def _prove(self) -> int:
        """Prove the places asked for since the last time; returns how many there were."""
        slots = self.asked[self.proved : self.counts[0]]
        for slot in slots.tolist():
            rest, beyond = divmod(int(self.places[slot]) >> 1, UNICODE)
            left, right = divmod(rest, UNICODE)
            self.places[slot] |= self.boundaries.safe(chr(left), chr(right) + (chr(beyond) if beyond else ""))
        self.proved = int(self.counts[0])
        return slots.size

    def _learn(self, data: NDArray[np.uint8], begin: Longs) -> None:
        """Tokenize the segments that were not met before."""
        new = self.entries[self.pieces.length.size : self.counts[1]]
        low, high = new[:, 4], new[:, 5]
        row = np.searchsorted(begin, low, side="right") - 1
        left, right = np.maximum(begin[row], low - CONTEXT), np.minimum(begin[row + 1], high + CONTEXT)
        raw = data.tobytes()
        # A context may begin or end within a character's bytes; what there is of that one is left out.
        met = [
            (raw[a:b].decode(errors="ignore"), raw[b:c].decode(), raw[c:d].decode(errors="ignore"))
            for a, b, c, d in zip(left.tolist(), low.tolist(), high.tolist(), right.tolist(), strict=True)
        ]
        kinds = new[:, 3].tolist()
        if not self.turns.shown([text for _, text, _ in met]):
            self._refuse("the chat template changes the text of the user's turn")
        found: list[list[int] | None] = [None] * len(met)
        middle = [n for n, kind in enumerate(kinds) if kind == 0]
        texts = ["".join(met[n]) for n in middle]
        for n, encoding in zip(middle, self.chat.ordinary.encode_batch(texts, add_special_tokens=False), strict=True):
            found[n] = _between(encoding, len(met[n][0]), len(met[n][0]) + len(met[n][1]))
        # What looks like control may become it beside the template's own text, which is control.
        ends = [n for n, kind in enumerate(kinds) if kind and not self.chat.imitates_control("".join(met[n]))]
        wheres, texts = [], []
        for n in ends:
            template = self.turns.templates[(kinds[n] - 1) // 2]
            before, text, after = met[n]
            if kinds[n] % 2:
                wheres.append((0, len(template.before) + len(text)))
                texts.append(template.before + text + after)
            else:
                lead = len(template.before) + len(before)
                texts.append(template.before + before + text + template.after)
                wheres.append((lead, len(texts[-1])))
        encodings = self.chat.untrimmed.encode_batch(texts, add_special_tokens=False)
        for n, where, encoding in zip(ends, wheres, encodings, strict=True):
            ids, end = _between(encoding, *where), self.turns.templates[(kinds[n] - 1) // 2].end
            if kinds[n] % 2 or (ids is not None and tuple(ids[-len(end) :]) == end):
                found[n] = ids
        self.pieces = self.pieces.extended(found)


def _bytes(texts: pl.Series) -> tuple[NDArray[np.uint8], Longs]:
    """Texts as UTF-8 one after the other, and where each begins, (n + 1,)."""
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    begin = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data or b"", np.uint8), begin


def _between(encoding: Any, begin: int, end: int) -> list[int] | None:
    """The tokens of the characters `begin` to `end`; None if one spans an end of them."""
    n, edges = 0, []
    offsets = encoding.offsets
    for place in (begin, end):
        while n < len(offsets) and offsets[n][0] < place:
            if offsets[n][1] > place:
                return None
            n += 1
        edges.append(n)
    ids: list[int] = encoding.ids[edges[0] : edges[1]]
    return ids


def _sums(values: NDArray[Any], first: Longs) -> Longs:
    """Sums of `values[first[i] : first[i + 1]]`."""
    running: Longs = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return running[first[1:]] - running[first[:-1]]

"""What is cut from samples that are too long: a choice, made from lengths before anything is composed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.tokens.tables import Ints, Longs, Plain, Tables, mapped, sample_lengths

Strategy = Literal["left", "right", "middle", "history", "drop", "error"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Cut:
    """What happens to the samples of a split that are longer than the cutoff.

    `over` (k,) int64 are their numbers, ascending; `items` (k,) int64 the history items that each keeps,
    `kept` (k,) int32 its tokens (0: the sample is dropped), `cut_items` (k,) int32 how many history items lost
    text, −1 where that is not known because the sample is tokenized whole. Samples that are tokenized whole and
    have lost items are tokenized again: `again` (a,) int64 numbers, `start` (a + 1,), `tokens`.
    """

    over: Longs
    items: Longs
    kept: Ints
    cut_items: Ints
    again: Longs
    start: Longs
    tokens: Ints

    @classmethod
    def open(cls, folder: Path) -> "Cut":
        """Map what `save` wrote."""
        return cls(*(mapped(folder / f"{field.name}.npy") for field in fields(cls)))

    def save(self, folder: Path) -> None:
        """Write one file an array."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))


def plan_cut(
    tables: Tables, split: str, plain: Plain, cutoff: int, strategy: Strategy, chat: Chat | None = None
) -> Cut:
    """Decide what is cut from each sample of a split that is longer than `cutoff` tokens.

    `left`, `right` and `middle` keep that many tokens of the end, the beginning, or half of each; `history`
    drops the oldest history items until the rest fits, and renumbers it; `drop` leaves the sample out. `chat` is
    needed for `history` where samples are tokenized whole.

    Raises `InputError`, naming the first such sample, if any would lose part of its response or under `error`
    if any is too long, and if none would be left.
    """
    whole, response = lengths_of(tables, split, plain)
    over = np.flatnonzero(whole > cutoff)
    items = np.full(over.size, tables.history_len, np.int64)
    kept = np.full(over.size, cutoff, np.int32)
    again: list[NDArray[np.int32]] = []
    number: list[int] = []
    if strategy == "history":
        kept[:] = 0
        known = np.isin(over, plain.sample, assume_unique=True)
        _fewer_items(tables, split, over, ~known, cutoff, items, kept)
        for k in np.flatnonzero(known):
            assert chat is not None
            ids = _shortened(tables, split, int(over[k]), cutoff, chat)
            items[k], kept[k] = ids[0], ids[1].size
            again.append(ids[1])
            number.append(int(over[k]))
        fits = kept > 0
    elif strategy == "drop":
        kept[:] = 0
        if over.size == whole.size and over.size:
            raise InputError(f"drops all {over.size:,} samples, the shortest has {whole.min()} tokens", "cutoff_len")
        fits = np.ones(over.size, bool)
    else:
        tail = {"left": cutoff, "right": 0, "middle": cutoff - cutoff // 2, "error": 0}[strategy]
        fits = response[over] <= tail
    if not fits.all():
        worst = int(over[np.flatnonzero(~fits)[0]])
        raise InputError(_too_long(tables, split, worst, int(whole[worst]), int(response[worst]), cutoff, strategy))
    if strategy == "history":
        cut_items = (tables.history_len - items).astype(np.int32)
    else:
        cut_items = _touched(tables, split, plain, over, whole[over], kept, strategy)
    start = np.cumsum([0, *(ids.size for ids in again)], dtype=np.int64)
    tokens = np.concatenate([np.zeros(0, np.int32), *again])
    return Cut(over, items, kept, cut_items, np.array(number, np.int64), start, tokens)


def lengths_of(tables: Tables, split: str, plain: Plain) -> tuple[Ints, Ints]:
    """The lengths of a split's samples before truncation, and of their responses; (n,) int32 each."""
    whole = tables.lengths(split)
    if plain.sample.size:
        whole = whole.copy()
        whole[plain.sample] = np.diff(plain.start)
    return whole, responses_of(tables, split, plain)


def responses_of(tables: Tables, split: str, plain: Plain) -> Ints:
    """The lengths of a split's responses, (n,) int32."""
    response = np.zeros(tables.position(split).size, np.int32)
    if tables.fragments is not None:
        response = tables.fragments.response[tables.labels(split)]
    response[plain.sample] = plain.response
    return response


def _fewer_items(
    tables: Tables, split: str, over: Longs, mine: NDArray[np.bool_], cutoff: int, items: Longs, kept: Ints
) -> None:
    """For samples that are composed: the most history items that fit, and the length with them."""
    left = np.flatnonzero(mine)
    position = tables.position(split)
    for m in range(tables.history_len - 1, -1, -1):
        if not left.size or tables.fragments is None:
            return
        length = sample_lengths(tables.word, tables.fragments, position[over[left]], m)
        fits = length <= cutoff
        items[left[fits]], kept[left[fits]] = m, length[fits]
        left = left[~fits]


def _shortened(tables: Tables, split: str, sample: int, cutoff: int, chat: Chat) -> tuple[int, Ints]:
    """The same for a sample that is tokenized whole: how many items, and its ids (none if nothing fits)."""
    position = tables.position(split)[[sample]]
    for m in range(tables.history_len - 1, -1, -1):
        ids, _ = chat.encode(to_chat_messages(tables.examples(position, m)[0]))
        if len(ids) <= cutoff:
            return m, np.array(ids, np.int32)
    return 0, np.zeros(0, np.int32)


def _touched(
    tables: Tables, split: str, plain: Plain, over: Longs, whole: Ints, kept: Ints, strategy: Strategy
) -> Ints:
    """How many history items lose text, for cuts at an end or in the middle; −1 where it is not known."""
    out = np.full(over.size, tables.history_len if strategy == "drop" else 0, np.int32)
    if strategy == "drop" or tables.fragments is None or not over.size:
        out[np.isin(over, plain.sample)] = -1
        return out
    from palate.tokens import kernel

    head = {"left": np.zeros_like(kept), "right": kept, "middle": kept // 2, "error": kept}[strategy]
    f = tables.fragments
    kernel.touched(
        tables.word, tables.position(split)[over], f.steps, f.first, f.length, tables.history_len,
        head.astype(np.int64), (whole - (kept - head)).astype(np.int64), out,
    )  # fmt: skip
    out[np.isin(over, plain.sample)] = -1
    return out


def _too_long(
    tables: Tables, split: str, sample: int, whole: int, response: int, cutoff: int, strategy: Strategy
) -> str:
    """One line that names a sample and says what would become of it."""
    candidate = tables.samples(tables.position(split)[[sample]], 0).items["title"][0]
    what = f"{split} sample {sample} (candidate {candidate!r}) is {whole} tokens, cutoff_len is {cutoff}"
    if strategy == "error":
        return f"{what}: expected every sample to fit, or another tokens.truncation"
    if strategy == "history":
        return f"{what}: it does not fit without any history either"
    return f"{what}: truncation {strategy!r} would cut into its response of {response} tokens"


def compared(
    tables: Tables, split: str, plain: Plain, cutoffs: Sequence[int], chat: Chat | None = None
) -> list[dict[str, Any]]:
    """What every strategy does at each cutoff, for `palate lengths`."""
    whole, response = lengths_of(tables, split, plain)
    rows = []
    for cutoff in cutoffs:
        for strategy in STRATEGIES:
            try:
                cut = plan_cut(tables, split, plain, cutoff, strategy, chat)
            except InputError as error:
                rows.append({"cutoff_len": cutoff, "truncation": strategy, "refused": str(error)})
                continue
            rows.append({"cutoff_len": cutoff, "truncation": strategy, **audit_cut(cut, whole, response)})
    return rows


def audit_cut(cut: Cut, whole: Ints, response: Ints) -> dict[str, Any]:
    """How much is cut: samples, history items, tokens; and how many samples are dropped."""
    known = cut.cut_items >= 0
    return {
        "samples_cut": int(cut.over.size),
        "samples_dropped": int((cut.kept == 0).sum()),
        "history_items_cut": int(cut.cut_items[known].sum()),
        "samples_with_unknown_items": int((~known).sum()),
        "tokens_cut": int((whole[cut.over] - cut.kept).sum()),
        "tokens": int(whole.sum(dtype=np.int64)) - int((whole[cut.over] - cut.kept).sum()),
        "trained_tokens": int(response.sum(dtype=np.int64)) - int(response[cut.over[cut.kept == 0]].sum()),
    }

"""The cut: truncation of sequences beyond the cutoff, for training, scoring, ranking and `palate lengths`.

Each sequence is cut independently of the others. `plan_cut` plans the cut of a token dataset's samples from their
lengths, before they are composed; `cut_prompts` cuts the ids of prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.tokens.fragments import CONTEXT, ITEM, RATING, SIGNAL_PLACES, Fragments, Ints, Longs
from palate.tokens.tables import CHUNK, Plain, Tables, mapped, sample_lengths

Strategy = Literal["left", "right", "middle", "history", "drop", "error"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
UNKNOWN = -1

Shorter = Callable[[Sequence[int], int], list[list[int]]]
"""A function that gives the prompts of some rows with this number of the latest history items."""


def ends(strategy: str, cutoff: int) -> tuple[int, int]:
    """The numbers of tokens that a cut sequence keeps at its beginning and at its end."""
    head = {"right": cutoff, "middle": cutoff // 2}.get(strategy, 0)
    return head, cutoff - head


def cut_ids(ids: list[int], head: int, tail: int) -> list[int]:
    """The first `head` and the last `tail` ids (or labels) of a longer sequence; a shorter one is unchanged."""
    return ids if len(ids) <= head + tail else ids[:head] + ids[len(ids) - tail :]


def drop_items(items: Longs, cutoff: int, measure: Callable[[Longs, Longs], Ints | Longs]) -> tuple[Longs, Ints]:
    """The largest number of history items with which each too long sequence fits the cutoff.

    `items` (n,) are their current numbers of history items; `measure(rows, items)` gives the lengths of some sequences
    with these numbers of items. Returns the new numbers and lengths; a length is 0 if the sequence does not fit even
    without a history.
    """
    items, kept, left = items.copy(), np.zeros(items.size, np.int32), np.arange(items.size)
    for most in range(int(items.max(initial=0)) - 1, -1, -1):
        if not left.size:
            break
        tried = np.minimum(items[left], most)
        length = measure(left, tried)
        fits = length <= cutoff
        items[left[fits]], kept[left[fits]] = tried[fits], length[fits]
        left = left[~fits]
    return items, kept


def cut_prompts(
    prompts: Sequence[list[int]],
    chat: Chat,
    cutoff_len: int,
    truncation: str = "left",
    shorter: tuple[int, Shorter] | None = None,
) -> list[list[int]]:
    """Cut prompts (ids up to the decision token) so that each has, with an answer, at most `cutoff_len` tokens.

    `truncation` is the config's. `history` needs `shorter`: the current number of items, and a function that makes
    prompts with fewer. With `drop`, prompts are cut on the left, since samples that training drops are scored too.
    Raises `InputError` if a prompt is too long and `truncation` forbids the cut, or if the cut would reach the answer.
    """
    answer = 1 + len(chat.decision.tail)
    most = cutoff_len - answer
    long = [n for n, ids in enumerate(prompts) if len(ids) > most]
    found = list(prompts)
    if not long:
        return found
    if truncation in ("right", "error") or (truncation == "history" and shorter is None):
        why = "; only a ranking has items to drop" if truncation == "history" else ""
        raise InputError(
            f"a prompt is {max(map(len, prompts)) + answer} tokens with its answer, tokens.cutoff_len is {cutoff_len}: "
            f"expected all to fit with tokens.truncation={truncation}{why}",
            "tokens.cutoff_len",
        )
    if truncation == "history" and shorter is not None:
        shown, write = shorter

        def measure(rows: Longs, items: Longs) -> Ints:
            some = [long[row] for row in rows]
            again = write(some, int(items[0]))
            for n, ids in zip(some, again, strict=True):
                found[n] = ids
            return np.array([len(ids) for ids in again], np.int32)

        _, kept = drop_items(np.full(len(long), shown), most, measure)
        if not kept.all():
            raise InputError(
                f"{cutoff_len}, expected more: {(kept == 0).sum():,} of the prompts are too long without any history",
                "tokens.cutoff_len",
            )
        return found
    head, tail = ends(truncation, cutoff_len)
    if tail < answer + len(chat.decision.lead):
        raise InputError(f"{cutoff_len} would cut into the answer, expected a higher one", "tokens.cutoff_len")
    return [cut_ids(ids, head, tail - answer) for ids in found]


@dataclass(frozen=True)
class Cut:
    """The cut of a split's samples that are longer than the cutoff.

    `over` (k,) int64 are their numbers, ascending. Of each, `items` (k,) int64 is the number of history items that it
    keeps, `kept` (k,) int32 the number of tokens (0: the sample is dropped), and `cut_items` (k,) int32 the number of
    history items that lost text, `UNKNOWN` for a sample that is tokenized whole. The last are tokenized again if they
    lose items: `again` (a,) int64 are their numbers, and the ids of the i-th are `tokens[start[i] : start[i + 1]]`.
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
        """Map the files of `save` into memory."""
        return cls(*(mapped(folder / f"{field.name}.npy") for field in fields(cls)))

    def save(self, folder: Path) -> None:
        """Write each array to a file."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))


def plan_cut(
    tables: Tables,
    split: str,
    plain: Plain,
    cutoff: int,
    strategy: Strategy,
    chat: Chat,
    among: Longs | None = None,
) -> Cut:
    """Plan the cut of each sample of a split that is longer than `cutoff` tokens.

    `left` keeps `cutoff` tokens at the end, `right` at the beginning, `middle` half of them at each side. `history`
    drops the oldest history items until the rest fits, and renumbers the rest. `drop` drops the sample. `among` are the
    numbers of the samples to cut; None: all.

    Raises `InputError`, with the first such sample, if a sample would lose part of its response, or if any is too long
    with `error`; also if `drop` would drop all samples.
    """
    whole = lengths_of(tables, split, plain)
    if among is None:
        over, count = np.flatnonzero(whole > cutoff), whole.size
    else:
        number = np.unique(among)
        over, count = number[whole[number] > cutoff], number.size
    response = responses_of(tables, split, plain, over)
    shown = tables.items(split)[over]
    items = shown.copy()
    kept = np.full(over.size, cutoff, np.int32)
    again: dict[int, Ints] = {}
    if strategy == "drop":
        kept[:] = 0
        if over.size and over.size == count:
            shortest = f"the shortest has {whole[over].min()} tokens, expected a higher tokens.cutoff_len than {cutoff}"
            raise InputError(f"{split}: truncation 'drop' leaves none of {over.size:,} samples, {shortest}")
        fits = np.ones(over.size, bool)
    elif strategy == "history":
        items, kept, again = _drop_items(tables, split, plain, over, response, cutoff, chat)
        fits = kept > 0
    else:
        fits = response <= (0 if strategy == "error" else ends(strategy, cutoff)[1])
    if not fits.all():
        place = int(np.flatnonzero(~fits)[0])
        first = int(over[place])
        raise InputError(_too_long(tables, split, first, int(whole[first]), int(response[place]), cutoff, strategy))
    if strategy in ("left", "middle"):
        head = np.full(over.size, ends(strategy, cutoff)[0], np.int64)
        cut_items = _cut_items(tables, split, plain, over, head, whole[over] - (kept - head), chat)
    else:
        cut_items = (shown - items * (kept > 0)).astype(np.int32)
    start = np.cumsum([0, *(ids.size for ids in again.values())], dtype=np.int64)
    tokens = np.concatenate([np.zeros(0, np.int32), *again.values()])
    return Cut(over, items, kept, cut_items, np.array(list(again), np.int64), start, tokens)


def lengths_of(tables: Tables, split: str, plain: Plain) -> Ints:
    """The lengths of a split's samples before truncation, (n,) int32."""
    whole = tables.lengths(split)
    if plain.sample.size:
        whole = whole.copy()
        whole[plain.sample] = np.diff(plain.start)
    return whole


def responses_of(tables: Tables, split: str, plain: Plain, sample: Longs) -> Ints:
    """The response lengths of the samples with these numbers in the split, (k,) int32."""
    response = np.zeros(sample.size, np.int32)
    if tables.fragments is not None:
        response = tables.fragments.response[tables.labels(split, sample)]
    place = places_in(plain.sample, sample)
    response[place >= 0] = plain.response[place[place >= 0]]
    return response


def places_in(among: Longs, sample: Longs) -> Longs:
    """The index of each number in the ascending array `among`; −1 if it is not in it."""
    place = np.full(sample.size, -1, np.int64)
    if among.size:
        at = np.minimum(np.searchsorted(among, sample), among.size - 1)
        found = among[at] == sample
        place[found] = at[found]
    return place


def _drop_items(
    tables: Tables, split: str, plain: Plain, over: Longs, response: Ints, cutoff: int, chat: Chat
) -> tuple[Longs, Ints, dict[int, Ints]]:
    """The result of `drop_items` for the samples `over`, and the new ids of those tokenized whole, by number."""
    position, target = tables.position(split)[over], tables.target(split)[over]
    is_plain = np.isin(over, plain.sample, assume_unique=True)
    again: dict[int, Ints] = {}

    def measure(rows: Longs, items: Longs) -> Ints:
        length = np.full(rows.size, cutoff + 1, np.int32)
        composed = np.flatnonzero(~is_plain[rows])
        if tables.fragments is not None:
            at = rows[composed]
            length[composed] = sample_lengths(tables.word, tables.fragments, position[at], items[composed], target[at])
        whole = np.flatnonzero(is_plain[rows])
        for chunk in range(0, whole.size, CHUNK):
            places = whole[chunk : chunk + CHUNK]
            examples = tables.examples(position[rows[places]], items[places], target[rows[places]])
            encoded = chat.encode_batch([to_chat_messages(example) for example in examples])
            for n, (ids, prompt_len) in zip(places, encoded, strict=True):
                # The last tokens get labels, as many as the whole sample's response has.
                if len(ids) <= cutoff and len(ids) - prompt_len == response[rows[n]]:
                    length[n], again[int(over[rows[n]])] = len(ids), np.array(ids, np.int32)
        return length

    items, kept = drop_items(tables.items(split)[over], cutoff, measure)
    return items, kept, dict(sorted(again.items()))


def _cut_items(tables: Tables, split: str, plain: Plain, over: Longs, begin: Longs, end: Longs, chat: Chat) -> Ints:
    """The number of history items that lose text if the tokens `begin` to `end` are cut."""
    out = np.full(over.size, UNKNOWN, np.int32)
    f, composed = tables.fragments, ~np.isin(over, plain.sample)
    edges = _line_edges(tables, f, chat) if f is not None and composed.any() else None
    if edges is None or f is None:
        return out
    from palate.tokens import kernel

    position, items = tables.position(split), tables.items(split)[over]
    for m in np.unique(items[composed]).tolist():
        rows = np.flatnonzero(composed & (items == m))
        found = np.empty(rows.size, np.int32)
        kernel.count_cut_lines(
            tables.word, position[over[rows]], f.steps, f.first, f.length, m, *edges, begin[rows], end[rows], found
        )
        out[rows] = found
    return out


def _line_edges(tables: Tables, f: Fragments, chat: Chat) -> tuple[Longs, Longs] | None:
    """The begin of a history line in ids after its first step's begin, and its end in ids after its last step's end.

    Two arrays (history_len,) int64 by the step's row, which counts from the end. The text beside a field is the same in
    every sample, so one example is enough: its history repeats one proved item. None if there is no such item.
    """
    m, prompt = tables.history_len, tables.prompt
    unproved = {*f.unproved["history"], *f.unproved["candidate"]}
    item = next(
        (
            code
            for code in range(tables.codes("item"))
            if code not in unproved and not any(map(chat.imitates_control, tables.wording.named("item", code)))
        ),
        None,
    )
    rating = next((code for code in range(tables.codes("rating")) if code not in f.unproved["rating"]), None)
    unproved = {*f.unproved["context"], *f.unproved["candidate_context"]}
    context = next((code for code in range(tables.codes("context")) if code not in unproved), None)
    if item is None or rating is None or context is None:
        return None
    word = (item << ITEM[0]) | (rating << RATING[0]) | (context << CONTEXT[0])
    # Signals stand behind the history, so any value does.
    codes = {"item": item, "rating": rating, "context": context, **dict.fromkeys(SIGNAL_PLACES, 0)}
    lines = [tables.wording.history_line(codes, n) for n in range(1, m + 1)]
    example = prompt.alpaca("\n".join(lines), tables.wording.candidate_line(codes), prompt.yes, m)
    text = chat.text(to_chat_messages(example))
    at = text.index("\n".join(lines) + prompt.frame(m)[1])
    offsets = chat.untrimmed.encode(text, add_special_tokens=False).offsets
    steps = f.steps[f.first[m] : f.first[m + 1]]
    words = np.where(steps[:, 0] > 0, 0, word)
    ends = np.cumsum(f.length[steps[:, 1] + ((words >> steps[:, 2]) & steps[:, 3])])
    begins = np.concatenate([[0], ends[:-1]])
    lead, trail = np.zeros((2, m), np.int64)
    for n, line in enumerate(lines):
        of_line = np.flatnonzero(steps[:, 0] == n - m)
        if of_line.size:
            first, last = of_line[0], of_line[-1]
            lead[n - m] = sum(end <= at for _, end in offsets) - begins[first]
            trail[n - m] = sum(begin < at + len(line) for begin, _ in offsets) - ends[last]
            # An item's fragment has no constant text of other lines except the line break beside its own line.
            if steps[first, 2] == ITEM[0]:
                lead[n - m] = min(0, lead[n - m])
            if steps[last, 2] == ITEM[0]:
                trail[n - m] = max(0, trail[n - m])
        at += len(line) + 1
    return lead, trail


def _too_long(
    tables: Tables, split: str, sample: int, whole: int, response: int, cutoff: int, strategy: Strategy
) -> str:
    """The message for a sample that cannot be cut to the cutoff."""
    candidate = tables.candidate_line(int(tables.target(split)[sample]))
    what = f"{split} sample {sample} (candidate {candidate!r}) is {whole} tokens, cutoff_len is {cutoff}"
    if strategy == "error":
        return f"{what}: expected every sample to fit, or another tokens.truncation"
    if strategy == "history":
        return f"{what}: it does not fit even without a history"
    return f"{what}: truncation {strategy!r} would cut into its response of {response} tokens"


def compare_strategies(
    tables: Tables, split: str, plain: Plain, cutoffs: Sequence[int], chat: Chat, among: Longs | None = None
) -> list[dict[str, Any]]:
    """The effect of every strategy at each cutoff on the samples `among` (None: all), for `palate lengths`."""
    whole = lengths_of(tables, split, plain)
    response = responses_of(tables, split, plain, np.arange(whole.size))
    rows = []
    for cutoff in cutoffs:
        for strategy in STRATEGIES:
            try:
                cut = plan_cut(tables, split, plain, cutoff, strategy, chat, among)
            except InputError as error:
                rows.append({"cutoff_len": cutoff, "truncation": strategy, "refused": str(error)})
                continue
            rows.append({"cutoff_len": cutoff, "truncation": strategy, **audit_cut(cut, whole, response, among)})
    return rows


def audit_cut(cut: Cut, whole: Ints, response: Ints, among: Longs | None = None) -> dict[str, Any]:
    """The numbers of samples, history items and tokens that are cut, and of samples that are dropped."""
    counted = cut.cut_items != UNKNOWN
    dropped = cut.over[cut.kept == 0]
    number = slice(None) if among is None else np.unique(among)
    tokens_cut = int((whole[cut.over] - cut.kept).sum(dtype=np.int64))
    return {
        "samples_cut": int(cut.over.size),
        "samples_dropped": int(dropped.size),
        "history_items_cut": int(cut.cut_items[counted].sum(dtype=np.int64)),
        "samples_with_unknown_items": int((~counted).sum()),
        "tokens_cut": tokens_cut,
        "tokens": int(whole[number].sum(dtype=np.int64)) - tokens_cut,
        "trained_tokens": int(response[number].sum(dtype=np.int64)) - int(response[dropped].sum(dtype=np.int64)),
    }

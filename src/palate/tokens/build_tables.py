"""Builds the tables that samples are composed from, and tokenizes whole what cannot be composed."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.progress import track
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.prompt.tokenizer import tokenizer_identity
from palate.samples.build import Samples
from palate.samples.lines import Renderer, renderer
from palate.samples.split import SPLITS
from palate.store.cache import Cache
from palate.tokens.build_fragments import build_fragments
from palate.tokens.fragments import CONTEXT, ITEM, LABEL, NOTHING, RATING, Fragments, Ints, Longs
from palate.tokens.layout import PromptLayout
from palate.tokens.proof.boundaries import Boundaries
from palate.tokens.proof.cuts import UnprovedError
from palate.tokens.tables import (
    ARRAYS,
    CHUNK,
    Tables,
    code_of,
    read_only,
    sample_lengths,
    unproved_samples,
)

log = logging.getLogger(__name__)

STAGE = 5
"""Raised whenever the same input would give other tokens or other files."""
CHECKED = 64
"""Samples that are tokenized whole when tables are built, to check what was proved."""


def tables_of(samples: Samples, prompt: PromptSpec, chat: Chat, data: Mapping[str, Any], name: str) -> Tables:
    """The tables of some samples, from the cache or built now.

    `data` names what decides the samples, such as hashes of the ratings and the options of `prepare`. Raises
    `InputError` as `renderer` does.
    """
    parts = {**data, **tokenizer_identity(chat.tokenizer), "prompt": prompt.model_dump(mode="json"), "stage": STAGE}
    folder = Cache().entry("tables", parts, lambda out: build_tables(samples, prompt, chat, out), name=name)
    tables = Tables.open(folder)
    plain = sum(tables.meta["plain"].values())
    if tables.reason is not None:
        log.warning("tokens: every sample is tokenized whole, which takes long: %s", tables.reason)
    elif plain:
        log.info(
            "tokens: %s of %s samples are tokenized whole, as no cut is certain beside %s",
            f"{plain:,}",
            f"{sum(tables.meta['samples'].values()):,}",
            _some(tables.meta["unproved_names"]),
        )
    return tables


def content_of(samples: Samples) -> dict[str, str]:
    """The samples' hash, where nobody can say what they were made from."""
    digest = hashlib.sha256(str(samples.history_len).encode())
    timeline = samples.timeline
    for column in timeline.select(pl.col("^(item_id|rating|timestamp|split)$")):  # the last two decide the contexts
        digest.update(column.name.encode())
        digest.update(column.hash().to_numpy().data)
    for array in (samples.position, samples.split, samples.label, users_of(samples)):
        digest.update(np.ascontiguousarray(array).data)
    if samples.history is not None:
        digest.update(samples.history.data)
    digest.update(samples.items.write_json().encode())
    return {"samples": digest.hexdigest()}


def build_tables(samples: Samples, prompt: PromptSpec, chat: Chat, out: Path) -> None:
    """Write the tables of some samples into the empty folder `out`; raises `InputError` as `renderer` does."""
    from palate.tokens import kernel

    render = renderer(samples, prompt)
    timeline, history_len = samples.timeline, samples.history_len
    rows = render.item.to_numpy()
    used = np.flatnonzero(np.bincount(rows, minlength=samples.items.height))
    of_row = np.zeros(samples.items.height, np.int64)
    of_row[used] = np.arange(used.size)
    scale = render.scale
    word = np.empty(rows.size, np.int64)
    ratings = (read_only(series.to_numpy().astype(np.float64, copy=False)) for series in (timeline["rating"], scale))
    kernel.pack(read_only(rows), of_row, *ratings, RATING[0], word)
    word[samples.position[samples.label]] |= 1 << LABEL[0]
    contexts = pl.DataFrame(height=1)  # one that says nothing
    if prompt.names_context and render.samples.context is not None:
        contexts = render.samples.context.values
        word |= render.samples.context.code.astype(np.int64) << CONTEXT[0]
    np.save(out / "word.npy", word)
    np.save(out / "users.npy", users_of(samples))
    items = samples.items[used]
    wording = render.wording.of_items(used.tolist())
    wording.save(out)
    for values, (_, most), what in (
        (items, ITEM, "items"),
        (scale, RATING, "distinct ratings"),
        (contexts, CONTEXT, "distinct pairs of {item_mean} and {item_count}"),
    ):
        if len(values) > most + 1:
            raise InputError(f"have {len(values):,} {what}, expected at most {most + 1:,}", "ratings")

    fragments, reason = None, None
    try:
        fragments = build_fragments(PromptLayout(prompt, wording), chat, history_len, Boundaries(chat.untrimmed))
    except UnprovedError as error:
        reason = str(error)
    bad = unproved_samples(word, samples.position, samples.histories, fragments)
    if fragments is not None and not _agrees(samples, render, chat, word, fragments, bad):
        fragments, reason = None, "composed samples differ from whole ones, which is a defect: please report it"
        bad[:] = True
    counts: dict[str, dict[str, int]] = {"samples": {}, "plain": {}}
    whole = None if fragments is None else _Lengths(fragments, history_len, len(items), len(scale), len(contexts))
    for number, split in enumerate(SPLITS):
        mine = samples.split == number
        position, plain = samples.position[mine], bad[mine]
        length = np.zeros(position.size, np.int32)
        if samples.history is not None:
            shown = samples.history[mine]
            np.save(out / f"{split}.items.npy", shown)
            if fragments is not None:
                length = sample_lengths(word, fragments, position, shown)
        elif whole is not None:
            length = whole.of(word, position)
        length[plain] = 0
        np.save(out / f"{split}.position.npy", position.astype(np.int64, copy=False))
        np.save(out / f"{split}.length.npy", length)
        counts["samples"][split], counts["plain"][split] = int(position.size), int(plain.sum())
    names: list[str] = []
    if fragments is not None:
        for array in ARRAYS:
            np.save(out / f"{array}.npy", getattr(fragments, array))
        codes = sorted({*fragments.unproved["history"], *fragments.unproved["candidate"]})[:10]
        names = items["title"].gather(codes).to_list() + scale.gather(fragments.unproved["rating"]).to_list()[:5]
        told = sorted({*fragments.unproved["context"], *fragments.unproved["candidate_context"]})[:5]
        names += [" ".join(map(str, contexts.row(code))) for code in told]
    meta = {
        "reason": reason,
        "history_len": history_len,
        "prompt": prompt.model_dump(mode="json"),
        "lead": fragments.lead if fragments else len(chat.decision.lead),
        "unproved": fragments.unproved if fragments else {},
        "unproved_names": names,
        "codes": {"item": len(items), "rating": len(scale), "context": len(contexts)},
        **counts,
    }
    (out / "tables.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")


class _Lengths:
    """Lengths of whole samples, from what each code adds where that is the same in every line.

    A history that tells contexts is measured line by line, and so is a sample without a history.
    """

    def __init__(self, fragments: Fragments, history_len: int, items: int, ratings: int, contexts: int) -> None:
        self.fragments, self.history_len = fragments, history_len
        sizes = {ITEM: items, RATING: ratings, CONTEXT: contexts, LABEL: 2, NOTHING: 1}
        lines = [{place: np.zeros(size, np.int64) for place, size in sizes.items()} for _ in range(history_len + 1)]
        steps = fragments.steps[fragments.first[history_len] : fragments.first[history_len + 1]]
        for row, base, *place in steps.tolist():
            size = sizes[tuple(place)]
            lines[row][tuple(place)] += fragments.length[base : base + size]  # the candidate's line is the first
        self.candidate, *history = lines
        first = history[0] if history else self.candidate
        # One line may be a few tokens longer than another, as its number is: by the same few for every rating.
        longer = [line[RATING][0] - first[RATING][0] for line in history]
        self.alike = bool(history) and all(
            np.array_equal(line[ITEM], first[ITEM])
            and np.array_equal(line[RATING] - more, first[RATING])
            and not line[CONTEXT].any()
            for line, more in zip(history, longer, strict=True)
        )
        self.item, self.rating = first[ITEM], first[RATING]
        self.constant = int(sum(line[NOTHING][0] for line in lines) + sum(longer))

    def of(self, word: Longs, position: Longs) -> Ints:
        """The lengths of samples at ascending timeline rows."""
        if not self.alike:
            return sample_lengths(word, self.fragments, position, self.history_len)
        from palate.tokens import kernel

        out = np.empty(position.size, np.int32)
        shifts, masks = np.array([ITEM, RATING, LABEL], np.int64).T.copy()
        kernel.slide(
            read_only(word), read_only(position), self.history_len, self.item, self.rating, self.candidate[ITEM],
            self.candidate[LABEL], shifts, masks, self.constant, out,
        )  # fmt: skip
        if self.candidate[CONTEXT].any():
            out += self.candidate[CONTEXT].astype(np.int32)[code_of(word[position], CONTEXT)]
        return out


def write_plain(tables: Tables, split: str, chat: Chat, out: Path) -> None:
    """Tokenize the split's samples that cannot be composed, whole and one after the other, into `out`."""
    sample = tables.unproved(split)
    position, items = tables.position(split)[sample], tables.items(split)[sample]
    start, response = np.zeros(sample.size + 1, np.int64), np.zeros(sample.size, np.int32)
    at = 0
    # Appended as they come: for a tokenizer of which nothing is proved this is the whole split.
    with (out / "tokens.npy").open("wb") as file:
        shape_of_header = _header(file, 0)
        done = 0
        for batch in track(_batches(np.arange(position.size)), position.size, f"tokenizing {split} whole"):
            examples = tables.examples(position[batch], items[batch])
            for ids, prompt_len in chat.encode_batch([to_chat_messages(example) for example in examples]):
                np.array(ids, np.int32).tofile(file)
                at += len(ids)
                done += 1
                start[done], response[done - 1] = at, len(ids) - prompt_len
        file.seek(0)
        assert _header(file, at) == shape_of_header
    np.save(out / "sample.npy", sample)
    np.save(out / "start.npy", start)
    np.save(out / "response.npy", response)


def _header(file: Any, size: int) -> int:
    """Write the head of a .npy file of `size` int32; the same number of bytes for any size."""
    head = {"descr": "<i4", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, head)
    return int(file.tell())


def _batches(index: Longs) -> Iterator[Longs]:
    for start in range(0, index.size, CHUNK):
        yield index[start : start + CHUNK]


def _agrees(
    samples: Samples, render: Renderer, chat: Chat, word: Longs, fragments: Fragments, bad: NDArray[np.bool_]
) -> bool:
    """Whether some samples are composed as they are tokenized whole: a check of the proof, not the proof."""
    good = np.flatnonzero(~bad)
    chosen = good[np.unique(np.linspace(0, good.size - 1, min(CHECKED, good.size)).astype(np.int64))]
    rows = render.examples(chosen).to_dicts()
    for sample, (ids, prompt_len) in zip(chosen, chat.encode_batch([to_chat_messages(r) for r in rows]), strict=True):
        composed = join(word, fragments, int(samples.position[sample]), int(samples.histories[sample]))
        response = fragments.response[int(samples.label[sample])]
        if composed.tolist() != ids or response != len(ids) - prompt_len:
            return False
    return True


def join(word: Longs, fragments: Fragments, position: int, items: int) -> Ints:
    """One sample's ids, as plainly as it can be said; what the compiled kernel does."""
    pieces = []
    for row, base, shift, mask in fragments.steps[fragments.first[items] : fragments.first[items + 1]].tolist():
        f = base + ((int(word[position + row]) >> shift) & mask)
        pieces.append(fragments.tokens[fragments.start[f] : fragments.start[f] + fragments.length[f]])
    return np.concatenate(pieces)


def users_of(samples: Samples) -> Longs:
    """The timeline row at which each user begins, ascending, (u,) int64.

    Where the timeline does not say who rated, candidates that follow each other are taken for one user's.
    """
    if "user_id" in samples.timeline.columns:
        changes = samples.timeline["user_id"].rle().struct.field("len").to_numpy().astype(np.int64)
        return np.asarray(np.cumsum(changes) - changes)
    follows = np.zeros(samples.position.size, bool)
    follows[1:] = np.diff(samples.position) == 1
    return samples.position[~follows].astype(np.int64)


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and others" if len(names) > 3 else shown

"""The tables that samples are composed from, on disk: one word a rating, and the fragments.

A folder of NumPy files that any number of processes map into memory. What composition cannot be proved exact
for is tokenized the plain way, once, and lies beside it.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.cache import Cache
from palate.errors import InputError
from palate.progress import track
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.samples.build import Samples
from palate.samples.context import Context
from palate.samples.items import shown_items
from palate.samples.render import Renderer, renderer
from palate.samples.split import SPLITS
from palate.tokens.boundaries import Boundaries
from palate.tokens.cuts import UnprovedError
from palate.tokens.fragments import CONTEXT, ITEM, LABEL, NOTHING, OVERREAD, RATING, Fragments, build_fragments
from palate.tokens.layout import layout
from palate.tokens.tokenizer import tokenizer_identity

log = logging.getLogger(__name__)

STAGE = 4
"""Raised whenever the same input would give other tokens or other files."""
ARRAYS = ("tokens", "start", "length", "steps", "first", "response")
CHUNK = 1000
CHECKED = 64
"""Samples that are tokenized whole when tables are built, to check what was proved."""

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Plain:
    """Samples of a split that were tokenized whole, because no composition of them is proved exact.

    `sample` (p,) int64 are their numbers in the split, ascending; the ids of the k-th are
    `tokens[start[k] : start[k + 1]]`, the last `response[k]` of them the response.
    """

    sample: Longs
    start: Longs
    tokens: Ints
    response: Ints

    @classmethod
    def open(cls, folder: Path) -> "Plain":
        """Map what `write_plain` wrote."""
        return cls(*(mapped(folder / f"{field.name}.npy") for field in fields(cls)))

    @classmethod
    def none(cls) -> "Plain":
        """No such samples."""
        longs, ints = _read_only(np.zeros(1, np.int64)), _read_only(np.zeros(0, np.int32))
        return cls(longs[:0], longs, ints, ints)


@dataclass(frozen=True)
class Tables:
    """What `build_tables` wrote, mapped into memory.

    `word` (timeline rows,) int64 packs the codes of item, rating and context and the label, see
    `palate.tokens.fragments`.
    `fragments` is None where nothing is proved, `reason` then says why.
    """

    folder: Path
    meta: dict[str, Any]
    word: Longs
    fragments: Fragments | None

    @property
    def reason(self) -> str | None:
        """Why nothing can be composed with this tokenizer and prompt; None if it can."""
        reason: str | None = self.meta["reason"]
        return reason

    @property
    def history_len(self) -> int:
        """Items in a history."""
        return int(self.meta["history_len"])

    @cached_property
    def prompt(self) -> PromptSpec:
        """The prompt that the tables are of."""
        return PromptSpec.model_validate(self.meta["prompt"])

    @cached_property
    def items(self) -> pl.DataFrame:
        """The items that occur, in the order of their codes."""
        return pl.read_parquet(self.folder / "items.parquet", glob=False)

    @cached_property
    def ratings(self) -> pl.Series:
        """The distinct ratings, in the order of their codes."""
        return pl.read_parquet(self.folder / "scale.parquet", glob=False)["rating"]

    @cached_property
    def users(self) -> Longs:
        """The timeline row at which each user begins, ascending, (u,) int64."""
        return mapped(self.folder / "users.npy")

    @cached_property
    def contexts(self) -> pl.DataFrame:
        """The distinct contexts, in the order of their codes; one without columns where the prompt names none."""
        return pl.read_parquet(self.folder / "contexts.parquet", glob=False)

    def position(self, split: str) -> Longs:
        """The timeline rows of a split's candidates, (n,) int64, ascending."""
        return mapped(self.folder / f"{split}.position.npy")

    def lengths(self, split: str) -> Ints:
        """The lengths of a split's samples before any truncation, (n,) int32; 0 for those in `plain`."""
        return mapped(self.folder / f"{split}.length.npy")

    def labels(self, split: str, sample: Longs) -> Longs:
        """The labels of samples given by their numbers in the split, (k,) int64: 1 for a Yes."""
        return _code(self.word[self.position(split)[sample]], LABEL)

    def unproved(self, split: str) -> Longs:
        """The numbers of the split's samples that cannot be composed."""
        return np.flatnonzero(self.lengths(split) == 0)

    def samples(self, positions: Longs, history_len: int | None = None, targets: Longs | None = None) -> Samples:
        """Samples at some timeline rows, with no more of the timeline than their prompts show.

        `targets` are the rows of their candidates where these are not the next in the timeline.
        """
        m = self.history_len if history_len is None else history_len
        rows = positions[:, None] + np.arange(-m, 1)
        if targets is not None:
            rows[:, m] = targets
        word = self.word[rows.ravel()]
        codes, local = np.unique(_code(word, ITEM), return_inverse=True)
        items = self.items[codes]
        rating = self.ratings.gather(_code(word, RATING))
        timeline = pl.DataFrame({"item_id": items["item_id"].gather(local), "rating": rating})
        at = np.arange(positions.size) * (m + 1) + m
        label = _code(word[at], LABEL).astype(bool)
        context = Context(_code(word, CONTEXT).astype(np.uint32), self.contexts)
        return Samples(timeline, items, at, np.zeros(at.size, np.uint8), label, m, context)

    def examples(
        self, positions: Longs, history_len: int | None = None, targets: Longs | None = None
    ) -> list[dict[str, Any]]:
        """Samples at some timeline rows as Alpaca examples; arguments as those of `samples`."""
        samples = self.samples(positions, history_len, targets)
        rows = renderer(samples, self.prompt).examples(np.arange(positions.size)).to_dicts()
        return [{**row, "history": []} for row in rows]

    @classmethod
    def open(cls, folder: Path) -> "Tables":
        """Map tables into memory; no file is read whole."""
        meta = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
        arrays = None
        if meta["reason"] is None:
            loaded = {name: mapped(folder / f"{name}.npy") for name in ARRAYS}
            arrays = Fragments(**loaded, lead=meta["lead"], unproved=meta["unproved"])
        return cls(folder, meta, mapped(folder / "word.npy"), arrays)


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
    scale = timeline["rating"].unique().sort()
    word = np.empty(rows.size, np.int64)
    ratings = (_read_only(series.to_numpy().astype(np.float64, copy=False)) for series in (timeline["rating"], scale))
    kernel.pack(_read_only(rows), of_row, *ratings, RATING[0], word)
    word[samples.position[samples.label]] |= 1 << LABEL[0]
    contexts = pl.DataFrame(height=1)  # one that says nothing
    if prompt.names_context and render.samples.context is not None:
        contexts = render.samples.context.values
        word |= render.samples.context.code.astype(np.int64) << CONTEXT[0]
    np.save(out / "word.npy", word)
    np.save(out / "users.npy", users_of(samples))
    items = shown_items(samples.items)[used]
    items.write_parquet(out / "items.parquet", compression="zstd")
    scale.to_frame("rating").write_parquet(out / "scale.parquet")
    contexts.write_parquet(out / "contexts.parquet")
    for values, (_, most), what in (
        (items, ITEM, "items"),
        (scale, RATING, "distinct ratings"),
        (contexts, CONTEXT, "distinct pairs of {item_mean} and {item_count}"),
    ):
        if len(values) > most + 1:
            raise InputError(f"have {len(values):,} {what}, expected at most {most + 1:,}", "ratings")

    fragments, reason = None, None
    try:
        plan = layout(prompt, items, scale.to_list(), contexts)
        fragments = build_fragments(plan, chat, history_len, Boundaries(chat.untrimmed))
    except UnprovedError as error:
        reason = str(error)
    bad = _unproved_samples(word, samples.position, history_len, fragments)
    if fragments is not None and not _agrees(samples, render, chat, word, fragments, bad):
        fragments, reason = None, "composed samples differ from whole ones, which is a defect: please report it"
        bad[:] = True
    counts: dict[str, dict[str, int]] = {"samples": {}, "plain": {}}
    whole = None if fragments is None else _Lengths(fragments, history_len, len(items), len(scale), len(contexts))
    for number, split in enumerate(SPLITS):
        mine = samples.split == number
        position, plain = samples.position[mine], bad[mine]
        length = np.zeros(position.size, np.int32) if whole is None else whole.of(word, position)
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
        **counts,
    }
    (out / "tables.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")


class _Lengths:
    """Lengths of whole samples, from what each code adds where that is the same in every line.

    A history that tells contexts is measured line by line.
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
        first = history[0]
        # One line may be a few tokens longer than another, as its number is: by the same few for every rating.
        longer = [line[RATING][0] - first[RATING][0] for line in history]
        self.alike = all(
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
            _read_only(word), _read_only(position), self.history_len, self.item, self.rating, self.candidate[ITEM],
            self.candidate[LABEL], shifts, masks, self.constant, out,
        )  # fmt: skip
        if self.candidate[CONTEXT].any():
            out += self.candidate[CONTEXT].astype(np.int32)[_code(word[position], CONTEXT)]
        return out


def sample_lengths(word: Longs, fragments: Fragments, position: Longs, items: int | Longs) -> Ints:
    """Lengths of samples with `items` history items each, nothing composed; (n,) int32."""
    return parts(word, fragments, position, position, items)[:, 1]


def parts(word: Longs, fragments: Fragments, position: Longs, target: Longs, items: int | Longs) -> Ints:
    """Ids before the candidate, and all ids, of samples whose candidate is another than their history's next.

    The history are the `items` ratings before row `position`, the candidate is that of row `target`. Returns
    (n, 2) int32.
    """
    from palate.tokens import kernel

    out = np.empty((position.size, 2), np.int32)
    program = np.full(position.size, items, np.int64) if isinstance(items, int) else items
    word, position, target = _read_only(word), _read_only(position), _read_only(target)
    steps, first, length = (_read_only(a) for a in (fragments.steps, fragments.first, fragments.length))
    kernel.measure(word, position, target, program, steps, first, length, out)
    return out


def write_plain(tables: Tables, split: str, chat: Chat, out: Path) -> None:
    """Tokenize the split's samples that cannot be composed, whole and one after the other, into `out`."""
    sample = tables.unproved(split)
    position = tables.position(split)[sample]
    start, response = np.zeros(sample.size + 1, np.int64), np.zeros(sample.size, np.int32)
    at = 0
    # Appended as they come: for a tokenizer of which nothing is proved this is the whole split.
    with (out / "tokens.npy").open("wb") as file:
        shape_of_header = _header(file, 0)
        done = 0
        for batch in track(_batches(position), position.size, f"tokenizing {split} whole"):
            for ids, prompt_len in chat.encode_batch([to_chat_messages(e) for e in tables.examples(batch)]):
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


def unproved_samples(tables: Tables, position: Longs, target: Longs) -> NDArray[np.bool_]:
    """Which samples cannot be composed, of those with a history before `position` and the candidate of `target`."""
    return _unproved_samples(tables.word, position, tables.history_len, tables.fragments, target)


def _unproved_samples(
    word: Longs, position: Longs, history_len: int, fragments: Fragments | None, target: Longs | None = None
) -> NDArray[np.bool_]:
    """Which samples show something that no fragment serves."""
    if fragments is None:
        return np.ones(position.size, bool)
    found = np.zeros(position.size, bool)
    history, rating, context = (fragments.unproved[name] for name in ("history", "rating", "context"))
    if history or rating or context:
        row = np.isin(_code(word, ITEM), history) | np.isin(_code(word, RATING), rating)
        row |= np.isin(_code(word, CONTEXT), context)
        before = np.concatenate([[0], np.cumsum(row)])
        found |= before[position] > before[position - history_len]
    asked = position if target is None else target
    for name, place in (("candidate", ITEM), ("candidate_context", CONTEXT)):
        if fragments.unproved[name]:
            found |= np.isin(_code(word[asked], place), fragments.unproved[name])
    return found


def _agrees(
    samples: Samples, render: Renderer, chat: Chat, word: Longs, fragments: Fragments, bad: NDArray[np.bool_]
) -> bool:
    """Whether some samples are composed as they are tokenized whole: a check of the proof, not the proof."""
    good = np.flatnonzero(~bad)
    chosen = good[np.unique(np.linspace(0, good.size - 1, min(CHECKED, good.size)).astype(np.int64))]
    rows = render.examples(chosen).to_dicts()
    for sample, (ids, prompt_len) in zip(chosen, chat.encode_batch([to_chat_messages(r) for r in rows]), strict=True):
        composed = join(word, fragments, int(samples.position[sample]), samples.history_len)
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


def _code(word: Longs, place: tuple[int, int]) -> Longs:
    shift, mask = place
    return (word >> shift) & mask


def mapped(path: Path) -> NDArray[Any]:
    """A file as a read-only array that shares its pages with every process that maps it."""
    if path.stat().st_size < 1 << 16:  # a mapping costs more than reading so little
        return _read_only(np.load(path))
    return np.asarray(np.load(path, mmap_mode="r"))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, not to be written to: one type for the kernel, whether mapped or not."""
    view = array.view()
    view.flags.writeable = False
    return view


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and others" if len(names) > 3 else shown


NO_FRAGMENTS = Fragments(
    tokens=_read_only(np.zeros(OVERREAD, np.int32)),
    start=_read_only(np.zeros(0, np.int64)),
    length=_read_only(np.zeros(0, np.int32)),
    steps=_read_only(np.zeros((0, 4), np.int64)),
    first=_read_only(np.zeros(2, np.int64)),
    response=_read_only(np.zeros(2, np.int32)),
    lead=0,
    unproved={},
)
"""Stands where nothing is composed."""

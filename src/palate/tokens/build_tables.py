"""Build the tables for composing samples, and tokenize the samples whole that cannot be composed."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from palate.errors import InputError
from palate.progress import track
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.prompt.tokenizer import tokenizer_key
from palate.ratings.order import lengths_of
from palate.samples.build import Samples
from palate.samples.lines import Renderer, renderer
from palate.samples.signals import coded
from palate.samples.split import SPLITS
from palate.store.cache import Cache
from palate.store.scratch import blocks_of, empty, filled, selected
from palate.tokens.build_fragments import build_fragments
from palate.tokens.fragments import (
    CONTEXT,
    ITEM,
    LABEL,
    NOTHING,
    RATING,
    SIGNAL_PLACES,
    Fragments,
    Ints,
    Longs,
    words_of,
)
from palate.tokens.layout import PromptLayout
from palate.tokens.proof import Boundaries, UnprovedError
from palate.tokens.tables import (
    ARRAYS,
    CHUNK,
    Tables,
    code_of,
    mapped,
    read_only,
    sample_lengths,
    unproved_samples,
)

log = logging.getLogger(__name__)

STAGE = 5
"""Version of the tables in the cache's keys; increased if the same input would give other tokens or files."""
PORTION = 1 << 20
"""Samples in a block of `_lengths`."""
CHECKED = 64
"""Samples that the build tokenizes whole, as a check of the proof."""


def tables_of(samples: Samples, prompt: PromptSpec, chat: Chat, data: Mapping[str, Any], name: str) -> Tables:
    """The tables of some samples, from the cache or newly built.

    `data` has what the samples depend on, such as hashes of the ratings and the options of `prepare`. Raises
    `InputError` as `renderer` does.
    """
    parts = {**data, **tokenizer_key(chat.tokenizer), "prompt": prompt.model_dump(mode="json"), "stage": STAGE}
    folder = Cache().entry("tables", parts, lambda out: build_tables(samples, prompt, chat, out), name=name)
    tables = Tables.open(folder)
    plain = sum(tables.meta["plain"].values())
    if tables.reason is not None:
        log.warning("tokens: every sample is tokenized whole, which takes long: %s", tables.reason)
    elif plain:
        log.info(
            "tokens: %s of %s samples are tokenized whole, because no cut beside %s is proved",
            f"{plain:,}",
            f"{sum(tables.meta['samples'].values()):,}",
            _some(tables.meta["unproved_names"]),
        )
    return tables


def content_of(samples: Samples) -> dict[str, str]:
    """A hash of the samples, for callers without the hashes of their input."""
    digest = hashlib.sha256(str(samples.history_len).encode())
    timeline = samples.timeline
    for column in timeline.select(pl.col("^(item_id|rating|timestamp|split)$")):  # contexts depend on the last two
        digest.update(column.name.encode())
        for rows in blocks_of(column.len()):
            digest.update(column[rows].hash().to_numpy().data)
    for array in (samples.position, samples.split, samples.label, users_of(samples)):
        digest.update(np.ascontiguousarray(array).data)
    for some in (samples.history, samples.negative):
        if some is not None:
            digest.update(some.data)
    if samples.signals is not None:
        digest.update(samples.signals.hash_rows().to_numpy().data)
    if samples.users is not None:
        digest.update(samples.users.write_json().encode())
    digest.update(samples.items.write_json().encode())
    return {"samples": digest.hexdigest()}


def build_tables(samples: Samples, prompt: PromptSpec, chat: Chat, out: Path) -> None:
    """Write the tables of some samples into the empty folder `out`; raises `InputError` as `renderer` does."""
    render = renderer(samples, prompt)
    rows = render.item.to_numpy()
    rated = np.zeros(samples.items.height, np.bool_)
    for some in blocks_of(rows.size, samples.scratch):
        rated[rows[some]] = True
    used = np.flatnonzero(rated)
    contexts = pl.DataFrame(height=1)  # one context without values
    if prompt.names_context and render.samples.context is not None:
        contexts = render.samples.context.values
    wording = render.wording.of_items(used.tolist())
    sizes = {ITEM: used.size, RATING: len(render.scale), CONTEXT: len(contexts)}
    save(out / "word.npy", np.int64, rows.size, _words(render, rows, used, contexts))
    word = mapped(out / "word.npy")
    np.save(out / "users.npy", users_of(samples))
    wording.save(out)
    for (place, size), what in zip(
        sizes.items(), ("items", "distinct ratings", "distinct pairs of {item_mean} and {item_count}"), strict=True
    ):
        if size > place[1] + 1:
            raise InputError(f"have {size:,} {what}, expected at most {place[1] + 1:,}", "ratings")
    if prompt.signals:
        word = np.concatenate([word, _signal_words(render)])
        (out / "word.npy").unlink()  # it is mapped
        np.save(out / "word.npy", word)

    fragments, reason = None, None
    try:
        layout = PromptLayout(prompt, wording)
        fragments = build_fragments(layout, chat, samples.history_len, Boundaries(chat.untrimmed), rows.size)
    except UnprovedError as error:
        reason = str(error)
    target = render.target
    bad = _unproved(samples, word, fragments, target)
    if fragments is not None and not _agrees(render, chat, word, fragments, bad):
        fragments, reason = None, "composed samples differ from whole ones, which is a defect: please report it"
        bad = np.ones(samples.position.size, np.bool_)
    if fragments is not None:
        length = _lengths(samples, target, word, fragments, sizes)
        for some in blocks_of(bad.size, samples.scratch):
            length[some][bad[some]] = 0
    else:
        length = np.broadcast_to(np.int32(0), samples.position.shape)
    counts, plain = np.zeros((2, len(SPLITS)), np.int64)
    for some in blocks_of(bad.size, samples.scratch):
        counts += np.bincount(samples.split[some], minlength=len(SPLITS))
        plain += np.bincount(samples.split[some][bad[some]], minlength=len(SPLITS))
    arrays: dict[str, NDArray[Any] | None]
    arrays = {"position": samples.position, "length": length, "items": samples.history}
    arrays["target"] = target if samples.negative is not None else None
    for number, split in enumerate(SPLITS):
        for name, array in arrays.items():
            if array is not None:
                mine = (array[some][samples.split[some] == number] for some in blocks_of(bad.size, samples.scratch))
                save(out / f"{split}.{name}.npy", array.dtype, int(counts[number]), mine)
    names: list[str] = []
    if fragments is not None:
        for name in ARRAYS:
            np.save(out / f"{name}.npy", getattr(fragments, name))
        names = _unproved_names(fragments, samples.items[used]["title"], render.scale, contexts)
        for of in prompt.signals:
            names += [text for code in fragments.unproved[of][:5] for text in wording.named(of, code)[:1]]
    meta = {
        "reason": reason,
        "history_len": samples.history_len,
        "prompt": prompt.model_dump(mode="json"),
        "lead": fragments.lead if fragments else len(chat.decision.lead),
        "unproved": fragments.unproved if fragments else {},
        "unproved_names": names,
        "codes": dict(zip(("item", "rating", "context"), sizes.values(), strict=True)),
        "samples": dict(zip(SPLITS, counts.tolist(), strict=True)),
        "plain": dict(zip(SPLITS, plain.tolist(), strict=True)),
    }
    (out / "tables.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")


def _unproved(samples: Samples, word: Longs, fragments: Fragments | None, target: Longs) -> NDArray[np.bool_]:
    """Whether each sample has a code without a proved fragment, (n,), from the window of words of each block."""
    position, histories, rows = samples.position, samples.histories, samples.timeline.height
    if fragments is None or samples.negative is not None or word.size > rows or not any(fragments.unproved.values()):
        return unproved_samples(word, position, histories, fragments, target)

    def part(some: slice) -> NDArray[np.bool_]:
        at = position[some]
        begin = int(at[0]) - int(histories[some].max())
        return unproved_samples(word[begin : int(at[-1]) + 1], at - begin, histories[some], fragments)

    return filled(samples.scratch, position.size, np.bool_, part)


def _words(
    render: Renderer, rows: NDArray[np.uint32], used: Longs, contexts: pl.DataFrame
) -> Iterator[NDArray[np.int64]]:
    """The word of each timeline row, block by block; the code of an item is its index in `used`."""
    from palate.tokens import kernel

    samples = render.samples
    of_row = np.zeros(samples.items.height, np.int64)
    of_row[used] = np.arange(used.size)
    rating, scale = (
        each.to_numpy().astype(np.float64, copy=False) for each in (samples.timeline["rating"], render.scale)
    )
    for some in blocks_of(rows.size, samples.scratch):
        word = np.empty(some.stop - some.start, np.int64)
        kernel.pack(read_only(rows[some]), of_row, read_only(rating[some]), read_only(scale), RATING[0], word)
        mine = slice(*np.searchsorted(samples.position, [some.start, some.stop]))
        word[samples.position[mine][samples.label[mine]] - some.start] |= 1 << LABEL[0]
        if contexts.width and samples.context is not None:
            word |= samples.context.code[some].astype(np.int64) << CONTEXT[0]
        yield word


def _signal_words(render: Renderer) -> Longs:
    """The further words of each timeline row: the codes of the signals of the sample there, 0 without a sample."""
    samples = render.samples
    words = words_of(render.prompt.signals)
    word = np.zeros((max(words.values()), samples.timeline.height), np.int64)
    assert samples.signals is not None
    for name in render.prompt.signals:
        distinct, code = coded(samples.signals[name])
        shift, mask = SIGNAL_PLACES[name]
        if distinct.size > mask + 1:
            raise InputError(f"have {distinct.size:,} distinct {{{name}}}, expected at most {mask + 1:,}", "ratings")
        word[words[name] - 1, render.target] |= code << shift
    return word.reshape(-1)


def _unproved_names(fragments: Fragments, titles: pl.Series, scale: pl.Series, contexts: pl.DataFrame) -> list[Any]:
    """Some titles, ratings and contexts without a proved fragment, for the log."""
    codes = sorted({*fragments.unproved["history"], *fragments.unproved["candidate"]})[:10]
    names = titles.gather(codes).to_list() + scale.gather(fragments.unproved["rating"]).to_list()[:5]
    unproved = sorted({*fragments.unproved["context"], *fragments.unproved["candidate_context"]})[:5]
    return names + [" ".join(map(str, contexts.row(code))) for code in unproved]


def _lengths(
    samples: Samples, target: Longs, word: Longs, fragments: Fragments, sizes: Mapping[tuple[int, int], int]
) -> Ints:
    """The lengths of all samples before truncation, (n,) int32.

    If a rating adds the same length in every line, except for the line's number, a sample's length is a difference of
    cumulative sums over the timeline. Other histories are measured line by line.
    """
    m, position = samples.history_len, samples.position
    if (fragments.steps[:, 0] > 0).any():  # signals differ from sample to sample
        return sample_lengths(word, fragments, position, samples.histories, target)
    lines = [{at: np.zeros(n, np.int64) for at, n in {**sizes, LABEL: 2, NOTHING: 1}.items()} for _ in range(m + 1)]
    for row, base, *at in fragments.steps[fragments.first[m] : fragments.first[m + 1]].tolist():
        added = lines[row][at[0], at[1]]
        added += fragments.length[base : base + added.size]
    candidate, *history = lines  # the candidate's row is 0
    longer = [line[RATING][0] - history[0][RATING][0] for line in history]
    if (
        samples.history is not None
        or not history
        or any(
            (line[ITEM] != history[0][ITEM]).any()
            or (line[RATING] - more != history[0][RATING]).any()
            or line[CONTEXT].any()
            for line, more in zip(history, longer, strict=True)
        )
    ):
        return sample_lengths(word, fragments, position, samples.histories, target)
    constant = sum(longer) + sum(line[NOTHING][0] for line in lines)
    length = empty(samples.scratch, position.size, np.int32)
    for start in range(0, position.size, PORTION):
        at = position[start : start + PORTION]
        begin = int(at[0]) - m
        rated = word[begin : int(at[-1])]
        sums = np.cumsum(history[0][ITEM][code_of(rated, ITEM)] + history[0][RATING][code_of(rated, RATING)])
        sums = np.concatenate([[0], sums])
        asked = word[target[start : start + PORTION]]
        ends = sum(candidate[of][code_of(asked, of)] for of in (ITEM, CONTEXT, LABEL))
        length[start : start + PORTION] = constant + sums[at - begin] - sums[at - begin - m] + ends
    return length


def save(path: Path, dtype: DTypeLike, size: int, parts: Iterable[NDArray[Any]]) -> None:
    """Write an array (size,) as `np.save` does, from its parts."""
    with path.open("wb") as file:
        _header(file, size, dtype)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)


def write_plain(tables: Tables, split: str, chat: Chat, out: Path) -> None:
    """Tokenize the split's samples whole that cannot be composed, and write them to `out`."""
    sample = tables.unproved(split)
    position, items = tables.position(split)[sample], tables.items(split)[sample]
    target = tables.target(split)[sample]
    start, response = np.zeros(sample.size + 1, np.int64), np.zeros(sample.size, np.int32)
    at = 0
    # Ids are appended to the file, since without a proof for the tokenizer they are the whole split.
    with (out / "tokens.npy").open("wb") as file:
        shape_of_header = _header(file, 0)
        done = 0
        for batch in track(_batches(np.arange(position.size)), position.size, f"tokenizing {split} whole"):
            examples = tables.examples(position[batch], items[batch], target[batch])
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


def _header(file: Any, size: int, dtype: DTypeLike = np.int32) -> int:
    """Write the header of a .npy file of `size` numbers; its number of bytes does not depend on the size."""
    head = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, head)
    return int(file.tell())


def _batches(index: Longs) -> Iterator[Longs]:
    for start in range(0, index.size, CHUNK):
        yield index[start : start + CHUNK]


def _agrees(render: Renderer, chat: Chat, word: Longs, fragments: Fragments, bad: NDArray[np.bool_]) -> bool:
    """Whether the composition of some samples equals their tokenization as a whole: a check of the proof."""
    samples = render.samples
    good = selected(samples.scratch, bad.size, lambda some: ~bad[some])
    chosen = good[np.unique(np.linspace(0, good.size - 1, min(CHECKED, good.size)).astype(np.int64))]
    rows = render.examples(chosen).to_dicts()
    for sample, (ids, prompt_len) in zip(chosen, chat.encode_batch([to_chat_messages(r) for r in rows]), strict=True):
        at = int(samples.position[sample]), int(render.target[sample])
        composed = join(word, fragments, *at, int(samples.histories[sample]))
        response = fragments.response[int(samples.label[sample])]
        if composed.tolist() != ids or response != len(ids) - prompt_len:
            return False
    return True


def join(word: Longs, fragments: Fragments, position: int, target: int, items: int) -> Ints:
    """One sample's ids: the readable equivalent of the compiled kernel."""
    pieces = []
    for row, base, shift, mask in fragments.steps[fragments.first[items] : fragments.first[items + 1]].tolist():
        f = base + ((int(word[(position if row < 0 else target) + row]) >> shift) & mask)
        pieces.append(fragments.tokens[fragments.start[f] : fragments.start[f] + fragments.length[f]])
    return np.concatenate(pieces)


def users_of(samples: Samples) -> Longs:
    """The first timeline row of each user, ascending, (u,) int64.

    In a timeline without users, consecutive candidates count as one user's.
    """
    if "user_id" in samples.timeline.columns:
        changes = lengths_of(samples.timeline["user_id"])
        return np.asarray(np.cumsum(changes) - changes)
    follows = np.zeros(samples.position.size, bool)
    follows[1:] = np.diff(samples.position) == 1
    return samples.position[~follows].astype(np.int64)


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and others" if len(names) > 3 else shown

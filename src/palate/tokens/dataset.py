"""TokenDataset: the samples of a split as token ids, composed on access.

No sample is stored. The disk has the tables of `palate.tokens.tables`, the samples that are tokenized whole, and for
each cutoff the plan of its cut (`palate.tokens.cut`). All are mapped into memory, so a pickled dataset has only the
folders' names.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.store.artifacts import sha256_of
from palate.store.cache import Cache
from palate.tokens.cut import (
    Cut,
    Strategy,
    audit_cut,
    compare_strategies,
    ends,
    lengths_of,
    places_in,
    plan_cut,
    responses_of,
)
from palate.tokens.fragments import IGNORED, OVERREAD, Ints, Longs
from palate.tokens.lengths import Lengths
from palate.tokens.tables import NO_FRAGMENTS, Plain, Tables

if TYPE_CHECKING:
    from datasets import Dataset

    from palate.samples.build import Samples

log = logging.getLogger(__name__)

TrainOn = Literal["response", "answer"]
COLUMNS = ("input_ids", "attention_mask", "labels")
STAGE = 2
"""Version of the cut in the cache's keys; increased if the same tables would be cut differently."""


class Ragged(NamedTuple):
    """Concatenated samples: sample i is `input_ids[offsets[i] : offsets[i + 1]]`, and the same slice of `labels`.

    `input_ids` (t,) int32, `labels` (t,) int32 with −100 for tokens without loss, `offsets` (n + 1,) int64.
    """

    input_ids: Ints
    labels: Ints
    offsets: Longs


@dataclass(frozen=True)
class Options:
    """Options of the sequences: cutoff, truncation and labels."""

    cutoff_len: int = 1024
    truncation: Strategy = "left"
    train_on: TrainOn = "response"


class TokenDataset:
    """The samples of a split, users ascending, then time; a sequence of `{input_ids, attention_mask, labels}`.

    An item is a dict of three int64 arrays of equal length, and a slice is a dict of lists of arrays. torch's
    DataLoader calls `__getitems__`, which returns a list of items. `ragged` is the fastest access to many samples.
    `token_datasets` makes the datasets.
    """

    def __init__(
        self,
        tables: Path,
        plain: Path | None,
        cut: Path,
        split: str,
        options: Options,
        chat: Chat | None = None,
        rows: Longs | None = None,
    ) -> None:
        self.folders = tables, plain, cut
        """The folders of the tables, of the samples that are tokenized whole (None: there are none), and of the cut."""
        self.split, self.options, self._chat = split, options, chat
        self.rows = rows
        """The numbers of its samples in the split; None: all samples."""
        self.tables = Tables.open(tables)
        self._plain = Plain.open(plain) if plain is not None else Plain.none()
        self._cut = Cut.open(cut)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle has the folders' names, not their contents; the copy has no tokenizer, so `text` fails."""
        return TokenDataset, (*self.folders, self.split, self.options, None, self.rows)

    def __repr__(self) -> str:
        """The split and its size."""
        return f"TokenDataset({self.split}: {len(self):,} samples, {self.options})"

    def __len__(self) -> int:
        return int(self._whole.size if self.rows is None else self.rows.size)

    @overload
    def __getitem__(self, index: int) -> dict[str, Longs]: ...
    @overload
    def __getitem__(self, index: slice) -> dict[str, list[Longs]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Longs] | dict[str, list[Longs]]:
        if isinstance(index, slice):
            rows = self.__getitems__(range(len(self))[index])
            return {name: [row[name] for row in rows] for name in COLUMNS}
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Longs]]:
        """Several items at once."""
        ids, labels, offsets = self.ragged(indices)
        long_ids, long_labels, mask = ids.astype(np.int64), labels.astype(np.int64), np.ones(ids.size, np.int64)
        return [
            {"input_ids": long_ids[a:b], "attention_mask": mask[a:b], "labels": long_labels[a:b]}
            for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]

    def __iter__(self) -> Iterator[dict[str, Longs]]:
        for batch in self.batches():
            yield from self.__getitems__(batch)

    def batches(self, size: int = 1000) -> Iterator[range]:
        """The indices of all samples, in ranges of `size`."""
        for start in range(0, len(self), size):
            yield range(start, min(start + size, len(self)))

    def select(self, rows: ArrayLike) -> "TokenDataset":
        """The samples with these indices, in the order of `rows`."""
        return TokenDataset(*self.folders, self.split, self.options, self._chat, self._numbers(rows))

    @property
    def numbers(self) -> Longs:
        """The number in the split of each index's sample, (n,) int64: its row in the split's exported files."""
        return self._numbers(None)

    def under(self, options: Options) -> "TokenDataset":
        """The same samples with other options, without the samples that these drop; raises as `token_datasets`.

        Samples that this dataset has dropped do not come back.
        """
        tables, plain, _ = self.folders
        return _cut(Tables.open(tables), plain, self.split, options, self.chat, self.split, self.rows)

    def compared(self, cutoffs: Sequence[int]) -> list[dict[str, Any]]:
        """The effect of every truncation on these samples at each cutoff."""
        return compare_strategies(self.tables, self.split, self._plain, cutoffs, self.chat, self.rows)

    @property
    def lengths(self) -> Ints:
        """The lengths of all samples after truncation, (n,) int32, without composing them."""
        return self._kept if self.rows is None else self._kept[self.rows]

    @property
    def whole_lengths(self) -> Lengths:
        """The lengths of the samples before truncation, and of their responses."""
        rows = self._numbers(None)
        return Lengths(self._whole[rows], self._responses(rows))

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Whether each sample is a Yes, (n,) bool."""
        return self.tables.labels(self.split, self._numbers(None)).astype(bool)

    @property
    def responses(self) -> Ints:
        """The lengths of the responses, (n,) int32: the last tokens of each sample."""
        return self._responses(self._numbers(None))

    @property
    def lead(self) -> int:
        """The number of a response's tokens before the decision token."""
        return int(self.tables.meta["lead"])

    @property
    def answer_only(self) -> bool:
        """Whether only the decision token carries loss."""
        return self.options.train_on == "answer"

    @property
    def identity(self) -> str:
        """A hash of all that the sequences depend on: equal hashes mean equal sequences."""
        tables, plain, cut = (folder.name if folder else "" for folder in self.folders)
        rows = "all" if self.rows is None else hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()
        return sha256_of([tables, plain, cut, self.split, asdict(self.options), rows])

    def ragged(self, indices: ArrayLike | None = None) -> Ragged:
        """Compose some samples, or all, concatenated."""
        return self._compose(self._numbers(indices), labelled=True)

    def ids(self, indices: ArrayLike | None = None) -> tuple[Ints, Longs]:
        """`input_ids` and `offsets` of `ragged` without the labels."""
        ids, _, offsets = self._compose(self._numbers(indices))
        return ids, offsets

    def prompts(self, indices: ArrayLike | None = None) -> list[list[int]]:
        """Inference prompts: each sample's ids before the decision token, with the cut of training."""
        sample = self._numbers(indices)
        ids, _, offsets = self._compose(sample)
        ends = offsets[1:] - self._responses(sample) + self.lead
        return [ids[a:b].tolist() for a, b in zip(offsets[:-1].tolist(), ends.tolist(), strict=True)]

    def example(self, index: int) -> dict[str, Any]:
        """A sample in Alpaca form, with the history items that truncation leaves."""
        sample = self._numbers([range(len(self))[index]])
        place = int(places_in(self._cut.over, sample)[0])
        items = self._cut.items[place] if place >= 0 else self._items[sample][0]
        return self.tables.examples(self._position[sample], int(items), self._target[sample])[0]

    def text(self, index: int) -> str:
        """A sample's text from the chat template, before tokens are cut."""
        return self.chat.text(to_chat_messages(self.example(index)))

    @property
    def chat(self) -> Chat:
        """The tokenizer with its template; raises `RuntimeError` for a pickled copy in another process."""
        if self._chat is None:
            raise RuntimeError("this copy of the dataset has no tokenizer, only the tables")
        return self._chat

    def audit(self) -> dict[str, Any]:
        """The samples, history items and tokens of the whole split that truncation cuts."""
        return {
            "cutoff_len": self.options.cutoff_len,
            "truncation": self.options.truncation,
            **audit_cut(self._cut, self._whole, self._responses(np.arange(self._whole.size))),
        }

    def as_hf(self) -> "Dataset":
        """A `datasets.Dataset` whose rows are composed on access.

        Its one stored column has the name `input_ids` but contains the samples' numbers, because trainers check for
        this name before they read a row, and remove columns with other names. A format that `with_format` sets replaces
        the composition, and the column then shows the numbers.
        """
        from datasets import Dataset, Features, Value

        numbers = np.arange(len(self), dtype=np.int64)
        stored = Dataset.from_dict({"input_ids": numbers}, features=Features(input_ids=Value("int64")))
        return stored.with_transform(self._transform)

    def _transform(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Compose a batch; columns that `map` added stay, and so do token ids that it wrote to `input_ids`."""
        added = dict(batch)
        numbers = added.pop("input_ids", [None])
        if not all(isinstance(number, int) for number in numbers):
            return dict(batch)
        rows = self.__getitems__(list(numbers))
        return {name: [row[name] for row in rows] for name in COLUMNS} | added

    def _numbers(self, indices: ArrayLike | None) -> Longs:
        """The numbers in the split of this dataset's indices (None: of all)."""
        if indices is None:
            return np.arange(len(self)) if self.rows is None else self.rows
        at = np.asarray(indices, np.int64)
        if at.size and not (-len(self) <= at.min() and at.max() < len(self)):
            raise IndexError(f"index {at.max()} of {len(self)} samples")
        at = np.where(at < 0, at + len(self), at)
        return at if self.rows is None else self.rows[at]

    @cached_property
    def _position(self) -> Longs:
        return self.tables.position(self.split)

    @cached_property
    def _target(self) -> Longs:
        return self.tables.target(self.split)

    @cached_property
    def _items(self) -> Longs:
        """The number of history items of each sample of the split, before truncation."""
        return self.tables.items(self.split)

    @cached_property
    def _whole(self) -> Ints:
        """The length of each sample of the split before truncation."""
        return lengths_of(self.tables, self.split, self._plain)

    def _responses(self, sample: Longs) -> Ints:
        """The response lengths of some samples of the split."""
        return responses_of(self.tables, self.split, self._plain, sample)

    @cached_property
    def _kept(self) -> Ints:
        """The length of each sample of the split after truncation."""
        if not self._cut.over.size:
            return self._whole
        kept = self._whole.copy()
        kept[self._cut.over] = self._cut.kept
        return kept

    def virtual(self, position: Longs, target: Longs, items: Longs, whole: Ints, kept: Ints) -> tuple[Ints, Longs]:
        """Compose samples whose candidate need not follow their history; returns ids and offsets as `ids` does.

        The history is the `items` ratings before timeline row `position`, the candidate is the item of row `target`.
        `whole` ids are cut on the left to `kept`. All arrays are (n,). Every fragment of the samples must be proved.
        """
        none = np.full(position.size, -1, np.int64)
        ids, _, offsets = self._joined(position, target, items, none, whole, kept, "left")
        return ids, offsets

    def _compose(self, sample: Longs, labelled: bool = False) -> Ragged:
        """Compose the samples with these numbers in the split, with labels if `labelled`."""
        cut = self._cut
        kept, whole, position = self._kept[sample], self._whole[sample], self._position[sample]
        target, items = self._target[sample], self._items[sample]
        plain = places_in(self._plain.sample, sample)
        if self.options.truncation == "history" and cut.over.size:
            place = places_in(cut.over, sample)
            items[place >= 0] = cut.items[place[place >= 0]]
            whole = kept
        response = self._responses(sample) if labelled else None
        composed = self._joined(position, target, items, plain, whole, kept, self.options.truncation, response)
        again = places_in(cut.again, sample)
        for n in np.flatnonzero(again >= 0):
            rows = slice(composed.offsets[n], composed.offsets[n + 1])
            composed.input_ids[rows] = cut.tokens[cut.start[again[n]] : cut.start[again[n] + 1]]
            if labelled:
                trained = composed.labels[rows] != IGNORED
                composed.labels[rows][trained] = composed.input_ids[rows][trained]
        return composed

    def _joined(
        self, position: Longs, target: Longs, items: Longs, plain: Longs, whole: Ints, kept: Ints, truncation: Strategy,
        response: Ints | None = None,
    ) -> Ragged:  # fmt: skip
        """Call the kernel: it writes ids, and labels if `response` has the lengths of the responses."""
        from palate.tokens import kernel

        f = self.tables.fragments or NO_FRAGMENTS
        offsets = np.zeros(position.size + 1, np.int64)
        np.cumsum(kept, out=offsets[1:])
        out = np.empty(int(offsets[-1]) + OVERREAD, np.int32)
        labels = np.empty(0 if response is None else int(offsets[-1]), np.int32)
        kernel.compose(
            self.tables.word, position, target, items, plain, f.steps, f.first, f.start, f.length, f.tokens,
            self._plain.start, self._plain.tokens, whole, kept, ends(truncation, self.options.cutoff_len)[0],
            kept if response is None else response,
            self.lead if self.answer_only else -1, out, labels, offsets,
        )  # fmt: skip
        return Ragged(out[: offsets[-1]], labels, offsets)


def token_datasets(
    samples: "Samples",
    prompt: PromptSpec,
    chat: Chat,
    options: Options = Options(),
    *,
    data: Mapping[str, Any] | None = None,
    name: str = "samples",
    splits: Sequence[str] | None = None,
) -> dict[str, TokenDataset]:
    """The token datasets of some splits (None: all); tables and cuts are taken from the cache or built.

    `data` has the hashes and options that the samples depend on, for the cache's key; without it the samples themselves
    are hashed. The datasets lack samples that truncation drops.

    Raises `InputError` for a prompt that does not fit the items, and for a sample whose response the cutoff would cut.
    """
    from palate.samples.split import SPLITS
    from palate.tokens.build_tables import content_of, tables_of, write_plain

    if prompt.names_vectors:
        chat = chat.with_items(samples.items.height)
    tables = tables_of(samples, prompt, chat, content_of(samples) if data is None else data, name)
    found = {}
    for split in SPLITS if splits is None else splits:
        plain, entry_name = None, f"{name}, {split}"
        if tables.meta["plain"][split]:
            build = partial(write_plain, tables, split, chat)
            plain = Cache().entry("plain", _key(tables, split), build, name=entry_name)
        found[split] = _cut(tables, plain, split, options, chat, entry_name)
    return found


def _cut(
    tables: Tables, plain: Path | None, split: str, options: Options, chat: Chat, name: str, rows: Longs | None = None
) -> TokenDataset:
    """The samples of a split, or those with the numbers `rows`, that truncation does not drop."""
    key = _key(tables, split) | {"cutoff": options.cutoff_len, "truncation": options.truncation}
    if rows is not None:
        key["samples"] = hashlib.sha256(rows.tobytes()).hexdigest()
    whole = Plain.open(plain) if plain else Plain.none()

    def build(out: Path) -> None:
        plan_cut(tables, split, whole, options.cutoff_len, options.truncation, chat, rows).save(out)

    reused = "tables reused, lengths recomputed"
    cut = Cache().entry("lengths", key, build, name=name, note={"cutoff": reused, "truncation": reused})
    dataset = TokenDataset(tables.folder, plain, cut, split, options, chat, rows)
    return dataset if dataset.lengths.all() else dataset.select(np.flatnonzero(dataset.lengths))


def _key(tables: Tables, split: str) -> dict[str, Any]:
    """The cache's key for a split's samples before truncation."""
    return {"tables": tables.folder.name, "split": split, "stage": STAGE}

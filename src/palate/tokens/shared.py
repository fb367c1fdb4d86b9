"""SharedHistory: prompts with several targets, whose history a model computes once.

A user's next K targets, in order of time, share the history before the first of them. Each of the K sequences consists
of that history and its own candidate, so all begin with the same tokens, and `pack` joins them without changing any.
With K = 1 the sequences are those of the token dataset.
"""

from collections.abc import Sequence
from copy import copy
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.config import SHARING
from palate.errors import InputError
from palate.prompt.messages import to_chat_messages
from palate.store.artifacts import sha256_of
from palate.tokens.cut import drop_items
from palate.tokens.dataset import Ragged, TokenDataset
from palate.tokens.packed import Ints, Longs, Packed, pack, ranges
from palate.tokens.plain import IGNORED
from palate.tokens.tables import prefix_and_length, unproved_samples


class SharedHistory:
    """The samples of a dataset as prompts of up to `targets` samples each; a like is with its negatives.

    Sample j (in the order of prompts) is index `order[j]` of the dataset, and prompt k has the samples `first[k]` to
    `first[k + 1]`. `order` (n,) int64, `first` (p + 1,) int64. `prefix` (p,) int64 is the number of tokens that a
    prompt's samples share, `lengths` (n,) int64 the length of each whole sequence, `needed` (n,) int64 the number of
    its tokens that a forward pass needs.

    Raises `InputError` if the truncation leaves no shared history.
    """

    def __init__(self, source: "Sequences", targets: int = 1) -> None:
        self.source, self.targets = source, targets
        self._plain: dict[int, Ints] = {}
        n = len(source)
        if targets == 1:
            self.order, self.first = np.arange(n), np.arange(n + 1)
            self.prefix, self.lengths = np.zeros(n, np.int64), source.lengths.astype(np.int64)
            return
        if not isinstance(source, TokenDataset):
            raise InputError("these examples do not name their user, expected 1", "train.targets_per_prompt")
        if source.options.truncation not in SHARING:
            raise InputError(
                f"with {source.options.truncation!r} the targets of a prompt would share nothing, expected one of "
                f"{', '.join(SHARING)}",
                "tokens.truncation",
            )
        self._tokens = source
        position = source.tables.position(source.split)[source.numbers]
        self.order = np.argsort(position, kind="stable")
        self._target = source.tables.target(source.split)[source.numbers][self.order]
        position = position[self.order]
        self.first = group(position, source.tables.users, targets)
        self._anchor = np.repeat(position[self.first[:-1]], np.diff(self.first))
        self._items = source.tables.items(source.split)[source.numbers][self.order][self.first[:-1]]
        tables = source.tables
        plain = unproved_samples(
            tables.word, self._anchor, np.repeat(self._items, self.sizes), tables.fragments, self._target
        )
        self._whole = np.logical_or.reduceat(plain, self.first[:-1])
        self._cut, self.prefix = np.zeros((2, len(self)), np.int64)
        self.lengths = np.zeros(self.order.size, np.int64)
        self._fit(source.options.cutoff_len, self._measure(np.arange(len(self)), self._items))

    def __len__(self) -> int:
        """The number of prompts."""
        return int(self.first.size - 1)

    @property
    def sizes(self) -> Longs:
        """The number of targets of each prompt, (p,) int64."""
        return np.diff(self.first)

    @cached_property
    def responses(self) -> Longs:
        """The number of response tokens of each sample, (n,) int64."""
        return self.source.responses[self.order].astype(np.int64)

    @cached_property
    def trained(self) -> Longs:
        """The number of tokens with loss of each sample, (n,) int64."""
        return np.ones(self.order.size, np.int64) if self.source.answer_only else self.responses

    @cached_property
    def needed(self) -> Longs:
        """The number of tokens of each sample up to the last that predicts a token with loss, (n,) int64."""
        behind = self.responses - self.source.lead if self.source.answer_only else 1
        return np.asarray(self.lengths - behind)

    @cached_property
    def labels(self) -> NDArray[np.bool_]:
        """Whether each sample is a Yes, (n,) bool."""
        return self.source.labels[self.order]

    @property
    def identity(self) -> str:
        """A hash of all that the sequences depend on."""
        return sha256_of([self.source.identity, self.targets])

    def prompt_of(self, begin: ArrayLike) -> Longs:
        """The prompt of each sample (samples in the order of prompts)."""
        return np.asarray(np.searchsorted(self.first, begin, side="right") - 1)

    def tokens(self, pieces: ArrayLike) -> Longs:
        """The number of tokens in a forward pass of each piece, (k,) int64; see `pack`."""
        begin, end = np.asarray(pieces, np.int64).reshape(-1, 2).T
        sums = np.concatenate([[0], np.cumsum(self.needed)])
        prefix = self.prefix[self.prompt_of(begin)]
        return np.asarray(sums[end] - sums[begin] - prefix * (end - begin - 1))

    def pieces(self) -> Longs:
        """All prompts as whole pieces, (p, 2) int64."""
        return np.column_stack([self.first[:-1], self.first[1:]])

    def sequences(self, samples: ArrayLike) -> tuple[Ints, Longs]:
        """Whole sequences of samples, concatenated: ids and offsets."""
        at = np.asarray(samples, np.int64)
        if self.targets == 1:
            ids, _, offsets = self.source.ragged(at)
            return ids, offsets
        prompt = self.prompt_of(at)
        plain = np.array([int(sample) in self._plain for sample in at], bool)
        cut, kept = self._cut[prompt], self.lengths[at]
        composed = ~plain
        whole = (kept + cut).astype(np.int32)
        ids, offsets = self._tokens.virtual(
            self._anchor[at][composed], self._target[at][composed], self._items[prompt][composed],
            whole[composed], kept[composed].astype(np.int32),
        )  # fmt: skip
        if not plain.any():
            return ids, offsets
        bounds = iter(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
        pieces = [
            self._plain[int(s)][c:] if p else ids[slice(*next(bounds))]
            for s, p, c in zip(at, plain, cut.tolist(), strict=True)
        ]
        return np.concatenate(pieces), np.concatenate([[0], np.cumsum([piece.size for piece in pieces])])

    def pack(self, pieces: ArrayLike) -> Packed:
        """Pack prompts, or parts of prompts, for one forward pass.

        A piece (begin, end) is the samples `begin` to `end` of one prompt, in the order of prompts.
        """
        begin, end = np.asarray(pieces, np.int64).reshape(-1, 2).T
        samples, first = ranges(begin, end - begin), np.concatenate([[0], np.cumsum(end - begin)])
        ids, offsets = self.sequences(samples)
        return pack(
            ids,
            np.diff(offsets),
            self.prefix[self.prompt_of(begin)],
            first,
            self.responses[samples],
            self.source.lead,
            self.source.answer_only,
            self.labels[samples],
            self.order[samples],
        )

    def _measure(self, prompts: Longs, items: Longs) -> Longs:
        """Set the numbers of history items of some prompts, their prefixes and lengths; returns each prompt's longest.

        Prompts that cannot be composed are tokenized.
        """
        tables, sizes = self._tokens.tables, self.sizes[prompts]
        rows, first = ranges(self.first[prompts], sizes), np.cumsum(sizes) - sizes
        if tables.fragments is not None:
            shown = np.repeat(items, sizes)
            found = prefix_and_length(tables.word, tables.fragments, self._anchor[rows], self._target[rows], shown)
            self.prefix[prompts], self.lengths[rows] = found[first, 0], found[:, 1]
        for k in np.flatnonzero(self._whole[prompts]):
            self._tokenize(int(prompts[k]), int(items[k]))
        self._items[prompts] = items
        return np.maximum.reduceat(self.lengths[rows], first)

    def _tokenize(self, prompt: int, items: int) -> None:
        """Tokenize the sequences of a prompt as whole texts, and count the tokens that they share."""
        rows = np.arange(self.first[prompt], self.first[prompt + 1])
        examples = self._tokens.tables.examples(self._anchor[rows], items, self._target[rows])
        encoded = self._tokens.chat.encode_batch([to_chat_messages(example) for example in examples])
        for row, (ids, _) in zip(rows.tolist(), encoded, strict=True):
            self._plain[row], self.lengths[row] = np.array(ids, np.int32), len(ids)
        least = min(prompt_len for _, prompt_len in encoded) - 1
        head = np.array([ids[:least] for ids, _ in encoded])
        same = (head == head[0]).all(axis=0)
        self.prefix[prompt] = least if same.all() else int(same.argmin())

    def _fit(self, cutoff: int, longest: Longs) -> None:
        """Cut prompts whose longest sequence exceeds `cutoff`; all sequences of a prompt get the same cut."""
        truncation = self._tokens.options.truncation
        over = np.flatnonzero(longest > cutoff)
        if not over.size:
            return
        if truncation == "error":
            raise InputError(
                f"{over.size:,} of the prompts have more than {cutoff} tokens, the longest {longest.max()}: expected "
                "a higher tokens.cutoff_len, or another tokens.truncation",
                self._tokens.split,
            )
        if truncation == "left":
            self._cut[over] = longest[over] - cutoff
            self.prefix = np.maximum(self.prefix - self._cut, 0)
            self.lengths = self.lengths - np.repeat(self._cut, self.sizes)
            if (self.lengths < self.responses).any():
                raise InputError(
                    f"a prompt of {longest.max()} tokens would lose a part of a response, expected a higher "
                    f"tokens.cutoff_len than {cutoff}",
                    self._tokens.split,
                )
            return
        _, kept = drop_items(self._items[over], cutoff, lambda rows, items: self._measure(over[rows], items))
        if not kept.all():
            rows = np.arange(*self.first[over[kept == 0][0] + np.arange(2)])
            raise InputError(
                f"a prompt has {self.lengths[rows].max()} tokens without any history, expected a higher "
                f"tokens.cutoff_len than {cutoff}",
                self._tokens.split,
            )


def group(positions: Longs, users: Longs, targets: int) -> Longs:
    """Group samples at ascending timeline rows into prompts; returns the offsets of the prompts, (p + 1,) int64.

    A prompt's samples are of one user and at most `targets` − 1 ratings apart; those of one row stay together. If no
    sample of a user is missing, the first prompt has the user's first `targets` samples, the second the next ones, and
    so on.
    """
    if not positions.size:
        return np.zeros(1, np.int64)
    user = np.searchsorted(users, positions, side="right")
    new = np.concatenate([[True], user[1:] != user[:-1]])
    of_user = positions - np.repeat(positions[new], np.diff(np.append(np.flatnonzero(new), positions.size)))
    window = of_user // targets
    new[1:] |= window[1:] != window[:-1]
    return np.append(np.flatnonzero(new), positions.size)


class SharedRows:
    """Rows of token ids from another source, such as Alpaca examples after `preprocess_datasets_parallel`.

    `rows` are (input_ids, labels) with −100 for tokens without loss. `lead` is the number of response tokens before the
    decision token, which is `yes` for a Yes; `identity` is a hash of the content.
    """

    answer_only = False

    def __init__(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]], lead: int, yes: int, identity: str) -> None:
        sizes = [len(ids) for ids, _ in rows]
        self._offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._ids = np.fromiter((token for ids, _ in rows for token in ids), np.int32, sum(sizes))
        self._labels = np.fromiter((label for _, labels in rows for label in labels), np.int32, sum(sizes))
        self.lengths = np.array(sizes, np.int32)
        self.responses = np.add.reduceat(self._labels != IGNORED, self._offsets[:-1]).astype(np.int32)
        self.lead, self.identity = lead, identity
        decision = np.minimum(self._offsets[1:] - self.responses + lead, self._offsets[1:] - 1)
        self.labels = self._ids[decision] == yes

    def __len__(self) -> int:
        return int(self.lengths.size)

    def select(self, rows: ArrayLike) -> "SharedRows":
        """The rows with these indices, in the order of `rows`."""
        at = np.asarray(rows, np.int64)
        ids, labels, offsets = self.ragged(at)
        chosen = copy(self)
        chosen._ids, chosen._labels, chosen._offsets = ids, labels, offsets
        chosen.lengths, chosen.responses, chosen.labels = self.lengths[at], self.responses[at], self.labels[at]
        chosen.identity = sha256_of([self.identity, at.tolist()])
        return chosen

    def ragged(self, indices: ArrayLike | None = None) -> Ragged:
        """Some rows, or all, concatenated."""
        at = np.arange(len(self)) if indices is None else np.asarray(indices, np.int64)
        size = self.lengths[at].astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(size)])
        place = ranges(self._offsets[at], size)
        return Ragged(self._ids[place], self._labels[place], offsets)


Sequences = TokenDataset | SharedRows
"""The sources of prompts with one target."""

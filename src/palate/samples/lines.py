"""Render samples as text by chunks: the column-wise equivalent of `palate.prompt.wording` for one sample."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.prompt.item_tokens import FIELD
from palate.prompt.spec import CONTEXT_FIELDS, SIGNAL_FIELDS, SIGNALS, USER, PromptSpec, kind_of, split_template
from palate.prompt.wording import Piece, Wording, signal_texts
from palate.samples.build import Samples
from palate.samples.context import context_of
from palate.samples.items import item_rows, shown_items
from palate.samples.questions import with_targets
from palate.samples.signals import Asked, coded, shown, user_fields
from palate.store.scratch import blocks_of

CHUNK = 16_384
"""Samples in a chunk: about 20 MB of text with the guide's prompt."""
CODED = ("item", "rating", "context")


class Part(NamedTuple):
    """Some samples of a renderer, to render them in another process: `Renderer.with_part`."""

    samples: Samples
    """With the timeline rows that their prompts show, without the tables of items and users."""
    target: NDArray[np.int64]
    item: pl.Series


@dataclass(frozen=True)
class Renderer:
    """Renders chunks of samples; `renderer` makes it once for all chunks."""

    samples: Samples
    """With a timeline row for each candidate that is sampled; see `with_targets`."""
    target: NDArray[np.int64]
    """(n,): the timeline row of each sample's candidate."""
    prompt: PromptSpec
    wording: Wording
    """Its codes are rows of the item table, positions in `scale`, rows of the contexts, and positions in the distinct
    values of each signal of the samples."""
    item: pl.Series
    """(timeline rows,) UInt32: the row of each rating's item in the item table."""
    scale: pl.Series
    """The distinct ratings, ascending."""
    asked: Asked | None = None
    """Computes the signals of questions; None: the prompts are those of samples."""

    def part(self, index: NDArray[np.int64]) -> Part:
        """Samples `index` alone."""
        samples = self.samples
        position, target, lengths = samples.position[index], self.target[index], samples.histories[index]
        rows = np.unique(np.concatenate([ranges(position - lengths, lengths + 1), target]))
        chosen = replace(
            samples,
            timeline=samples.timeline[rows],
            items=samples.items.clear(),
            position=np.searchsorted(rows, position),
            split=samples.split[index],
            context=None if samples.context is None else replace(samples.context, code=samples.context.code[rows]),
            history=None if samples.history is None else lengths,
            signals=None if samples.signals is None else samples.signals[index],
            negative=None if samples.negative is None else samples.negative[index],
            users=None,
            scratch=None,
        )
        return Part(chosen, np.searchsorted(rows, target), self.item.gather(rows))

    def with_part(self, part: Part) -> "Renderer":
        """The renderer of a part's samples, numbered from 0. With a part of no samples it is small enough to send."""
        samples = replace(part.samples, items=self.samples.items, users=self.samples.users)
        return replace(self, samples=samples, target=part.target, item=part.item)

    def lines(self, index: NDArray[np.int64]) -> pl.DataFrame:
        """The history and candidate lines of samples `index`, as text: `history_titles`, `candidate_title`."""
        return self._by_length(index, self.lines_of)

    def _by_length(self, index: NDArray[np.int64], render: Callable[..., pl.DataFrame]) -> pl.DataFrame:
        """Call `render` once for each history length, and join the results in the order of `index`."""
        position, target, lengths = self.samples.position[index], self.target[index], self.samples.histories[index]
        distinct = np.unique(lengths).tolist() or [self.samples.history_len]
        if len(distinct) == 1:
            return render(position, target, distinct[0])
        parts = [np.flatnonzero(lengths == length) for length in distinct]
        frames = [render(position[part], target[part], length) for part, length in zip(parts, distinct, strict=True)]
        return pl.concat(frames)[np.argsort(np.concatenate(parts))]

    def lines_of(self, position: NDArray[np.int64], target: NDArray[np.int64], items: int) -> pl.DataFrame:
        """As `lines`, for any history and any candidate.

        The histories are the `items` rows before the timeline rows `position` (n,); the candidates are the items of the
        timeline rows `target` (n,). Without `asked`, signals are those of the samples at the rows `target`.
        """
        if not position.size:
            return pl.DataFrame(schema={"history_titles": pl.String, "candidate_title": pl.String})
        rows = np.unique(position[:, None] - np.arange(1, items + 1))
        bodies = self._bodies(rows)
        texts: list[pl.Series | pl.Expr] = []
        for n in range(1, items + 1):
            at = pl.Series(np.searchsorted(rows, position - items + n - 1))
            texts += [pl.lit("\n")] if n > 1 else []
            texts += [body.gather(at) if isinstance(body, pl.Series) else pl.lit(body.text({}, n)) for body in bodies]
        blank = pl.lit(pl.repeat("", position.size, dtype=pl.String, eager=True))
        signals = self._signals(position, target)
        candidate = (
            self._signal_texts(piece, signals[piece.of]) if piece.of in SIGNALS else self._texts(piece, target)
            for piece in self.wording.candidate
        )
        return pl.select(history_titles=pl.concat_str(blank, *texts), candidate_title=pl.concat_str(blank, *candidate))

    def _signals(self, position: NDArray[np.int64], target: NDArray[np.int64]) -> pl.DataFrame:
        """The signals that the prompt names, of candidates; no columns if it names none."""
        if not self.prompt.signals:
            return pl.DataFrame()
        if self.asked is not None:
            return self.asked(position, self.item.gather(target).to_numpy().astype(np.int64))
        assert self.samples.signals is not None
        return self.samples.signals[self._sample[target]]

    @cached_property
    def _sample(self) -> NDArray[np.int64]:
        """The sample whose candidate is at each timeline row; 0 for the other rows."""
        sample = np.zeros(self.samples.timeline.height, np.int64)
        sample[self.target] = np.arange(self.target.size)
        return sample

    def _signal_texts(self, piece: Piece, values: pl.Series) -> pl.Series:
        """The texts of a signal's values; each distinct value is formatted once."""
        distinct, code = coded(values)
        texts = signal_texts(piece, shown(piece.of, distinct, self.samples), self.prompt)
        return pl.Series(texts, dtype=pl.String).gather(code)

    @cached_property
    def _columns(self) -> dict[int, pl.Series]:
        pieces = (*self.wording.history, *self.wording.candidate)
        return {id(piece): pl.Series(piece.texts, dtype=pl.String) for piece in pieces if piece.of in CODED}

    def _texts(self, piece: Piece, rows: NDArray[np.int64]) -> pl.Series | pl.Expr:
        """The texts of a piece, other than the number, for some timeline rows."""
        if piece.of == "literal":
            return pl.lit(piece.texts[0])
        if piece.of == "item":
            code = self.item.gather(rows)
        elif piece.of == "rating":
            code = self.scale.search_sorted(self.samples.timeline["rating"].gather(rows))
        else:
            assert self.samples.context is not None
            code = pl.Series(self.samples.context.code[rows])
        return self._columns[id(piece)].gather(code)

    def _bodies(self, rows: NDArray[np.int64]) -> list[Piece | pl.Series]:
        """The parts of the history lines for some timeline rows: text columns, and the pieces with line numbers."""
        bodies: list[Piece | pl.Series] = []
        blank = pl.lit(pl.repeat("", rows.size, dtype=pl.String, eager=True))
        for is_number, pieces in groupby(self.wording.history, lambda piece: piece.of == "n"):
            if is_number:
                bodies += pieces
            else:
                bodies.append(
                    pl.select(pl.concat_str(blank, *(self._texts(piece, rows) for piece in pieces))).to_series()
                )
        return bodies

    def examples(self, index: NDArray[np.int64]) -> pl.DataFrame:
        """Alpaca examples of samples `index`: `instruction`, `input`, `output`, `system`."""
        output = pl.Series("output", self.samples.label[index]).replace_strict(
            [True, False], [self.prompt.yes, self.prompt.no], return_dtype=pl.String
        )
        questions = self._by_length(index, self.questions)
        return questions.select("instruction", "input", output, "system")

    def questions(self, position: NDArray[np.int64], target: NDArray[np.int64], items: int) -> pl.DataFrame:
        """Alpaca examples without an answer, with the arguments of `lines_of`: `instruction`, `input`, `system`."""
        opening, middle, closing = self.prompt.frame(items)
        return self.lines_of(position, target, items).select(
            instruction=pl.lit(self.prompt.instruction),
            input=pl.concat_str(pl.lit(opening), "history_titles", pl.lit(middle), "candidate_title", pl.lit(closing)),
            system=pl.lit(self.prompt.system),
        )


def renderer(samples: Samples, prompt: PromptSpec, asked: Asked | None = None) -> Renderer:
    """The renderer for these samples and this prompt; `asked` computes the signals of questions.

    Raises `InputError` if the prompt names a column that the item table lacks, if a format spec does not fit a column's
    values, or if the prompt names signals that nobody computed.
    """
    items = shown_items(samples.items)
    for option in ("history_line", "candidate_line"):
        named = {p.field for p in split_template(getattr(prompt, option)) if p.field} - {"n", "rating"}
        known = [*CONTEXT_FIELDS, *(SIGNAL_FIELDS if option == "candidate_line" else ())]
        of_users = {field for field in named if field.startswith(USER)}
        _check_users(sorted(of_users), samples, option)
        ambiguous = sorted(named & set(known) & set(items.columns))
        if ambiguous:
            what = "signal" if ambiguous[0] in SIGNAL_FIELDS else "statistic of the earlier ratings"
            raise InputError(
                f"names {{{ambiguous[0]}}}, a column of the items and also a {what}; "
                "expected the column to have another name",
                f"prompt.{option}",
            )
        if FIELD in named and FIELD in items.columns:
            raise InputError(
                f"names {{{FIELD}}}, a column of the items and also the items' vectors; expected the column to have "
                "another name",
                f"prompt.{option}",
            )
        fields = [*items.columns, *known, FIELD]
        unknown = sorted(named - of_users - set(fields))
        if unknown:
            raise InputError(
                f"names {{{unknown[0]}}}, which the items do not have; expected one of {', '.join(fields)}",
                f"prompt.{option}",
            )
    if samples.scratch is not None and (prompt.names_context or prompt.signals):
        samples.scratch.refuse("names statistics of the ratings", "prompt", "fields of the items alone")
    samples, target = with_targets(samples)
    item = item_rows(samples.timeline["item_id"], items["item_id"], samples.scratch)
    if prompt.names_context and samples.context is None:
        time, rating = (samples.timeline[name].to_numpy() for name in ("timestamp", "rating"))
        allowed = samples.timeline["split"].is_in(["warmup", "train"]).to_numpy()
        samples = replace(samples, context=context_of(item.to_numpy(), time, rating, allowed))
    contexts = pl.DataFrame() if samples.context is None else samples.context.values
    rated = samples.timeline["rating"]
    distinct: set[float] = set()
    for rows in blocks_of(rated.len(), samples.scratch):
        distinct.update(rated[rows].unique().to_list())
    scale = pl.Series("rating", sorted(distinct), rated.dtype)
    signals = {} if asked is not None else _values(samples, prompt)
    wording = Wording.of(prompt, items, scale.to_list(), contexts, signals)
    return Renderer(samples, target, prompt, wording, item, scale, asked)


def _values(samples: Samples, prompt: PromptSpec) -> dict[str, Sequence[Any]]:
    """The distinct values of the signals that the prompt names; raises `InputError` if the samples have none."""
    known = pl.DataFrame() if samples.signals is None else samples.signals
    missing = [name for name in prompt.signals if name not in known.columns]
    if missing:
        field = next(field for field in prompt.signal_fields if kind_of(field) == missing[0])
        raise InputError(
            f"names {{{field}}}, which these samples do not have; expected data that `palate prepare` wrote for "
            "this prompt",
            "prompt.candidate_line",
        )
    return {name: shown(name, coded(known[name])[0], samples) for name in prompt.signals}


def _check_users(named: Sequence[str], samples: Samples, option: str) -> None:
    """Raise `InputError` for the first of some fields of users that their table lacks."""
    known = user_fields(samples)
    unknown = [field for field in named if field not in known]
    if unknown and samples.users is None:
        problem = "a column of the table of users; expected that table as ratings.users"
        raise InputError(f"names {{{unknown[0]}}}, {problem}", f"prompt.{option}")
    if unknown:
        problem = f"which the table of users does not have; expected one of {', '.join(known) or 'more columns'}"
        raise InputError(f"names {{{unknown[0]}}}, {problem}", f"prompt.{option}")


def ranges(begin: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    """The concatenated ranges from `begin[i]` to `begin[i] + size[i]` - 1."""
    ends = np.cumsum(size)
    numbers: NDArray[np.int64] = np.arange(size.sum()) + np.repeat(begin - (ends - size), size)
    return numbers


def iter_examples(
    samples: Samples,
    split_name: str,
    prompt: PromptSpec,
    indices: NDArray[np.int64] | None = None,
    chunk: int = CHUNK,
) -> Iterator[pl.DataFrame]:
    """Render a split, or only its samples `indices` (0 is the split's first), in chunks.

    Yields frames with `instruction`, `input`, `output`, `system`, at most `chunk` rows each, in the order of `indices`.
    Raises `InputError` as `renderer` does.
    """
    render = renderer(samples, prompt)
    index = samples.of(split_name)
    index = index if indices is None else index[indices]
    for start in range(0, index.size, chunk):
        yield render.examples(index[start : start + chunk])

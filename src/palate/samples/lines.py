"""Samples as text, a chunk of them at a time: what `PromptSpec` says of one sample, said of columns.

A line's template falls into pieces at `{n}`, at `{rating}` and where an item's context is named. The pieces between
depend on the item alone and are put into words once an item; a chunk is then gathered and joined from them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.prompt.spec import CONTEXT_FIELDS, Number, Of, PromptSpec, TemplatePart, runs_of, split_template
from palate.samples.build import Samples
from palate.samples.context import context_of
from palate.samples.items import shown_items

CHUNK = 16_384
"""Samples that are put into words at a time: about 20 MB of text with the guide's prompt."""


class LinePiece(NamedTuple):
    """A piece of a line."""

    of: Of
    spec: str
    """How the list number or the rating is formatted."""
    texts: pl.Series
    """What each item or each context says, in the order of the item table or of the contexts; else empty."""


@dataclass(frozen=True)
class Renderer:
    """What rendering needs, worked out once for all chunks. Made by `renderer`."""

    samples: Samples
    prompt: PromptSpec
    item: pl.Series
    """(timeline rows,) UInt32: the row of each rating's item in the item table."""
    history: Sequence[LinePiece]
    """The pieces of a history line."""
    candidate: Sequence[LinePiece]

    def lines(self, index: NDArray[np.int64]) -> pl.DataFrame:
        """The history's lines and the candidate of samples `index`, both as text.

        Columns: `history_titles`, `candidate_title`.
        """
        return self._told(index, self._lines)

    def _told(self, index: NDArray[np.int64], tell: Callable[[NDArray[np.int64], int], pl.DataFrame]) -> pl.DataFrame:
        """What `tell` says of samples, given those with histories of one length at a time; in the order of `index`."""
        lengths = self.samples.histories[index]
        distinct = np.unique(lengths).tolist() or [self.samples.history_len]
        if len(distinct) == 1:
            return tell(index, distinct[0])
        parts = [np.flatnonzero(lengths == length) for length in distinct]
        told = [tell(index[part], length) for part, length in zip(parts, distinct, strict=True)]
        return pl.concat(told)[np.argsort(np.concatenate(parts))]

    def _lines(self, index: NDArray[np.int64], length: int) -> pl.DataFrame:
        """`lines` of samples with `length` history items each."""
        position = self.samples.position[index]
        return self.lines_of(position, position, length)

    def lines_of(self, position: NDArray[np.int64], target: NDArray[np.int64], items: int) -> pl.DataFrame:
        """As `lines`, of any history and any candidate.

        The histories are the `items` rows before the timeline rows `position` (n,), the candidates those of the rows
        `target` (n,).
        """
        if not position.size:
            return pl.DataFrame(schema={"history_titles": pl.String, "candidate_title": pl.String})
        rows = np.unique(position[:, None] - np.arange(1, items + 1))
        bodies = self._bodies(rows)
        texts: list[pl.Series | pl.Expr] = []
        for n in range(1, items + 1):
            at = pl.Series(np.searchsorted(rows, position - items + n - 1))
            texts += [pl.lit("\n")] if n > 1 else []
            for body in bodies:
                if isinstance(body, str):
                    texts.append(pl.lit(format_value(n, body, "history_line")))
                else:
                    texts.append(body.gather(at))
        blank = pl.lit(pl.repeat("", position.size, dtype=pl.String, eager=True))
        return pl.select(
            history_titles=pl.concat_str(blank, *texts),
            candidate_title=pl.concat_str([self._texts(piece, target) for piece in self.candidate]),
        )

    def _texts(self, piece: LinePiece, rows: NDArray[np.int64]) -> pl.Series:
        """What a piece says at some timeline rows."""
        if piece.of == "item" or self.samples.context is None:
            return piece.texts.gather(self.item.gather(rows))
        return piece.texts.gather(pl.Series(self.samples.context.code[rows]))

    def _bodies(self, rows: NDArray[np.int64]) -> list[str | pl.Series]:
        """The pieces of the history lines for some timeline rows; a format spec stands where `{n}` does."""
        ratings = self.samples.timeline["rating"].gather(rows)
        bodies: list[str | pl.Series] = []
        for piece in self.history:
            if piece.of == "n":
                bodies.append(piece.spec)
                continue
            if piece.of == "rating":
                distinct = ratings.unique()
                words = [format_value(rating, piece.spec, "history_line") for rating in distinct.to_list()]
                text = ratings.replace_strict(distinct, pl.Series(words, dtype=pl.String), return_dtype=pl.String)
            else:
                text = self._texts(piece, rows)
            if bodies and isinstance(bodies[-1], pl.Series):
                bodies[-1] = pl.select(pl.concat_str(bodies[-1], text)).to_series()
            else:
                bodies.append(text)
        return bodies

    def examples(self, index: NDArray[np.int64]) -> pl.DataFrame:
        """Alpaca examples of samples `index`: `instruction`, `input`, `output`, `system`."""
        return self._told(index, self._examples)

    def _examples(self, index: NDArray[np.int64], length: int) -> pl.DataFrame:
        """`examples` of samples with `length` history items each."""
        position, prompt = self.samples.position[index], self.prompt
        output = pl.Series(self.samples.label[index]).replace_strict(
            [True, False], [prompt.yes, prompt.no], return_dtype=pl.String
        )
        questions = self.questions(position, position, length)
        return questions.select("instruction", "input", output.alias("output"), "system")

    def questions(self, position: NDArray[np.int64], target: NDArray[np.int64], items: int) -> pl.DataFrame:
        """Alpaca examples without an answer, of what `lines_of` gives: `instruction`, `input`, `system`."""
        opening, middle, closing = _frame_of_input(self.prompt, items)
        return self.lines_of(position, target, items).select(
            instruction=pl.lit(self.prompt.instruction),
            input=pl.concat_str(pl.lit(opening), "history_titles", pl.lit(middle), "candidate_title", pl.lit(closing)),
            system=pl.lit(self.prompt.system),
        )


def renderer(samples: Samples, prompt: PromptSpec) -> Renderer:
    """Prepare to render; raises `InputError` if the prompt names a column that the items lack.

    So it does where a format spec does not fit a column's values.
    """
    items = shown_items(samples.items)
    for option in ("history_line", "candidate_line"):
        named = {p.field for p in split_template(getattr(prompt, option)) if p.field} - {"n", "rating"}
        twice = sorted(named & set(CONTEXT_FIELDS) & set(items.columns))
        if twice:
            raise InputError(
                f"names {{{twice[0]}}}, which is a column of the items and also a figure of the earlier ratings; "
                "expected the column to have another name",
                f"prompt.{option}",
            )
        known = [*items.columns, *CONTEXT_FIELDS]
        unknown = sorted(named - set(known))
        if unknown:
            raise InputError(
                f"names {{{unknown[0]}}}, which the items do not have; expected one of {', '.join(known)}",
                f"prompt.{option}",
            )
    item = item_rows(samples.timeline["item_id"], items["item_id"])
    if prompt.names_context and samples.context is None:
        time, rating = (samples.timeline[name].to_numpy() for name in ("timestamp", "rating"))
        allowed = samples.timeline["split"].is_in(["warmup", "train"]).to_numpy()
        samples = replace(samples, context=context_of(item.to_numpy(), time, rating, allowed))
    contexts = pl.DataFrame() if samples.context is None else samples.context.values
    lines = [_pieces(getattr(prompt, option), items, contexts, option) for option in ("history_line", "candidate_line")]
    return Renderer(samples, prompt, item, *lines)


def item_rows(rated: pl.Series, items: pl.Series) -> pl.Series:
    """The row of each rated item in the item table, UInt32; raises `InputError` for an item that has none."""
    if rated.dtype.is_integer() and items.dtype.is_integer() and len(rated):
        ids, own = rated.to_numpy(), items.to_numpy()
        low, high = min(ids.min(), own.min(initial=0)), max(ids.max(), own.max(initial=0))
        if low >= 0 and high < 1 << 26:  # a table by id: a tenth of a join's time
            row = np.full(high + 1, len(own), np.uint32)
            row[own] = np.arange(len(own), dtype=np.uint32)
            found = row[ids]
            if found.max() < len(own):
                return pl.Series(found)
    numbered = items.to_frame().with_row_index("row")
    rows = rated.to_frame().join(numbered, on="item_id", how="left", maintain_order="left")["row"].cast(pl.UInt32)
    if rows.null_count():
        missing = rated.gather(rows.is_null().arg_true().head(1)).item()
        raise InputError(f"item {missing} has ratings but does not stand in the item table", "items")
    return rows


def iter_examples(
    samples: Samples,
    split_name: str,
    prompt: PromptSpec,
    indices: NDArray[np.int64] | None = None,
    chunk: int = CHUNK,
) -> Iterator[pl.DataFrame]:
    """Render a split, or those of its samples that `indices` count (0 is the split's first), in chunks.

    Yields frames with `instruction`, `input`, `output`, `system`, at most `chunk` rows each, in the order
    of `indices`. Raises `InputError` as `renderer` does.
    """
    render = renderer(samples, prompt)
    index = samples.of(split_name)
    index = index if indices is None else index[indices]
    for start in range(0, index.size, chunk):
        yield render.examples(index[start : start + chunk])


def _frame_of_input(prompt: PromptSpec, history_len: int) -> tuple[str, str, str]:
    """What stands before the history, between it and the candidate, and after, in the Alpaca `input`."""
    # Texts that no prompt contains stand for the two, so that the one definition of `input` serves here too.
    history, candidate = "\0history\0", "\0candidate\0"
    opening, _, rest = prompt.input(history, candidate, history_len).partition(history)
    middle, _, closing = rest.partition(candidate)
    return opening, middle, closing


def _pieces(template: str, items: pl.DataFrame, contexts: pl.DataFrame, option: str) -> list[LinePiece]:
    """A template's pieces."""
    pieces: list[LinePiece] = []
    for of, parts in runs_of(template):
        if of in ("item", "context"):
            pieces.append(LinePiece(of, "", part_texts(parts, items if of == "item" else contexts, option)))
        else:
            pieces += [LinePiece(of, part.format_spec, pl.Series()) for part in parts]
    # So that there is a column to join even where the template is empty.
    return pieces or [LinePiece("item", "", part_texts([], items, option))]


def part_texts(parts: Sequence[TemplatePart], table: pl.DataFrame, option: str) -> pl.Series:
    """What some parts of a template say of each row of a table, (rows,) String.

    The rows are items or contexts; each part is a literal or a field, not both.
    """
    columns = []
    for part in parts:
        if part.field is None:
            columns.append(pl.lit(part.literal))
            continue
        column = table[part.field]
        if column.dtype == pl.String and not part.format_spec and not column.null_count():
            columns.append(pl.lit(column))
        else:
            words = [format_value(value, part.format_spec, option) for value in column.to_list()]
            columns.append(pl.lit(pl.Series(words, dtype=pl.String)))
    blank = pl.lit(pl.repeat("", table.height, dtype=pl.String, eager=True))
    return pl.select(pl.concat_str(blank, *columns)).to_series()


def format_value(value: object, spec: str, option: str) -> str:
    """`format(value, spec)`, an error being the prompt's; numbers as `Number` has it."""
    try:
        return format(Number(value) if isinstance(value, float) else value, spec)
    except (ValueError, TypeError) as error:
        raise InputError(f"{value!r} cannot be written as {{:{spec}}}: {error}", f"prompt.{option}") from None

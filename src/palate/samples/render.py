"""Samples as text, a chunk of them at a time: what `PromptSpec` says of one sample, said of columns.

A line's template falls into pieces at `{n}` and `{rating}`. The pieces between them depend on the item
alone and are put into words once an item; a chunk is then gathered and joined from them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.prompt.spec import Part, PromptSpec, split_template
from palate.samples.build import Samples
from palate.samples.items import shown_items

CHUNK = 16_384
"""Samples that are put into words at a time: about 20 MB of text with the guide's prompt."""

Piece = str | pl.Series
"""A piece of a line: "n", "rating", or the texts of the items, in the order of the item table."""


@dataclass(frozen=True)
class Renderer:
    """What rendering needs, worked out once for all chunks. Made by `renderer`."""

    samples: Samples
    prompt: PromptSpec
    item: pl.Series
    """(timeline rows,) UInt32: the row of each rating's item in the item table."""
    history: Sequence[tuple[Piece, str]]
    """The pieces of a history line, each with its format spec."""
    candidate: Sequence[tuple[Piece, str]]

    def lines(self, index: NDArray[np.int64]) -> pl.DataFrame:
        """The history's lines and the candidate of samples `index`, both as text.

        Columns: `history_titles`, `candidate_title`.
        """
        position, length = self.samples.position[index], self.samples.history_len
        if not position.size:
            return pl.DataFrame(schema={"history_titles": pl.String, "candidate_title": pl.String})
        rows = np.unique(position[:, None] - np.arange(length + 1))
        bodies = self._bodies(rows)
        texts: list[pl.Series | pl.Expr] = []
        for n in range(1, length + 1):
            at = pl.Series(np.searchsorted(rows, position - length + n - 1))
            texts += [pl.lit("\n")] if n > 1 else []
            for body in bodies:
                if isinstance(body, str):
                    texts.append(pl.lit(format_value(n, body, "history_line")))
                else:
                    texts.append(body.gather(at))
        codes = self.item.gather(position)
        return pl.select(
            history_titles=pl.concat_str(texts or pl.lit("")),
            candidate_title=pl.concat_str([p.gather(codes) for p, _ in self.candidate if isinstance(p, pl.Series)]),
        )

    def _bodies(self, rows: NDArray[np.int64]) -> list[str | pl.Series]:
        """The pieces of the history lines for some timeline rows; a format spec stands where `{n}` does."""
        codes, ratings = self.item.gather(rows), self.samples.timeline["rating"].gather(rows)
        bodies: list[str | pl.Series] = []
        for piece, spec in self.history:
            if isinstance(piece, pl.Series):
                text = piece.gather(codes)
            elif piece == "rating":
                distinct = ratings.unique()
                words = pl.Series([format_value(r, spec, "history_line") for r in distinct.to_list()], dtype=pl.String)
                text = ratings.replace_strict(distinct, words, return_dtype=pl.String)
            else:
                bodies.append(spec)
                continue
            if bodies and isinstance(bodies[-1], pl.Series):
                bodies[-1] = pl.select(pl.concat_str(bodies[-1], text)).to_series()
            else:
                bodies.append(text)
        return bodies

    def examples(self, index: NDArray[np.int64]) -> pl.DataFrame:
        """Alpaca examples of samples `index`: `instruction`, `input`, `output`, `system`."""
        lines, prompt = self.lines(index), self.prompt
        opening, middle, closing = _frame_of_input(prompt, self.samples.history_len)
        return lines.select(
            instruction=pl.lit(prompt.instruction),
            input=pl.concat_str(pl.lit(opening), "history_titles", pl.lit(middle), "candidate_title", pl.lit(closing)),
            output=pl.Series(self.samples.label[index]).replace_strict(
                [True, False], [prompt.yes, prompt.no], return_dtype=pl.String
            ),
            system=pl.lit(prompt.system),
        )


def renderer(samples: Samples, prompt: PromptSpec) -> Renderer:
    """Prepare to render; raises `InputError` if the prompt names a column that the items lack.

    So it does where a format spec does not fit a column's values.
    """
    items = shown_items(samples.items)
    for option in ("history_line", "candidate_line"):
        named = {p.field for p in split_template(getattr(prompt, option))} - {None, "n", "rating"}
        unknown = sorted(str(f) for f in named if f not in items.columns)
        if unknown:
            raise InputError(
                f"names {{{unknown[0]}}}, which the items do not have; expected one of {', '.join(items.columns)}",
                f"prompt.{option}",
            )
    item = _rows_of(samples.timeline["item_id"], items["item_id"])
    if item.null_count():
        missing = samples.timeline["item_id"].gather(item.is_null().arg_true().head(1)).item()
        raise InputError(f"item {missing} has ratings but does not stand in the item table", "items")
    return Renderer(
        samples,
        prompt,
        item,
        _pieces(prompt.history_line, items, "history_line"),
        _pieces(prompt.candidate_line, items, "candidate_line"),
    )


def _rows_of(rated: pl.Series, items: pl.Series) -> pl.Series:
    """The row of each rated item in the item table, UInt32; null where it has none."""
    if rated.dtype.is_integer() and items.dtype.is_integer() and len(rated):
        ids, own = rated.to_numpy(), items.to_numpy()
        low, high = min(ids.min(), own.min(initial=0)), max(ids.max(), own.max(initial=0))
        if low >= 0 and high < 1 << 26:  # a table by id: a tenth of a join's time
            row = np.full(high + 1, len(own), np.uint32)
            row[own] = np.arange(len(own), dtype=np.uint32)
            found = row[ids]
            rows = pl.Series(found)
            return rows.replace(len(own), None) if found.max() == len(own) else rows
    numbered = items.to_frame().with_row_index("row")
    return rated.to_frame().join(numbered, on="item_id", how="left", maintain_order="left")["row"].cast(pl.UInt32)


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


def _pieces(template: str, items: pl.DataFrame, option: str) -> list[tuple[Piece, str]]:
    """A template's pieces: ("n", spec), ("rating", spec), or (the items' texts, "")."""
    parts = [Part("", None, "")]  # so that there is a column to join even where the template is empty
    for part in split_template(template):
        parts += [Part(part.literal, None, ""), part._replace(literal="")]

    def own(part: Part) -> str:
        return part.field if part.field in ("n", "rating") else ""

    pieces: list[tuple[Piece, str]] = []
    for field, group in groupby(parts, own):
        if field:
            pieces += [(field, part.format_spec) for part in group]
        else:
            pieces.append((item_texts(list(group), items, option), ""))
    return pieces


def item_texts(parts: Sequence[Part], items: pl.DataFrame, option: str) -> pl.Series:
    """What some parts of a template say of each item, (items,) String; each part a literal or a field, not both."""
    columns = []
    for part in parts:
        if part.field is None:
            columns.append(pl.lit(part.literal))
            continue
        column = items[part.field]
        if column.dtype == pl.String and not part.format_spec and not column.null_count():
            columns.append(pl.lit(column))
        else:
            words = [format_value(value, part.format_spec, option) for value in column.to_list()]
            columns.append(pl.lit(pl.Series(words, dtype=pl.String)))
    blank = pl.lit(pl.repeat("", items.height, dtype=pl.String, eager=True))
    return pl.select(pl.concat_str(blank, *columns)).to_series()


def format_value(value: object, spec: str, option: str) -> str:
    """`format(value, spec)`, an error being the prompt's."""
    try:
        return format(value, spec)
    except (ValueError, TypeError) as error:
        raise InputError(f"{value!r} cannot be written as {{:{spec}}}: {error}", f"prompt.{option}") from None

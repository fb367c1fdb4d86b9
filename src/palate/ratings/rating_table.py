"""The ratings of one file or of several, and the lines of the files to name a wrong rating."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.ratings.formats import format_of
from palate.ratings.ids import IDS
from palate.ratings.layout import SEPARATORS, Layout, records
from palate.ratings.rating_forms import NUMBERS, RatingForm
from palate.ratings.roles import WITHIN
from palate.ratings.source import SourceFile
from palate.ratings.times import SECONDS, TimeForm, time_form

COLUMNS = ("user_id", "item_id", "rating", "timestamp")


@dataclass(frozen=True)
class RatingTable:
    """The ratings of one file in file order, with the file and its layout to find a rating's line; or those of `parts`.

    `frame` has `COLUMNS` and, if the file has it, `title`.
    """

    frame: pl.DataFrame
    file: SourceFile
    layout: Layout | None
    """None for a file with typed columns."""
    form: TimeForm = SECONDS
    """The form of the times; `timestamp` has its integers."""
    skipped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String}))
    """The rows of the file that `frame` lacks, counted from 0, and why."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The role of each column of the file, see `roles_of`."""
    parts: "tuple[RatingTable, ...]" = ()
    """The tables of several files that are one."""
    rated: RatingForm = NUMBERS
    """The form of the ratings."""
    wrong_lines: Sequence[tuple[int, str, str]] = ()
    """The lines of the file that are no rows: number, reason, text."""

    @classmethod
    def of(cls, parts: "Sequence[RatingTable]") -> "RatingTable":
        """One table of several files, in their order; raises `InputError` if their times or ratings differ in form.

        A part without rows has no form. Parts that differ in the unit of typed times, or of which only some have
        fractions of seconds, get the finer unit, at most microseconds.
        """
        full = [part for part in parts if part.frame.height] or parts
        first = full[0]
        for part in full[1:]:
            if not part.form.agrees(first.form):
                found = f"its times are {part.form.name}, expected {first.form.name} as in {first.file.label}"
                raise InputError(found, part.file.place)
            if part.rated != first.rated:
                raise InputError(
                    f"has ratings of another kind than {first.file.label}, expected numbers or words in all",
                    part.file.place,
                )
        if len({part.form.per_second for part in full}) > 1:
            unit = min(max(part.form.per_second for part in full), 10**6)
            parts = [part._in_unit(unit) for part in parts]
            first = replace(first, form=replace(first.form, per_second=unit))
        frames = [part.frame for part in parts]
        for name in IDS:
            if len({frame.schema[name] for frame in frames}) > 1:
                frames = [frame.with_columns(pl.col(name).cast(pl.String)) for frame in frames]
        skipped = pl.concat(part.skipped for part in parts)
        return replace(first, frame=pl.concat(frames, how="diagonal"), skipped=skipped, parts=tuple(parts))

    def _in_unit(self, per_second: int) -> "RatingTable":
        """The table with `per_second` units of time in a second."""
        own, time = self.form.per_second, pl.col("timestamp")
        time = time * (per_second // own) if per_second > own else time // (own // per_second)
        return replace(self, frame=self.frame.with_columns(time), form=replace(self.form, per_second=per_second))

    @property
    def shape(self) -> str:
        """What the files are, such as `2 files of text with semicolons, gzip, cp1252`."""
        first = self.parts[0] if self.parts else self
        within = next(
            (name.partition(WITHIN)[0] for name, role in first.columns.items() if role and WITHIN in name), None
        )
        found = shape_of(first.file, first.layout) + (f", a row for each of {within!r}" if within else "")
        return (f"{len(self.parts)} files of " if self.parts else "") + found

    @property
    def reasons(self) -> pl.Series:
        """Why each row of the file that `frame` lacks is left out, (rows,) String."""
        wrong_lines = [reason for part in self.parts or (self,) for _, reason, _ in part.wrong_lines]
        return pl.concat([self.skipped["reason"], pl.Series("reason", wrong_lines, pl.String)])

    def left_out(self) -> str:
        """How many rows were left out, by reason, and the way to the first of them."""
        counts = self.reasons.value_counts(sort=True).rows()
        counted = ", ".join(f"{count:,} {reason}" for reason, count in counts)
        return f"{counted}; `--bad-rows refuse --untitled refuse` names the first"

    def place_of(self, row: int, beside: str = "") -> str:
        """Where a row of `frame` is, such as `line 5`; with the file's name, if that is not `beside`."""
        part, row = self.part_of(row)
        (line,) = part.lines_of([row])
        place = f"row {int(part.rows[row]) + 1}" if line is None else f"line {line}"
        return place if part.file.place == (beside or part.file.place) else f"{place} of {part.file.label}"

    def part_of(self, row: int) -> "tuple[RatingTable, int]":
        """The table of a row, and the row in it."""
        for part in self.parts:
            if row < part.frame.height:
                return part, row
            row -= part.frame.height
        return self, row

    def fail(self, message: str, row: int) -> NoReturn:
        """Raise `InputError` for a row, counted from 0."""
        if self.parts:
            part, row = self.part_of(row)
            part.fail(message, row)
        (line,) = self.lines_of([row])
        if line is None:
            row = int(self.rows[row])
            raise InputError(f"row {row + 1}: {message}", self.file.place)
        raise InputError(message, self.file.place, line)

    def lines_of(self, rows: Sequence[int]) -> list[int | None]:
        """The lines of the given rows, which ascend; None for each row if the format has no lines."""
        lines: Iterable[int]
        if self.layout is not None:
            lines = (line for line, _ in records(self.file, self.layout))
        else:
            typed = format_of(self.file)
            found = None if typed is None else typed.lines(self.file.path)
            if found is None:
                return [None for _ in rows]
            lines = found
        walk = enumerate(lines)
        return [next(line for row, line in walk if row == wanted) for wanted in self.rows[rows].tolist()]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row of the file of each row of `frame`, (rows,) int64."""
        rows = np.arange(self.frame.height + self.skipped.height)
        return np.delete(rows, self.skipped["row"].to_numpy()) if self.skipped.height else rows

    def without(self, reasons: pl.Series) -> "RatingTable":
        """The table without the rows that have a reason, (rows,) String; null keeps a row."""
        wrong = reasons.is_not_null()
        if not wrong.any():
            return self
        if self.parts:
            ends = np.cumsum([part.frame.height for part in self.parts])
            return self.of(
                [
                    part.without(reasons[end - part.frame.height : end])
                    for part, end in zip(self.parts, ends.tolist(), strict=True)
                ]
            )
        rows = pl.DataFrame({"row": self.rows[wrong.to_numpy()], "reason": reasons.filter(wrong)})
        return replace(self, frame=self.frame.filter(~wrong), skipped=pl.concat([self.skipped, rows]))

    def report(self) -> pl.DataFrame:
        """The skipped rows in file order: `line` (of a typed format: row, from 1), `reason`, and the `row` as text."""
        if self.parts:
            return pl.concat(
                part.report().insert_column(0, pl.lit(part.file.label).alias("file")) for part in self.parts
            )
        skipped = self.skipped.sort("row")
        wanted = dict(skipped.iter_rows())
        if self.layout is None and (typed := format_of(self.file)) is not None:
            whole = typed.columns(self.file, typed.header(self.file))
            texts = [json.dumps(row, default=str) for row in _shown(whole[list(wanted)]).iter_rows(named=True)]
            numbers = typed.lines(self.file.path)
            lines = (
                [row + 1 for row in wanted]
                if numbers is None
                else [n for row, n in enumerate(numbers) if row in wanted]
            )
        else:
            assert self.layout is not None
            found = [at for row, at in enumerate(records(self.file, self.layout)) if row in wanted]
            lines, texts = [line for line, _ in found], [self.layout.separator.join(fields) for _, fields in found]
        types = {"line": pl.Int64(), "reason": pl.String(), "row": pl.String()}
        rows = pl.DataFrame({"line": lines, "reason": skipped["reason"], "row": texts}, types)
        wrong_lines = pl.DataFrame(self.wrong_lines, types, orient="row")
        return pl.concat([rows, wrong_lines]).sort("line", maintain_order=True)


def _shown(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with dates and times as numbers in columns with years that Python's dates lack."""
    dates = [column for column in rows if isinstance(column.dtype, pl.Date | pl.Datetime)]
    odd = [c.name for c in dates if time_form(c).values(c).null_count() > c.null_count()]
    return rows.with_columns(pl.col(odd).to_physical())


def shape_of(file: SourceFile, layout: Layout | None) -> str:
    """What a file is: its format, its compression, its encoding if that is not UTF-8."""
    typed = format_of(file)
    if typed is not None:
        kind = typed.name if "?table=" not in file.place else f"a table of {file.place.partition(':')[0]}"
    else:
        assert layout is not None
        named = {",": "CSV", "\t": "TSV"}
        kind = named.get(layout.separator) or f"text with {SEPARATORS.get(layout.separator, repr(layout.separator))}"
    return ", ".join(part for part in (kind, file.packed, file.encoding) if part)

"""Scan the columns of a text file with Polars, and refuse what Polars reads as something else."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import polars as pl

from palate.ratings.ids import is_respelled
from palate.ratings.layout import POLARS_FAULTS, Layout, lacks_fields, records, rewritten_rows
from palate.ratings.source import SourceFile
from palate.ratings.survey import DIGIT_LIKE

NOWHERE = -1
"""The place of the ratings of a table that has likes alone."""


def scan(
    file: SourceFile,
    layout: Layout,
    places: Mapping[str, int],
    types: Mapping[str, pl.DataType],
    *,
    ids: Sequence[str] = (),
    as_text: bool | None = None,
    into: Callable[[Iterable[pl.DataFrame]], pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """Read the columns at `places` with their `types`, else as text; `ids` are read as Int64.

    A column at `NOWHERE` is 1 in each row that is not blank. Polars reads `007` as 7, so where the file may have such
    integers, ids are read `as_text` first, at twice the cost (None: as the begin of the file shows). `into` makes the
    table from blocks of it; None: it is read as a whole.

    Raises a Polars error if a field is not of its type, if an id is not a plain integer, such as `+7` or `007`, or if a
    row has another number of fields than the header.
    """
    if as_text is None:
        as_text = bool(ids) and (layout.separator[0] in DIGIT_LIKE or file.seems_respelled)
    step = len(layout.separator)  # a `::` file is a `:` file with an empty column after each column
    schema: dict[str, pl.DataType] = {f"_{i}": pl.String() for i in range(step * (len(layout.names) - 1) + 1)}
    names = list(schema)
    for name, place in places.items():
        if place != NOWHERE:
            wanted = pl.Int64() if name in ids and not as_text else pl.String()
            schema[names[step * place]] = types.get(name, wanted)
    text = rewritten_rows(file, layout) if layout.rewritten else None
    lazy = pl.scan_csv(
        file.path if text is None else text,
        has_header=False,
        skip_lines=layout.skip_lines if text is None else 0,
        separator=layout.separator[0],
        quote_char='"' if layout.quoted else None,
        schema=schema,
        raise_if_empty=False,
        glob=False,
    )
    between = [pl.col(n).is_not_null() for i, n in enumerate(names) if i % step]
    read = {name: pl.col(names[step * place]) for name, place in places.items() if place != NOWHERE}
    one = pl.when(pl.any_horizontal(column.is_not_null() for column in read.values())).then(pl.lit("1"))
    read |= {n: one.cast(types.get(n, pl.String())) for n, place in places.items() if place == NOWHERE}
    chosen = [(column.cast(pl.Int64) if name in ids else column).alias(name) for name, column in read.items()]
    # Polars notices a field too many only where all columns are read, and reads null where a row has too few fields.
    chosen.append(pl.col(names[-1]).is_null().alias("_short"))
    chosen.append(pl.any_horizontal(pl.col(n).is_null() for n in names[:-1]).alias("_others"))
    if as_text:
        chosen.append(pl.any_horizontal(is_respelled(read[name]) for name in ids).alias("_respelled"))
    frame = lazy.select(*chosen, *([pl.any_horizontal(between).alias("_between")] if between else []))

    def checked(block: pl.DataFrame) -> pl.DataFrame:
        if as_text and block["_respelled"].any():
            raise pl.exceptions.ComputeError("a number has a sign or leading zeros")
        if between and block["_between"].any():
            raise pl.exceptions.ComputeError(f"a field holds {layout.separator[0]}")
        if block["_short"].any() and lacks_fields(file, layout):
            raise pl.exceptions.ComputeError("a row has too few fields")
        return block.drop("_respelled", "_between", "_short", "_others", strict=False)

    if into is None:
        table = frame.collect(engine="streaming")
    else:
        table = into(checked(block) for block in frame.collect_batches(maintain_order=True))
    if ids and not as_text and file.has_respelled:
        return scan(file, layout, places, types, ids=ids, as_text=True, into=into)
    return checked(table) if into is None else table


def scan_texts(file: SourceFile, layout: Layout, places: Mapping[str, int]) -> pl.DataFrame:
    """The text at `places` of the rows that are not blank; raises a Polars error for another number of fields."""
    others = {f"_{place}": place for place in range(len(layout.names)) if place not in places.values()}
    texts = scan(file, layout, dict(places) | others, {})
    return texts.filter(~pl.all_horizontal(pl.all().is_null())).drop(others)  # blank lines, as in `records`


def whole_rows(file: SourceFile, layout: Layout, places: Mapping[str, int]) -> tuple[pl.DataFrame, list[int]]:
    """The text of the rows that have as many fields as the header, and the other rows, counted from 0."""
    try:
        return scan_texts(file, layout, places), []
    except POLARS_FAULTS:
        pass
    rows, ragged = [], []
    for row, (_, fields) in enumerate(records(file, layout)):
        if len(fields) == len(layout.names):
            rows.append(["1" if place == NOWHERE else fields[place] for place in places.values()])
        else:
            ragged.append(row)
    return pl.DataFrame(rows, dict.fromkeys(places, pl.String()), orient="row"), ragged

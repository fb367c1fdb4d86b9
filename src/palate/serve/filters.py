"""`Filters`: the columns of the item table that filter, their values, and the items that pass."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from palate.errors import InputError, did_you_mean
from palate.recommend.lookup import shortened
from palate.samples.people import Longs
from palate.serve import schemas

OFFERED = 200
"""Most values of a column that are offered to clients."""
COMPARED = 5_000
"""Most values of a column with which a misspelt one is compared, in about 50 ms."""


@dataclass(frozen=True)
class Filters:
    """Filters by columns of the items; `kinds` says how each column filters: number, text, list or flag."""

    items: pl.DataFrame
    kinds: Mapping[str, str]
    _known: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def offered(self) -> dict[str, list[str]]:
        """The values of text and list columns in alphabetical order, of columns with at most `OFFERED`.

        Without those of `item_id` and `title`, which name an item: a search finds them.
        """
        found = {
            name: list(self._values(name).values())
            for name, kind in self.kinds.items()
            if kind in ("text", "list") and name not in ("item_id", "title")
        }
        return {name: values for name, values in found.items() if len(values) <= OFFERED}

    def rows(self, filters: Mapping[str, schemas.Filter]) -> Longs:
        """Rows of the items that pass all filters, ascending.

        Raises `InputError` for an unknown column, a filter that does not fit its column, and a text that no item has.
        """
        kept = pl.lit(True)
        for name, want in filters.items():
            if name not in self.kinds:
                expected = "none, as the items have no column that filters"
                if self.kinds:
                    expected = f"one of {', '.join(self.kinds)}{did_you_mean(name, self.kinds)}"
                what = f"there is no filter {shortened(repr(name))}"
                if name in self.items.columns:
                    what = f"the column {shortened(repr(name))} is nested or holds bytes, so it does not filter"
                raise InputError(f"{what}, expected {expected}", "filters")
            kept &= self._condition(name, want)
        return self.items.select(kept).to_series().fill_null(value=False).arg_true().to_numpy().astype("int64")

    def _condition(self, name: str, want: schemas.Filter) -> pl.Expr:
        kind, place = self.kinds[name], f"filters.{name}"
        wanted = want if isinstance(want, list) else [want]
        if kind == "number":
            column = pl.col(name).cast(pl.Float64, strict=False)
            if isinstance(want, schemas.Between):
                low, high = want.min, want.max
                return column.is_between(float("-inf") if low is None else low, float("inf") if high is None else high)
            if not all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in wanted):
                raise InputError("is a column of numbers, expected a number, several, or min and max", place)
            return column.is_in([float(each) for each in wanted])  # type: ignore[arg-type]
        if kind == "flag":
            if not isinstance(want, bool):
                raise InputError("is a column of true and false, expected one of both", place)
            return pl.col(name).cast(pl.Boolean) == want
        if isinstance(want, (bool, schemas.Between)):
            raise InputError("is a column of text, expected a text, or several", place)
        texts = [_text(each) for each in wanted if not isinstance(each, schemas.Between)]
        self._check(name, texts, place, several=isinstance(want, list))
        folded = [text.lower() for text in texts]
        if kind == "list":
            return self._texts(name).list.eval(pl.element().str.to_lowercase().is_in(folded)).list.any()
        return self._texts(name).str.to_lowercase().is_in(folded)

    def _check(self, name: str, texts: Sequence[str], place: str, *, several: bool) -> None:
        """Raise `InputError` for a text that no item has, with those that are spelt alike."""
        known = self._values(name)
        for n, text in enumerate(texts):
            if text.lower() in known:
                continue
            near = difflib.get_close_matches(text.lower(), known, n=3) if len(known) <= COMPARED else []
            hint = "expected a value of this column"
            if near:
                hint = f"did you mean {' or '.join(repr(known[each]) for each in near)}?"
            elif len(known) <= OFFERED:
                hint = shortened(f"expected one of {', '.join(known.values())}")
            where = f"{place}[{n}]" if several else place
            raise InputError(f"no item has {shortened(repr(text))}, {hint}", where)

    def _values(self, name: str) -> dict[str, str]:
        """The values of a text or list column by their lower case, in alphabetical order."""
        if name not in self._known:
            texts = self._texts(name).explode(empty_as_null=True) if self.kinds[name] == "list" else self._texts(name)
            found = self.items.select(texts.alias("text")).to_series().drop_nulls().unique().sort().to_list()
            self._known[name] = {text.lower(): text for text in found if text}
        return self._known[name]

    def _texts(self, name: str) -> pl.Expr:
        """A column as texts, or as lists of them."""
        column = pl.col(name)
        if self.kinds[name] != "list":
            return column.cast(pl.String)
        dtype = self.items.schema[name]
        if dtype == pl.String:  # "Adventure|Children", "Adventure, Children"
            return column.str.replace_all(r"\s*[|,]\s*", "|").str.split("|")
        element = pl.element().cast(pl.String)
        if dtype in (pl.List(pl.Float64), pl.List(pl.Float32)):
            element = element.str.strip_suffix(".0")
        return column.list.eval(element)


def _text(wanted: str | float) -> str:
    """A filter's value as a column of text has it: 7 and 7.0 are "7"."""
    return str(int(wanted)) if isinstance(wanted, float) and wanted.is_integer() else str(wanted)

"""The layout of a table in its file (separator, quotes, header), and the roles of its columns."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.ratings.mind import NEWS
from palate.ratings.roles import ROLES, SURE, WEAK, named_as, plain_name
from palate.ratings.source import SourceFile
from palate.ratings.survey import BLOCK, blocks_of

_OPTIONS = {role: f"--{role}" for role in ("user", "item", "rating", "title")} | {"timestamp": "--time"}
_CANDIDATES = ("\t", ",", ";", "|", "::", "^", "~", "\x01", "\x1f")
"""Separators that are tried; a space only where a line has none of them."""

_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western"
)
GENRE_FLAGS = tuple(_GENRES.split())
"""The flags of ML-100K's `u.item`, in the order of its columns."""

_FIXED = {
    "ratings.dat": ("::", _RATINGS),
    "movies.dat": ("::", ("item_id", "title", "genres")),
    "u.data": ("\t", _RATINGS),
    "news.tsv": ("\t", NEWS),
    "u.user": ("|", ("user_id", "age", "gender", "occupation", "zip_code")),
    "users.dat": ("::", ("user_id", "gender", "age", "occupation", "zip_code")),
    "u.item": ("|", ("item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRE_FLAGS)),
}

IN_UTF8 = "ratings.encoding names another encoding, such as cp1252 of Western Europe"
"""The remedy for text in another encoding."""

_CARRIAGE_RETURN = (
    "the line contains a carriage return, expected lines that end in LF or CRLF: "
    "`tr '\\r' '\\n' < FILE > NEW` converts a file whose lines end in CR"
)
_OF_NETFLIX = (
    """`awk -F, -v OFS=, 'BEGIN {print "user,item,rating,time"} sub(/:.?$/, "") {item = $0; next} """
    """{print $1, item, $2, $3}' FILES > ratings.csv` converts the files"""
)
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", "::": "double colons", " ": "spaces"}
"""Names of separators for messages."""
_MARKS = {
    b"PAR1": "a Parquet file, expected text: the name of such a file ends in .parquet",
    b"PK\x03\x04": "a zip or a spreadsheet, expected text: a zip ends in .zip, a spreadsheet in .xlsx or .ods",
}
"""The kind of a binary file by its first bytes."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_VALUE = re.compile(
    rf"[+-]?\d+(\.\d*)?|{_DATE.pattern}[T :\d.,Z+-]*|[0-9a-f]{{8}}(-[0-9a-f]{{4,12}}){{4}}|[0-9a-f]{{32,64}}"
)
"""A number, a time, a UUID or a hash, which no header has."""
_ID = re.compile(r"(\w*[^\W\d])\d+")
"""An id such as `user_17`; a header may have one, or several that count such as `column_1`."""

MOST_COLUMNS = 5_000
"""Columns of a table: Polars takes some kilobytes for each."""
_BLOCK = 1 << 20
"""Bytes that are read at once."""

POLARS_FAULTS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""The exceptions of Polars for a file that it cannot read; a panic is a BaseException."""


@dataclass(frozen=True)
class Layout:
    """The layout of a delimited text table: `names` are its columns in file order, `skip_lines` precede its rows."""

    separator: str
    quoted: bool
    names: tuple[str, ...]
    skip_lines: int
    escaped: bool = False
    """Whether a quote within quotes is written `\\"`, as Spark writes it, instead of `""`."""
    rewritten: bool = False
    """Whether a field contains a quote. Polars would take it for an opening quote and join rows, so that
    `rewritten_rows` must rewrite the rows first."""


def layout_of(file: SourceFile, header: Sequence[str] = ()) -> Layout:
    """The layout of a text table, from its name and its first lines; raises `InputError` if it is empty.

    `header` names the columns of a file without a line that does so.
    """
    lower = file.name.lower()
    _check_begin(file)
    fixed = None if header else _FIXED.get(lower)
    if fixed is not None and fixed[0] in _first_lines(file, 1):
        separator, names = fixed
        first = next(_walk(file, Layout(separator, False, names, 0)), None)
        if first is None:
            raise InputError(f"is empty, expected rows of {separator.join(names[:4])}", file.place)
        return Layout(separator, False, names, first[0] - 1)
    atomic = lower.endswith((".inter", ".item"))
    usual = "\t" if atomic or lower.endswith((".tsv", ".txt")) else ","
    separator, skip = (usual, 0) if atomic else _separator(file, usual, header)
    quoted = not atomic and len(separator) == 1
    end, names = skip, tuple(header)
    if not header:
        first = next(_walk(file, Layout(separator, quoted, (), skip)), None)
        if first is None:
            raise InputError("is empty, expected a header and rows", file.place)
        _, end, fields = first
        names = tuple(f.partition(":")[0].strip() if atomic else f.strip() for f in fields)
    if len(names) > MOST_COLUMNS:
        raise InputError(f"has {len(names):,} columns, expected at most {MOST_COLUMNS:,}", file.place, 1)
    quoted, escaped, rewritten = _quoting(file, separator, len(names), skip) if quoted else (False, False, False)
    # Polars takes a table's width from its first line, so blank lines below the header are skipped with it.
    first = next(_walk(file, Layout(separator, quoted, (), end, escaped)), None)
    if first is None:
        with file.path.open("rb") as lines:
            end = sum(1 for _ in lines)
    end = end if first is None else first[0] - 1
    return Layout(separator, quoted, names, end, escaped, rewritten)


def _separator(file: SourceFile, usual: str, header: Sequence[str]) -> tuple[str, int]:
    """The separator of a text table, and the lines before its header: comments with `#`, and a spreadsheet's `sep=;`.

    It is the one by which the first line has the most names of columns that Palate knows (or as many fields as
    `header`), then the usual one of the file's suffix, then the one with the most fields.
    """
    every = _first_lines(file, 20).split("\n")
    known = {name for role in ROLES.values() for name in role} | {"id", "genres"}
    skip = next((n for n, line in enumerate(every) if line.strip() and not line.startswith("#")), 0)
    if sum(plain_name(name) in known for name in re.split(r"\W+", every[skip])) < 2:
        skip = 0  # a header may begin with `#`
    lines = [line for line in every[skip:] if line.strip()]
    first = lines[0].rstrip("\r") if lines else ""
    noted = re.fullmatch(r'"?sep=(.)"?[ ,;\t]*', first)
    if noted is not None:
        if noted[1] == '"' or not noted[1].isascii():
            raise InputError(
                f"the separator {noted[1]!r} cannot separate fields, expected one such as ';'", file.place, 1
            )
        return noted[1], skip + 1

    def merit(separator: str) -> tuple[int, bool, int]:
        fields = [field.strip(' "') for field in first.split(separator)]
        fits = -abs(len(fields) - len(header)) if header else sum(plain_name(name) in known for name in fields)
        return fits, separator == usual, len(fields)

    candidates = [c for c in _CANDIDATES if c in first] or ([" "] if " " in first.strip() and header else [])
    return (max(candidates, key=merit) if candidates else usual), skip


def _first_lines(file: SourceFile, count: int) -> str:
    with file.path.open(encoding="utf-8-sig", errors="replace", newline="\n") as text:
        return "".join(text.readline(1 << 16) for _ in range(count))


def records(file: SourceFile, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """The rows as (line of the file, from 1; fields), without blank lines: slow and exact, for diagnosis.

    A line of separators alone is blank too, since spreadsheets write empty rows like this.
    """
    for line, _, fields in _walk(file, layout):
        if len(fields) != len(layout.names) or any(field.strip("\r") for field in fields):
            yield line, fields


def check_widths(file: SourceFile, layout: Layout, shown: int | None = None) -> None:
    """Raise `InputError` for the first row whose number of fields differs from the header's.

    The message names the first `shown` columns (None: all).
    """
    for line, fields in records(file, layout):
        if len(fields) != len(layout.names):
            raise InputError(width_problem(fields, layout.names, shown), file.place, line)


def lacks_fields(file: SourceFile, layout: Layout) -> bool:
    """Whether a row has too few fields, for which Polars reads nulls as for empty ones.

    Counts the separators outside of quotes, block by block.
    """
    if len(layout.separator) > 1 or layout.rewritten:
        return any(len(fields) < len(layout.names) for _, fields in records(file, layout))
    rest = b""
    with file.path.open("rb") as content:
        for _ in range(layout.skip_lines):
            content.readline()
        while True:
            block = content.read(_BLOCK)
            text = rest + (block or b"\n")
            data = np.frombuffer(text, np.uint8)
            ends, marks = data == ord("\n"), data == ord(layout.separator)
            if layout.quoted and b'"' in text:
                outside = np.cumsum(data == ord('"')) % 2 == 0
                ends, marks = ends & outside, marks & outside
            ends, marks = np.flatnonzero(ends), np.flatnonzero(marks)
            counts = np.diff(np.searchsorted(marks, ends), prepend=0)
            lengths = np.diff(ends, prepend=-1) - 1
            is_blank = (lengths == 0) | ((lengths == 1) & (data[ends - 1] == ord("\r")))
            if ((counts < len(layout.names) - 1) & ~is_blank).any():
                return True
            if not block:
                return False
            rest = text[ends[-1] + 1 :] if ends.size else text


def width_problem(fields: Sequence[str], names: Sequence[str], shown: int | None = None) -> str:
    """The message for a row whose number of fields differs from the header's."""
    found = f"{len(fields)} field" + ("s" if len(fields) != 1 else "")
    return f"row has {found}, expected {len(names)} ({', '.join(names[:shown])})"


def rewritten_rows(file: SourceFile, layout: Layout) -> bytes:
    """The rows below the header as standard CSV: a field with quotes is quoted, and its quotes are doubled."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=layout.separator, lineterminator="\r\n")
    # Latin-1 preserves every byte, so that the reader of these rows still finds text that is not UTF-8.
    writer.writerows(fields for _, _, fields in _walk(file, layout, "latin-1"))
    return text.getvalue().encode("latin-1")


def _double_quotes(text: str) -> str:
    """The line with `""`, the standard of CSV, for each `\\"`."""
    return re.sub(r'(?<!\\)((?:\\\\)*)\\"', r'\1""', text)


def _quoting(file: SourceFile, separator: str, width: int, skip: int) -> tuple[bool, bool, bool]:
    """Whether fields are quoted, quotes are escaped with a backslash, and rows must be rewritten for Polars.

    The result is the first convention in which every row has `width` fields. Raises `InputError` with the line if none
    can be read.
    """
    if not any(b'"' in block for block in blocks_of(file.path)) or _is_standard(file, separator, width, skip):
        return True, False, False
    first = _first_lines(file, skip + 1).strip("\r\n").split(separator)
    all_quoted = all(len(field) > 1 and field[0] == field[-1] == '"' for field in first)
    conventions = [(True, False), (True, True)] + ([(False, False)] if separator == "\t" and not all_quoted else [])
    problem = None
    for quoted, escaped in conventions:
        try:
            has_quote = False
            for _, _, fields in _walk(file, Layout(separator, quoted, (), skip, escaped)):
                # Two titles with an opening quote but no closing one, in lines that have all their tabs.
                joined = separator == "\t" and any("\n" in field and "\t" in field for field in fields)
                if len(fields) != width or joined:
                    break
                has_quote = has_quote or any('"' in field for field in fields)
            else:
                return quoted, escaped, quoted and (has_quote or escaped)
        except InputError as error:
            problem = error if (quoted, escaped) == conventions[0] else problem
    if problem is not None:
        raise problem
    return True, False, True  # the reader of the rows reports the row with too many or too few fields


def _is_standard(file: SourceFile, separator: str, width: int, skip: int) -> bool:
    """Whether each row has `width` fields, and each quote encloses a field or is doubled within one (RFC 4180).

    Then Polars and Python's csv read the same fields. Tables with a line break in a tab-separated field, and with rows
    that are longer than Python's limit of a field, are not judged: False.
    """
    rest, most = b"", csv.field_size_limit()
    with file.path.open("rb") as content:
        for _ in range(skip):
            content.readline()
        if not skip and content.read(3) != codecs.BOM_UTF8:
            content.seek(0)
        while True:
            block = content.read(BLOCK)
            text = np.frombuffer(rest + (block or b"\n"), np.uint8)
            rows = _standard_rows(text, ord(separator), width, separator == "\t")
            if rows is None or text.size - rows > most:
                return False
            rest = text[rows:].tobytes()
            if not block:
                return not rest


def _standard_rows(text: NDArray[np.uint8], separator: int, width: int, one_line: bool) -> int | None:
    """The size of the whole rows at the begin of a text, (n,) uint8; None if one is not as `_is_standard` says."""
    quotes, breaks, returns = (np.flatnonzero(text == ord(mark)) for mark in '"\n\r')
    within = [np.searchsorted(quotes, places) % 2 == 1 for places in (breaks, returns)]
    ends, returns = breaks[~within[0]], returns[~within[1]]
    if not ends.size:
        return 0
    size = int(ends[-1]) + 1
    separators = np.flatnonzero(text[:size] == separator)
    separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
    quotes = quotes[quotes < size]
    before = text[np.maximum(quotes[::2] - 1, 0)]
    before[quotes[::2] == 0] = ord("\n")
    marks = [separator, *b'"\n']
    lengths = np.diff(ends, prepend=-1) - 1
    lengths -= text[ends - 1] == ord("\r")
    widths = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    sound = (
        np.isin(before, marks).all()
        and np.isin(text[quotes[1::2] + 1], [*marks, ord("\r")]).all()
        and (text[returns[returns < size] + 1] == ord("\n")).all()
        and (widths[lengths > 0] == width).all()
        and int(lengths.max()) <= csv.field_size_limit()
        and not (one_line and within[0].any())
    )
    return size if sound else None


def _walk(file: SourceFile, layout: Layout, encoding: str = "utf-8-sig") -> Iterator[tuple[int, int, list[str]]]:
    """The rows as (first line, last line, fields)."""
    with file.path.open(encoding=encoding, errors="replace", newline="\n") as text:
        for _ in range(layout.skip_lines):
            text.readline()
        if not layout.quoted:
            for line, row in enumerate(text, layout.skip_lines + 1):
                if row := row.rstrip("\r\n"):
                    yield line, line, re.split(separator_of(layout), row)
            return
        lines = map(_double_quotes, text) if layout.escaped else text
        reader = csv.reader(lines, delimiter=layout.separator, strict=True)
        first = layout.skip_lines + 1
        try:
            for fields in reader:
                last = layout.skip_lines + reader.line_num
                if fields:
                    yield first, last, fields
                first = last + 1
        except csv.Error as error:
            raise InputError(f"is not CSV: {csv_problem(error)}", file.place, first) from None


def separator_of(layout: Layout) -> str:
    """The separator of an unquoted table as a pattern; the first colon of `:::` belongs to the title."""
    return re.escape(layout.separator) + ("(?!:)" if layout.separator == "::" else "")


def check_encoding(file: SourceFile) -> None:
    """Raise `InputError` for the first line that is not UTF-8 text."""
    with file.path.open("rb") as content:
        for number, line in enumerate(content, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                problem = f"byte {line[error.start]:#04x} is not UTF-8 text: {IN_UTF8}"
                raise InputError(problem, file.place, number) from None


def check_zeros(file: SourceFile) -> None:
    """Raise `InputError` for the first line with a NUL, which would become part of an id."""
    if file.has_zeros:
        raise _with_zero(file)


def _with_zero(file: SourceFile) -> InputError:
    with file.path.open("rb") as content:
        line = next((number for number, line in enumerate(content, 1) if b"\0" in line), None)
    return InputError("byte 0x00 is not text, expected a table of text", file.place, line)


def csv_problem(error: csv.Error) -> str:
    """The message for an error of Python's csv module."""
    found = str(error)
    if found.startswith("new-line character"):
        return _CARRIAGE_RETURN
    if found.endswith("expected after '\"'"):
        return 'text follows a closing quote, expected a quote within quotes to be written twice ("")'
    if found.startswith("field larger"):
        return f"a field has more than {csv.field_size_limit():,} characters, expected less; a quote may not be closed"
    closed = 'a quote is never closed, expected one at the end of the field, or two ("") for one within a field'
    return closed if found.startswith("unexpected end") else found


def _check_begin(file: SourceFile) -> None:
    """Raise `InputError` for a binary file, for lines that end in CR, and for those of the Netflix Prize."""
    with file.path.open("rb") as content:
        begin = content.read(1 << 12)
    kind = next((kind for mark, kind in _MARKS.items() if begin.startswith(mark)), None)
    if kind is not None:
        raise InputError(f"is {kind}", file.place)
    if b"\0" in begin:
        raise _with_zero(file)
    if re.match(rb"\d+:\r?\n", begin):
        raise InputError(f"is of the Netflix Prize, expected a table: {_OF_NETFLIX}", file.place, 1)
    if b"\r" in begin and b"\n" not in begin:
        raise InputError(f"is not a table: {_CARRIAGE_RETURN}", file.place, 1)


def column_of(
    role: str, names: Sequence[str], columns: Mapping[str, str], place: str, *, needed: bool = True
) -> str | None:
    """The name of a role's column; `columns` overrides the names in `ROLES`.

    Raises `InputError` if two columns have one name, or if a `needed` column is missing or has several candidates.
    """
    chosen = columns.get(role)
    if chosen is not None and chosen not in names and len(alike := named_as(chosen, names)) == 1:
        chosen = alike[0]
    if chosen is not None and (chosen in names or needed):
        if names.count(chosen) != 1:
            count = f"{names.count(chosen)} columns" if chosen in names else "no column"
            expected = f"expected the one that ratings.columns.{role} names"
            raise InputError(f"has {count} '{chosen}', {expected}; found {_listed(names)}", place, 1)
        return chosen
    plain = {plain_name(name): name for name in reversed(names)}
    known = [plain[p] for p in ROLES[role] if p in plain and (f"{p}id" not in plain or role in ("rating", "timestamp"))]
    known = [name for name in known if plain_name(name) not in WEAK] or known
    found = known[0] if known else None
    same = [name for name in names if found is not None and plain_name(name) == plain_name(found)]
    if len(same) > 1:
        expected = f"expected one {role} column, or its name as ratings.columns.{role}"
        raise InputError(f"the columns {same[0]!r} and {same[1]!r} have the same name, {expected}", place, 1)
    if needed and len(known) > 1 and not SURE & {plain_name(name) for name in known}:
        option = f"{_OPTIONS[role]} NAME, or " if role in _OPTIONS else ""
        expected = f"expected the name of one: {option}--set ratings.columns.{role}=NAME"
        raise InputError(f"the columns {known[0]!r} and {known[1]!r} can both be the {role}, {expected}", place, 1)
    if found is None and needed:
        _check_header(names, place, role)
        usual = {"user": "userId", "item": "movieId"}.get(role, role)
        option = f", or its name as {_OPTIONS.get(role, f'ratings.columns.{role}')}"
        if role == "timestamp":
            option += " (without times, --order file takes the rows as they come)"
        if role == "rating":
            option += "; a log of clicks or purchases is read with --set ratings.likes=popularity"
        raise InputError(
            f"has no {role} column, expected one such as {usual}{option}; found {_listed(names)}", place, 1
        )
    return found


def _listed(names: Sequence[str]) -> str:
    """The first names: an object by id has thousands."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")


def check_roles(used: Mapping[str, str | None], place: str) -> None:
    """Raise `InputError` if two roles have one column; an item's id may be its title."""
    roles: dict[str, str] = {}
    for role, column in used.items():
        if column is None:
            continue
        first = roles.setdefault(column, role)
        if first != role and {first, role} != {"item_id", "title"}:
            problem = f"the column {column!r} has the roles {first} and {role}, expected a column for each"
            raise InputError(f"{problem} (ratings.columns)", place, 1)


def roles_of(names: Sequence[str], used: Mapping[str, str | None]) -> dict[str, str]:
    """The role of each column in file order, such as `item, title`; empty for a column without one."""
    return {name: ", ".join(role for role, column in used.items() if column == name) for name in names}


def _check_header(names: Sequence[str], place: str, role: str) -> None:
    """Raise `InputError` if the header looks like a row: it has a value or ids of two kinds, and no name of `ROLES`."""
    usual_names = {name for called in ROLES.values() for name in called}
    kinds = {found[1] for name in names if (found := _ID.fullmatch(name))}
    is_row = len(kinds) > 1 or any(_VALUE.fullmatch(name) for name in names)
    if is_row and not any(plain_name(name) in usual_names for name in names):
        shown = ",".join(names[:4])
        usual = "item_id,title" if role == "title" else "user_id,item_id,rating,timestamp"
        option = "" if role == "title" else f"--header {','.join(_guessed(names))} names them, or "
        remedy = f"{option}write one as the first line, such as {usual}"
        raise InputError(f"{shown!r} looks like a row, expected a header that names the columns: {remedy}", place, 1)


def _guessed(names: Sequence[str]) -> list[str]:
    """Names for the columns of a file without a header: the usual order, and words for further columns."""
    left, found = ["user", "item", "rating", "timestamp"], []
    for number, value in enumerate(names, 1):
        role = "timestamp" if _DATE.match(value) else left[0] if left else ""
        if role not in left or (role in ("rating", "timestamp") and not _VALUE.fullmatch(value)):
            role = f"column{number}"
        else:
            left.remove(role)
        found.append(role)
    return found

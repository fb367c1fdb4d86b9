"""Small logs from a seed, and how they are damaged: values, rows and headers first, then the bytes of the file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

_WORDS = (
    "0|-0|-1|+4|004|4.|.5|4.0.0|1e3|5e0|1e400|-1e400|1e-400|NaN|nan|inf|-inf|Infinity|0x1f|1_000|٣|１|4,5|½|null|None|"
    "NA|N/A|<NA>|\\N|true|yes|👍|★★★★☆|★★★½|4/5|4 out of 5|4 stars|\\|'|=1+1|#|{|[]|%s|-|2024-05-01|"
    "2024-05-01T12:00:00Z|2024-02-30|13.5.2024|5/13/2024|1/2/2024|20240501|Jul 30, 2017|1714564800|1714564800.5|"
    "1714564800000|1714564800000000|1714564800000000000|881250949.0|9999-12-31|7.0|7|007"
)
NASTY = (
    *_WORDS.split("|"), *(str(n) for n in (2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30)),
    "", " ", " 7", "\ufeff1", "\u202eabc", "\u200b", "\u00a0", "é", "e\u0301", "\ufffd", "😀", "\0", "a\0b", "\x1a",
    "\x1b[31m", "\x85", "\u2028", '"', '""', '"a', 'a"b', '"a"b', 'a\\"b', 'a""b', "a,b", "a;b", "a\tb", "a::b", "a|b",
    "a\nb", "a\r\nb", "a\rb", "x" * 300,
)  # fmt: skip
"""Values that readers take in different ways."""
BYTES = (
    b"", b"\x00", b"\xff", b"\xe9", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b'""',
    b"'", b"\\", b'\\"', b",", b";", b"\t", b"|", b"::", b":", b" ", b"\n", b"\n\n", b"\r\n", b"\r", b"\x1a", b"\x0b",
    b"\xa0", b"\x85", b"\xe2\x80\xa8", b"1", b"0", b"-", b"+", b".", b"e", b"NaN", b"sep=;\n", b"{", b"}", b"[", b"]",
)  # fmt: skip
"""Pieces that are put between others."""
USERS = ("userId", "user_id", "uid", "reviewerID", "Customer ID", "user")
ITEMS = ("movieId", "item_id", "product_id", "asin", "Book ID", "item")
RATINGS = ("rating", "stars", "score", "Book-Rating", "overall")
TIMES = ("timestamp", "time", "ts", "unixReviewTime", "created_at", "date")

Rows = list[list[str]]


@dataclass
class Log:
    """A table of text: `rows` below a `header`."""

    header: list[str]
    rows: Rows
    titled: bool = field(default=False)


def log_of(draw: Random, most: int = 9, fixed: bool = False) -> Log:
    """A log that is right, of at most `most` ratings; `fixed`: its columns are user, item, rating and time."""
    ids: Sequence[Callable[[int], str]] = (str, str, lambda n: f"u{n}", lambda n: f"{n:03}", lambda n: f"é {n}, x")
    user, item = draw.choice(ids), draw.choice(ids[:4])
    rating: Callable[[], str] = draw.choice((
        lambda: str(draw.randrange(1, 11) / 2), lambda: str(draw.randrange(1, 11) / 2), lambda: str(draw.randint(1, 5)),
        lambda: f"{draw.randint(1, 5)}/5", lambda: draw.choice(("yes", "no")), lambda: "★" * draw.randint(1, 5),
    ))  # fmt: skip
    begin = draw.choice((0, 10**9, 1_714_564_800))
    time: Callable[[int], str] = draw.choice((
        str, str, lambda n: str(n * 1000), lambda n: str(n * 10**6 + 7), lambda n: f"{n}.0", lambda n: f"{n}.25",
        lambda n: f"{datetime.fromtimestamp(n, UTC):%FT%TZ}", lambda n: f"{datetime.fromtimestamp(n, UTC):%F %T}",
        lambda n: f"{datetime.fromtimestamp(n * 86400 % 2**31, UTC):%F}",
    ))  # fmt: skip
    header = [draw.choice(names) for names in (USERS, ITEMS, RATINGS, TIMES)]
    rows = [[user(draw.randint(1, 4)), item(draw.randint(1, 6)), rating(), time(begin + n)]
            for n in range(draw.randint(1, most))]  # fmt: skip
    if extra := draw.choice((None, None, "title", "note")) if not fixed else None:
        header.append(extra)
        for row in rows:
            row.append(
                f"T {row[1]}" if extra == "title" else draw.choice(("", "fine", "a, b", 'so "so"', "two\nlines"))
            )
    if draw.random() < 0.2 and not fixed:
        order = draw.sample(range(len(header)), len(header))
        header, rows = [header[n] for n in order], [[row[n] for n in order] for row in rows]
    return Log(header, rows, extra == "title")


def damage_rows(draw: Random, log: Log) -> None:
    """Change some values, fields, rows or names of the header."""
    for _ in range(draw.choice((0, 0, 1, 1, 2, 3))):
        row = draw.choice(log.rows) if log.rows else log.header
        at = draw.randrange(len(row)) if row else 0
        match draw.randrange(12):
            case 0 | 1 | 2 | 3 | 4 if row:
                row[at] = draw.choice(NASTY)
            case 5 if row:
                del row[at]
            case 6:
                row.insert(at, draw.choice((*row, *NASTY)))
            case 7 if row:
                other = draw.randrange(len(row))
                row[at], row[other] = row[other], row[at]
            case 8:
                log.rows.insert(draw.randint(0, len(log.rows)), list(draw.choice([log.header, row, [""], [], row[:1]])))
            case 9 if log.rows:
                log.rows.pop(draw.randrange(len(log.rows)))
            case 10:
                at = draw.randrange(len(log.header)) if log.header else 0
                log.header[at : at + draw.randint(0, 1)] = [draw.choice((*NASTY, *log.header, *USERS, *TIMES, "label"))]
            case 11 if row:
                column = draw.randrange(len(log.header) or 1)
                value = draw.choice(NASTY)
                for each in log.rows:
                    if column < len(each):
                        each[column] = value if draw.random() < 0.7 else each[column]


def damage_bytes(draw: Random, content: bytes, pieces: Sequence[bytes] = BYTES) -> bytes:
    """Flip, insert, delete, repeat and swap bytes, or cut the end off."""
    data = bytearray(content)
    for _ in range(draw.choice((0, 0, 0, 1, 1, 2, 3))):
        at, length = draw.randint(0, len(data)), draw.choice((0, 1, 1, 2, 5, 20))
        match draw.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            case 1 if data:
                data[at % len(data)] = draw.randrange(256)
            case 2 | 3 | 4:
                data[at : at + length] = draw.choice(pieces)
            case 5:
                del data[at : at + length]
            case 6:
                data[at:at] = data[at : at + length] * draw.randint(1, 3)
            case 7:
                other = draw.randint(0, len(data))
                data[at : at + length], data[other : other + length] = (
                    data[other : other + length], data[at : at + length],
                )  # fmt: skip
            case 8 if draw.random() < 0.3:
                del data[at:]
    return bytes(data)

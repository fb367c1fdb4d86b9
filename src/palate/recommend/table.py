"""The recommendations as a table for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from rich.table import Table

BAR = 16
"""Width of the bar that shows P, in terminal columns."""
WIDE, NARROW = 110, 72
"""Terminal widths below which the table omits the bar, and the number of ratings."""
MIN_TITLE = 12
LATEST = 5


def rich_table(ranked: pl.DataFrame, width: int, *, likes: bool = False) -> "Table":
    """The table of `Recommender.rank` in `width` columns; it shortens long titles, and no row wraps.

    That of a log of `likes` has no means of ratings.
    """
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    columns = {
        "": [str(rank) for rank in ranked["rank"]],
        "title": [one_line(t) or f"item {i}" for t, i in ranked.select("title", "item_id").iter_rows()],
        "P(like)": [f"{p:.3f}" for p in ranked["p"]],
        " ": [bar(p, BAR) for p in ranked["p"]],
        "item mean": [f"{mean:.2f}" for mean in ranked["item_mean"]],
        "ratings": [f"{count:,}" for count in ranked["item_count"]],
        "user + item": [f"{mean:.2f}" for mean in ranked["user_item"]],
    }
    columns = {name: cells for name, cells in columns.items() if name not in _left_out(width, likes)}
    widths = {name: max(map(cell_len, (name, *cells))) for name, cells in columns.items()}
    if " " in widths:
        widths[" "] = BAR
    # Only the title may shrink: Rich would shrink every column. A gap takes three columns.
    rest = width - sum(size for name, size in widths.items() if name != "title") - 3 * (len(columns) - 1)
    styles = {"": "dim", "title": "bold", " ": "green", "ratings": "dim"}
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        is_text = name in ("title", " ")
        size = max(MIN_TITLE, min(rest, widths[name])) if name == "title" else widths[name]
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis", width=size)
    for row, p in zip(zip(*columns.values(), strict=True), ranked["p"], strict=True):
        shown = styles | {"P(like)": "bold green" if p >= 0.5 else ""}
        table.add_row(*(Text(cell, shown.get(name, "")) for name, cell in zip(columns, row, strict=True)))
    return table


def _left_out(width: int, likes: bool) -> set[str]:
    narrow = (set() if width >= WIDE else {" "}) | (set() if width >= NARROW else {"ratings"})
    return narrow | ({"item mean", "user + item"} if likes else set())


def bar(share: float, width: int) -> str:
    """A bar of `share` × `width` columns, to an eighth of a column."""
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def one_line(title: str) -> str:
    """A title without line breaks, tabs and other control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in title).split())


def history_line(
    name: str, titles: Sequence[str], ratings: Sequence[float], shown: int | None, width: int, *, likes: bool = False
) -> str:
    """Two lines about the asker: the number and mean of the ratings with the number shown, and the latest ratings.

    `titles` and `ratings` are all of the asker's, oldest first; prompts show the last `shown` (None: no prompt). The
    second line has as many of the latest ratings as fit into `width` columns, at most `LATEST`. Likes are shown without
    ratings.
    """
    from rich.cells import cell_len

    count = len(ratings)
    noun = ("like" if likes else "rating") + "s" * (count != 1)
    mean = "" if likes else f", {sum(ratings) / count:.2f} on average"
    part = "" if shown is None else f"; the prompt shows {'them' if shown == count else f'the last {shown}'}"
    first = f"{name}: {count:,} {noun}{mean}{part}"
    shown = count if shown is None else shown
    newest = list(zip(reversed(titles), reversed(ratings), strict=True))[: min(shown, LATEST)]
    texts = [one_line(title) + ("" if likes else f": {rating:g}") for title, rating in newest]
    for n in range(len(texts), 0, -1):
        latest = "latest: " + " · ".join([*texts[:n], *(["…"] if n < shown else [])])
        if cell_len(latest) <= width:
            break
    return f"{first}\n{latest}"

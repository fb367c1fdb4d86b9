"""The table that a terminal shows, in narrow and wide ones."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from tests.examples import examples

from palate.recommend.table import bar, history_line, rich_table

TITLES = [
    "Heat (1995)",
    "Dr. Strangelove or: How I Learned to Stop Worrying and Love the Bomb (1963)",
    "七人の侍 (Seven Samurai) (1954)",
    "a\nb\x1b[31m\tc",
    "[bold]no markup[/bold]",
    "",
]


def ranked(titles: list[str]) -> pl.DataFrame:
    n = len(titles)
    columns = {"p": [0.99, 0.5, 0.01] * n, "item_mean": [4.5, 3.0, 1.25] * n, "item_count": [12_345, 7, 0] * n}
    return pl.DataFrame(
        {"rank": range(1, n + 1), "item_id": range(n), "title": titles}
        | {name: values[:n] for name, values in columns.items()}
        | {"user_item": [5.21] * n}
    )


def lines(titles: list[str], width: int) -> list[str]:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(rich_table(ranked(titles), width))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_every_recommendation_has_one_line_and_every_figure_room(width: int) -> None:
    head, rule, *rows = lines(TITLES, width)
    for word in ("title", "P(like)", "item mean", "user + item"):
        assert word in head
    assert ("ratings" in head, "█" in rows[0]) == (width >= 72, width >= 110)
    assert len(rows) == len(TITLES)
    for row in (head, rule, *rows):
        assert cell_len(row) <= width
    assert rows[0].split()[:3] == ["1", "Heat", "(1995)"]
    assert [row.split()[-1] for row in rows] == ["5.21"] * len(rows)
    assert "a b [31m c" in rows[3]
    assert "[bold]no mark" in rows[4]
    assert "item 5" in rows[5], "an item without a title is told by its id"
    if width == 200:
        assert all(title in row for title, row in list(zip(TITLES, rows, strict=True))[:3])


@examples(50)
@given(titles=st.lists(st.text(max_size=60), min_size=1, max_size=5), width=st.integers(60, 140))
def test_no_title_breaks_the_table(titles: list[str], width: int) -> None:
    found = lines(titles, width)
    assert len(found) == len(titles) + 2
    assert max(map(cell_len, found)) <= width


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [bar(share, 4) for share in (0.0, 0.125, 0.5, 0.53, 1.0)] == ["", "▌", "██", "██▏", "████"]


def test_who_asks_is_told_with_as_many_of_their_latest_ratings_as_fit() -> None:
    titles, ratings = ["A", "B\n", "C", "D"], [1.0, 2.0, 3.5, 4.0]
    told = history_line("user 7", titles, ratings, 3, 80)
    assert told == "user 7: 4 ratings, 2.62 on average; the prompt shows the last 3\nlatest: D: 4 · C: 3.5 · B: 2"
    assert history_line("user 7", titles, ratings, 3, 25).endswith("\nlatest: D: 4 · C: 3.5 · …")
    assert history_line("user 7", titles, ratings, 3, 5).endswith("\nlatest: D: 4 · …")
    assert history_line("x.csv", ["A"], [1.0], 1, 80).startswith(
        "x.csv: 1 rating, 1.00 on average; the prompt shows them"
    )
    assert history_line("user 7", list("ABCDEF"), [1.0] * 6, 6, 80).endswith("F: 1 · E: 1 · D: 1 · C: 1 · B: 1 · …")

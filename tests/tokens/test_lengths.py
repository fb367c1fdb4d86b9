from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from palate.prompt.chat import Chat
from palate.tokens.lengths import Lengths, lengths_path, load_lengths, measure, save_lengths
from palate.tokens.plain import IGNORED, tokenize_func
from palate.tokens.show import example_panels, lengths_table, plot_lengths, truncation_table

ROWS = [{"instruction": "I", "input": "x" * n, "output": "No"} for n in (1, 20, 7)]


def of(*totals: int) -> Lengths:
    return Lengths(np.array(totals, np.int32), np.full(len(totals), 3, np.int32))


def shown(thing: Any) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(thing)
    return console.export_text()


def test_lengths_are_those_of_the_tokens(tokenizer: Any) -> None:
    rows = [tokenize_func(row, tokenizer, 10_000) for row in ROWS]
    lengths = measure([ROWS[:2], ROWS[2:]], Chat(tokenizer))

    assert lengths.total.tolist() == [len(row["input_ids"]) for row in rows]
    assert lengths.response.tolist() == [sum(label != IGNORED for label in row["labels"]) for row in rows]


@given(st.lists(st.integers(4, 5000), min_size=1, max_size=50), st.integers(8, 4096))
def test_what_a_cutoff_costs_is_what_cutting_would_cost(totals: list[int], cutoff: int) -> None:
    row = of(*totals).truncation(cutoff)

    assert row["samples_cut"] == sum(n > cutoff for n in totals)
    assert row["tokens_cut"] == sum(n - min(n, cutoff) for n in totals)
    assert row["responses_cut"] == 0


def test_statistics_are_the_guides_figures() -> None:
    assert of(393, 432, 875).statistics() == {
        "min": 393,
        "max": 875,
        "mean": pytest.approx(566.667, abs=1e-3),
        "p50": 432,
        "p90": pytest.approx(786.4),
        "p95": pytest.approx(830.7),
        "p99": pytest.approx(866.14),
        "p100": 875,
    }


def test_alternatives_hold_the_cutoff_itself_and_the_tightest_that_cuts_nothing() -> None:
    rows = {row["cutoff_len"]: row for row in of(393, 875).alternatives(1000)}

    assert rows[1000]["memory_saved"] == 0
    assert rows[880]["samples_cut"] == 0
    assert rows[512]["samples_cut"] == 1
    assert rows[512]["memory_saved"] == pytest.approx(0.488)


def test_lengths_are_kept_whole_or_not_at_all(tokenizer: Any, tmp_path: Path) -> None:
    path = lengths_path(tmp_path, "data", tokenizer)
    assert load_lengths(path) is None
    save_lengths(of(1, 2), path)
    kept = load_lengths(path)
    assert kept is not None
    assert kept.total.tolist() == [1, 2]

    path.write_bytes(path.read_bytes()[:-3])
    assert load_lengths(path) is None


def test_the_tables_say_what_is_cut() -> None:
    text = shown(truncation_table(of(393, 600), 512))

    assert "512 ←" in text
    assert "none, 168 tokens to spare" in text
    assert "600 tokens" in shown(lengths_table(of(393, 600), "t"))


def test_an_example_is_shown_down_to_its_tokens(tokenizer: Any) -> None:
    text = shown(example_panels(ROWS[0], Chat(tokenizer), 1024, "Example"))

    assert '"instruction": "I"' in text
    assert "3 trained" in text
    assert "No<|im_end|>⏎" in text


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_histogram_is_written_in_the_format_of_its_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    plot_lengths(of(*range(300, 700)), 512, path, "train")

    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from palate.commands.lengths_tables import (
    Example,
    example_panels,
    lengths_table,
    mask_table,
    plot_lengths,
    strategies_table,
    truncation_table,
)
from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.tokens.lengths import Lengths
from palate.tokens.mask_audit import MaskAudit, Trained
from palate.tokens.plain import IGNORED

ROW = {"instruction": "I", "input": "x", "output": "No"}


def of(*totals: int) -> Lengths:
    return Lengths(np.array(totals, np.int32), np.full(len(totals), 3, np.int32))


def shown(thing: Any) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(thing)
    return console.export_text()


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


def test_the_tables_say_what_is_cut() -> None:
    text = shown(truncation_table(of(393, 600), 512))

    assert "512 ←" in text
    assert "none, 168 tokens to spare" in text
    assert "600 tokens" in shown(lengths_table(of(393, 600), "t"))


def test_the_risk_of_a_cutoff_grows_with_what_it_cuts() -> None:
    lines = shown(truncation_table(of(*[400] * 1000, 600), 512, 398, 580)).splitlines()
    risks = {line.split()[0]: line for line in lines[2:]}

    assert "low: 20 tokens off each, 20 at most" in risks["580"]
    assert "medium: 2 tokens off each, 202 at most" in risks["398"]
    assert "high: 144 tokens off each, 344 at most" in risks["256"]
    assert "cuts 1,001 answers" in shown(truncation_table(Lengths(np.full(1001, 400), np.full(1001, 300)), 256))


ROWS = [
    {
        "cutoff_len": 400,
        "truncation": "left",
        "samples_cut": 1234,
        "samples_dropped": 0,
        "history_items_cut": 77,
        "samples_with_unknown_items": 4,
        "tokens_cut": 55_555,
        "tokens": 987_654,
    },
    {"cutoff_len": 400, "truncation": "right", "refused": "train sample 3 would lose its answer"},
]


def test_truncations_are_compared_with_what_is_not_known_and_why_one_is_refused() -> None:
    text = shown(strategies_table(ROWS, "right"))
    left, right = text.splitlines()[2:4]

    assert left.split()[:7] == ["left", "1,234", "≥", "77", "55,555", "0", "987,654"]
    assert right.split()[:3] == ["right", "←", "refused"]
    assert "right: refused: train sample 3 would lose its answer" in text
    assert "unknown" in shown(strategies_table([{**ROWS[0], "samples_with_unknown_items": 1234}], "left"))
    nothing = {**ROWS[0], "samples_cut": 0, "samples_with_unknown_items": 0}
    assert "every sample fits" in shown(strategies_table([nothing], "left"))


def test_words_give_way_to_the_numbers_of_a_large_split() -> None:
    large = dict.fromkeys(ROWS[0], 1_234_567_890) | {"truncation": "history", "cutoff_len": 400}
    text = shown(strategies_table([{**large, "samples_with_unknown_items": 0}], "history"))

    assert text.count("1,234,567,890") == 5
    assert "…" not in text


def test_the_mask_is_told_with_what_was_looked_at() -> None:
    trained = [Trained((7, 8), "No<|im_end|>\n", 30), Trained((6, 8), "Yes<|im_end|>\n", 20)]
    text = shown(mask_table(MaskAudit("response", 50, 50, 1000, 100, 0.9, trained)))

    assert "900 of 1,000 tokens, 90.00%" in text
    assert "No<|im_end|>⏎ in 30 samples" in text
    assert "all 50 samples" in text
    assert "50 of 70 samples" in shown(mask_table(MaskAudit("answer", 70, 50, 1000, 100, 0.9, trained)))
    assert "refused: train sample 3" in shown(mask_table(InputError("train sample 3 is too long")))


def test_an_example_is_shown_down_to_its_tokens(tokenizer: Any) -> None:
    chat = Chat(tokenizer)
    ids, prompt_len = chat.encode(to_chat_messages(ROW))
    labels = [IGNORED] * prompt_len + ids[prompt_len:]
    text = shown(example_panels(Example(ROW, ids, labels), chat, "Example"))

    assert '"instruction": "I"' in text
    assert "3 trained" in text
    assert "No<|im_end|>⏎" in text
    assert f"{prompt_len} × -100, then {ids[prompt_len:]}" in text

    answer = [*labels[: prompt_len + 1], IGNORED, IGNORED]
    text = shown(example_panels(Example(ROW, ids, answer), chat, "Example"))
    assert f"{prompt_len} × -100, then [{ids[prompt_len]}], then 2 × -100" in text


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_histogram_is_written_in_the_format_of_its_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    plot_lengths(of(*range(300, 700)), 512, path, "train")

    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")

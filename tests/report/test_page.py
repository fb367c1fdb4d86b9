import html
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter
from tests.browser import Seen, browse, needs_browser
from tests.evidence import about, evaluation, whole, with_labels
from tests.films import film_samples
from tests.tree import Tree

from palate.measure.evaluation import Evaluation
from palate.measure.figures import least
from palate.measure.rows import evaluate
from palate.report.answer import answer
from palate.report.outcome import Outcome
from palate.report.page import About, Example, extreme_rows, render_report, write_page

EVIL = "<script>alert('x')</script> & \"Friends\" <img src=x onerror=alert(1)>"
VIEWS = ((1400, False), (1280, False), (1280, True), (800, False), (390, False))
"""Widths, and whether the theme is dark: it changes colours alone."""
SECTIONS = ["verdict", "users", "costs", "comparison", "ranking", "curves", "slices", "ablations", "seeds", "leaks",
            "training", "data"]  # fmt: skip


def page_of(outcome: Outcome | None = None, **told: Any) -> str:
    return render_report(outcome or whole(), replace(about(), **told))


def test_the_page_is_well_formed_and_holds_every_part_in_its_order() -> None:
    page = page_of()
    tree = Tree(page)
    assert {*SECTIONS, "roc", "reliability", "lengths", "loss", "wins", "losses", "prompt", "repeat"} <= tree.ids
    assert [i for i in re.findall(r'<section[^>]* id="(\w+)"', page) if i in SECTIONS] == SECTIONS
    assert whole().evaluation.verdict[0] in html.unescape(page)
    for entry in whole().evaluation.entries:
        assert html.escape(entry.label, quote=False).replace("'", "&#39;") in page
        assert f"{entry.metrics.auc:.3f}" in page


def test_the_answer_comes_first_and_users_and_costs_before_the_tables() -> None:
    page = html.unescape(page_of())
    first = answer(whole().evaluation)
    assert first is not None
    assert f'<p class="first">{first.sentence}</p>' in page
    assert all(f"<b>Warning</b> {warning}</p>" in page for warning in first.warnings)
    assert "<h3>User 7</h3>" in page
    assert "<td>Heat (1995)</td>" in page
    assert re.search(r'<td class="n seconds">3 min</td><td class="n">225</td><td class="n">40</td>', page)
    assert '<td class="n seconds">under 1 s</td>' in page


def test_slices_are_folded_below_their_sentences() -> None:
    section = page_of().partition('<section id="slices">')[2].partition("</section>")[0]
    before, fold, inside = section.partition('<details class="fold">')
    assert fold
    assert "Against " in before
    assert "forest" not in before
    assert "forest" in inside


def test_where_cards_are_few_the_stack_with_the_best_baseline_has_one() -> None:
    found = whole().evaluation
    stacks = [replace(found.entry("fine-tuned"), key=key, label=key) for key in ("stacked", "stacked-baseline")]
    page = page_of(replace(whole(), evaluation=replace(found, entries=[*found.entries, *stacks])))
    (headline,) = re.findall(r'<div class="headline">.*?\n</div>', page, flags=re.S)
    names = re.findall(r"<span>(.*?)</span>", headline)
    assert names[:3] == ["zero-shot", "fine-tuned", "stacked with a baseline"]
    assert len(names) == 4
    assert names[3].startswith("best baseline: ")


def test_every_link_of_the_contents_leads_to_a_part() -> None:
    page = page_of()
    linked = re.findall(r'<a href="#([\w-]+)"', page)
    assert len(linked) == 13
    assert set(linked) <= Tree(page).ids


def test_every_figure_has_its_numbers_in_a_table() -> None:
    figures = re.findall(r"<figure.*?</figure>", page_of(), flags=re.S)
    assert len(figures) > 14
    for figure in figures:
        assert "<svg " in figure
        assert re.search(r"<table[^>]*>.*<td", figure, flags=re.S)


def test_pairs_within_users_and_calibration_of_every_row_are_in_a_folded_table() -> None:
    inputs = whole()
    page = page_of(inputs)
    (table,) = re.findall(
        r"<details><summary>Pairs within users, and calibration</summary>.*?</details>", page, flags=re.S
    )
    for entry in inputs.evaluation.entries:
        for value in (entry.metrics.pair_auc, entry.metrics.ece_floor):
            assert value is None or f'<td class="n">{value:.3f}</td>' in table
    assert table.count("<tr>") == 1 + len(inputs.evaluation.entries)


def test_a_drawn_difference_that_holds_zero_has_the_size_that_the_rows_detect() -> None:
    inputs = whole()
    assert inputs.comparison is not None
    (figure,) = re.findall(r'<figure id="pairs-auc">.*?</figure>', page_of(inputs), flags=re.S)
    sizes = [least(pair.interval) for pair in inputs.comparison.of("auc") if pair.interval is not None]
    assert any(sizes)
    assert not all(sizes)
    assert re.findall(r'</svg></td><td class="n">(.*?)</td>', figure) == sizes


def test_the_floor_stands_beside_ece_before_and_after_calibration() -> None:
    found = whole().evaluation
    before, after = (found.entry(key).metrics for key in ("fine-tuned", "fine-tuned-calibrated"))
    told = [f"{m.ece:.3f} ({m.ece_floor:.3f} from noise alone)" for m in (before, after)]
    assert f"ECE {told[0]} → {told[1]}" in page_of()


def test_files_of_earlier_versions_still_make_a_page() -> None:
    inputs = whole()
    stored = json.loads(json.dumps(asdict(inputs.evaluation)))
    for entry in stored["entries"]:
        for name in ("pair_auc", "slope", "intercept", "ece_floor"):
            del entry["metrics"][name]
            entry["intervals"].pop(name, None)
    stored["differences"] = [d for d in stored["differences"] if d["metric"] != "pair_auc"]
    rankings = []
    for table in inputs.rankings:
        kept = json.loads(json.dumps(table.to_dict()))
        for each in kept["entries"]:
            del each["lists"]
        rankings.append(TypeAdapter(type(table)).validate_python(kept))
    page = page_of(replace(inputs, evaluation=TypeAdapter(Evaluation).validate_python(stored), rankings=rankings))
    assert [i for i in re.findall(r'<section[^>]* id="(\w+)"', page) if i in SECTIONS] == SECTIONS
    assert "from noise alone" not in page


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = page_of()
    tree = Tree(page)
    assert tree.count("script") == 0
    assert "@import" not in page
    assert "url(" not in page
    assert tree.asks_elsewhere == []


def test_text_from_outside_is_never_markup() -> None:
    inputs = whole()
    assert inputs.slices is not None
    assert inputs.leaks is not None
    examples = [replace(example, title=EVIL) for example in inputs.slices.wins]
    slices = [replace(part, dimension=EVIL, label=EVIL) for part in inputs.slices.slices]
    evil = replace(
        inputs,
        evaluation=replace(with_labels(inputs.evaluation, EVIL), verdict=[EVIL, EVIL]),
        slices=replace(inputs.slices, slices=slices, wins=examples, losses=examples),
        rankings=[
            replace(table, entries=[replace(entry, label=EVIL) for entry in table.entries]) for table in inputs.rankings
        ],
        leaks=replace(inputs.leaks, findings=tuple(replace(f, sentence=EVIL) for f in inputs.leaks.findings)),
    )
    page = page_of(
        evil,
        title=EVIL,
        histories={example.row: [EVIL] for example in examples},
        run={EVIL: EVIL},
        data_stats={EVIL: EVIL},
        prompt=EVIL,
        config=EVIL,
        commands=[EVIL],
        lengths={"lengths": {1: 1}, "cutoff_len": 8, "stats": {EVIL: EVIL}},
    )
    tree = Tree(page)
    assert page.count("&lt;img src=x") > 50
    assert tree.count("script") == 0
    assert tree.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in tree.elements for name in attributes)


def test_parts_without_input_are_left_out() -> None:
    page = render_report(Outcome("tiny", evaluation()), About("bare"))
    assert Tree(page).ids == {"verdict", "comparison", "curves", "roc", "reliability"}
    assert "None" not in page


def test_what_was_not_ranked_and_what_was_sampled_is_said() -> None:
    inputs = whole()
    page = page_of(inputs)
    assert "20 sampled candidates" in page
    assert "NDCG@5 (20 sampled)" in page
    assert "The model did not rank" not in page
    quick = [
        replace(table, entries=[entry for entry in table.entries if entry.kind == "baseline"])
        for table in inputs.rankings[:1]
    ]
    assert "The model did not rank" in page_of(replace(inputs, rankings=quick))


def test_examples_of_others_are_shown_the_surest_first() -> None:
    examples = [Example([f"1. {EVIL}"], f"example {n}", n % 2 == 0, p) for n, p in enumerate((0.6, 0.9, 0.99, 0.2))]
    page = render_report(Outcome("tiny", evaluation()), About("others", examples=examples))
    tree = Tree(page)
    assert "examples" in tree.ids
    assert tree.count("script") == 0
    assert re.findall(r"example \d", page) == ["example 2", "example 3", "example 0", "example 1"]


def test_extreme_rows_are_the_surest_of_each_class_on_both_sides() -> None:
    liked = np.array([True, True, True, True, False, False, False, False, True])
    scores = pl.DataFrame({"row": [7, 6, 5, 4, 3, 2, 1, 0], "p": [0.1, 0.4, 0.6, 0.8, 0.9, 0.6, 0.5, 0.2]})
    assert extreme_rows(scores, liked, count=2) == [0, 3, 4, 7]
    assert extreme_rows(scores, liked, count=8) == list(range(8))


def test_users_without_a_gauc_are_counted() -> None:
    found = whole().evaluation
    alone = found.users - found.entries[0].metrics.gauc_users
    assert alone > 0
    assert f"it leaves out {alone} of {found.users} users" in page_of()


@pytest.mark.parametrize("rows", [None, []])
def test_an_evaluation_of_one_class_or_of_no_rows_still_makes_a_page(rows: list[int] | None) -> None:
    samples = film_samples()
    scores = {"fine-tuned": pl.DataFrame({"row": range(len(samples.of("test"))), "p": 0.5})}
    found = evaluate(
        replace(samples, threshold=0.5),
        scores,
        baselines="quick",
        rows=rows,
        bootstrap=10,
    )
    page = render_report(Outcome("tiny", found), About("degenerate"))
    Tree(page)
    assert found.verdict[0] in page
    assert "nan" not in page


def test_the_loss_of_the_answer_is_told_where_it_is_known() -> None:
    training = [
        {"step": 5, "loss": 0.1, "decision_loss": 0.69},
        {"step": 5, "eval_loss": 0.2, "eval_decision_loss": 0.66, "eval_auc": 0.5813},
    ]
    page = page_of(training=training)
    assert "0.690" in page
    assert "0.660" in page
    assert "0.581" in page
    assert "a coin has 0.693" in page


@pytest.mark.parametrize(
    "training", [[{"step": 1, "loss": 0.0}], [{"step": 1, "loss": float("nan")}], [{"step": 3}], []]
)
def test_a_short_or_broken_training_log_draws_what_there_is(training: list[dict[str, float]]) -> None:
    tree = Tree(page_of(training=training))
    assert ("loss" in tree.ids) == (training == [{"step": 1, "loss": 0.0}])


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_page(tmp_path / name / "report.html", page_of())
    first, second = ((tmp_path / name / "report.html").read_bytes() for name in ("one", "two"))
    assert first == second
    assert first.startswith(b"<!DOCTYPE html>")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, bool], Seen]:
    """The page by width and darkness; the pictures stay in pytest's folder."""
    folder, page = tmp_path_factory.mktemp("report"), page_of()
    return {(width, dark): browse(page, folder, width=width, dark=dark) for width, dark in VIEWS}


@needs_browser
@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_a_browser_shows_every_part_without_a_word_on_its_console(
    shown: dict[tuple[int, bool], Seen], width: int, dark: bool
) -> None:
    seen = shown[width, dark]
    assert seen.console == ""
    assert seen.probe["width"] == width
    assert seen.probe["requests"] == []
    assert seen.probe["hidden"] == []
    assert seen.probe["figures"] > 14
    assert seen.probe["wide"] == []
    assert seen.picture.stat().st_size > 20_000


@needs_browser
def test_the_page_and_its_plots_follow_the_theme(shown: dict[tuple[int, bool], Seen]) -> None:
    light, dark = shown[1280, False].probe, shown[1280, True].probe
    assert light["paper"] != dark["paper"]
    assert light["inks"]
    assert set(light["inks"]).isdisjoint(dark["inks"])


@needs_browser
def test_the_browser_tells_of_requests_errors_and_what_is_too_wide(tmp_path: Path) -> None:
    """The checks above can fail."""
    foreign = (
        '<main><img src="http://example.invalid/a.png"><script>console.error("heard")</script>'
        '<p style="width:2000px">wide</p>'
    )
    seen = browse(page_of().replace("<main>", foreign), tmp_path)
    assert seen.probe["requests"] == ["http://example.invalid/a.png"]
    assert "heard" in seen.console
    assert any("wide" in element for element in seen.probe["wide"])

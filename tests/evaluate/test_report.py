import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.evaluate.rated import samples_of

from palate.evaluate.evaluation import Evaluation, evaluate
from palate.evaluate.report import ReportInputs, extreme_rows, render_report, write_report

EVIL = "<script>alert('x')</script> & \"Friends\" <img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def evaluation(timeline: pl.DataFrame) -> Evaluation:
    test = timeline.filter(pl.col("split") == "test")
    rng = np.random.default_rng(0)
    p = {"zero-shot": rng.random(len(test)), "fine-tuned": (test["rating"].to_numpy() / 5 + rng.random(len(test))) / 2}
    scores = {k: pl.DataFrame({"row": range(len(test)), "p": v, "mass": [0.9] * len(test)}) for k, v in p.items()}
    labels = {"zero-shot": "SmolLM2, zero-shot", "fine-tuned": "SmolLM2, fine-tuned"}
    return evaluate(samples_of(timeline), scores, rating_threshold=4.0, baselines="quick", bootstrap=50, labels=labels)


@pytest.fixture(scope="module")
def inputs(evaluation: Evaluation) -> ReportInputs:
    return ReportInputs(
        title="A run",
        evaluation=evaluation,
        run={"Model": "SmolLM2", "Seed": 13},
        lengths={"lengths": {"400": 10, "430": 25, "600": 2}, "cutoff_len": 512, "stats": {"max": 600, "mean": 431.2}},
        training=[{"step": 5, "loss": 2.5}, {"step": 10, "loss": 1.2}, {"step": 10, "eval_loss": 1.3}],
        examples=[
            {
                "history_titles": "1. Heat (1995)\n2. Babe (1995)",
                "candidate_title": "Alien (1979)",
                "label": "Yes",
                "p": 0.9,
            },
            {"history_titles": ["1. Big (1988)"], "candidate_title": "Cube (1997)", "label": "No", "p": 0.8},
        ],
        data_stats={"ratings": 100836, "samples": {"train": 78271}},
        prompt="<|im_start|>system\nYou are …",
        config="name: demo\n",
        commands=["palate run configs/demo.yaml"],
    )


class Tree(HTMLParser):
    """Every opened element, with a failure for one that is not closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.elements)

    @property
    def ids(self) -> set[str]:
        return {a["id"] for _, a in self.elements if a.get("id")}


def test_the_page_is_well_formed_and_holds_every_part(inputs: ReportInputs) -> None:
    page = render_report(inputs)
    tree = Tree(page)
    expected = {
        "verdict",
        "comparison",
        "roc",
        "reliability",
        "lengths",
        "loss",
        "examples",
        "data",
        "prompt",
        "repeat",
    }
    assert expected <= tree.ids
    assert inputs.evaluation.verdict[0] in html.unescape(page)
    for entry in inputs.evaluation.entries:
        assert html.escape(entry.label, quote=False).replace("'", "&#39;") in page
        assert f"{entry.metrics.auc:.3f}" in page


def test_every_figure_has_its_numbers_in_a_table(inputs: ReportInputs) -> None:
    figures = re.findall(r"<figure.*?</figure>", render_report(inputs), flags=re.S)
    assert len(figures) == 6
    for figure in figures:
        assert re.search(r"<svg viewBox.*<details>.*<table>.*<td", figure, flags=re.S)


def test_the_page_asks_for_nothing_from_elsewhere(inputs: ReportInputs) -> None:
    page = render_report(inputs)
    assert Tree(page).count("script") == 0
    assert "@import" not in page
    assert "url(" not in page
    for tag, attributes in Tree(page).elements:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            assert attributes.get(name) in (None, "data:,"), (tag, attributes)


def test_text_from_outside_is_never_markup(inputs: ReportInputs) -> None:
    entries = [replace(e, label=f"{EVIL} {e.key}") for e in inputs.evaluation.entries]
    evil = replace(
        inputs,
        title=EVIL,
        evaluation=replace(inputs.evaluation, entries=entries, verdict=[EVIL, EVIL]),
        run={EVIL: EVIL},
        examples=[{"history_titles": [EVIL], "candidate_title": EVIL, "label": "Yes", "p": 0.5}] * 2,
        data_stats={EVIL: EVIL},
        prompt=EVIL,
        config=EVIL,
        commands=[EVIL],
        lengths={"lengths": {1: 1}, "cutoff_len": 8, "stats": {EVIL: EVIL}},
    )
    tree = Tree(render_report(evil))
    assert tree.count("script") == 0
    assert tree.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in tree.elements for name in attributes)


def test_parts_without_input_are_left_out(evaluation: Evaluation) -> None:
    tree = Tree(render_report(ReportInputs("bare", evaluation)))
    assert tree.ids == {"verdict", "comparison", "curves", "roc", "reliability"}
    assert "None" not in render_report(ReportInputs("bare", evaluation))


@pytest.mark.parametrize("rows", [None, []])
def test_an_evaluation_of_one_class_or_of_no_rows_still_makes_a_page(
    timeline: pl.DataFrame, rows: list[int] | None
) -> None:
    test = timeline.filter(pl.col("split") == "test")
    scores = {"fine-tuned": pl.DataFrame({"row": range(len(test)), "p": [0.5] * len(test)})}
    found = evaluate(samples_of(timeline), scores, rating_threshold=0.5, baselines="quick", rows=rows, bootstrap=10)
    page = render_report(ReportInputs("degenerate", found))
    Tree(page)
    assert found.verdict[0] in page
    assert "nan" not in page


def test_the_loss_of_the_answer_is_told_where_it_is_known(inputs: ReportInputs) -> None:
    training = [
        {"step": 5, "loss": 0.1, "decision_loss": 0.69},
        {"step": 5, "eval_loss": 0.2, "eval_decision_loss": 0.66, "eval_auc": 0.5813},
    ]
    page = render_report(replace(inputs, training=training))
    assert "0.690" in page
    assert "0.660" in page
    assert "0.581" in page
    assert "a coin has 0.693" in page


@pytest.mark.parametrize(
    "training", [[{"step": 1, "loss": 0.0}], [{"step": 1, "loss": float("nan")}], [{"step": 3}], []]
)
def test_a_short_or_broken_training_log_draws_what_there_is(
    inputs: ReportInputs, training: list[dict[str, float]]
) -> None:
    tree = Tree(render_report(replace(inputs, training=training)))
    assert ("loss" in tree.ids) == (training == [{"step": 1, "loss": 0.0}])


def test_writing_twice_gives_the_same_bytes(tmp_path: Path, inputs: ReportInputs) -> None:
    for name in ("one", "two"):
        write_report(tmp_path / name / "report.html", inputs)
    first, second = ((tmp_path / name / "report.html").read_bytes() for name in ("one", "two"))
    assert first == second
    assert first.startswith(b"<!DOCTYPE html>")


def test_extreme_rows_are_the_surest_of_each_class_on_both_sides() -> None:
    liked = np.array([True, True, True, True, False, False, False, False, True])
    scores = pl.DataFrame({"row": [7, 6, 5, 4, 3, 2, 1, 0], "p": [0.1, 0.4, 0.6, 0.8, 0.9, 0.6, 0.5, 0.2]})
    assert extreme_rows(scores, liked, count=2) == [0, 3, 4, 7]
    assert extreme_rows(scores, liked, count=8) == list(range(8))


PROBE = """<script>addEventListener('load', () => {
const all = selector => [...document.querySelectorAll(selector)];
const box = e => e.getBoundingClientRect();
document.body.dataset.probe = JSON.stringify({
  hidden: all('h1, section, figure > svg, .comparison, svg.interval')
    .filter(e => box(e).width < 60 || box(e).height < 15).map(e => e.outerHTML.slice(0, 80)),
  drawings: all('figure > svg').length,
  requests: performance.getEntriesByType('resource').map(r => r.name).filter(name => !name.startsWith('data:')),
  wide: document.documentElement.scrollWidth > innerWidth,
  paper: getComputedStyle(document.body).backgroundColor,
  inks: all('polyline.m1, rect.m1').map(e => getComputedStyle(e).stroke + getComputedStyle(e).fill),
})})</script>"""


def browse(page: str, folder: Path, *options: str) -> tuple[dict[str, object], str]:
    """What the probe saw in a real browser, and what the browser wrote to its console."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"{PROBE}</body>"))
    offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *offline,
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--dump-dom",
        *options,
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    probe = re.search(r'data-probe="(.*?)"', done.stdout)
    assert probe, done.stdout[-500:]
    console = "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)
    return json.loads(html.unescape(probe[1])), console


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1240, 600])
def test_a_browser_shows_every_part_without_a_word_on_its_console(
    tmp_path: Path, inputs: ReportInputs, width: int
) -> None:
    seen, console = browse(render_report(inputs), tmp_path, f"--window-size={width},900")
    assert console == ""
    assert seen["requests"] == []
    assert seen["hidden"] == []
    assert seen["drawings"] == 6
    assert not seen["wide"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_the_browser_tells_of_requests_and_errors_if_there_are_any(tmp_path: Path, inputs: ReportInputs) -> None:
    """The check above can fail: a picture from elsewhere and a script's error are heard of."""
    foreign = '<main><img src="http://example.invalid/a.png"><script>console.error("heard")</script>'
    seen, console = browse(render_report(inputs).replace("<main>", foreign), tmp_path)
    assert seen["requests"] == ["http://example.invalid/a.png"]
    assert "heard" in console


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_the_page_and_its_plots_follow_the_theme(tmp_path: Path, inputs: ReportInputs) -> None:
    light, _ = browse(render_report(inputs), tmp_path, "--blink-settings=preferredColorScheme=1")
    dark, _ = browse(render_report(inputs), tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light["paper"] != dark["paper"]
    assert light["inks"]
    assert set(light["inks"]).isdisjoint(dark["inks"])

import io
from dataclasses import replace

import polars as pl
import pytest
from rich.console import Console
from tests.rated import samples_of

from palate.measure.evaluation import Evaluation
from palate.measure.rows import Models, evaluate
from palate.report.table import cell, ece_text, evaluation_table, floor_note


@pytest.fixture(scope="module")
def evaluation(timeline: pl.DataFrame) -> Evaluation:
    test = timeline.filter(pl.col("split") == "test")
    scores = pl.DataFrame({"row": range(len(test)), "p": test["rating"] / 5.0, "mass": [0.5] * len(test)})
    labels = {"fine-tuned": "SmolLM2-135M-Instruct, fine-tuned [r=16]"}
    models = Models({"fine-tuned": scores}, labels)
    return evaluate(samples_of(timeline), models, baselines="quick", bootstrap=50)


def printed(evaluation: Evaluation, width: int = 100) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(evaluation_table(evaluation))
    return console.file.getvalue().splitlines()


def test_the_terminal_table_fits_100_columns_and_shows_every_entry(evaluation: Evaluation) -> None:
    lines = printed(evaluation)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    for entry in evaluation.entries:
        assert entry.label[:20] in text
        assert f"{entry.metrics.log_loss:.3f}" in text
    assert "[r=16]" in text.replace("\n", "")


def test_models_stand_apart_from_baselines_under_a_title(evaluation: Evaluation) -> None:
    lines = [line.strip() for line in printed(evaluation)]
    last = next(i for i, line in enumerate(lines) if line.startswith("mean of the history"))
    assert lines[last + 1] == ""
    assert lines[last + 2] == "The language model"
    assert lines[last + 3].startswith("SmolLM2")


def test_an_undefined_metric_is_a_dash(timeline: pl.DataFrame) -> None:
    one_class = evaluate(samples_of(timeline, 0.5), {}, baselines="quick", bootstrap=0)
    assert cell(None) == "–"
    assert any("–" in line for line in printed(one_class))


def test_the_floor_of_ece_stands_beside_it_where_it_is_known(evaluation: Evaluation) -> None:
    known = evaluation.entry("fine-tuned").metrics
    old = replace(known, ece_floor=None)
    assert ece_text(known) == f"{known.ece:.3f} ({known.ece_floor:.3f} from noise alone)"
    assert ece_text(old) == f"{known.ece:.3f}"
    assert floor_note([old, known]) == f"; ECE from noise alone up to {known.ece_floor:.3f}"
    assert floor_note([old]) == ""

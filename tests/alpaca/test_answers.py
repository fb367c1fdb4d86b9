from pathlib import Path

import pytest
from tests.tallrec import examples, write

from palate.alpaca.answers import Answers, answers_of, labels_of, written
from palate.alpaca.reader import AlpacaFile, read_alpaca
from palate.errors import InputError

YES_NO = Answers("Yes", "No")


def file_of(tmp_path: Path, *outputs: str, name: str = "x.json") -> AlpacaFile:
    records = [{"instruction": "I", "input": "", "output": output} for output in outputs]
    return read_alpaca(write(tmp_path / name, records))


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (["Yes.", "No."], ("Yes.", "No.")),
        (["Yes", "No"], ("Yes", "No")),
        (["yes", "no"], ("yes", "no")),
        (["YES!\n", "NO!\n"], ("YES!\n", "NO!\n")),
        ([" Yes.", " No."], (" Yes.", " No.")),
        (["Yes."], ("Yes.", "No.")),
        (["no.\n"], ("yes.\n", "no.\n")),
        (["Yes.", "No.", "yes", "Yes.\n", "NO"], ("Yes.", "No.")),
    ],
)
def test_the_answers_are_the_files_own(tmp_path: Path, outputs: list[str], found: tuple[str, str]) -> None:
    file = file_of(tmp_path, *outputs)

    answers = answers_of([file], YES_NO)

    assert answers == found
    liked = [output.strip().lower().startswith("y") for output in outputs]
    assert labels_of(file.frame, answers).tolist() == liked
    assert written(liked, answers).to_list() == [found[0] if like else found[1] for like in liked]


def test_answers_of_other_words_are_named(tmp_path: Path) -> None:
    file = file_of(tmp_path, "Positive.", "Negative.")

    assert answers_of([file], Answers("positive", "negative")) == ("Positive.", "Negative.")
    assert labels_of(file.frame, Answers("positive", "negative")).tolist() == [True, False]


def test_answers_found_before_are_found_again(tmp_path: Path) -> None:
    file = file_of(tmp_path, "Yes.", "No.")

    assert answers_of([file], Answers("Yes.", "No.")) == ("Yes.", "No.")


def test_the_files_of_a_folder_have_one_form(tmp_path: Path) -> None:
    train, test = file_of(tmp_path, "Yes.", "No.", "No."), file_of(tmp_path, "Yes", "No", name="y.json")

    assert answers_of([train, test], YES_NO) == ("Yes.", "No.")


def test_a_third_answer_is_told_with_its_line(tmp_path: Path) -> None:
    records = [*examples(3), {**examples(1)[0], "output": "Maybe."}]
    path = write(tmp_path / "x.json", records)
    line = 1 + next(n for n, text in enumerate(path.read_text().splitlines()) if "Maybe." in text)

    with pytest.raises(InputError, match=rf"x\.json:{line}: record 4: the answer is 'Maybe\.', expected Yes or No"):
        answers_of([read_alpaca(path)], YES_NO)

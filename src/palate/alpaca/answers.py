"""The two answers of an Alpaca file: which outputs mean Yes or No, and their spelling."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.alpaca.reader import AlpacaFile

log = logging.getLogger(__name__)

_AROUND = " \t\r\n.,;:!?\"'`*"
"""White space and punctuation around an answer's word, which do not change the answer."""

_CASES = {"capital": str.capitalize, "lower": str.lower, "upper": str.upper}


class Answers(NamedTuple):
    """The texts of the responses Yes and No."""

    yes: str
    no: str


class _Form(NamedTuple):
    """The spelling of a word: the text before and after it, and its case."""

    before: str
    after: str
    case: str

    def of(self, word: str) -> str:
        return self.before + _CASES.get(self.case, str)(word) + self.after


def answers_of(files: Sequence[AlpacaFile], configured: Answers) -> Answers:
    """The answers as the files spell them: the `configured` words in the files' most frequent form.

    Form is the case, white space and punctuation around the word: "Yes.", "yes" and "Yes\\n" all mean Yes. An answer
    that no example gives takes the form of the other. Raises `InputError` with the line of the first other answer.
    """
    words = Answers(*(answer.strip(_AROUND) or answer for answer in configured))
    forms: Counter[_Form] = Counter()
    for file in files:
        counts = file.frame["output"].value_counts(sort=False).rows()
        unknown = [text for text, _ in counts if _read(text, words) is None]
        if unknown:
            record = int(file.frame["output"].is_in(unknown).arg_true()[0])
            shown = file.frame["output"][record]
            shown = repr(shown if len(shown) <= 40 else shown[:40] + "…")
            file.fail(
                f"the answer is {shown}, expected {words.yes} or {words.no} (prompt.yes and prompt.no set other words)",
                record,
            )
        for text, count in counts:
            read = _read(text, words)
            assert read is not None
            forms[read[1]] += count
    form = min(forms, key=lambda form: (-forms[form], form))
    found = Answers(form.of(words.yes), form.of(words.no))
    if len(forms) > 1:
        log.info(
            "the files spell the answers in %d ways; using %r and %r, the most frequent, for all", len(forms), *found
        )
    return found


def labels_of(frame: pl.DataFrame, answers: Answers) -> NDArray[np.bool_]:
    """Which examples have the answer Yes, (n,) bool; `answers_of` must have accepted their file."""
    words = Answers(*(answer.strip(_AROUND) or answer for answer in answers))
    read = {text: _read(text, words) for text in frame["output"].unique()}
    is_yes = {text: found is not None and found[0] for text, found in read.items()}
    return frame["output"].replace_strict(is_yes, return_dtype=pl.Boolean).to_numpy()


def written(labels: Iterable[bool], answers: Answers) -> pl.Series:
    """The target response of each example: `answers` by label."""
    return pl.Series("output", labels, dtype=pl.Boolean).replace_strict(
        [True, False], list(answers), return_dtype=pl.String
    )


def _read(text: str, words: Answers) -> tuple[bool, _Form] | None:
    """Whether a text means Yes, and its form; None if it is neither answer."""
    core = text.strip(_AROUND) or text
    for is_yes, word in ((True, words.yes), (False, words.no)):
        if core.casefold() == word.casefold():
            before, _, after = re.split(f"({re.escape(core)})", text, maxsplit=1)
            case = next((name for name, change in _CASES.items() if core == change(word)), "as configured")
            return is_yes, _Form(before, after, "as configured" if core == word else case)
    return None

"""Tables of text: CSV, TSV, the files of MovieLens, RecBole's atomic files."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import Log, damage_bytes, damage_rows, log_of
from tests.fuzz.oracle import FIXED, Wrong, differs, ratings_of, unlike

from palate.errors import PalateError
from palate.ratings.load import Ratings, load_ratings


def written(draw: Random, log: Log, separator: str) -> bytes:
    """The log as text: with quotes where they are needed, everywhere, or nowhere."""
    end = draw.choice(("\n", "\n", "\r\n"))
    text = io.StringIO()
    style = draw.choice(("usual", "usual", "all", "none"))
    if style == "none" or len(separator) > 1:
        text.write("".join(separator.join(row) + end for row in [log.header, *log.rows]))
    else:
        quoting = csv.QUOTE_ALL if style == "all" else csv.QUOTE_MINIMAL
        csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end).writerows([log.header, *log.rows])
    whole = text.getvalue()
    whole = whole.removesuffix(end) if draw.random() < 0.2 else whole
    if draw.random() < 0.05:
        whole = whole.replace(end, draw.choice(("\r", "\r\n", "\n\n", end + end)), draw.randint(1, 5))
    return whole.encode(draw.choice(("utf-8",) * 7 + ("utf-8-sig", "utf-16", "cp1252")), "replace")


def make_text(separators: Sequence[str], names: Sequence[str], draw: Random, folder: Path) -> Case:
    """A table of text."""
    separator, name = draw.choice(separators), draw.choice(names)
    log = log_of(draw, fixed=name in FIXED)
    damage_rows(draw, log)
    if name in FIXED:
        log = Log(log.rows[0] if log.rows else [], log.rows[1:])
    content = damage_bytes(draw, written(draw, log, separator))
    (folder / name).write_bytes(content)
    return Case(folder / name, len(content))


def check_text(case: Case, seed: int) -> Outcome:
    """Compare what was read with what a slow reader finds, in memory, on the disk, and without wrong rows."""
    path = case.path
    try:
        found = load_ratings(str(path), untitled="id")
    except PalateError as error:
        outcome, found = refusal(error, path.parent), None
    else:
        outcome = "read"
        compare(path.name, found, path.read_bytes())
    if seed % 4 == 0:
        skipped(path, found)
    if seed % 4 == 1:
        on_disk(path, found)
    return outcome


def compare(name: str, found: Ratings, content: bytes) -> None:
    """Raise `Fault` unless a convention of quotes gives the ratings that were read."""
    problems = []
    try:
        for keys in ratings_of(content, name, found):
            if not (problem := differs(found, keys)):
                return
            problems.append(problem)
    except Wrong as error:
        problems.append(f"it is to be refused: {error}")
    raise Fault("; ".join(problems) or "no convention of quotes reads it")


def skipped(path: Path, found: Ratings | None) -> None:
    """Read without the wrong rows: nothing changes where there are none, and none is lost without a count."""
    try:
        kept = load_ratings(str(path), untitled="id", bad_rows="report")
    except PalateError as error:
        refusal(error, path.parent)
        if found is not None:
            raise Fault(f"is refused only if wrong rows are left out: {error}") from None
        return
    assert kept.skipped is not None
    lost = sum(kept.dropped.values())
    if lost != kept.skipped.height:
        raise Fault(f"{kept.dropped} were dropped, {kept.skipped.height} are reported")
    if found is not None and (kept.dropped or not kept.frame.equals(found.frame)):
        raise Fault(f"rows that are right were left out: {kept.skipped.rows()}")
    if found is None and not lost and b"\xef\xbf\xbd" not in path.read_bytes().decode(errors="replace").encode():
        raise Fault("is refused, but no row is left out")
    problems, wrong = [], list[str]()
    for keys in ratings_of(path.read_bytes(), path.name, kept, wrong):
        problem = unlike(kept, keys)
        if not problem and len(keys) + len(wrong) == kept.frame.height + lost:
            return
        problems.append(problem or f"{lost} of {len(keys) + len(wrong)} rows are left out, {kept.frame.height} read")
    raise Fault(f"without wrong rows: {problems}, {kept.skipped.rows()}")


def on_disk(path: Path, found: Ratings | None) -> None:
    """Read block by block: the same ratings, or a refusal."""
    try:
        mapped = load_ratings(str(path), untitled="id", memory=1)
    except PalateError as error:
        refusal(error, path.parent)
        return
    if found is None:
        raise Fault(f"is refused in memory, but read on the disk: {mapped.frame.rows()}")
    if not mapped.frame.equals(found.frame) or mapped.times != found.times:
        raise Fault(f"{mapped.frame.rows()} on the disk, {found.frame.rows()} in memory")

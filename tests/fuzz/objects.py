"""Tables in JSON."""

import json
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import damage_bytes, damage_rows, log_of
from tests.fuzz.oracle import Wrong, differs, objects_of, ratings_in

from palate.errors import PalateError
from palate.ratings.load import load_ratings

JSON_NASTY = (
    "NaN", "Infinity", "-Infinity", "1e400", "-0", "-0.0", "1E2", "01", "+1", ".5", "5.", "0x1f", "1_000", "true",
    "null", "[]", "{}", "[1]", '{"id": 7}', '"\\ud800"', '"\\u0000"', '"\\u202ex"', "'a'", "None", "True",
    "/* */ 1", '"a', "",
    *map(str, (2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30)), "1.5", "7.0", "[" * 200,
    '{"a":' * 200,
)  # fmt: skip
JSON_BYTES = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"\r\n", b"null", b"NaN", b"\xff", b"\x00",
              b"\xef\xbb\xbf", b" ", b"1", b"e", b"-", b'"user":', b"\\u0000", b"\\ud83d")  # fmt: skip


def as_json(draw: Random, text: str) -> str:
    """A field as a value of JSON: a number where it is one, or text."""
    is_number = text.replace(".", "", 1).isdecimal() and text.isascii() and (text == "0" or text[0] != "0")
    return text if is_number and draw.random() < 0.9 else json.dumps(text, ensure_ascii=draw.random() < 0.5)


def make_json(draw: Random, folder: Path) -> Case:
    """Objects by line, or in an array; the ratings of a user may be a list in an object."""
    log = log_of(draw)
    if draw.random() < 0.5:
        damage_rows(draw, log)
    rows = [[f"{json.dumps(name)}: {as_json(draw, value)}" for name, value in zip(log.header, row, strict=False)]
            for row in log.rows]  # fmt: skip
    for _ in range(draw.choice((0, 0, 1, 1, 2))):
        row = draw.choice(rows) if rows else []
        at = draw.randrange(len(row)) if row else 0
        match draw.randrange(4):
            case 0 | 1 if row:
                row[at] = f"{row[at].partition(':')[0]}: {draw.choice(JSON_NASTY)}"
            case 2 if row:
                row.append(draw.choice(row))
            case 3:
                draw.shuffle(row)
    objects = [f"{{{', '.join(row)}}}" for row in rows]
    kind = draw.choice(("lines", "lines", "lines", "array", "nested"))
    if kind == "nested":
        objects = [f'{{"user_id": {n}, "ratings": [{one}]}}' for n, one in enumerate(objects)]
    if kind == "array":
        text, name = f"[{draw.choice((', ', ',', chr(10))).join(objects)}]", draw.choice(("log.json", "ratings.jsonl"))
    else:
        text, name = "".join(f"{one}\n" for one in objects), draw.choice(("log.json", "ratings.jsonl", "log.ndjson"))
    content = damage_bytes(draw, text.encode(draw.choice(("utf-8",) * 9 + ("utf-16",)), "replace"), JSON_BYTES)
    (folder / name).write_bytes(content)
    return Case(folder / name, len(content))


def check_json(case: Case, seed: int) -> Outcome:
    """Compare what was read with what Python's json finds."""
    try:
        found = load_ratings(str(case.path), untitled="id")
    except PalateError as error:
        return refusal(error, case.path.parent)
    try:
        keys = ratings_in(objects_of(case.path.read_bytes(), found), found)
    except Wrong as error:
        raise Fault(f"it is to be refused: {error}") from None
    if problem := differs(found, keys):
        raise Fault(problem)
    return "read"

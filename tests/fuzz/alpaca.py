"""Alpaca files, and the logs of MIND."""

import json
import re
from datetime import datetime
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import NASTY, damage_bytes
from tests.fuzz.objects import JSON_BYTES, JSON_NASTY

from palate.alpaca.reader import read_alpaca
from palate.errors import PalateError
from palate.ratings.load import load_ratings

TEXTS = ("instruction", "input", "output")


def make_alpaca(draw: Random, folder: Path) -> Case:
    """Examples in an array or by line."""
    records = [{"instruction": f"I{n}", "input": f"in {n}", "output": draw.choice(("Yes", "No"))} for n in range(4)]
    for _ in range(draw.choice((0, 0, 1, 2))):
        draw.choice(records)[draw.choice((*TEXTS, "user_id", "history"))] = draw.choice(
            (*NASTY, 7, None, [], [["a", "b"]])
        )
    texts = [json.dumps(record, ensure_ascii=draw.random() < 0.5) for record in records]
    text = "\n".join(texts) + "\n" if draw.random() < 0.5 else f"[{', '.join(texts)}]"
    if draw.random() < 0.2:
        text = text.replace(draw.choice(('"Yes"', '"I1"')), draw.choice(JSON_NASTY), 1)
    content = text.encode()
    content = damage_bytes(draw, content, JSON_BYTES) if draw.random() < 0.6 else content
    (folder / "test.json").write_bytes(content)
    return Case(folder / "test.json", len(content))


def check_alpaca(case: Case, seed: int) -> Outcome:
    """Each record is an example, with its texts."""
    try:
        found = read_alpaca(case.path)
    except PalateError as error:
        return refusal(error, case.path.parent)
    text = case.path.read_bytes().decode("utf-8-sig")
    try:
        records = (
            json.loads(text) if text.lstrip()[:1] == "[" else [json.loads(x) for x in text.split("\n") if x.strip()]
        )
    except ValueError as error:
        raise Fault(f"it is to be refused: {error}") from None
    expected = [tuple(record.get(name) or "" for name in TEXTS) for record in records]
    read = found.frame.select(TEXTS).rows()
    if read != expected:
        raise Fault(f"{read} was read of {expected}")
    return "read"


def make_mind(draw: Random, folder: Path) -> Case:
    """A log of impressions."""
    lines = []
    for number in range(1, draw.randint(2, 6)):
        shown = " ".join(f"N{draw.randint(1, 50)}-{draw.randint(0, 1)}" for _ in range(draw.randint(1, 3)))
        time = f"11/{10 + number}/2019 9:{10 + number}:12 AM"
        fields = [str(number), f"U{draw.randint(1, 3)}", time, draw.choice(("", "N60", "N61 N62")), shown]
        if draw.random() < 0.1:
            fields[draw.randrange(5)] = draw.choice(NASTY)
        lines.append("\t".join(fields) + draw.choice(("\n", "\n", "\r\n")))
    content = damage_bytes(draw, "".join(lines).encode())
    (folder / "behaviors.tsv").write_bytes(content)
    return Case(folder, len(content))


def check_mind(case: Case, seed: int) -> Outcome:
    """Each news that was shown is a row."""
    try:
        found = load_ratings(str(case.path), untitled="id")
    except PalateError as error:
        return refusal(error, case.path)
    shown = []
    encoding = found.shape.partition(", ")[2] or "utf-8"
    for line in (case.path / "behaviors.tsv").read_bytes().decode(encoding).removeprefix("\ufeff").split("\n"):
        fields = line.rstrip("\r").split("\t")
        if not any(fields):
            continue
        try:
            _, user, time, _, news = fields
            datetime.strptime(time, "%m/%d/%Y %I:%M:%S %p")
            shown += [(user, *re.fullmatch(r"(.+)-([01])", one, re.DOTALL).groups()) for one in news.split(" ")]  # type: ignore[union-attr]
        except (ValueError, AttributeError) as error:
            raise Fault(f"it is to be refused: {error} in {line!r}") from None
    read = [(str(u), str(i), f"{r:g}") for u, i, r in found.frame.select("user_id", "item_id", "rating").rows()]
    if lost := [row for row in shown if row not in read]:
        raise Fault(f"{lost} were not read: {read}")
    return "read"

"""Examples in the shape of TALLRec's files, of invented films."""

import json
import random
from pathlib import Path
from typing import Any

INSTRUCTION = (
    "Given the user's preference and unpreference, identify whether the user will like the target movie by answering "
    '"Yes." or "No.".'
)


def example(liked: list[str], disliked: list[str], target: str, output: str) -> dict[str, Any]:
    """One example."""
    told = [", ".join(f'"{title}"' for title in titles) for titles in (liked, disliked)]
    text = (
        f"User Preference: {told[0]}\nUser Unpreference: {told[1]}\n"
        f'Whether the user will like the target movie "{target}"?'
    )
    return {"instruction": INSTRUCTION, "input": text, "output": output}


def examples(n: int, seed: int = 0, yes: str = "Yes.", no: str = "No.") -> list[dict[str, Any]]:
    """Users who like much go on liking much; film 0 to 9 are liked more than the others."""
    draw, made = random.Random(seed), []
    for _ in range(n):
        taste = draw.random()
        seen = draw.sample(range(20), 6)
        titles = [f"Film {film}, The ({1950 + film})" for film in seen]
        likes = [draw.random() < taste for _ in titles[:-1]]
        outcome = draw.random() < 0.7 * taste + 0.3 * (seen[-1] < 10)
        liked = [title for title, like in zip(titles, likes, strict=False) if like]
        disliked = [title for title, like in zip(titles, likes, strict=False) if not like]
        made.append(example(liked, disliked, titles[-1], yes if outcome else no))
    return made


def write(path: Path, records: list[dict[str, Any]], indent: int | None = 4) -> Path:
    """As a JSON array over many lines, as TALLRec's are, or an object a line by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    else:
        path.write_text(json.dumps(records, indent=indent))
    return path

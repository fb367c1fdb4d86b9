"""A small ratings log in MovieLens's shape, written for a test."""

import random
from pathlib import Path


def write_ratings(folder: Path, users: int = 12, each: int = 40, items: int = 60) -> Path:
    """`ratings.csv` and `movies.csv`: every user likes the same half of the items."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    titles = [f'{item},"Film {item}, The ({1950 + item})",Drama' for item in range(1, items + 1)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]) + "\n")
    rows = ["userId,movieId,rating,timestamp"]
    for user in range(1, users + 1):
        for time, item in enumerate(draw.sample(range(1, items + 1), each)):
            rating = (4.5 if item % 2 else 2.0) + draw.choice((0, 0.5, -0.5))
            rows.append(f"{user},{item},{rating},{1_000_000 + 1000 * user + time}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    return folder

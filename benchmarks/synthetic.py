"""A ratings log in MovieLens' shape, of any size: what is measured on it can be measured by anyone.

    python benchmarks/synthetic.py --ratings 32000000 --titles 87000 --out data/synthetic-32m

Writes `ratings.csv` and `movies.csv` as MovieLens has them (CRLF, users ascending, then movies). The same
arguments give the same bytes. Memory does not grow with the number of ratings: users are drawn block by block.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

RATINGS_A_USER = 160
LEAST = 20
"""MovieLens publishes no user with fewer ratings."""
BLOCK = 1_000_000
"""Ratings that are drawn and written at a time."""

STARS = np.arange(0.5, 5.5, 0.5)
STAR_SHARES = np.array([14, 28, 18, 75, 55, 199, 130, 266, 85, 130]) / 1000  # ml-latest-small's


def write(out: Path, ratings: int, titles: int, seed: int = 0) -> None:
    """Write `ratings.csv` and `movies.csv` to the folder `out`.

    Raises `ValueError` where so many ratings by so many users do not fit so few titles.
    """
    rng = np.random.default_rng(seed)
    counts = activity(ratings, titles, rng)
    movies = np.cumsum(rng.geometric(0.3, titles))  # ids have gaps, as there
    out.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"movieId": movies, **titles_and_genres(titles, random.Random(seed))}).write_csv(
        out / "movies.csv", line_terminator="\r\n"
    )
    chance = popularity(titles, rng)
    with (out / "ratings.csv").open("wb") as file:
        for n, block in enumerate(blocks(counts, movies, chance, rng)):
            block.write_csv(file, include_header=n == 0, line_terminator="\r\n")


def activity(ratings: int, titles: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many ratings each user gives: log-normal above the minimum, `ratings` in all."""
    users, most = max(1, round(ratings / RATINGS_A_USER)), titles // 2
    if not LEAST * users <= ratings <= most * users:
        raise ValueError(f"{ratings} ratings by {users} users do not fit {titles} titles")
    extra = rng.lognormal(0, 1.5, users)
    extra *= (ratings - LEAST * users) / extra.sum()
    counts = LEAST + np.minimum(extra, most - LEAST).astype(np.int64)
    while missing := ratings - int(counts.sum()):  # what rounding and the most active users' limit left over
        open_ = np.flatnonzero(counts < most)
        counts[rng.choice(open_, min(missing, open_.size), replace=False)] += 1
    return counts


def popularity(titles: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Cumulated chances of the titles by Zipf and Mandelbrot's law, the popular ones anywhere among them.

    Of 87,000 titles the first hundredth has 46 % of all ratings. Few titles have a shorter flat top.
    """
    weight = (np.arange(titles) + min(250, titles / 40)) ** -1.6
    chance: NDArray[np.float64] = np.cumsum(rng.permutation(weight))
    chance /= chance[-1]
    return chance


def blocks(
    counts: NDArray[np.int64], movies: NDArray[np.int64], chance: NDArray[np.float64], rng: np.random.Generator
) -> Iterator[pl.DataFrame]:
    """The ratings of about `BLOCK` at a time, whole users each, in the file's order."""
    edges = np.flatnonzero(np.diff(np.cumsum(counts) // BLOCK)) + 1
    first = 1
    for sizes in np.split(counts, edges):
        user, item = picks(sizes, chance, rng)
        when = times(sizes, rng)
        order = np.argsort(user * movies.size + item)  # the picks are in order of time, the file in order of movies
        yield pl.DataFrame(
            {
                "userId": first + user[order],
                "movieId": movies[item[order]],
                "rating": rng.choice(STARS, user.size, p=STAR_SHARES),
                "timestamp": when[order],
            }
        )
        first += sizes.size


def picks(
    sizes: NDArray[np.int64], chance: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User and item of each rating, `sizes[u]` different items for user u, users ascending.

    More is drawn than needed, and what was drawn again is dropped; users for whom that was not enough draw anew.
    """
    users: list[NDArray[np.int64]] = []
    items: list[NDArray[np.int64]] = []
    pending, surplus = np.arange(sizes.size), 1.5
    while pending.size:
        drawn = (sizes[pending] * surplus).astype(np.int64) + 4
        user = np.repeat(pending, drawn)
        item = np.searchsorted(chance, rng.random(user.size), side="right")
        kept = np.sort(np.unique(user * chance.size + item, return_index=True)[1])
        user, item = user[kept], item[kept]
        found = np.bincount(user, minlength=sizes.size)
        rank = np.arange(user.size) - np.repeat(np.cumsum(found) - found, found)
        chosen = (rank < sizes[user]) & (found >= sizes)[user]
        users.append(user[chosen])
        items.append(item[chosen])
        pending, surplus = pending[found[pending] < sizes[pending]], surplus * 2
    user, item = np.concatenate(users), np.concatenate(items)
    order = np.argsort(user, kind="stable")
    return user[order], item[order]


def times(sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Seconds since 1970, ascending within a user: bursts of seconds with ties, weeks between some of them."""
    total = int(sizes.sum())
    gap = rng.lognormal(2.4, 2.4, total)
    gap += (rng.random(total) < 0.02) * rng.exponential(1e6, total)
    starts = np.cumsum(sizes) - sizes
    gap[starts] = rng.uniform(820_000_000, 1_400_000_000, sizes.size)  # 1996 to 2014
    elapsed: NDArray[np.int64] = np.cumsum(gap.astype(np.int64))
    elapsed -= np.repeat(elapsed[starts] - gap[starts].astype(np.int64), sizes)
    return elapsed


ADJECTIVES = """American Bad Beautiful Big Black Blue Broken Burning Cold Crazy Dark Dead Deep Eternal Fallen Fatal
    Final Free Golden Good Grand Great Hidden Hot Invisible Last Little Lonely Long Lost Mad Naked New Night Old Perfect
    Quiet Red Sacred Secret Silent Strange Sweet True White Wild Young""".split()
NOUNS = """Affair Angel Army Baby Beast Bird Blood Boys Bride Bridge Brothers Captain Castle Child Circus City Country
    Crime Dance Day Death Detective Devil Diary Doctor Dog Dragon Dream Earth Empire Eyes Family Fire Fish Friend Game
    Garden Ghost Girl Gun Heart Heaven Hero Highway Holiday House Hunter Island Journey Killer King Kiss Lady Legend
    Letter Life Lion Love Man Midnight Mirror Money Moon Mother Mountain Murder Music Night Ocean Paradise Party Picture
    Planet Prince Prison Promise Queen Rain Return Revenge Ring River Road Rose Sea Season Shadow Silence Sister Sky
    Snow Soldier Son Song Spirit Spy Stars Storm Story Stranger Street Summer Sun Thief Town Train Trial Voyage Wall War
    Water Wedding Wife Wind Window Winter Witch Woman World Zombies""".split()
PLACES = "Berlin Bombay Brooklyn Cairo Havana Manhattan Moscow Naples Paris Shanghai Texas Tokyo Vegas Venice".split()
SYLLABLES = "ba bel chi da dor el fan gar go ha il ja ka ko lan li lo ma mar mi na nor o pe ra ri sa shi ta va".split()
FOREIGN = """Amélie Búsqueda Cœur Dürfen Españoles Fräulein Garçon Händler Jäger Łódź Mañana Niño Où Père Señor Straße
    Tűz Été Ōkami Über Şark Żona Дом 東京""".split()
GENRES = """Action Adventure Animation Children Comedy Crime Documentary Drama Fantasy Film-Noir Horror IMAX Musical
    Mystery Romance Sci-Fi Thriller War Western""".split()


def titles_and_genres(count: int, draw: random.Random) -> dict[str, list[str]]:
    """Titles, no two the same, and genres, in MovieLens' spelling: "Silent Sea, The (1995)", "Crime|Drama"."""
    titles: dict[str, None] = {}
    while len(titles) < count:
        titles[title(draw)] = None
    genres = ["|".join(sorted(draw.sample(GENRES, draw.choice((1, 1, 2, 2, 3, 4))))) for _ in range(count)]
    return {"title": list(titles), "genres": [g if draw.random() > 0.01 else "(no genres listed)" for g in genres]}


def title(draw: random.Random) -> str:
    """One title, as long and as odd as MovieLens' are."""

    def name() -> str:
        return "".join(draw.choices(SYLLABLES, k=draw.choice((2, 2, 3)))).capitalize()

    def phrase() -> str:
        noun, kind = draw.choice(NOUNS), draw.randrange(8)
        if kind < 2:
            return f"{draw.choice(ADJECTIVES)} {noun}"
        return (
            noun,
            f"{name()} {noun}",
            f"{name()}'s {noun}",
            f"{noun} of {draw.choice((name(), draw.choice(PLACES)))}",
            f"{noun} in the {draw.choice(NOUNS)}",
            f"{name()} {name()}",
        )[kind - 2]

    text, chance = phrase(), draw.random()
    if chance < 0.19:
        text += draw.choice((", The", ", The", ", The", ", A"))
    elif chance < 0.29:
        text += f": {phrase()}"
    elif chance < 0.32:
        text += f", {name()} & {name()}"
    elif chance < 0.40:
        text += f" ({draw.choice(('a.k.a. ' + phrase(), name() + ' ' + draw.choice(FOREIGN)))})"
    elif chance < 0.44:
        text += f" {draw.choice(('2', '3', 'II', 'III', 'IV'))}"
    elif chance < 0.46:
        text = f'"{phrase()}" {text}'
    return f"{text} ({2024 - int(draw.triangular(0, 110, 8))})" if draw.random() > 0.003 else text


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a ratings log in MovieLens' shape.")
    parser.add_argument("--ratings", type=int, default=1_000_000)
    parser.add_argument("--titles", type=int, default=87_000)
    parser.add_argument("--out", type=Path, required=True, help="folder for ratings.csv and movies.csv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    start = time.perf_counter()
    try:
        write(args.out, args.ratings, args.titles, args.seed)
    except ValueError as error:
        parser.error(str(error))
    seconds = time.perf_counter() - start
    size = sum((args.out / name).stat().st_size for name in ("ratings.csv", "movies.csv"))
    if args.json:
        print(json.dumps({"ratings": args.ratings, "titles": args.titles, "bytes": size, "seconds": seconds}))
    else:
        print(
            f"{args.ratings:,} ratings of {args.titles:,} titles, {size / 1e6:,.0f} MB in {seconds:.1f} s: {args.out}"
        )


if __name__ == "__main__":
    main()

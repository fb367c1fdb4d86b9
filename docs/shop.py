"""A generated shop for the tutorial: customers who rate products, with the faults of real logs.

    python docs/shop.py FOLDER [--customers 3000]

The same arguments give the same bytes.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

KINDS = {
    "Kitchen": ("pan", "kettle", "knife", "grater", "scale", "bowl"),
    "Garden": ("spade", "hose", "rake", "planter", "shears", "trellis"),
    "Office": ("lamp", "chair", "shelf", "stapler", "organiser", "desk pad"),
    "Sport": ("mat", "bottle", "rope", "dumbbell", "towel", "backpack"),
    "Toys": ("puzzle", "train", "kite", "doll house", "marble run", "robot"),
    "Baking": ("tin", "whisk", "rolling pin", "cake stand", "piping set", "sieve"),
}
LOOKS = ("Copper", "Folding", "Large", "Small", "Classic", "Oak", "Steel", "Red", "Compact", "Heavy", "Light", "Blue")
RATINGS, PRODUCTS = "ratings.csv", "products.csv"


def write_shop(folder: Path, *, customers: int = 3000, products: int = 400, seed: int = 0) -> None:
    """Write `ratings.csv` and `products.csv`.

    A customer prefers some kinds of products, and products differ in quality, so that a model of taste can beat chance.
    Dates are text; some products have no price or description; two customers of five have fewer than 16 ratings. One
    rating in fifty has no stars, and one product in twenty has ratings but is delisted.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(KINDS), size=products)
    quality = rng.normal(0, 0.5, products)
    popularity = rng.zipf(1.6, products).clip(max=60) + 0.3
    taste = rng.normal(0, 1.0, (customers, len(KINDS)))
    sizes = np.exp(rng.normal(3.05, 0.95, customers)).astype(int).clip(2, 90)
    user = np.repeat(np.arange(customers), sizes)
    item = np.concatenate([_bought(rng, np.exp(0.7 * taste[u])[kind] * popularity, n) for u, n in enumerate(sizes)])
    score = 3.5 + 0.6 * taste[user, kind[item]] + quality[item] + rng.normal(0, 0.9, user.size)
    stars = np.clip(np.rint(score), 1, 5).astype(int).astype(str)
    stars[rng.random(user.size) < 0.02] = ""
    day = np.datetime64("2023-01-01") + np.sort(rng.integers(0, 700, user.size))[rng.permutation(user.size)]
    codes = np.array([f"P{number:05}" for number in rng.permutation(90_000)[:products] + 10_000])
    log = {
        "customer_id": [f"C{n:05}" for n in user],
        "product_id": codes[item],
        "stars": stars,
        "date": day.astype(str),
    }
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(log)[rng.permutation(user.size)].sort("date", maintain_order=True).write_csv(folder / RATINGS)
    _products(rng, codes, kind).filter(pl.Series(rng.random(products) >= 0.05)).write_csv(folder / PRODUCTS)


def _bought(rng: np.random.Generator, weight: np.ndarray, count: int) -> np.ndarray:
    """Distinct products, drawn with these weights."""
    return np.argsort(rng.exponential(size=weight.size) / weight)[:count]


def _products(rng: np.random.Generator, codes: np.ndarray, kind: np.ndarray) -> pl.DataFrame:
    names, described = [], []
    for number, category in enumerate(kind.tolist()):
        what = rng.choice(list(KINDS.values())[category])
        look = rng.choice(LOOKS)
        names.append(f"{look} {what} No. {number + 1}")
        text = f"This {what} is made for every day, and made to last. Ships in {rng.integers(2, 9)} days."
        described.append(text if rng.random() < 0.8 else "")
    prices = [f"{price:.2f}" if price < 90 else "" for price in rng.gamma(2, 18, codes.size)]
    columns = {"category": np.array(list(KINDS))[kind], "price": prices, "description": described}
    return pl.DataFrame({"product_id": codes, "name": names} | columns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a generated shop's ratings.csv and products.csv.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--customers", type=int, default=3000)
    chosen = parser.parse_args()
    write_shop(chosen.folder, customers=chosen.customers)

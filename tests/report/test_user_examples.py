"""User examples, against a slow and obvious choice over the rows."""

import numpy as np
from tests.films import film_samples

from palate.report.user_examples import user_examples


def test_users_with_most_rows_and_both_classes_come_first_with_their_own_ratings() -> None:
    samples = film_samples()
    own = samples.of("train")
    rows = np.arange(own.size)
    p = np.random.default_rng(3).random(own.size)

    shown = user_examples(samples, "train", rows, p)

    by_user: dict[str, list[tuple[float, str, float, bool]]] = {}
    titles = dict(samples.items.select("item_id", "title").iter_rows())
    for row, sample in enumerate(own):
        user, item, rating = samples.timeline.row(samples.position[sample])[:3]
        liked = rating >= samples.threshold
        by_user.setdefault(str(user), []).append((p[row], titles[item], rating, liked))
    rank = {
        user: (len({liked for *_, liked in scored}) > 1, len(scored))
        for user, scored in by_user.items()
        if len(scored) > 1
    }
    assert [rank[example.user] for example in shown] == sorted(rank.values(), reverse=True)[:3]
    for example in shown:
        ordered = sorted(by_user[example.user], reverse=True)
        size = min(3, len(ordered) // 2)
        top, bottom = ([(c.p, c.title, c.rating, c.liked) for c in part] for part in (example.top, example.bottom))
        assert (top, bottom, example.scored) == (ordered[:size], ordered[-size:], len(ordered))


def test_no_row_gives_no_user() -> None:
    assert user_examples(film_samples(), "test", np.empty(0, np.int64), np.empty(0)) == []

"""Compiled scans over users' pasts. A running sum goes from row to row of one user and restarts with the next user,
so that no rating of another user, and no later one, affects a sum, not even its last bits.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

from palate.baselines.compiled import compiled


@compiled
def sums_before(values, first):
    """The sum of a user's values before each row: `values` float64 (rows,), `first` int64 (rows,) the user's first."""
    out = np.zeros(values.size)
    for row in range(1, values.size):
        if first[row] != row:
            out[row] = out[row - 1] + values[row - 1]
    return out


@compiled
def similar_items(user_start, user_item, user_value, item_start, item_user, item_value, top, shrinkage):
    """The `top` items most similar to each, by Pearson's correlation around the baseline (Koren 2010, section 2.2).

    The values (float64) are residuals, once grouped by user and once by item; `*_start` has the first index of each
    group. Over the n users that rated both i and j:

        s = Σ xi xj / √(Σ xi² Σ xj²) · (n − 1) / (n − 1 + shrinkage),   0 for n = 1

    Returns the first index of each item's neighbours (items + 1,), the neighbours (int32) and similarities (float32).
    """
    items = item_start.size - 1
    both, own, other = np.zeros(items), np.zeros(items), np.zeros(items)
    count, touched = np.zeros(items, np.int64), np.empty(items, np.int64)
    start = np.zeros(items + 1, np.int64)
    neighbour, similarity = np.empty(items * top, np.int32), np.empty(items * top, np.float32)
    end = 0
    for i in range(items):
        found = 0
        for a in range(item_start[i], item_start[i + 1]):
            x, user = item_value[a], item_user[a]
            for b in range(user_start[user], user_start[user + 1]):
                j, y = user_item[b], user_value[b]
                if j == i:
                    continue
                if count[j] == 0:
                    touched[found] = j
                    found += 1
                both[j] += x * y
                own[j] += x * x
                other[j] += y * y
                count[j] += 1
        values = np.zeros(found, np.float32)
        for c in range(found):
            j = touched[c]
            if own[j] * other[j] > 0:
                shared = count[j] - 1
                values[c] = both[j] / np.sqrt(own[j] * other[j]) * shared / (shared + shrinkage)
            both[j], own[j], other[j], count[j] = 0, 0, 0, 0
        least = np.partition(np.abs(values), found - top)[found - top] if found > top else np.float32(0)
        taken = 0
        for c in range(found):
            if values[c] != 0 and abs(values[c]) >= least and taken < top:
                neighbour[end], similarity[end] = touched[c], values[c]
                end += 1
                taken += 1
        start[i + 1] = end
    return start, neighbour[:end].copy(), similarity[:end].copy()


@compiled
def _follow(end, user, at, first, rated, row_of):
    """Let `row_of` have the row of each item that the user of the row `end` rated before it, −1 for others.

    It has those of the rows `user` to `at`; returns the two numbers of now.
    """
    if first[end] != user:
        for row in range(max(user, 0), at):
            row_of[rated[row]] = -1
        user = at = first[end]
    while at < end:
        row_of[rated[at]] = at
        at += 1
    return user, at


@compiled
def neighbour_sums(anchor, item, order, fold, first, rated, residual, start, neighbour, similarity, window):
    """Sums over the user's last `window` ratings of a candidate's neighbours, float64 (n, 3).

    Columns: Σ s·residual, Σ s, Σ |s|. `order` sorts the anchors; `rated` and `residual` belong to the timeline's
    rows; `start` (folds, items + 1) has the first index of an item's neighbours, for each fold of users.
    """
    out = np.zeros((anchor.size, 3))
    row_of = np.full(start.shape[1] - 1, -1, np.int64)
    user, at = -1, 0
    for o in order:
        end = anchor[o]
        user, at = _follow(end, user, at, first, rated, row_of)
        for c in range(start[fold[o], item[o]], start[fold[o], item[o] + 1]):
            row = row_of[neighbour[c]]
            if row >= 0 and row >= end - window:
                out[o, 0] += similarity[c] * residual[row]
                out[o, 1] += similarity[c]
                out[o, 2] += abs(similarity[c])
    return out


@compiled
def nearest_liked(anchor, item, order, fold, first, rated, liked, start, neighbour, similarity):
    """The item most similar to each candidate among those that the user liked before the anchor, int64 (n,).

    −1 if no liked item has a positive similarity; of equal similarities the item with the least number. Of an item that
    the user rated twice the last rating counts. Arguments as in `neighbour_sums`.
    """
    out = np.full(anchor.size, -1, np.int64)
    row_of = np.full(start.shape[1] - 1, -1, np.int64)
    user, at = -1, 0
    for o in order:
        end = anchor[o]
        user, at = _follow(end, user, at, first, rated, row_of)
        best = np.float32(0)
        for c in range(start[fold[o], item[o]], start[fold[o], item[o] + 1]):
            row, other = row_of[neighbour[c]], neighbour[c]
            if row < 0 or not liked[row] or similarity[c] < best or similarity[c] <= 0:
                continue
            if similarity[c] > best or other < out[o]:
                best, out[o] = similarity[c], other
    return out


@compiled
def ratings_among(fold, other, item, start, user, rating, liked, fold_of):
    """Ratings of an item by the users outside a fold who liked another one: number and sum, float64 (n, 2).

    `fold`, `other` and `item` int64 (n,). The ratings (float64) are sorted by item, then user; `start` (items + 1,) has
    the first index of each item's, and `fold_of` the fold of each user.
    """
    out = np.zeros((item.size, 2))
    for i in range(item.size):
        a, last = start[other[i]], start[other[i] + 1]
        for b in range(start[item[i]], start[item[i] + 1]):
            if fold_of[user[b]] == fold[i]:
                continue
            while a < last and user[a] < user[b]:
                a += 1
            also, c = False, a
            while c < last and user[c] == user[b]:
                also = also or liked[c]
                c += 1
            if also:
                out[i, 0] += 1
                out[i, 1] += rating[b]
    return out


@compiled
def genre_sums(anchor, item, order, first, rated, residual, genres, bits):
    """Statistics of the user's past ratings in a candidate's genres, float64 (n, 4).

    `genres` uint64 (items,) has one bit per genre, `bits` in all. The liking of a genre is r / (n + 5), with n past
    ratings in the genre and r the sum of their residuals less the user's mean residual. Columns: mean, minimum and
    maximum liking over the candidate's genres, and the mean share of the past in these genres; all 0 without a genre.
    """
    out = np.zeros((anchor.size, 4))
    total, count = np.zeros(bits), np.zeros(bits)
    user, at, of_all = -1, 0, 0.0
    for o in order:
        end = anchor[o]
        if first[end] != user:
            user = at = first[end]
            total[:], count[:], of_all = 0, 0, 0.0
        while at < end:
            for g in range(bits):
                if (genres[rated[at]] >> np.uint64(g)) & np.uint64(1):
                    total[g] += residual[at]
                    count[g] += 1
            of_all += residual[at]
            at += 1
        past = max(end - user, 1)
        low, high, liking, share, own = np.inf, -np.inf, 0.0, 0.0, 0
        for g in range(bits):
            if (genres[item[o]] >> np.uint64(g)) & np.uint64(1):
                value = (total[g] - count[g] * of_all / past) / (count[g] + 5)
                low, high = min(low, value), max(high, value)
                liking += value
                share += count[g] / past
                own += 1
        if own > 0:
            out[o, 0], out[o, 1], out[o, 2], out[o, 3] = liking / own, low, high, share / own
    return out

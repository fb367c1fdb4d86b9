"""Draws the pictures of these pages: python docs/figures.py

The block mask is that of `Packed.mask`, for a prompt of a few words. The curves are those of `benchmarks/curves.py`,
what was reached is of `benchmarks/reached.py`.
"""

import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from palate.tokens.packed import pack

IMAGES = Path(__file__).parent / "images"
CURVES = Path(__file__).parents[1] / "benchmarks" / "results" / "curves.json"
REACHED = CURVES.with_name("reached.json")
HISTORY = ["…", "Heat", "5", "Fargo", "4"]
BLOCKS = [["Alien", "?", "»"], ["Big", "?", "»"], ["Jaws", "?", "»"]]
ANSWERS = ["Yes", "No", "Yes"]
GREY, INK, PAPER = "#c9ced6", "#22262d", "#ffffff"
COLOURS = ["#3d7dca", "#d9822b", "#4a9d5b", "#8a5aa8"]
plt.rcParams |= {"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "palate", "text.color": INK}


def tokens_in_a_row(ax: Axes, y: float, words: list[str], colours: list[str], x: float = 0, note: str = "") -> None:
    """Tokens as boxes from `x` on, with a note behind them."""
    for n, (word, colour) in enumerate(zip(words, colours, strict=True)):
        ax.add_patch(Rectangle((x + n + 0.04, y), 0.92, 0.8, color=colour, alpha=0.9 if colour != GREY else 1, lw=0))
        ax.text(
            x + n + 0.5, y + 0.4, word, ha="center", va="center", fontsize=8.5, color=INK if colour == GREY else PAPER
        )
    ax.text(x + len(words) + 0.2, y + 0.4, note, va="center", fontsize=9, color=INK)


def block_mask() -> None:
    """The separate sequences, the packed one, and who sees whom in it."""
    p = len(HISTORY)
    length = np.array([p + len(block) + 1 for block in BLOCKS])
    packed = pack(
        np.zeros(length.sum(), np.int32), length, np.array([p]), np.array([0, len(BLOCKS)]),
        np.ones(len(BLOCKS), np.int64), 0, False, np.zeros(len(BLOCKS), bool), np.arange(len(BLOCKS)),
    )  # fmt: skip
    words = HISTORY + [word for block in BLOCKS for word in block]
    of = [GREY] * p + [COLOURS[n] for n, block in enumerate(BLOCKS) for _ in block]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 5.6), width_ratios=[1.05, 1], facecolor=PAPER)

    left.set(xlim=(-0.2, 15.2), ylim=(-1.2, 9.3))
    left.axis("off")
    apart = int(sum(length - 1))
    left.text(0, 8.8, f"Three samples, one by one: {apart} tokens", fontsize=11, weight="bold")
    for n, block in enumerate(BLOCKS):
        tokens_in_a_row(left, 7.5 - n, HISTORY + block, [GREY] * p + [COLOURS[n]] * len(block), note=f"→ {ANSWERS[n]}")
    left.text(0, 3.9, f"The same, behind one history: {len(packed)} tokens", fontsize=11, weight="bold")
    tokens_in_a_row(left, 2.6, words, of)
    for n, begin in enumerate(packed.block.tolist()):
        end = int(packed.block_end[n])
        left.annotate(
            ANSWERS[n], (end - 0.5, 2.55), (end - 0.5, 1.75), ha="center", fontsize=9, color=COLOURS[n], weight="bold",
            arrowprops={"arrowstyle": "<-", "color": COLOURS[n], "lw": 1.2},
        )  # fmt: skip
        for k in range(begin, end):
            left.text(k + 0.5, 3.55, packed.position_ids[k], ha="center", fontsize=7, color=COLOURS[n])
    for k in range(p):
        left.text(k + 0.5, 3.55, packed.position_ids[k], ha="center", fontsize=7, color="#6b7280")
    left.text(0, 0.6, "Small figures are positions: each block goes on where the history ends.\n"
              "The answers are predicted there and are not passed.", fontsize=9, va="top")  # fmt: skip

    mask, size = packed.mask(), len(packed)
    for q in range(size):
        for k in range(size):
            colour = of[q] if mask[q, k] and k >= p else "#8d95a3" if mask[q, k] else "#f1f3f6"
            right.add_patch(Rectangle((k + 0.04, q + 0.04), 0.92, 0.92, color=colour, lw=0))
    right.set(xlim=(-0.1, size + 0.1), ylim=(size + 0.1, -0.1), aspect="equal")
    right.set_xticks(np.arange(size) + 0.5, words, rotation=60, ha="left", fontsize=8.5)
    right.set_yticks(np.arange(size) + 0.5, words, fontsize=8.5)
    right.xaxis.tick_top()
    right.tick_params(length=0)
    for axis, labels in ((right.get_xticklabels(), of), (right.get_yticklabels(), of)):
        for label, colour in zip(axis, labels, strict=True):
            label.set_color("#6b7280" if colour == GREY else colour)
    for spine in right.spines.values():
        spine.set_visible(False)
    right.set_ylabel("this token …", fontsize=9)
    right.set_xlabel("… sees these: the history, and of the blocks its own", fontsize=9)
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "block-mask.svg", metadata={"Date": None})


def curves() -> None:
    """Validation AUC along the learning rates and along the ranks, as it was measured."""
    (result,) = json.loads(CURVES.read_text(encoding="utf-8"))["results"]
    rows = [row for row in result["rows"] if row["told"]]
    by = {what: defaultdict(set) for what in ("rate", "rank")}
    for row in rows:
        by["rate"][row["rank"]].add(row["rate"])
        by["rank"][row["rate"]].add(row["rank"])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, facecolor=PAPER)
    for ax, along, of, name in ((axes[0], "rate", "rank", "learning rate"), (axes[1], "rank", "rate", "rank r")):
        fixed = max(by[along], key=lambda value: len(by[along][value]))  # the line that has the most points
        points = defaultdict(list)
        for row in rows:
            if row[of] == fixed:
                points[row[along]].append(row["auc"])
        places = sorted(points)
        mean = [np.mean(points[place]) for place in places]
        ax.plot(range(len(places)), mean, color=COLOURS[0], lw=2, marker="o")
        for n, value in enumerate(places):
            above = n == 0 or mean[n] > mean[n - 1] - 0.02  # else the line would run through it
            place = (0, 8 if above else -15)
            ax.annotate(f"{mean[n]:.3f}", (n, mean[n]), place, textcoords="offset points", ha="center", fontsize=9)
            ax.plot([n] * len(points[value]), points[value], ".", color=COLOURS[0], alpha=0.4)
        ax.set_xticks(range(len(places)), [f"{place:g}" for place in places])
        ax.set_xlim(-0.4, len(places) - 0.6)
        ax.set_xlabel(f"{name}, {'r = ' if of == 'rank' else 'learning rate '}{fixed:g}", fontsize=9)
        ax.margins(y=0.25)
        ax.grid(axis="y", color=GREY, lw=0.6)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    axes[0].set_ylabel("validation AUC", fontsize=9)
    figure.tight_layout()
    figure.savefig(IMAGES / "curves.svg", metadata={"Date": None})


def reached() -> None:
    """Test AUC by the number of samples, with intervals over users, beside what costs nothing."""
    rows = json.loads(REACHED.read_text(encoding="utf-8"))["results"][0]["rows"]
    baselines = {row["key"]: row["metrics"]["auc"] for row in rows if row["arm"] is None}
    (untrained,) = (row["metrics"]["auc"] for row in rows if row["key"] == "zero-shot")
    figure, ax = plt.subplots(figsize=(8, 4.4), facecolor=PAPER)
    lines = {
        max(baselines, key=lambda key: baselines[key]): "the best baseline",
        "history-mean": "mean of the history's ratings",
        "item-mean": "mean of the film's ratings",
    }
    points: dict[str, list[tuple[int, float, float, float]]] = defaultdict(list)
    for row in rows:
        if row["key"] != "fine-tuned":
            continue
        _, targets, *more = row["arm"].split(", ")
        auc, interval = row["metrics"]["auc"], row["intervals"]["auc"]
        samples = row["run"]["trained"]
        points[", ".join([targets, *more])].append((samples, auc, interval["low"], interval["high"]))
    most = max(samples for of in points.values() for samples, *_ in of)
    for y, name in [*((baselines[key], name) for key, name in lines.items()), (untrained, "the model untrained")]:
        ax.axhline(y, color=GREY, lw=1.2, zorder=0)
        ax.text(most * 1.35, y, f"{name} {y:.3f}", va="center", fontsize=9, color=INK)
    for colour, (name, of) in zip(COLOURS, sorted(points.items(), key=lambda item: -len(item[1])), strict=False):
        x, y, low, high = map(np.array, zip(*sorted(of), strict=True))
        ax.errorbar(x, y, [y - low, high - y], color=colour, marker="o", lw=2, elinewidth=1, capsize=3, label=name)
    ax.set_xscale("log", base=2)
    places = sorted({samples for of in points.values() for samples, *_ in of})
    ax.set_xticks(places, [f"{place:,}" for place in places], rotation=40, ha="right", rotation_mode="anchor")
    ax.minorticks_off()
    ax.set_xlim(min(places) / 1.3, most * 1.25)
    ax.set_xlabel("training samples", fontsize=9)
    ax.set_ylabel("test AUC, 95 % over users", fontsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(IMAGES / "reached.svg", metadata={"Date": None})


if __name__ == "__main__":
    block_mask()
    if CURVES.is_file():
        curves()
    if REACHED.is_file():
        reached()

"""Lengths and examples on the terminal: statistics, what a cutoff costs, and a sample from Alpaca to tokens."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from palate.prompt.chat import Chat
from palate.tokens.lengths import Lengths
from palate.tokens.plain import IGNORED, conversation, label

PLOTS = (".png", ".svg", ".pdf")
MASKED = ("grey50", "grey42")
TRAINED = ("bold black on green3", "bold black on spring_green2")


def lengths_table(lengths: Lengths, title: str) -> RenderableType:
    """The guide's statistics."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(justify="left", style="cyan")
    table.add_column(justify="right")
    table.add_row("samples", f"{len(lengths):,}")
    table.add_row("tokens", f"{int(lengths.total.sum(dtype='int64')):,}")
    for name, value in lengths.statistics().items():
        table.add_row(name, f"{value:,.0f} tokens")
    table.add_row("masked", f"{lengths.masked_share():.1%}")
    return Group(Text(title, style="bold"), table)


def truncation_table(lengths: Lengths, cutoff: int) -> RenderableType:
    """What the cutoff does, and what others would do."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("cutoff", "samples over", "share", "tokens cut", "memory saved", "risk"):
        table.add_column(name, justify="left" if name == "risk" else "right", no_wrap=True)
    longest = int(lengths.total.max())
    for row in lengths.alternatives(cutoff):
        here = row["cutoff_len"] == cutoff
        if row["responses_cut"]:
            risk = Text(f"cuts {row['responses_cut']:,} answers", style="bold red")
        elif row["samples_cut"]:
            risk = Text("cuts prompts at their head", style="yellow")
        else:
            risk = Text(f"none, {row['cutoff_len'] - longest:,} tokens to spare", style="green")
        table.add_row(
            f"{row['cutoff_len']}{' ←' if here else '  '}",
            f"{row['samples_cut']:,}",
            f"{row['share_cut']:.2%}",
            f"{row['tokens_cut']:,}",
            "–" if here else f"{row['memory_saved']:+.1%}",
            risk,
            style="bold" if here else None,
        )
    return Group(Text(f"Truncation at cutoff_len = {cutoff}", style="bold"), table)


def example_panels(example: Mapping[str, Any], chat: Chat, cutoff: int, title: str) -> RenderableType:
    """One example through every stage: Alpaca, messages, rendered text, tokens with the trained ones marked."""
    messages = conversation(example)
    row = label(chat.encode(messages), cutoff)
    masked = sum(value == IGNORED for value in row["labels"])
    total = len(row["labels"])
    pieces = Text()
    for n, (text, is_masked) in enumerate(_letters(row["input_ids"], row["labels"], chat)):
        styles = MASKED if is_masked else TRAINED
        pieces.append(text.replace("\n", "⏎\n") if is_masked else text.replace("\n", "⏎"), styles[n % 2])
    trained = [token for token, target in zip(row["input_ids"], row["labels"], strict=True) if target != IGNORED]
    ids = Text.assemble(
        f"{total} tokens: ",
        (f"{masked} masked ({masked / total:.1%})", MASKED[0]),
        ", ",
        (f"{total - masked} trained", TRAINED[0]),
        f"\ninput_ids {_abbreviated(row['input_ids'])}",
        f"\nlabels    {masked} × {IGNORED}, then {trained}",
    )
    return Group(
        Text(title, style="bold"),
        Panel(Text(json.dumps(dict(example), ensure_ascii=False, indent=1)), title="1  Alpaca", title_align="left"),
        Panel(
            Text("\n".join(f"{m['role']}: {_shortened(m['content'])}" for m in messages)),
            title="2  chat messages",
            title_align="left",
        ),
        Panel(pieces, title="3  rendered and cut into tokens", title_align="left"),
        Panel(ids, title="4  input_ids and labels", title_align="left"),
    )


def _letters(ids: list[int], labels: list[int], chat: Chat) -> Iterator[tuple[str, bool]]:
    """The text of each token and whether it is masked; tokens that share a letter come together."""
    pending: list[int] = []
    for token, target in zip(ids, labels, strict=True):
        pending.append(token)
        text = chat.tokenizer.decode(pending)
        if "\N{REPLACEMENT CHARACTER}" not in text or len(pending) == 4:
            yield text, target == IGNORED
            pending = []
    if pending:
        yield chat.tokenizer.decode(pending), labels[-1] == IGNORED


def plot_lengths(lengths: Lengths, cutoff: int, path: Path, title: str) -> None:
    """Write a histogram of the lengths with the cutoff; the suffix of `path` chooses PNG, SVG or PDF."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from palate.artifacts import atomic_file

    figures = lengths.statistics()
    with mpl.rc_context({"font.size": 10, "svg.hashsalt": "palate"}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.hist(lengths.total, bins=min(120, max(10, int(figures["max"] - figures["min"]))), color="#3b6ea8")
        for name in ("p50", "p99"):
            axes.axvline(figures[name], color="#555555", linewidth=0.8, linestyle=":")
            axes.annotate(
                f"{name} {figures[name]:.0f}",
                (figures[name], 0.98),
                xycoords=("data", "axes fraction"),
                xytext=(3, 0),
                textcoords="offset points",
                va="top",
                color="#555555",
            )
        axes.axvline(cutoff, color="#c0392b", linewidth=1.5)
        axes.annotate(
            f"cutoff {cutoff}",
            (cutoff, 0.6),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            rotation=90,
            va="center",
            color="#c0392b",
        )
        over = lengths.truncation(cutoff)
        axes.set_title(f"{title}: {over['samples_cut']:,} of {len(lengths):,} samples over the cutoff", loc="left")
        axes.set_xlabel("tokens in a sample")
        axes.set_ylabel("samples")
        axes.spines[["top", "right"]].set_visible(False)
        with atomic_file(path) as file:
            figure.savefig(file, format=path.suffix.lstrip("."), dpi=150, metadata=None)


def _shortened(text: str, keep: int = 160) -> str:
    text = text.replace("\n", "⏎")
    return text if len(text) <= keep else f"{text[: keep // 2]} … {text[-keep // 2 :]}"


def _abbreviated(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"[{', '.join(map(str, ids[:5]))}, …, {', '.join(map(str, ids[-5:]))}]"

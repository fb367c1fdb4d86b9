"""Lengths and examples on the terminal: statistics, what a cutoff costs, and a sample from Alpaca to tokens."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.store.artifacts import atomic_file
from palate.tokens.lengths import Lengths
from palate.tokens.mask_audit import MaskAudit
from palate.tokens.plain import IGNORED, conversation

PLOTS = (".png", ".svg", ".pdf")
MASKED = ("grey50", "grey42")
TRAINED = ("bold black on green3", "bold black on spring_green2")
RISKS = ((0.001, "low", "green"), (0.01, "medium", "yellow"), (2, "high", "red"))
"""Names and colours of a cutoff's cost, by the upper limit of its share of cut tokens."""
RECOMMENDED = "history"
GOES = {
    "left": "the system message first",
    "right": "the answer",
    "middle": "the history's middle",
    "history": "oldest items: recommended",
    "drop": "samples that are too long",
    "error": "nothing",
}
SEQUENCES = 4
"""Number of distinct trained sequences to show."""


class Example(NamedTuple):
    """A sample in Alpaca form, and its ids and labels."""

    alpaca: Mapping[str, Any]
    ids: list[int]
    labels: list[int]


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


def truncation_table(lengths: Lengths, cutoff: int, *others: int) -> RenderableType:
    """The effect of the cutoff, and of the usual ones."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("cutoff", "samples over", "share", "tokens cut", "memory saved", "risk"):
        table.add_column(name, justify="left" if name == "risk" else "right", no_wrap=name != "risk")
    for row in lengths.alternatives(cutoff, *others):
        here = row["cutoff_len"] == cutoff
        table.add_row(
            f"{row['cutoff_len']}{' ←' if here else '  '}",
            f"{row['samples_cut']:,}",
            f"{row['share_cut']:.2%}",
            f"{row['tokens_cut']:,}",
            "–" if here else f"{row['memory_saved']:+.1%}",
            _risk(row, lengths),
            style="bold" if here else None,
        )
    return Group(Text(f"Truncation at cutoff_len = {cutoff}", style="bold"), table)


def _risk(row: Mapping[str, Any], lengths: Lengths) -> Text:
    """The cost of a cutoff: the share of all tokens that it drops, and the tokens of a truncated sample."""
    longest = int(lengths.total.max())
    if row["responses_cut"]:
        return Text(f"cuts {row['responses_cut']:,} answers", style="bold red")
    if not row["samples_cut"]:
        return Text(f"none, {row['cutoff_len'] - longest:,} tokens to spare", style="green")
    share = row["tokens_cut"] / int(lengths.total.sum(dtype="int64"))
    level, style = next(levels for limit, *levels in RISKS if share < limit)
    each = row["tokens_cut"] / row["samples_cut"]
    return Text(f"{level}: {each:,.0f} tokens off each, {longest - row['cutoff_len']:,} at most", style=style)


def strategies_table(rows: Sequence[Mapping[str, Any]], configured: str) -> RenderableType:
    """The effect of every truncation at one cutoff; `rows` as `palate.tokens.cut.compared`."""
    cutoff = rows[0]["cutoff_len"]
    title = Text(f"What tokens.truncation would do at {cutoff}", style="bold")
    if not any(row.get("samples_cut", 1) for row in rows):
        return Group(title, Text("nothing: every sample fits", style="green"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "samples cut", "items cut", "tokens cut", "dropped", "tokens left", "what goes"):
        words = name in ("", "what goes")
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "what goes")
    refusals = []
    for row in rows:
        name = row["truncation"]
        style = "bold" if name == configured else None
        shown = Text(f"{name} {'←' if name == configured else ''}", style="cyan")
        goes = Text(GOES[name], style="green" if name == RECOMMENDED else "")
        if "refused" in row:
            table.add_row(shown, Text("refused", style="red"), *["–"] * 4, goes, style=style)
            refusals.append(Text.assemble((f"{name}: ", "cyan"), ("refused: ", "red"), row["refused"]))
            continue
        unknown = row["samples_with_unknown_items"]
        # With unknown samples, the count of the others is a lower bound.
        items = f"{'≥ ' if unknown else ''}{row['history_items_cut']:,}"
        table.add_row(
            shown,
            f"{row['samples_cut']:,}",
            "unknown" if unknown == row["samples_cut"] else items,
            f"{row['tokens_cut']:,}",
            f"{row['samples_dropped']:,}",
            f"{row['tokens']:,}",
            goes,
            style=style,
        )
    return Group(title, table, *refusals)


def mask_table(mask: MaskAudit | InputError | None) -> RenderableType:
    """The trained tokens, or the error of the truncation."""
    if mask is None:
        return Text("")
    if isinstance(mask, InputError):
        return Group(Text("Mask", style="bold"), Text(f"refused: {mask}", style="red"))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    masked = mask.tokens - mask.trained_tokens
    table.add_row("masked", f"{masked:,} of {mask.tokens:,} tokens, {mask.masked_share:.2%}")
    for trained in mask.trained[:SEQUENCES]:
        text = Text.assemble((trained.text.replace("\n", "⏎"), TRAINED[0]), f" in {trained.samples:,} samples")
        table.add_row("trained", text)
    if len(mask.trained) > SEQUENCES:
        table.add_row("", f"and {len(mask.trained) - SEQUENCES:,} other sequences")
    what = "the response" if mask.train_on == "response" else "the token that decides"
    scope = f"all {mask.samples:,} samples composed"
    if mask.samples_composed < mask.samples:
        scope = f"{mask.samples_composed:,} of {mask.samples:,} samples composed, drawn with the seed"
        scope += "; tokens counted from lengths"
    table.add_row("checked", Text(f"exactly {what} is trained, to the sample's own answer: {scope}"))
    return Group(Text(f"Mask, train.train_on = {mask.train_on}", style="bold"), table)


def example_panels(example: Example, chat: Chat, title: str) -> RenderableType:
    """One example through every stage: Alpaca, messages, rendered text, tokens with the trained ones marked."""
    masked = sum(value == IGNORED for value in example.labels)
    total = len(example.labels)
    pieces = Text()
    for n, (text, is_masked) in enumerate(_letters(example.ids, example.labels, chat)):
        styles = MASKED if is_masked else TRAINED
        pieces.append(text.replace("\n", "⏎\n") if is_masked else text.replace("\n", "⏎"), styles[n % 2])
    ids = Text.assemble(
        f"{total} tokens: ",
        (f"{masked} masked ({masked / total:.1%})", MASKED[0]),
        ", ",
        (f"{total - masked} trained", TRAINED[0]),
        f"\ninput_ids {_abbreviated(example.ids)}",
        f"\nlabels    {_runs(example.labels)}",
    )
    alpaca = json.dumps(dict(example.alpaca), ensure_ascii=False, indent=1)
    messages = [f"{m['role']}: {_shortened(m['content'])}" for m in conversation(example.alpaca)]
    return Group(
        Text(title, style="bold"),
        Panel(Text(alpaca), title="1  Alpaca", title_align="left"),
        Panel(Text("\n".join(messages)), title="2  chat messages", title_align="left"),
        Panel(pieces, title="3  rendered and cut into tokens", title_align="left"),
        Panel(ids, title="4  input_ids and labels", title_align="left"),
    )


def _runs(labels: list[int]) -> str:
    """Labels as text; a run of ignored labels becomes its count."""
    runs = [(ignored, list(run)) for ignored, run in groupby(labels, lambda label: label == IGNORED)]
    return ", then ".join(f"{len(run)} × {IGNORED}" if ignored else str(run) for ignored, run in runs)


def _letters(ids: list[int], labels: list[int], chat: Chat) -> Iterator[tuple[str, bool]]:
    """The text of each token and whether it is masked; tokens that share a character are joined."""
    pending: list[int] = []

    def text_of(ids: list[int]) -> str:
        text: str = chat.backend.decode(ids, skip_special_tokens=False) if chat.items else chat.tokenizer.decode(ids)
        return text

    for token, target in zip(ids, labels, strict=True):
        pending.append(token)
        text = text_of(pending)
        if "\N{REPLACEMENT CHARACTER}" not in text or len(pending) == 4:
            yield text, target == IGNORED
            pending = []
    if pending:
        yield text_of(pending), labels[-1] == IGNORED


def plot_lengths(lengths: Lengths, cutoff: int, path: Path, title: str) -> None:
    """Write a histogram of the lengths with the cutoff; the suffix of `path` chooses PNG, SVG or PDF."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = lengths.statistics()
    with mpl.rc_context({"font.size": 10, "svg.hashsalt": "palate"}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.hist(lengths.total, bins=min(120, max(10, int(figures["max"] - figures["min"]))), color="#3b6ea8")

        # A legend, as labels beside the lines overprint each other where the lines are close.
        for name, color in (("p50", "#111111"), ("p99", "#e08a1e")):
            label = f"{name}: {figures[name]:,.0f} tokens"
            axes.axvline(figures[name], color=color, linewidth=1.2, linestyle=":", label=label)
        axes.axvline(cutoff, color="#c0392b", linewidth=1.5, label=f"cutoff: {cutoff:,} tokens")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
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

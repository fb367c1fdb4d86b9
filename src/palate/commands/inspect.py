"""Inspect: what a log of ratings holds, and what would become of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palate import console
from palate.commands.prepare import ratings_of
from palate.config import Config
from palate.errors import InputError
from palate.prompt.spec import USER
from palate.ratings.load import Ratings, usual_scale
from palate.samples.profile import Profile, advice, bars_of, figures, profile_of

ANY_SCALE = (-1e9, 1e9)
FEW = 0.01
"""Below this share, ratings beyond the usual scale are mistakes; above it, the scale is another."""
BAR = 30
"""Widest bar, in columns of the terminal."""
EIGHTHS = " ▏▎▍▌▋▊▉"


def inspect(config: Config, *, as_json: bool = False, html: Path | None = None) -> None:
    """Print the figures of the config's ratings, or JSON; with `html` write them as a page, too."""
    if html is not None and html.suffix != ".html":
        raise InputError("has another suffix, expected .html", html)
    console.start_logging()
    ratings = log_of(config)
    profile = profile_of(ratings, config.prepare)
    if html is not None:
        from palate.report.page import render_profile, write_page

        write_page(html, render_profile(profile, ratings.columns))
    if as_json:
        read = {"shape": ratings.shape, "columns": ratings.columns, "time_form": ratings.times}
        read |= {"rating_form": ratings.rated} if ratings.rated else {}
        console.print_json(read | figures(profile))
        return
    for part in _parts(profile, ratings, str(config.ratings.source)):
        console.out.print(part)
        console.out.print()
    if html is not None:
        console.out.print(f"page: {html}", soft_wrap=True)


def log_of(config: Config) -> Ratings:
    """The config's ratings, without wrong rows and items without a title unless the config says what to do with them.

    If it names no scale, and many ratings exceed the usual one, their range is the scale; one up to 100 begins at 0,
    one up to 10 at 1 at most. Raises `InputError` as `ratings_of`.
    """
    unset = {"bad_rows": "skip", "untitled": "drop"}.items()
    skipping = {key: choice for key, choice in unset if key not in config.ratings.model_fields_set}
    config = config.model_copy(update={"ratings": config.ratings.model_copy(update=skipping)})
    if config.ratings.scale is not None or config.ratings.likes is not None:
        return ratings_of(config)
    wide = config.ratings.model_copy(update={"scale": ANY_SCALE})
    try:
        ratings = ratings_of(config.model_copy(update={"ratings": wide}))
    except InputError:
        return ratings_of(config)  # its error names the usual scale
    rating = ratings.frame["rating"].to_numpy()
    low, high = usual_scale(ratings.name, next(iter(ratings.inputs)))
    beyond = ((rating < low) | (rating > high)).mean()
    if 0 < beyond < FEW:
        return ratings_of(config)
    if beyond:
        low, high = float(rating.min()), float(rating.max())
        low = min(low, {10.0: 1.0, 100.0: 0.0}.get(high, low))
    return replace(ratings, scale=(low, high))


def _parts(profile: Profile, ratings: Ratings, source: str) -> Iterator[RenderableType]:
    yield _summary(profile, ratings)
    yield Group(Text("Columns", style="bold"), _columns(profile, ratings))
    yield Group(Text("Ratings", style="bold"), _distribution(profile))
    yield Group(Text("How much there is of each", style="bold"), _quantiles(profile))
    yield Group(Text("What palate prepare would make of it", style="bold"), _outcome(profile))
    lines = Table.grid(padding=(0, 1, 0, 0))
    for sentence in advice(profile):
        lines.add_row(Text("!", style="bold yellow"), Text(sentence))
    lines.add_row(Text("→", style="bold green"), Text.assemble((f"palate init {source}", "bold"), " writes a config"))
    yield Group(Text("Advice", style="bold"), lines)


def _summary(profile: Profile, ratings: Ratings) -> RenderableType:
    facts = _table()
    facts.add_row("read as", ratings.shape or "tables with splits")
    times = ratings.times or "none: the order of the rows"
    rated = f"{profile.items:,}" + (f" of {profile.listed:,}" if profile.listed > profile.items else "")
    facts.add_row("ratings", f"{profile.ratings:,}, {profile.density:.2%} of all pairs of a user and an item")
    if ratings.rated:
        facts.add_row("written as", ratings.rated)
    facts.add_row("users", f"{profile.users:,}")
    facts.add_row("items", f"{rated} with ratings")
    facts.add_row("time", times + (", whole days" if profile.daily else ""))
    if profile.dropped:
        facts.add_row("left out", "; ".join(f"{count:,} {reason}" for reason, count in profile.dropped.items()))
    facts.add_row("ties", f"{profile.tied:.1%} of the ratings at the time of another of the user")
    facts.add_row("repeated", f"{profile.repeated:,} ratings of an item that the user had rated")
    return Group(Text(profile.name, style="bold"), facts)


def _columns(profile: Profile, ratings: Ratings) -> RenderableType:
    """Each column with its role and its texts; a column of the item table is a field of the prompt."""
    table = _table("file", "column", "taken for", "texts", "characters", "longest", "filled")
    for numbers in table.columns[3:]:
        numbers.justify = "right"
    texts = {text.column: text for text in profile.texts}

    def described(name: str) -> list[str]:
        text = texts.pop(name, None)
        if text is None:
            return []
        return [f"{text.distinct:,}", f"{text.mean:.0f}", f"{text.longest:,}", f"{text.filled:.0%}"]

    for number, (file, columns) in enumerate(ratings.columns.items()):
        named = [(column, role) for column, role in columns.items() if role]
        for position, (column, role) in enumerate(named):
            words = role.replace("_id", "").replace("timestamp", "time")
            titled = "title" in words.split(", ")
            table.add_row("" if position else file, column, words, *(described("title") if titled else []))
        unread = [column for column, role in columns.items() if not role and column not in texts]
        if number == 0 and unread:
            table.add_row("", ", ".join(unread), "not read")
    for name in list(texts):
        table.add_row("", name, f"{{{name}}}", *described(name))
    for number, name in enumerate([] if ratings.users is None else ratings.users.columns[1:]):
        table.add_row("" if number else "users", name, f"{{{USER}{name}}}")
    return table


def _distribution(profile: Profile) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("right", "left", "right", "right", "left"):
        table.add_column(justify=justify)
    bars = bars_of(profile)
    tallest = max(bar.ratings for bar in bars)
    threshold, marked = profile.options.rating_threshold, False
    for label, low, _, _, count in bars:
        liked = low >= threshold
        note = f"Yes from here: {profile.share_yes(threshold):.1%}" if liked and not marked else ""
        marked = marked or liked
        bar = Text(_bar(count / tallest), style="green" if liked else "bright_black")
        table.add_row(label, bar, f"{count:,}", f"{count / profile.ratings:.1%}", Text(note, style="green"))
    return table


def _bar(share: float, width: int = BAR) -> str:
    whole, part = divmod(round(8 * width * share), 8)
    return ("█" * whole + EIGHTHS[part].strip()).ljust(width)


def _quantiles(profile: Profile) -> RenderableType:
    table = _table("", *profile.of_user)
    for name, sizes in (("ratings of a user", profile.of_user), ("ratings of an item", profile.of_item)):
        table.add_row(name, *(f"{value:,.0f}" for value in sizes.values()))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _outcome(profile: Profile) -> RenderableType:
    """The users and samples that each `history_len` keeps, and the splits of the options' own."""
    options = profile.options
    table = _table("history_len", "users with samples", "", "", "samples")
    for column, justify in zip(table.columns, ("right", "left", "right", "right", "right"), strict=True):
        column.justify = justify  # type: ignore[assignment]
    for kept in profile.kept:
        here = kept.history_len == options.history_len
        share = kept.users / profile.users
        bar = Text(_bar(share, 20), style="cyan" if here else "bright_black")
        label = f"{'→ ' if here else ''}{kept.history_len}"
        cells = (label, bar, f"{kept.users:,}", f"{share:.1%}", f"{kept.samples:,}")
        table.add_row(*cells, style="bold" if here else None)
    parts: list[RenderableType] = [table]
    if profile.samples:
        splits = ", ".join(f"{count:,} {name}" for name, count in profile.samples.items())
        total = max(sum(profile.samples.values()), 1)
        yes = f"{sum(profile.yes.values()) / total:.1%} Yes at {options.rating_threshold:g}"
        parts.append(Text(f"samples at {options.history_len}: {splits}; {yes}"))
    return Group(*parts)


def _table(*names: str) -> Table:
    table = Table(*names, show_header=bool(names), box=None, padding=(0, 2, 0, 0), header_style="bright_black")
    if not names:
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
    return table

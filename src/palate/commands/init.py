"""Init: a config for a log, from its figures."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from palate import console
from palate.commands.inspect import log_of
from palate.config import Config, read_yaml
from palate.errors import InputError, visible
from palate.prompt.spec import PromptSpec
from palate.ratings.archives import ARCHIVES
from palate.ratings.domain import noun_of
from palate.ratings.likes import NO_LIKE, REPEATED
from palate.ratings.load import Ratings
from palate.samples.build import checked_samples
from palate.samples.lines import iter_examples
from palate.samples.profile import UNTITLED, Profile, date_of, on_usual_scale, profile_of
from palate.store.artifacts import atomic_file

COMMENT = 34
"""The column of the comments beside short values."""
OWN = {"name", "data_dir", "run_dir", "ratings", "prepare", "prompt"}
"""The keys that are written from the log; others are copied from the options."""


def init(config: Config, *, noun: str | None = None, out: Path | None = None, force: bool = False) -> None:
    """Write a config for the config's ratings: their options, a prompt about `noun`, and a sample as a comment.

    Raises `InputError` if the file is there, unless `force`.
    """
    console.start_logging()
    path = out or Path("palate.yaml")
    if path.exists() and not force:
        raise InputError("is there already, expected another --out, or --force to replace it", path)
    if noun is not None and not re.fullmatch(r"[\w' -]*\w", noun):
        raise InputError(f"{noun!r}, expected a noun such as film or product", "--noun")
    ratings = log_of(config)
    noun = noun or noun_of(ratings) or _asked()
    chosen = profile_of(ratings, config.prepare)
    text = "\n".join(_recipe(config, chosen, noun, path))
    written = Config.model_validate(read_yaml(text, path))
    text += "\n".join(_sample(ratings, written))
    with atomic_file(path) as file:
        file.write(text.encode())
    need = written.prepare.history_len
    console.out.print(f"wrote {path}: a prompt about {_plural(noun)}, history_len {need}")
    console.out.print(f"next: palate baselines {path}, then palate run {path}", soft_wrap=True)


def prompt_about(noun: str, *, labels: bool, highest: float, likes: bool = False) -> PromptSpec:
    """A prompt that speaks of items by this noun.

    A log of `likes` has no ratings, `labels` are ratings of 1 and 0, otherwise `highest` is the best.
    """
    rated = "" if likes else ": {rating:liked|disliked}" if labels else f": {{rating:g}} of {highest:g}"
    article = "an" if noun[0].lower() in "aeiou" else "a"
    return PromptSpec(
        system=f"You predict whether a user will like {article} {noun}, from the {_plural(noun)} that the user "
        f"{'took' if likes else 'rated'} before. Begin your answer with Yes or No.",
        instruction=f"Predict whether the user will like the candidate {noun}. Answer only with Yes or No.",
        history_header=f"The user's last {{history_len}} {_plural(noun)}, oldest first:",
        history_line=f"{{n}}. {{title}}{rated}",
        candidate_header=f"Candidate {noun}:",
        candidate_line="{title}",
        question=f"Will the user like this {noun}? Answer Yes or No.",
    )


def _asked() -> str:
    """The noun that a person types; `item` where nobody can."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "item"
    answer = input("What does this log rate? film, book, product … (item): ").strip()
    return answer if re.fullmatch(r"[\w' -]*\w", answer) else "item"


def _plural(noun: str) -> str:
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search(r"(s|x|z|ch|sh)$", noun) else f"{noun}s"


def _recipe(config: Config, profile: Profile, noun: str, path: Path) -> Iterator[str]:
    """The lines of the config, without the sample."""
    when = f", {date_of(profile.times[0])} to {date_of(profile.times[1])}" if profile.dated else ""
    place = visible(str(path))
    yield f"# {_printable(visible(profile.name))}, from the figures that `palate inspect` shows."
    yield "#"
    yield f"#   palate baselines {place}   measures the classical models"
    yield f"#   palate run {place}         prepares, trains, scores and reports"
    yield ""
    yield f'name: "{config.name}"'
    yield ""
    yield f"# {profile.ratings:,} ratings of {profile.users:,} users and {profile.items:,} items{when}."
    yield "ratings:"
    yield from _indented(_sources(config, path))
    if config.ratings.scale is None and not on_usual_scale(profile) and not profile.likes:
        yield _commented(
            f"scale: [{profile.scale[0]:.12g}, {profile.scale[1]:.12g}]", "lowest and highest rating of the log"
        )
    given, untitled = config.ratings.model_fields_set, profile.dropped.get(UNTITLED, 0)
    wrong = sum(n for reason, n in profile.dropped.items() if reason not in (UNTITLED, NO_LIKE, REPEATED))
    if wrong and "bad_rows" not in given:
        yield _commented("bad_rows: skip", f"{wrong:,} rows; refuse, the default, stops at the first")
    if untitled and "untitled" not in given:
        yield _commented("untitled: drop", f"{untitled:,} ratings of items without a title; id shows their ids instead")
    yield ""
    yield "prepare:"
    yield from _choices(config, profile)
    yield ""
    yield "prompt:"
    labels = set(profile.distribution) <= {0.0, 1.0}
    prompt = prompt_about(noun, labels=labels, highest=profile.scale[1], likes=profile.likes)
    yield from (f'  {key}: "{text}"' for key, text in prompt if key in prompt.model_fields_set)
    yield "  # Both lines may name these columns of the item table, at the cost of their tokens:"
    for text in profile.texts:
        if text.column != "title" and text.column.isidentifier():
            example = _printable(text.example if len(text.example) <= 60 else f"{text.example[:59]}…")
            share = f"{text.filled:.0%} of the items, {text.mean:.0f} characters"
            yield f"  #   {{{text.column}}}: {share}, such as: {example}"
    yield "  #   {item_mean:.1f} and {item_count}: mean and number of the item's earlier training ratings"
    yield ""
    others = config.model_dump(mode="json", exclude_unset=True, exclude=OWN)
    if others:
        yield from _indented(others, "")
        yield ""


def _sources(config: Config, path: Path) -> dict[str, object]:
    """The section `ratings`, with paths that are valid beside the config."""
    section = config.ratings.model_dump(mode="json", exclude_defaults=True)
    for key in ("source", "items", "users"):
        if key in section and section[key] not in ARCHIVES and "://" not in section[key]:
            section[key] = _place(Path(section[key]), path)
    return section


def _place(data: Path, path: Path) -> str:
    """A path in the config: relative to the config's folder if it lies in it, else absolute."""
    here, folder = data.resolve(), path.resolve().parent
    return os.path.relpath(here, folder) if here.is_relative_to(folder) else str(here)


def _choices(config: Config, profile: Profile) -> Iterator[str]:
    """The section `prepare`: what the options set, else what the figures suggest, with the figures."""
    default, given = type(config.prepare)(), config.prepare.model_fields_set
    need = config.prepare.history_len if "history_len" in given else profile.chosen_history_len
    here, usual = profile.keeps(need), profile.keeps(default.history_len)
    line = f"{here.users:,} of {profile.users:,} users have more ratings than this"
    if usual.users < here.users:
        line += f"; the default, {default.history_len}, keeps {usual.users:,}"
    yield _commented(f"history_len: {need}", line)
    threshold = config.prepare.rating_threshold if "rating_threshold" in given else profile.chosen_threshold
    line = f"{profile.share_yes(threshold):.0%} of the ratings are a Yes"
    others = [value for value in list(profile.distribution)[1:] if value != threshold]
    if others:
        near = min(others, key=lambda value: abs(value - threshold))
        line += f"; {near:g} would make it {profile.share_yes(near):.0%}"
    if not profile.likes:
        yield _commented(f"rating_threshold: {threshold:.12g}", line)
    rest = config.prepare.model_dump(mode="json", exclude_unset=True, exclude={"history_len", "rating_threshold"})
    yield from _indented(rest) if rest else ()


def _sample(ratings: Ratings, config: Config) -> Iterator[str]:
    """A sample in the middle of the training samples, as comments."""
    samples = checked_samples(ratings, config.prepare, config.seed)
    train = samples.of("train")
    (example,) = next(iter_examples(samples, "train", config.prompt, train[:1] * 0 + train.size // 2)).to_dicts()
    yield ""
    yield f"# One of {train.size:,} training samples:"
    yield "#"
    text = f"[system]\n{example['system']}\n\n[user]\n{example['instruction']}\n\n{example['input']}\n\n[assistant]\n"
    yield from (f"#   {_printable(line)}".rstrip() for line in f"{text}{example['output']}".split("\n"))
    yield ""


def _commented(line: str, comment: str) -> str:
    return f"  {line:<{COMMENT - 4}}# {comment}"


def _indented(section: object, indent: str = "  ") -> Iterator[str]:
    text = yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=10_000)
    yield from (f"{indent}{line}" for line in text.splitlines())


def _printable(text: str) -> str:
    """The text with the characters that YAML refuses replaced."""
    return yaml.reader.Reader.NON_PRINTABLE.sub("\ufffd", text)

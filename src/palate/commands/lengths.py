"""Lengths: tokens of the samples, the cost of a cutoff, and the trained tokens."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from palate import console
from palate.commands import lengths_tables
from palate.commands.lengths_tables import Example
from palate.commands.prepare import (
    chat_of,
    evaluation_part,
    outdated,
    prepared,
    token_options,
    tokens_of,
    tokens_of_ratings,
)
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.store.artifacts import MANIFEST
from palate.tokens.dataset import TokenDataset
from palate.tokens.examples import load_examples
from palate.tokens.lengths import CUTOFFS, Lengths, digest
from palate.tokens.mask_audit import MaskAudit, audit_mask
from palate.tokens.plain import conversation, label, measure_examples

UNCUT = {"cutoff_len": 2**31 - 1, "truncation": "left"}


def show_lengths(
    config: Config,
    *,
    split: str = "train",
    from_ratings: bool = False,
    cutoffs: Sequence[int] = (),
    examples: int = 0,
    as_json: bool = False,
    plot: Path | None = None,
) -> None:
    """Print the lengths of a split's samples and the effect of the cutoff, or JSON; `eval` is a part of `val`.

    Truncations are compared at the config's cutoff and at `cutoffs`, as JSON at the usual ones too.
    """
    console.start_logging()
    if plot is not None and plot.suffix not in lengths_tables.PLOTS:
        raise InputError(f"{plot.name!r} has another suffix, expected {', '.join(lengths_tables.PLOTS)}", "--plot")
    if min(cutoffs, default=8) < 8:
        raise InputError(f"{min(cutoffs)} is too short for a sample, expected at least 8", "--cutoff-len")
    chat = chat_of(config)
    source = source_of(config, chat, split, from_ratings=from_ratings or outdated(config))
    cutoffs = list(dict.fromkeys([config.tokens.cutoff_len, *cutoffs]))
    if as_json:
        console.print_json(summary(source, config, sorted({*CUTOFFS, *cutoffs})))
    else:
        for number, example in enumerate(source.first(examples), start=1):
            console.out.print(lengths_tables.example_panels(example, source.chat, f"Example {number} of {examples}"))
        console.out.print(
            lengths_tables.lengths_table(source.lengths, f"{source.name}: tokens of {config.tokenizer_name}")
        )
        console.out.print()
        console.out.print(lengths_tables.truncation_table(source.lengths, *cutoffs))
        for cutoff in cutoffs:
            if rows := source.strategies([cutoff]):
                console.out.print()
                console.out.print(lengths_tables.strategies_table(rows, config.tokens.truncation))
        console.out.print()
        console.out.print(lengths_tables.mask_table(source.mask(config.seed)))
    if plot is not None:
        lengths_tables.plot_lengths(source.lengths, config.tokens.cutoff_len, plot, source.name)
        log.info("histogram: %s", plot)


def summary(source: "Composed | AlpacaLengths", config: Config, cutoffs: Sequence[int] = ()) -> dict[str, Any]:
    """All measurements of the lengths, for `--json`, the run's folder and the report."""
    lengths, cutoff = source.lengths, config.tokens.cutoff_len
    mask = source.mask(config.seed)
    return {
        "tokenizer": config.tokenizer_name,
        "samples": len(lengths),
        "tokens": int(lengths.total.sum(dtype="int64")),
        "masked_share": lengths.masked_share(),
        "stats": lengths.statistics(),
        "cutoff_len": cutoff,
        "truncation": lengths.truncation(cutoff),
        "alternatives": lengths.alternatives(cutoff),
        "strategies": source.strategies(cutoffs or [cutoff]),
        "mask": {"refused": str(mask)} if isinstance(mask, InputError) else mask and mask.as_dict(),
        "sha256_lengths": digest(lengths),
        "lengths": lengths.counts(),
    }


def source_of(
    config: Config, chat: Chat, split: str = "train", *, from_ratings: bool = False
) -> "Composed | AlpacaLengths":
    """The samples of a split: from the ratings, from prepared data, or from a foreign Alpaca file."""
    path = config.data_path / f"{split}.json"
    if not from_ratings and path.is_file() and not (config.data_path / MANIFEST).is_file():
        return AlpacaLengths(path, chat, token_options(config).cutoff_len)
    # Lengths before truncation, which may refuse or drop samples.
    uncut = config.model_copy(update={"tokens": config.tokens.model_copy(update=UNCUT)})
    key = "val" if split == "eval" else split
    if from_ratings:
        whole, name = tokens_of_ratings(uncut, chat, [key])[key], Path(str(config.ratings.source)).name
    else:
        whole, name = tokens_of(uncut, prepared(config), chat, [key])[key], str(config.data_path)
    return Composed(f"{name}, {split}", evaluation_part(config, whole) if split == "eval" else whole, config)


class Composed:
    """Samples that are composed, with their lengths before any truncation."""

    def __init__(self, name: str, whole: TokenDataset, config: Config) -> None:
        self.name, self._whole, self._options = name, whole, token_options(config)
        self.lengths = _measured(whole.whole_lengths, name)

    @property
    def chat(self) -> Chat:
        """The tokenizer, with the tokens of the items if the prompt has them."""
        return self._whole.chat

    @cached_property
    def cut(self) -> TokenDataset:
        """The truncated samples; raises `InputError` if truncation refuses them."""
        return self._whole.under(self._options)

    def strategies(self, cutoffs: Sequence[int]) -> list[dict[str, Any]]:
        """The effect of every truncation at each cutoff."""
        return self._whole.compared(cutoffs)

    def mask(self, seed: int) -> MaskAudit | InputError:
        """The audit of the trained tokens, or the error of the truncation."""
        try:
            cut = self.cut
        except InputError as refusal:
            return refusal
        return audit_mask(cut, seed)

    def first(self, n: int) -> Iterator[Example]:
        """The first samples after truncation."""
        for index in range(min(n, len(self.lengths)) and min(n, len(self.cut))):
            row = self.cut[index]
            yield Example(self.cut.example(index), row["input_ids"].tolist(), row["labels"].tolist())


class AlpacaLengths:
    """The examples of an Alpaca file that Palate did not write."""

    def __init__(self, path: Path, chat: Chat, cutoff: int) -> None:
        self.name, self.chat, self._cutoff = str(path), chat, cutoff
        self._examples = load_examples(path)
        self.lengths = _measured(measure_examples(self._examples, chat, path.name), self.name)

    def strategies(self, cutoffs: Sequence[int]) -> list[dict[str, Any]]:
        """Empty: such examples have no history items to drop."""
        return []

    def mask(self, seed: int) -> None:
        """None: the lengths already say which tokens are trained."""

    def first(self, n: int) -> Iterator[Example]:
        """The first examples after truncation."""
        for example in self._examples.select(range(min(n, len(self._examples)))):
            row = label(self.chat.encode(conversation(example)), self._cutoff)
            yield Example(example, row["input_ids"], row["labels"])


def _measured(lengths: Lengths, name: str) -> Lengths:
    if not len(lengths):
        raise InputError("has no examples to measure, expected at least one", name)
    return lengths

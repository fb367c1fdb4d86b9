"""Evaluate foreign Alpaca files: scored as they are, beside baselines from their texts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate import console
from palate.alpaca.answers import Answers
from palate.alpaca.baselines import TextStatistics, example_baselines, text_statistics
from palate.alpaca.reader import AlpacaFile
from palate.commands import evaluate, report, score, scores, train
from palate.commands.data_option import read_files
from palate.commands.data_path import DataPath
from palate.commands.evaluate import short_name
from palate.commands.prepare import check_model
from palate.commands.score import load_scorer, model_key
from palate.commands.scores import Model
from palate.config import Config, dump_config
from palate.console import log
from palate.errors import InputError
from palate.measure.evaluation import Evaluation
from palate.measure.paired import SameRows
from palate.measure.rows import Models, measure_rows
from palate.models.adapter import as_trained, check_same_prompt, chosen_adapter
from palate.prompt.chat import Chat
from palate.prompt.messages import to_generation_messages
from palate.prompt.tokenizer import tokenizer_key
from palate.report.outcome import Outcome
from palate.report.page import About, Example, extreme_rows
from palate.score.files import score_file
from palate.score.scorer import Scorer


def evaluate_examples(
    config: Config,
    source: DataPath,
    *,
    adapter: Path | None = None,
    base_only: bool = False,
    out: str | None = None,
    as_json: bool = False,
) -> None:
    """Score the test examples, measure, and write scores, `metrics.json` and `report.html`, as `evaluate` does.

    Baselines learn from the training and validation examples of the same folder, where there are any. Raises
    `InputError` if there are no test examples, or no adapter unless `base_only` asks for none.
    """
    console.start_logging()
    adapter = chosen_adapter(config, adapter, base_only)
    config = as_trained(config, adapter)
    chat = check_model(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
        score.refuse_without_ratings(adapter, source.path)
    if "test" not in source.files:
        raise InputError("holds no test examples, expected test.json, or the name of a file", source.path)
    files = read_files(source)
    answers = Answers(config.prompt.yes, config.prompt.no)
    known = {split: text_statistics(file.frame, answers) for split, file in files.items()}
    folder = report.evidence_folder(config, out)
    train.begin(config, folder)
    rows = score.chosen_rows(config, len(files["test"]))
    tables = {
        each.key: _score(config, files["test"], known["test"].label, rows, each, folder)
        for each in scores.models_of(config, [] if adapter is None else [adapter])
    }
    found = _measure(config, files["test"], known, rows, tables)
    outcome = Outcome(evaluate.model_name(config), found)
    about = _about(config, chat, files, known["test"].label, tables[list(tables)[-1]])
    scored = f"{found.n:,} of {len(files['test']):,} test examples"
    facts = {"model": outcome.model, "data": str(source.path), "scored": scored, **about.run}
    with_adapter = " --base-only" if adapter is None else f" --adapter {adapter}"
    commands = [f"palate evaluate --config {folder / 'config.yaml'}{with_adapter}"]
    report.write_evidence(outcome, replace(about, run=facts, commands=commands), folder)
    report.show_evidence(config, outcome, folder, as_json=as_json)


def _about(
    config: Config, chat: Chat, files: dict[str, AlpacaFile], labels: NDArray[np.bool_], scores: pl.DataFrame
) -> About:
    """What the page says of the files, and the rows of which the model with these scores is surest."""
    test, learned = files["test"], [split for split in ("train", "val") if split in files]
    p_of = dict(zip(scores["row"].to_list(), scores["p"].to_list(), strict=True))
    return About(
        title=config.name,
        run={
            "answers": f"{config.prompt.yes!r} and {config.prompt.no!r}",
            "baselines learn from": ", ".join(files[s].path.name for s in learned) or "nothing",
            "seed": config.seed,
        },
        examples=[
            Example(
                (test.frame["input"][row] or test.frame["instruction"][row]).splitlines(),
                f"example {row + 1}",
                bool(labels[row]),
                p_of[row],
            )
            for row in extreme_rows(scores, labels)
        ],
        data_stats={split: {"examples": len(file), "SHA-256": file.sha256} for split, file in files.items()},
        prompt=chat.tokenizer.decode(chat.decision_prompts([_conversation(test, 0)])[0]),
        config=dump_config(config),
    )


class _Examples:
    """Test examples under the names by which `score_file` asks for samples."""

    split = "test"

    def __init__(self, file: AlpacaFile, labels: NDArray[np.bool_], scorer: Scorer) -> None:
        self._file, self.labels, self._scorer = file, labels, scorer

    def __len__(self) -> int:
        return len(self._file)

    def prompts(self, rows: Sequence[int]) -> list[list[int]]:
        """The prompts of some examples, cut as in training."""
        return self._scorer.prompts([_conversation(self._file, int(row)) for row in rows])


def _conversation(file: AlpacaFile, row: int) -> list[dict[str, str]]:
    return to_generation_messages(file.frame.row(row, named=True))


def _score(
    config: Config, file: AlpacaFile, labels: NDArray[np.bool_], rows: NDArray[np.int64], model: Model,
    folder: Path,
) -> pl.DataFrame:  # fmt: skip
    """Score some examples into a file of `folder`; resumes an interrupted call."""
    scorer = load_scorer(config, model.adapter)
    key = {
        "data": file.sha256,
        **tokenizer_key(scorer.chat.tokenizer),
        "answers": [config.prompt.yes, config.prompt.no],
        "cutoff_len": config.tokens.cutoff_len,
        **model_key(scorer, config, model.adapter),
    }
    nobody = np.full(len(file), -1)
    about = {name: _codes(file, name) if name in file.frame.columns else nobody for name in ("user_id", "item_id")}
    examples: Any = _Examples(file, labels, scorer)
    out = folder / "scores" / f"{model.key}.parquet"
    scores = score_file(
        scorer, examples, about, rows.tolist(), out=out, batch_size=config.evaluate.batch_size, key=key,
        console=console.err,
    )  # fmt: skip
    return pl.DataFrame(scores)


def _measure(
    config: Config, test: AlpacaFile, known: dict[str, TextStatistics], rows: NDArray[np.int64],
    tables: dict[str, pl.DataFrame],
) -> Evaluation:  # fmt: skip
    """The models beside what else can be known of the examples, over users where the file names them."""
    baselines, names = example_baselines(known["test"], known.get("train"), known.get("val"))
    if "history-share" not in baselines:
        log.info("no history baseline: the inputs have no TALLRec wording and no other list of likes")
    named = "user_id" in test.frame.columns
    p = {key: values[rows] for key, values in baselines.items()}
    p |= {key: table["p"].to_numpy().astype(np.float64) for key, table in tables.items()}
    users = _codes(test, "user_id")[rows] if named else np.arange(len(rows))
    return measure_rows(
        SameRows(rows, known["test"].label[rows], users, p),
        Models(tables, names | {key: f"{short_name(config)}, {key}" for key in tables}),
        bootstrap=config.evaluate.bootstrap,
        seed=config.seed,
        unit="users" if named else "rows",
    )


def _codes(file: AlpacaFile, name: str) -> NDArray[np.int64]:
    """Ids as numbers: their own where all are integers, else the place of each among the distinct ones."""
    ids = file.frame[name]
    numbers = ids.cast(pl.Int64, strict=False)
    return (ids.rank("dense").cast(pl.Int64) if numbers.null_count() else numbers).to_numpy()

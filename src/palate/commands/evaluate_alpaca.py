"""Evaluate Alpaca files of others: scored as they are, beside what else their texts tell."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate import console
from palate.commands.data_option import read_files
from palate.commands.data_path import DataPath
from palate.config import Config, dump_config
from palate.console import log
from palate.errors import InputError
from palate.store.artifacts import write_json

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from palate.alpaca.baselines import TextStatistics
    from palate.alpaca.reader import AlpacaFile
    from palate.measure.evaluation import Evaluation
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
    from palate.alpaca.answers import Answers, labels_of
    from palate.commands import evaluate, report, scores, train
    from palate.commands.prepare import check_model
    from palate.models.adapter import as_trained, check_same_prompt, chosen_adapter
    from palate.report.run_page import ReportInputs, extreme_rows, write_report

    console.start_logging()
    adapter = chosen_adapter(config, adapter, base_only)
    config = as_trained(config, adapter)
    chat = check_model(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    if "test" not in source.files:
        raise InputError("holds no test examples, expected test.json, or the name of a file", source.path)
    files = read_files(source)
    test = files["test"]
    labels = labels_of(test.frame, Answers(config.prompt.yes, config.prompt.no))
    folder = Path(out) if out else config.run_path / "evaluation"
    train.begin(config, folder)
    rows = train.chosen_rows(config, len(test))
    tables = {
        each.key: _score(config, test, labels, rows, each.adapter, folder / "scores" / f"{each.key}.parquet")
        for each in scores.models_of(config, [] if adapter is None else [adapter])
    }
    found = _measure(config, files, rows, tables)
    write_json(folder / evaluate.METRICS, found.to_dict())
    last = tables[list(tables)[-1]]
    learned = [split for split in ("train", "val") if split in files]
    p_of = dict(zip(last["row"].to_list(), last["p"].to_list(), strict=True))
    write_report(
        folder / report.REPORT,
        ReportInputs(
            title=config.name,
            evaluation=found,
            run={
                "model": evaluate.model_name(config),
                "data": str(source.path),
                "scored": f"{found.n:,} of {len(test):,} test examples",
                "answers": f"{config.prompt.yes!r} and {config.prompt.no!r}",
                "baselines learn from": ", ".join(files[s].path.name for s in learned) or "nothing",
                "seed": config.seed,
            },
            examples=[
                {
                    "history_titles": test.frame["input"][row] or test.frame["instruction"][row],
                    "candidate_title": f"example {row + 1}",
                    "label": bool(labels[row]),
                    "p": p_of[row],
                }
                for row in extreme_rows(last, labels)
            ],
            data_stats={split: {"examples": len(file), "SHA-256": file.sha256} for split, file in files.items()},
            prompt=chat.tokenizer.decode(chat.decision_prompts([_conversation(test, 0)])[0]),
            config=dump_config(config),
            commands=[f"palate evaluate --config {folder / 'config.yaml'}" + (
                " --base-only" if adapter is None else f" --adapter {adapter}"
            )],
        ),
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
    else:
        from palate.report.outcome import Outcome

        evaluate.show(Outcome(evaluate.model_name(config), found), config)
        console.out.print(f"report: {folder / report.REPORT}", highlight=False, soft_wrap=True)


class _Examples:
    """Test examples under the names by which `score_file` asks for samples."""

    split = "test"

    def __init__(self, file: "AlpacaFile", labels: "NDArray[np.bool_]", scorer: "Scorer") -> None:
        self._file, self.labels, self._scorer = file, labels, scorer

    def __len__(self) -> int:
        return len(self._file)

    def prompts(self, rows: Sequence[int]) -> list[list[int]]:
        """The prompts of some examples, cut as in training."""
        return self._scorer.prompts([_conversation(self._file, int(row)) for row in rows])


def _conversation(file: "AlpacaFile", row: int) -> list[dict[str, str]]:
    from palate.prompt.messages import to_generation_messages

    return to_generation_messages(file.frame.row(row, named=True))


def _score(
    config: Config, file: "AlpacaFile", labels: "NDArray[np.bool_]", rows: "NDArray[np.int64]", adapter: Path | None,
    out: Path,
) -> "pl.DataFrame":  # fmt: skip
    """Score some examples into the file `out`; goes on where an earlier call stopped."""
    import polars as pl

    from palate.commands.train import load_scorer, model_key
    from palate.prompt.tokenizer import tokenizer_identity
    from palate.score.files import score_file

    scorer = load_scorer(config, adapter)
    key = {
        "data": file.sha256,
        **tokenizer_identity(scorer.chat.tokenizer),
        "answers": [config.prompt.yes, config.prompt.no],
        "cutoff_len": config.tokens.cutoff_len,
        **model_key(scorer, config, adapter),
    }
    nobody = np.full(len(file), -1)
    about = {name: _codes(file, name) if name in file.frame.columns else nobody for name in ("user_id", "item_id")}
    examples: Any = _Examples(file, labels, scorer)
    scores = score_file(
        scorer, examples, about, rows.tolist(), out=out, batch_size=config.evaluate.batch_size, key=key,
        console=console.err,
    )  # fmt: skip
    return pl.DataFrame(scores)


def _measure(
    config: Config, files: "dict[str, AlpacaFile]", rows: "NDArray[np.int64]", tables: "dict[str, pl.DataFrame]"
) -> "Evaluation":
    """The models beside what else can be known of the examples, over users where the file names them."""
    from palate.alpaca.baselines import example_baselines
    from palate.commands.evaluate import model_name
    from palate.measure.evaluation import mass_of
    from palate.report.evaluate import compared

    told = {split: _told(config, file) for split, file in files.items()}
    baselines, names = example_baselines(told["test"], told.get("train"), told.get("val"))
    test = files["test"]
    users = _codes(test, "user_id")[rows] if "user_id" in test.frame.columns else None
    if "history-share" not in baselines:
        log.info("no history baseline: the inputs have no TALLRec wording and no other list of likes")
    p = {key: values[rows] for key, values in baselines.items()}
    p |= {key: table["p"].to_numpy().astype(np.float64) for key, table in tables.items()}
    name = model_name(config).replace("-Instruct", "")
    return compared(
        told["test"].label[rows],
        users,
        p,
        labels=names | {key: f"{name}, {key}" for key in tables},
        masses={key: mass_of(table) for key, table in tables.items()},
        rating_threshold=None,
        bootstrap=config.evaluate.bootstrap,
        seed=config.seed,
    )


def _told(config: Config, file: "AlpacaFile") -> "TextStatistics":
    """What a file says of its examples beside their text."""
    from palate.alpaca.answers import Answers, labels_of
    from palate.alpaca.baselines import TextStatistics
    from palate.alpaca.preferences import preferences_of

    preferences, columns = preferences_of(file.frame["input"]), file.frame.columns
    target = None if preferences is None else preferences.target
    return TextStatistics(
        labels_of(file.frame, Answers(config.prompt.yes, config.prompt.no)),
        None if preferences is None else preferences.share,
        file.frame["user_id"] if "user_id" in columns else None,
        file.frame["item_id"] if "item_id" in columns else target,
    )


def _codes(file: "AlpacaFile", name: str) -> "NDArray[np.int64]":
    """Ids as numbers: their own where all are integers, else the place of each among the distinct ones."""
    import polars as pl

    ids = file.frame[name]
    numbers = ids.cast(pl.Int64, strict=False)
    return (ids.rank("dense").cast(pl.Int64) if numbers.null_count() else numbers).to_numpy()
